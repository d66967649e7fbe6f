"""The Windows backend in trouble: order, an HNS that is late, refuses or forgets; crashes, deaths."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import backend_suite as suite
import pytest
from fake_hns import FakeHns
from msgspec.structs import replace

from agent.dataplane.base import Balancer, NodeState, Policy, PublishedPort, Rule
from agent.dataplane.windows import errors
from agent.dataplane.windows.backend import WindowsBackend
from agent.dataplane.windows.objects import plain_mac
from swarmpy.config import NodeConfig
from swarmpy.errors import SwarmError, TaskRejected, Unavailable
from swarmpy.model.ids import ServiceId
from swarmpy.node import make_backend
from swarmpy.runtime import Env

BLUE = suite.network(1)
TASK = suite.on_networks(1, BLUE)
REMOTE = "10.77.1.200"


@pytest.fixture
def hns() -> FakeHns:
    return FakeHns()


@pytest.fixture
async def backend(hns: FakeHns) -> AsyncIterator[WindowsBackend]:
    backend = WindowsBackend(lambda: hns)
    await backend.start_up()
    yield backend
    await backend.shut_down()


def balanced(backends: tuple[str, ...]) -> NodeState:
    """The task, one of another node, and a service whose virtual address leads to ``backends``."""
    state = suite.state(TASK)
    network = replace(
        state.networks[BLUE.id],
        balancers={ServiceId("s"): Balancer(vips=("10.77.1.100",), backends=backends)},
    )
    return replace(state, networks={BLUE.id: network})


BOTH = ("10.77.1.2", REMOTE)


def changes(hns: FakeHns) -> list[tuple[str, str]]:
    """What was asked for but to look, in order, by V1 or V2."""
    kinds = {"networks": "Network", "endpoints": "Endpoint", "policylists": "LoadBalancer"}
    verbs = {"POST": "create", "DELETE": "delete"}
    return [
        (verbs.get(each.verb, each.verb), kinds.get(each.kind, each.kind))
        for each in hns.calls
        if each.verb not in ("GET", "enumerate", "query")
    ]


def failing(verb: str, subject: str, code: int) -> Callable[[str, str], None]:
    def script(asked: str, about: str) -> None:
        if asked == verb and subject in about:
            raise errors.failure(code, "")

    return script


@pytest.mark.parametrize("version", [(7, 2), (13, 0)])
async def test_what_is_needed_comes_first_and_what_holds_goes_first(version: tuple[int, int]) -> None:
    hns = FakeHns(version=version)
    backend = WindowsBackend(lambda: hns)
    await backend.start_up()
    await backend.apply(balanced(BOTH))
    built = changes(hns)
    kinds = [kind for _, kind in built]
    assert {verb for verb, _ in built} <= {"create", "modify"}
    assert kinds.index("Network") == 0
    assert kinds[-1] == "LoadBalancer"
    names = [each.name for each in hns.calls if each.verb == "create" and each.kind == "Endpoint"]
    assert names == sorted(names)  # "sw-peer" before "sw-task": remote ones first
    hns.calls.clear()
    await backend.apply(NodeState())
    gone = [kind for verb, kind in changes(hns) if verb == "delete"]
    order = ["LoadBalancer", "Namespace", "Endpoint", "Network"]
    assert gone == sorted(gone, key=order.index)
    assert gone[0] == "LoadBalancer"
    assert gone[-1] == "Network"
    await backend.shut_down()


async def test_the_same_again_asks_for_nothing(hns: FakeHns, backend: WindowsBackend) -> None:
    await backend.apply(balanced(BOTH))
    hns.calls.clear()
    await backend.apply(balanced(BOTH))
    await backend.attach(TASK)
    assert changes(hns) == []


async def test_a_balancer_waits_for_its_remote_endpoint(hns: FakeHns, backend: WindowsBackend) -> None:
    """A missing backend would abort it; the next try makes both."""
    hns.script = failing("create", "sw-peer", errors.ADAPTER_NOT_FOUND)
    with pytest.raises(SwarmError):
        await backend.apply(balanced(BOTH))
    assert hns.balancers == {}
    assert await backend.list() == (TASK.task_id,)
    hns.script = FakeHns().script
    await backend.apply(balanced(BOTH))
    (balancer,) = hns.balancers.values()
    assert len(balancer["backends"]) == 2


async def test_a_network_that_is_bound_late(hns: FakeHns, backend: WindowsBackend) -> None:
    hns.late_reads = 4
    sandbox = await backend.attach(TASK)
    assert sandbox.addresses == ("10.77.1.2/24",)
    (endpoint,) = hns.endpoints.values()
    assert {"Type": "ProviderAddress", "Settings": {"ProviderAddress": hns.address}} in endpoint["policies"]
    hns.late_reads = 0


async def test_apply_is_tried_again_while_a_network_is_not_bound(
    hns: FakeHns, backend: WindowsBackend
) -> None:
    hns.late_reads = 3
    with pytest.raises(Unavailable, match="not bound"):
        await backend.apply(suite.state(TASK))
    networks = set(hns.networks)
    for _ in range(5):
        try:
            await backend.apply(suite.state(TASK))
            break
        except Unavailable:
            continue
    assert await backend.list() == (TASK.task_id,)
    assert set(hns.networks) == networks, "a network that waits for its adapter is not made anew"


async def test_a_dead_nodes_tasks_are_behind_nothing(hns: FakeHns, backend: WindowsBackend) -> None:
    await backend.apply(balanced(BOTH))
    await backend.cut({BLUE.id: (REMOTE,)})
    (balancer,) = hns.balancers.values()
    (own,) = hns.endpoints.values()
    assert balancer["backends"] == [own["id"]]
    await backend.cut({BLUE.id: (REMOTE,)})


async def test_newest_hns_changes_a_balancer_in_place() -> None:
    hns = FakeHns(version=(15, 4))
    backend = WindowsBackend(lambda: hns)
    await backend.start_up()
    ingress = replace(BLUE, is_ingress=True)
    state = suite.state(suite.on_networks(1, ingress))
    own = replace(state.peers[suite.SELF], ingress_addresses=("10.77.1.9",))
    port = PublishedPort(protocol="tcp", published_port=80, target_port=80, backends=BOTH)
    state = replace(state, published=(port,), peers={**state.peers, suite.SELF: own})
    await backend.apply(state)
    (before,) = hns.balancers
    await backend.cut({BLUE.id: (REMOTE,)})
    assert [len(each["backends"]) for each in hns.balancers.values()] == [1]
    await backend.apply(replace(state))
    assert [len(each["backends"]) for each in hns.balancers.values()] == [2]
    assert list(hns.balancers) == [before]
    await backend.shut_down()


async def test_what_a_crash_left_is_adopted_and_what_is_stale_goes(
    hns: FakeHns, backend: WindowsBackend
) -> None:
    two = suite.on_networks(2, BLUE)
    await backend.apply(suite.state(TASK, two))
    ids = await backend.endpoint_ids(TASK.task_id)
    await backend.shut_down()
    later = WindowsBackend(lambda: hns)
    await later.start_up()
    assert await later.list() == (TASK.task_id, two.task_id)
    hns.calls.clear()
    await later.attach(TASK)
    assert changes(hns) == [], "nothing is known of the others yet: they are left alone"
    await later.apply(suite.state(TASK))
    assert await later.list() == (TASK.task_id,)
    assert await later.endpoint_ids(TASK.task_id) == ids
    await later.shut_down()


async def test_a_failed_attach_leaves_nothing(hns: FakeHns, backend: WindowsBackend) -> None:
    hns.script = failing("modify", "Namespace", errors.ACCESS_DENIED)
    with pytest.raises(Unavailable, match="administrator"):
        await backend.attach(TASK)
    assert (hns.endpoints, hns.namespaces) == ({}, {})
    assert await backend.list() == ()


async def test_a_reserved_address_ends_the_task(hns: FakeHns, backend: WindowsBackend) -> None:
    """So that the next one gets another."""
    leg = replace(TASK.legs[0], addresses=("10.77.1.1/24",))
    with pytest.raises(TaskRejected, match="keeps the address for itself"):
        await backend.attach(replace(TASK, legs=(leg,)))


async def test_a_detach_that_fails_says_so_and_works_later(hns: FakeHns, backend: WindowsBackend) -> None:
    await backend.attach(TASK)
    hns.script = failing("delete", "Endpoint", errors.STILL_REFERENCED)
    with pytest.raises(Unavailable, match="refers to the object"):
        await backend.detach(TASK.task_id)
    assert await backend.list() == (TASK.task_id,)
    hns.script = FakeHns().script
    await backend.detach(TASK.task_id)
    assert await backend.list() == ()


async def test_outsiders_damage_is_mended(hns: FakeHns, backend: WindowsBackend) -> None:
    await backend.apply(balanced(BOTH))
    hns.balancers.clear()
    for endpoint in hns.endpoints.values():
        endpoint["mac"] = "00:15:5d:00:00:01"
    backend.mend()
    backend.mend()
    assert len(hns.balancers) == 1
    macs = {plain_mac(each["mac"]) for each in hns.endpoints.values()}
    assert macs == {"02:42:0a:4d:01:02", "02:42:0a:4d:01:c8"}


async def test_hns_own_spelling_is_no_damage(hns: FakeHns, backend: WindowsBackend) -> None:
    """It leaves out of its answers what we asked for: that is how it looks, from the first time on."""
    await backend.apply(suite.state(TASK))
    ids = await backend.endpoint_ids(TASK.task_id)
    for endpoint in hns.endpoints.values():
        endpoint["policies"] = [each for each in endpoint["policies"] if each["Type"] != "OutBoundNAT"]
    backend.mend()
    backend.mend()
    assert await backend.endpoint_ids(TASK.task_id) == ids


@pytest.mark.parametrize("version", [(7, 2), (13, 0)])
async def test_policies_change_under_a_running_task(version: tuple[int, int]) -> None:
    hns = FakeHns(version=version)
    backend = WindowsBackend(lambda: hns)
    await backend.start_up()
    await backend.attach(TASK)
    ids = await backend.endpoint_ids(TASK.task_id)
    deny = Policy(
        rules=(Rule(action="deny", direction="in", protocol="tcp", ports=("22",)),), rate_out_bps=800
    )
    strict = replace(TASK, legs=(replace(TASK.legs[0], policy=deny),))
    await backend.attach(strict)
    assert await backend.endpoint_ids(TASK.task_id) == ids
    endpoint = hns.endpoints[ids[0]]
    found = [each["Type"] for each in endpoint["policies"]]
    assert (found.count("ACL"), found.count("QOS")) == (3, 1)
    await backend.attach(TASK)
    found = [each["Type"] for each in endpoint["policies"]]
    assert (found.count("ACL"), found.count("QOS")) == (0, 0)
    assert await backend.endpoint_ids(TASK.task_id) == ids
    await backend.shut_down()


async def test_a_node_that_others_know_by_another_address_says_so(
    hns: FakeHns, backend: WindowsBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    await backend.apply(suite.state(TASK))
    said = capsys.readouterr().out
    assert "--data-path-addr" in said
    assert hns.address in said


async def test_probe_says_what_is_missing() -> None:
    def none() -> FakeHns:
        raise Unavailable("there is no HNS here")

    backend = WindowsBackend(none)
    found = await backend.probe()
    assert not found.is_usable
    assert found.missing == ("there is no HNS here",)
    await backend.shut_down()


async def test_probe_of_a_good_node(backend: WindowsBackend) -> None:
    found = await backend.probe()
    assert (found.is_usable, found.missing, found.encryption) == (True, (), ())
    assert "overlay" in found.drivers
    assert any("encrypted" in sentence for sentence in found.lacking)


async def test_the_node_itself_is_nobodys_remote(hns: FakeHns, backend: WindowsBackend) -> None:
    """A task here that the managers' records name too has one endpoint."""
    state = balanced(BOTH)
    network = state.networks[BLUE.id]
    (remote,) = network.remotes.values()
    doubled = replace(network, remotes={**network.remotes, TASK.task_id: replace(remote, addresses=BOTH[:1])})
    await backend.apply(replace(state, networks={BLUE.id: doubled}))
    assert len(hns.endpoints) == 2
    assert json.dumps(sorted(each["ip"] for each in hns.endpoints.values())) == json.dumps(sorted(BOTH))


@pytest.mark.parametrize(("isolation", "type_"), [("", "Host"), ("process", "Host"), ("hyperv", "Guest")])
async def test_isolation_reaches_the_request(
    hns: FakeHns, backend: WindowsBackend, isolation: str, type_: str
) -> None:
    await backend.attach(replace(TASK, isolation=isolation))
    assert [each["type"] for each in hns.namespaces.values()] == [type_]


async def test_the_backend_follows_from_the_system(tmp_path: Path) -> None:
    config = NodeConfig(data_dir=tmp_path / "data", run_dir=tmp_path / "run")
    windows = make_backend(config, Env(), system="win32")
    assert windows.name == "windows"
    assert not (await windows.probe()).is_usable
    await windows.shut_down()
    linux = make_backend(config, Env())
    assert linux.name == "linux"
    await linux.shut_down()
