"""A swarm of two systems, in virtual time: real managers and agents, two nodes that say they have Windows
and have the Windows backend over a fake HNS. Where tasks go, and that HNS then has what was committed.

Nothing here ran on Windows: the fake keeps to what is known of the real one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
import structlog
from fake_hns import FakeHns
from msgspec.structs import replace

from agent.dataplane.windows.backend import WindowsBackend
from agent.dataplane.windows.objects import network_name
from manager.store.store import Store
from swarmpy.model.ids import NetworkId, NodeId
from swarmpy.model.objects import Service, Task
from swarmpy.model.specs import Platform
from swarmpy.model.states import TaskState
from swarmpy.sim.fleet import Fleet
from swarmpy.sim.host import Host, Seams
from swarmpy.sim.loop import SimLoop
from swarmpy.sim.network import SimNetwork
from swarmpy.sim.trace import Trace

Json = dict[str, Any]
VXLAN_IDS = "com.docker.network.driver.overlay.vxlanid_list"
LINUX, WINDOWS = Platform(architecture="x86_64", os="linux"), Platform(architecture="amd64", os="windows")


class MixedSwarm:
    """m1 and w1 have Linux; w2 and w3 say that they have Windows."""

    def __init__(self) -> None:
        self.loop = SimLoop(start=0.0)
        self.trace = Trace(lambda: self.loop.now)
        self.network = SimNetwork(self.loop, Random("mixed/network"))
        seams = Seams(
            loop=self.loop, network=self.network, trace=self.trace, seed=1, buggify=lambda name: False
        )
        self.fleet = Fleet(seams, managers=1, nodes=4)
        self.linux, self.windows = self.fleet.hosts[:2], self.fleet.hosts[2:]
        self.hosts: dict[str, Host] = {}
        """By node id, once the swarm is founded."""
        self.hns = {host.name: FakeHns(address=host.ip, late_reads=1) for host in self.windows}
        for host in self.windows:
            host.description = replace(host.description, platform=WINDOWS)
            host.make_backend = self._backend_of(host)

    def _backend_of(self, host: Host) -> Callable[[Any], WindowsBackend]:
        return lambda env: WindowsBackend(lambda: self.hns[host.name], threads=env.threads)

    async def call(self, path: str, body: Json) -> Json:
        answer = await self.fleet.call(self.fleet.founders[0], "POST", path, body)
        assert answer.status < 300, answer.message
        return answer.json if isinstance(answer.json, dict) else {}

    async def serve(self, name: str, *, replicas: int, ports: tuple[Json, ...] = (), **placement: Any) -> str:
        template = {
            "ContainerSpec": {"Image": "app"},
            "Networks": [{"Target": "shop"}],
            "Placement": placement,
        }
        spec = {
            "Name": name,
            "TaskTemplate": template,
            "Mode": {"Replicated": {"Replicas": replicas}},
            "EndpointSpec": {"Ports": list(ports)},
        }
        return str((await self.call("/services/create", spec))["ID"])

    async def label(self, host: Host, **labels: str) -> None:
        node = self.store.node(NodeId(host.node_id))
        assert node is not None
        body = {"Role": "worker", "Availability": "active", "Labels": labels}
        await self.call(f"/nodes/{host.node_id}/update?version={node.version}", body)

    @property
    def store(self) -> Store:
        manager = self.fleet.founders[0].manager
        assert manager is not None
        return manager.store

    def running(self, service_id: str = "") -> list[Task]:
        """Of one service, or of all; what a dead node was running is not among it."""
        found = [task for task in self.store.tasks() if service_id in ("", task.service_id)]
        states = TaskState.RUNNING, TaskState.RUNNING
        return [task for task in found if (task.status.state, task.desired_state) == states]

    def places(self, service_id: str) -> set[str]:
        return {self.hosts[task.node_id].name for task in self.running(service_id)}

    async def until_running(self, service_id: str, count: int) -> None:
        await self.fleet.until(lambda: len(self.running(service_id)) == count, f"{count} tasks run")


@pytest.fixture
def swarm() -> Iterator[MixedSwarm]:
    swarm = MixedSwarm()
    swarm.trace.install()
    yield swarm
    swarm.trace.is_over = True
    swarm.fleet.dispose()
    swarm.loop.close()
    structlog.reset_defaults()


def run(swarm: MixedSwarm, story: Callable[[MixedSwarm], Any]) -> None:
    async def whole() -> None:
        await swarm.fleet.found()
        swarm.hosts = {host.node_id: host for host in swarm.fleet.hosts}
        await swarm.call("/networks/create", {"Name": "shop", "Driver": "overlay"})
        await story(swarm)

    asyncio.set_event_loop(swarm.loop)
    try:
        swarm.loop.run_until_complete(whole())
    finally:
        asyncio.set_event_loop(None)


def test_each_task_is_on_a_system_of_its_kind(swarm: MixedSwarm) -> None:
    async def story(swarm: MixedSwarm) -> None:
        await swarm.label(swarm.windows[1], system="win")
        by_constraint = await swarm.serve("iis", replicas=4, Constraints=["node.platform.os==windows"])
        by_platform = await swarm.serve(
            "dotnet", replicas=4, Platforms=[{"Architecture": "amd64", "OS": "windows"}]
        )
        by_label = await swarm.serve("legacy", replicas=2, Constraints=["node.labels.system==win"])
        linux = await swarm.serve("nginx", replicas=4, Platforms=[{"Architecture": "amd64", "OS": "linux"}])
        anywhere = await swarm.serve("any", replicas=8)
        for service_id, count in (
            (by_constraint, 4),
            (by_platform, 4),
            (by_label, 2),
            (linux, 4),
            (anywhere, 8),
        ):
            await swarm.until_running(service_id, count)
        assert swarm.places(by_constraint) == {"w2", "w3"}
        assert swarm.places(by_platform) == {"w2", "w3"}
        assert swarm.places(by_label) == {"w3"}
        assert swarm.places(linux) == {"m1", "w1"}
        assert swarm.places(anywhere) == {"m1", "w1", "w2", "w3"}

    run(swarm, story)


def mismatches(swarm: MixedSwarm, host: Host) -> list[str]:
    """How HNS of a node differs from what is committed; empty if not at all."""
    hns, store = swarm.hns[host.name], swarm.store
    nodes, own_id = swarm.hosts, next(key for key, each in swarm.hosts.items() if each is host)
    wrong: list[str] = []
    for network in store.networks():
        name = network_name(network.id)
        found = [each for each in hns.networks.values() if each["name"] == name]
        if not found:
            wrong.append(f"no network {network.spec.name}")
            continue
        assert network.driver_state is not None
        if [each["vsid"] for each in found[0]["subnets"]] != [int(network.driver_state.options[VXLAN_IDS])]:
            wrong.append(f"another VNI of {network.spec.name}")
        there = {
            (each["ip"], each["is_remote"], provider(each))
            for each in hns.endpoints.values()
            if each["network"] == found[0]["id"]
        }
        committed = {
            (address, task.node_id != own_id, nodes[task.node_id].ip)
            for task in swarm.running()
            for address in addresses(task, network.id)
        }
        if network.spec.ingress:
            for node in store.nodes():
                place = [each.addresses[0].partition("/")[0] for each in node.attachments]
                committed |= {(each, node.id != own_id, nodes[node.id].ip) for each in place}
        if there != committed:
            wrong.append(f"{network.spec.name}: {sorted(there ^ committed)}")
    return wrong + unbalanced(swarm, hns)


def addresses(task: Task, network_id: NetworkId) -> list[str]:
    found = [each for each in task.networks if each.network_id == network_id]
    return [address.partition("/")[0] for each in found for address in each.addresses]


def provider(endpoint: Json) -> str:
    found = [each["Settings"] for each in endpoint["policies"] if each["Type"] == "ProviderAddress"]
    return str(found[0]["ProviderAddress"]) if found else ""


def unbalanced(swarm: MixedSwarm, hns: FakeHns) -> list[str]:
    """Virtual addresses and published ports, and who is behind each."""
    there: dict[Any, frozenset[str]] = {}
    for each in hns.balancers.values():
        fronts = each["vips"] or [pair["external"] for pair in each["ports"]]
        behind = frozenset(hns.endpoints[id_]["ip"] for id_ in each["backends"])
        there |= dict.fromkeys(fronts, behind)
    committed: dict[Any, frozenset[str]] = {}
    for service in swarm.store.services():
        for network_id, vip in vips(service):
            behind = frozenset(
                one for task in swarm.running(service.id) for one in addresses(task, NetworkId(network_id))
            )
            committed[vip] = behind
            network = swarm.store.network(NetworkId(network_id))
            if network is not None and network.spec.ingress and service.endpoint is not None:
                committed |= {port.published_port: behind for port in service.endpoint.ports}
    wanted = {front: behind for front, behind in committed.items() if behind}
    return [] if there == wanted else [f"balancers: {there} instead of {wanted}"]


def vips(service: Service) -> list[tuple[str, str]]:
    found = service.endpoint.virtual_ips if service.endpoint is not None else ()
    return [(each.network_id, each.addr.partition("/")[0]) for each in found]


def test_hns_has_what_was_committed(swarm: MixedSwarm) -> None:
    async def story(swarm: MixedSwarm) -> None:
        port = {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"}
        iis = await swarm.serve("iis", replicas=3, ports=(port,), Constraints=["node.platform.os==windows"])
        nginx = await swarm.serve("nginx", replicas=3, Constraints=["node.platform.os==linux"])
        await swarm.until_running(iis, 3)
        await swarm.until_running(nginx, 3)

        async def agrees(hosts: list[Host], what: str) -> None:
            def wrong() -> list[str]:
                return [f"{host.name}: {each}" for host in hosts for each in mismatches(swarm, host)]

            try:
                await swarm.fleet.until(lambda: not wrong(), what, patience_s=60)
            finally:
                assert wrong() == []

        await agrees(swarm.windows, "HNS has it all")
        swarm.linux[1].kill()
        swarm.windows[0].kill()
        swarm.windows[0].start()
        await swarm.fleet.until(
            lambda: len(swarm.running(nginx)) == 3 and swarm.places(nginx) == {"m1"}, "tasks have moved"
        )
        await agrees(swarm.windows, "HNS has followed a death and a restart")

    run(swarm, story)
