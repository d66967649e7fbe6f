"""Snapshots: everything replicated, the same bytes from equal stores, all or nothing."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from store_values import accept, batch, creates, group, node, picture, secret, small_cluster, store_with, task

from manager.store.store import Store
from swarmpy.errors import Corrupt
from swarmpy.limits import STORE_SLICE_BYTES
from swarmpy.model.changes import Order, Update
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.objects import Kind, Node
from swarmpy.model.states import TaskState


def snapshot(store: Store) -> bytes:
    return b"".join(store.encode(store.freeze()))


def restored(*chunks: bytes) -> Store:
    store = Store()
    store.restore(chunks)
    return store


def filled() -> Store:
    store = small_cluster(secret("x"), *(task(f"t{number}", slot=number) for number in range(20)))
    store.apply_batch(batch(creates(node("n1")), epoch=6, request_id="lost"))
    return store


def test_a_restored_store_is_equal() -> None:
    store = filled()
    copy = restored(snapshot(store))
    assert picture(copy) == picture(store)
    assert (copy.epoch, copy._tables.requests) == (6, store._tables.requests)
    assert snapshot(copy) == snapshot(store)
    repeated = batch(creates(node("n8")), request_id="lost")
    assert copy.apply_batch(repeated) == store.apply_batch(repeated)


@pytest.mark.parametrize("size", [1, 3, 7, 100, 1 << 20])
def test_the_stream_may_be_cut_anywhere(size: int) -> None:
    data = snapshot(filled())
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    assert snapshot(restored(*chunks)) == data


def test_a_picture_does_not_follow_later_changes() -> None:
    store = filled()
    frozen = store.freeze()
    before = b"".join(store.encode(frozen))
    order = Order(task_id=TaskId("t3"), desired_state=TaskState.SHUTDOWN)
    accept(store, group(order), creates(node("n9")), request_id="later", epoch=8)
    assert b"".join(store.encode(frozen)) == before
    assert snapshot(store) != before


def test_what_is_not_a_picture_is_refused() -> None:
    with pytest.raises(TypeError, match="was not made by freeze"):
        Store().encode(b"x")


def test_slices_are_small() -> None:
    store = small_cluster(*(task(f"t{number}") for number in range(3_000)))
    slices = list(store.encode(store.freeze()))
    assert len(slices) > 1
    assert max(map(len, slices)) < 2 * STORE_SLICE_BYTES


def test_unknown_fields_survive() -> None:
    store = store_with(replace(node(), unknown_fields=b"\xfa\x3e\x01x"))
    found = restored(snapshot(store)).get(Kind.NODE, "n1")
    assert isinstance(found, Node)
    assert found.unknown_fields == b"\xfa\x3e\x01x"
    changed = replace(found, spec=found.spec)
    accept(store, group(Update(object=changed)))
    after = store.node(NodeId("n1"))
    assert after is not None
    assert after.unknown_fields == b"\xfa\x3e\x01x"


def damaged() -> dict[str, bytes]:
    data = snapshot(filled())
    head_end = 4 + int.from_bytes(data[:4])
    first_end = head_end + 4 + int.from_bytes(data[head_end : head_end + 4])
    return {
        "empty": b"",
        "no head": b"\x00\x00\x00\x00",
        "head is garbage": b"\x00\x00\x00\x02\xff\xff",
        "other format": b"\x00\x00\x00\x02\x08\x63",
        "cut in a record": data[:-5],
        "cut in a length": data[: head_end + 2],
        "cut between records": data[:first_end],
        "record twice": data + data[head_end:first_end],
        "record missing": data[:head_end] + data[first_end:],
        "record is garbage": data[: head_end + 4] + b"\xff\xff" + data[head_end + 6 :],
        "record of no kind": data + b"\x00\x00\x00\x00",
        "impossible length": data + b"\xff\xff\xff\xff",
    }


@pytest.mark.parametrize("name", damaged())
def test_a_damaged_stream_changes_nothing(name: str) -> None:
    store = store_with(node("n5"))
    watch = store.watch()
    before = picture(store)
    with pytest.raises(Corrupt, match="the snapshot of the store is damaged: "):
        store.restore([damaged()[name]])
    assert picture(store) == before
    assert watch.take() == []


def test_versions_of_a_nodes_tasks_differ_after_a_restore() -> None:
    """A cache that was filled before must not take the new tasks for the old ones."""
    store = small_cluster(task("t1", on="n1"))
    before = store.node_tasks_version(NodeId("n1"))
    store.restore([snapshot(small_cluster(task("t2", on="n1")))])
    assert store.node_tasks_version(NodeId("n1")) != before
