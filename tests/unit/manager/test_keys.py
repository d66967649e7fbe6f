"""The ring of secrets for encrypted networks: when it changes, and what stays known meanwhile."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest
from agent_rig import in_virtual_time, loop_env
from clusters import apply
from hypothesis import given
from hypothesis import strategies as st
from scripted_raft import ScriptedRaft

from manager.keys import SECRET_BYTES, NetworkKeys, due_at, next_ring
from manager.proposer import RaftProposer
from manager.store.store import Store
from swarmpy.limits import NETWORK_KEY_ROTATION_S, NETWORK_KEYS_MAX
from swarmpy.model.changes import Create
from swarmpy.model.cluster_specs import NetworkSpec
from swarmpy.model.ids import SECOND_NS, ClusterId, NetworkId, Timestamp
from swarmpy.model.objects import Cluster, Network, NetworkKey
from swarmpy.model.specs import Driver

EPOCH = 3


def store_with(*networks: Network) -> Store:
    store = Store()
    apply(store, Create(object=Cluster(id=ClusterId("cluster"))))
    for network in networks:
        apply(store, Create(object=network))
    return store


def network(name: str, **options: str) -> Network:
    spec = NetworkSpec(name=name, driver_configuration=Driver(name="overlay", options=options))
    return Network(id=NetworkId(name), spec=spec)


def ring_of(store: Store) -> tuple[NetworkKey, ...]:
    cluster = store.cluster()
    assert cluster is not None
    return cluster.network_keys


def test_without_an_encrypted_network_there_are_no_keys() -> None:
    assert due_at(Store()) is None
    assert due_at(store_with(network("plain"), network("off", encrypted="false"))) is None


@pytest.mark.parametrize("value", ["", "true"])
def test_the_first_encrypted_network_makes_them_due(value: str) -> None:
    assert due_at(store_with(network("secret", encrypted=value))) == 0


@given(st.lists(st.integers(1, 2), min_size=2, max_size=12))
def test_what_is_sent_with_was_known_for_a_whole_period(counts: list[int]) -> None:
    ring = next_ring((), now=Timestamp(1), secrets=(b"a", b"b"))
    tags = {key.tag for key in ring}
    for now, count in enumerate(counts, start=2):
        before = ring
        secrets = tuple(bytes([now]) for _ in range(count))
        ring = next_ring(ring, now=Timestamp(now), secrets=secrets)
        assert len(ring) <= NETWORK_KEYS_MAX
        assert [key.tag for key in ring] == sorted({key.tag for key in ring}, reverse=True)
        assert not {key.tag for key in ring[:count]} & tags, "a tag came twice"
        tags |= {key.tag for key in ring}
        if count == 1:
            assert ring[1] in before, "a key that not everybody knows is sent with"
            assert before[1] in ring, "what was sent with is received no longer"


async def run_keys(store: Store, condition: Callable[[], bool]) -> None:
    """Until the condition holds."""
    raft = ScriptedRaft(store, "n1.a")
    raft.lead(term=EPOCH)
    keys = NetworkKeys(store, RaftProposer(raft), loop_env(), epoch=EPOCH)
    running = asyncio.create_task(keys.run())
    async with asyncio.timeout(10 * NETWORK_KEY_ROTATION_S):
        while not condition():
            await asyncio.sleep(1.0)
    running.cancel()
    await asyncio.wait([running])


@in_virtual_time
async def test_they_are_made_and_rotated() -> None:
    store = store_with(network("secret", encrypted=""))
    await run_keys(store, lambda: bool(ring_of(store)))
    first = ring_of(store)
    assert [key.tag for key in first] == [2, 1]
    assert all(len(key.secret) == SECRET_BYTES for key in first)
    assert first[0].secret != first[1].secret

    await run_keys(store, lambda: ring_of(store)[0].tag == 5)
    ring = ring_of(store)
    assert [key.tag for key in ring] == [5, 4, 3]
    for newer, older in itertools.pairwise(ring):
        assert (newer.created_at - older.created_at) / SECOND_NS >= NETWORK_KEY_ROTATION_S
