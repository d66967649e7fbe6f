"""Drafts: what is planned is seen by whoever reads the draft, and by nobody else."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from store_values import AT, creates, group, network, node, picture, secret, small_cluster, task

from manager.store.draft import Draft
from manager.store.events import Event
from swarmpy.model.changes import Create, Delete, Order, Update
from swarmpy.model.ids import NodeId, ServiceId, TaskId
from swarmpy.model.objects import Kind
from swarmpy.model.states import TaskState

S1 = ServiceId("s1")


def order(id_: str, wished: TaskState) -> Order:
    return Order(task_id=TaskId(id_), desired_state=wished)


def test_a_draft_shows_its_changes_and_leaves_the_store_alone() -> None:
    store = small_cluster(task("t1"), task("t2"))
    before = picture(store)
    draft = Draft(store, at=AT)
    assert draft.apply(creates(task("+1"), task("+2", on="n1"))) is None
    assert draft.apply(group(order("t1", TaskState.REMOVE), Delete(kind=Kind.TASK, id="t2"))) is None
    assert [each.id for each in draft.tasks_of_service(S1)] == ["t1", "+1", "+2"]
    assert len(draft.tasks()) == 3
    assert [each.id for each in draft.tasks_of_node(NodeId("n1"))] == ["+2"]
    assert [each.id for each in draft.unplaced_tasks()] == ["+1"]
    assert (draft.version, draft.get(Kind.TASK, "t2")) == (store.version + 2, None)
    made = draft.task(TaskId("+1"))
    assert made is not None
    assert (made.version, made.created_at) == (store.version + 1, AT)
    assert picture(store) == before


def test_a_refused_group_leaves_a_draft_alone() -> None:
    draft = Draft(small_cluster(task("t1")))
    refusal = draft.apply(group(order("t1", TaskState.REMOVE), Create(object=task("t1"))))
    assert refusal is not None
    assert refusal.reason == "task t1 already exists"
    assert list(draft.changed()) == []
    assert [each.desired_state for each in draft.tasks()] == [TaskState.RUNNING]


def test_an_object_may_change_twice_in_one_plan() -> None:
    draft = Draft(small_cluster(task("t1")))
    for wished in (1, 2):
        seen = draft.task(TaskId("t1"))
        assert seen is not None
        assert draft.apply(group(Update(object=replace(seen, restarts=wished)))) is None
    (event,) = draft.changed()
    assert isinstance(event, Event)
    assert event.new == draft.task(TaskId("t1"))


def test_what_is_created_and_deleted_again_is_no_change() -> None:
    draft = Draft(small_cluster())
    draft.put(Kind.SECRET, secret("x"))
    assert draft.by_name(Kind.SECRET, "x") == secret("x")
    draft.remove(Kind.SECRET, "x")
    assert draft.by_name(Kind.SECRET, "x") is None
    assert len(draft.all(Kind.SECRET)) == 0
    assert list(draft.changed()) == []
    with pytest.raises(KeyError):
        draft.remove(Kind.SECRET, "x")


def test_a_draft_may_be_changed_while_it_is_iterated() -> None:
    draft = Draft(small_cluster(*(task(f"t{number}") for number in range(5))))
    draft.put(Kind.TASK, task("t9"))
    seen = []
    for each in draft.tasks_of_service(S1):
        seen.append(each.id)
        draft.remove(Kind.TASK, each.id)
        draft.put(Kind.TASK, task(f"new-{each.id}"))
    assert seen == ["t0", "t1", "t2", "t3", "t4", "t9"]
    assert [each.id for each in draft.tasks_of_service(S1)] == [f"new-{id_}" for id_ in seen]


def test_membership_of_a_collection() -> None:
    store = small_cluster(task("t1"), network("x"))
    draft = Draft(store)
    draft.put(Kind.TASK, task("t2"))
    assert store.task(TaskId("t1")) in draft.tasks()
    assert task("t2") in draft.tasks()
    assert task("t3") not in draft.tasks()


def test_prefixes_over_what_a_draft_adds_and_hides() -> None:
    draft = Draft(small_cluster(node("n2"), node("n4")))
    draft.put(Kind.NODE, node("n3"))
    draft.remove(Kind.NODE, "n2")
    assert [each.id for each in draft.by_prefix(Kind.NODE, "n")] == ["n1", "n3"]
    assert [each.id for each in draft.by_prefix(Kind.NODE, "n", limit=9)] == ["n1", "n3", "n4"]


def test_drafts_of_the_same_store_are_told_apart_by_caches() -> None:
    store = small_cluster(task("t1", on="n1"))
    numbers = set()
    for id_ in ("t2", "t3"):
        draft = Draft(store)
        assert draft.node_tasks_version(NodeId("n1")) == store.node_tasks_version(NodeId("n1"))
        draft.put(Kind.TASK, task(id_, on="n1"))
        numbers.add(draft.node_tasks_version(NodeId("n1")))
        upper = Draft(draft)
        assert upper.node_tasks_version(NodeId("n1")) in numbers
        upper.remove(Kind.TASK, "t1")
        numbers.add(upper.node_tasks_version(NodeId("n1")))
    assert len(numbers) == 4
