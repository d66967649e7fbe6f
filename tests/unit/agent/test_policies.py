"""Policies reach what stands on a node with the records of its services, and stay without them."""

from __future__ import annotations

from msgspec.structs import replace

from agent import events
from agent.dataplane.base import Endpoint, Leg, NetworkConfig, Policy
from agent.discovery import Directory
from swarmpy.model.cluster_specs import NetworkSpec
from swarmpy.model.discovery import EndpointState, NetworkEndpoint, NetworkService, RecordKind
from swarmpy.model.endpoint_policy import CLOSED, parse
from swarmpy.model.ids import NetworkId, NodeId, ServiceId, TaskId
from swarmpy.model.objects import Network
from swarmpy.model.specs import Driver

HERE, NET, WEB = NodeId("here"), NetworkId("net1"), ServiceId("web")
HELD = NetworkService(network_id=NET, service_id=WEB, name="web", acl="deny in tcp 80", rate_in_bps=8_000)
OPEN = replace(HELD, acl="", rate_in_bps=0)
TASK = TaskId("task1")
PLACE = Endpoint(
    task_id=TASK, legs=(Leg(network=NetworkConfig(id=NET), link="eth0", addresses=("10.0.9.1/24",)),)
)


def directory(*known: events.NetworkChange, driver: str = "overlay") -> Directory:
    made = Directory(HERE)
    spec = NetworkSpec(name="net", driver_configuration=Driver(name=driver))
    for change in (Network(id=NET, spec=spec), *known):
        made.take(change)
    return made


def worn(known: Directory) -> Policy | None:
    return known.node_state().endpoints[TASK].legs[0].policy


def test_a_policy_is_on_from_the_beginning_and_follows_the_service() -> None:
    known = directory(HELD)
    assert known.dress(PLACE, WEB).legs[0].policy == Policy(rules=parse(HELD.acl), rate_in_bps=8_000)
    known.put_local(PLACE, service_id=WEB)
    assert worn(known) == Policy(rules=parse(HELD.acl), rate_in_bps=8_000)
    known.take(OPEN)
    assert worn(known) is None
    known.take(replace(HELD, acl="deny out to nowhere"))
    held = worn(known)
    assert held is not None
    assert held.rules == CLOSED.rules, "what this agent cannot read closes"


def test_what_is_as_before_is_the_same_object() -> None:
    known = directory(HELD)
    known.put_local(PLACE, service_id=WEB)
    before = known.node_state()
    known.take(replace(HELD, aliases=("www",)))
    assert known.node_state().endpoints is before.endpoints
    known.put_local(PLACE, service_id=WEB)
    assert known.node_state().endpoints is before.endpoints


def test_a_service_that_is_removed_does_not_open_its_last_tasks() -> None:
    known = directory(HELD)
    known.put_local(PLACE, service_id=WEB)
    known.take(events.RecordRemoval(RecordKind.SERVICE, HELD.record_id))
    known.put_local(PLACE, service_id=WEB, is_reachable=False)
    assert worn(known) is not None
    known.drop_local(TASK)
    assert known.node_state().endpoints == {}


def test_policies_of_others_are_not_ours() -> None:
    known = directory(replace(HELD, service_id=ServiceId("db")))
    known.put_local(PLACE, service_id=WEB)
    assert worn(known) is None


def test_a_network_of_each_node_leads_to_tasks_of_this_one() -> None:
    """Whichever comes first, the network or its endpoints."""
    for is_late in (False, True):
        known = Directory(HERE)
        spec = NetworkSpec(name="net", driver_configuration=Driver(name="bridge"))
        network = Network(id=NET, spec=spec)
        records = [
            NetworkEndpoint(
                network_id=NET,
                task_id=TaskId(f"task{number}"),
                service_id=WEB,
                node_id=node,
                addresses=(f"10.0.9.{number}/24",),
                name=f"web.{number}.task{number}",
                state=EndpointState.ACTIVE,
            )
            for number, node in ((1, HERE), (2, NodeId("there")))
        ]
        changes: list[events.NetworkChange] = [OPEN, *records]
        known.put_local(PLACE, service_id=WEB)
        for change in [*changes, network] if is_late else [network, *changes]:
            known.take(change)
        state = known.node_state().networks[NET]
        assert state.names.addresses["web"] == ("10.0.9.1",)
        assert state.remotes == {}
