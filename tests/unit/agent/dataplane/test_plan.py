"""Properties of the plan of a network: small changes lead where a fresh start leads."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.dataplane.base import RemoteEndpoint
from agent.dataplane.plan import Entries, EntryChange
from swarmpy.model.addresses import mac_of
from swarmpy.model.ids import NodeId, TaskId

NODES = [NodeId(name) for name in "abc"]
ADDRESSES = [f"10.0.0.{number}" for number in range(6)]
MACS = [mac_of(address) for address in ADDRESSES]

remote_endpoints = st.builds(
    RemoteEndpoint,
    node_id=st.sampled_from(NODES),
    addresses=st.lists(st.sampled_from(ADDRESSES), max_size=2).map(tuple),
    mac=st.sampled_from(MACS),
)
states = st.tuples(
    st.dictionaries(st.sampled_from([TaskId(name) for name in "tuvwx"]), remote_endpoints),
    st.dictionaries(st.sampled_from(NODES), st.sampled_from(["", "192.0.2.1", "192.0.2.2"])),
)


def carry_out(tables: tuple[dict[str, str], dict[str, str]], change: EntryChange) -> None:
    """As the kernel does it; a removal of what is not there would be an error."""
    forwarding, neighbours = tables
    for mac in change.stale_forwarding:
        del forwarding[mac]
    for address in change.stale_neighbours:
        del neighbours[address]
    forwarding.update(change.forwarding)
    neighbours.update(change.neighbours)


@given(st.lists(states, min_size=1, max_size=6))
@settings(max_examples=300)
def test_small_changes_lead_where_a_fresh_start_leads(
    history: list[tuple[dict[TaskId, RemoteEndpoint], dict[NodeId, str]]],
) -> None:
    followed = Entries()
    kernel: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for remotes, routes in history:
        carry_out(kernel, followed.change_to(remotes, routes))
        fresh = Entries()
        fresh.change_to(remotes, routes)
        assert (followed.forwarding, followed.neighbours) == (fresh.forwarding, fresh.neighbours) == kernel
        assert followed.change_to(dict(remotes), dict(routes)).is_empty


def test_one_of_many_changes_one() -> None:
    remotes = {
        TaskId(f"t{number}"): RemoteEndpoint(
            node_id=NODES[0],
            addresses=(f"10.1.{number // 250}.{number % 250}",),
            mac=mac_of(f"10.1.{number // 250}.{number % 250}"),
        )
        for number in range(1000)
    }
    routes = {NODES[0]: "192.0.2.1"}
    entries = Entries()
    assert len(entries.change_to(remotes, routes).forwarding) == 1000
    fewer = {task_id: remote for task_id, remote in remotes.items() if task_id != "t7"}
    change = entries.change_to(fewer, routes)
    assert change.stale_forwarding == {"02:42:0a:01:00:07"}
    assert change.stale_neighbours == {"10.1.0.7"}
    assert not change.forwarding
    assert entries.change_to(remotes, routes).forwarding == {"02:42:0a:01:00:07": "192.0.2.1"}


def test_an_address_goes_from_one_node_to_another() -> None:
    entries, routes = Entries(), {NODES[0]: "192.0.2.1", NODES[1]: "192.0.2.2"}
    there = RemoteEndpoint(node_id=NODES[0], addresses=("10.0.0.1",), mac=MACS[1])
    here = RemoteEndpoint(node_id=NODES[1], addresses=("10.0.0.1",), mac=MACS[1])
    entries.change_to({TaskId("t"): there}, routes)
    change = entries.change_to({TaskId("u"): here}, routes)
    assert change.forwarding == {MACS[1]: "192.0.2.2"}
    assert change == EntryChange({MACS[1]: "192.0.2.2"}, {}, frozenset(), frozenset())


def test_macs() -> None:
    assert mac_of("10.1.2.3/24") == "02:42:0a:01:02:03"
    assert mac_of("fd00::1:9") == "02:42:00:01:00:09"
