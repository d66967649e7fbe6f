"""``python -m agent.dataplane.windows.selftest``: tries the backend on this node's HNS and reports as JSON.

For somebody with a Windows host; it has never been executed on one. The report has every request and every
answer, so that what HNS does with our documents can be seen. It says what HNS takes, keeps and gives back: no
packet is sent. Run it as administrator, on a node that is in no swarm: it makes a network, endpoints and
balancers with our names and removes them again, and refuses to begin where there are such already.
"""

from __future__ import annotations

import asyncio
import json
import platform
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from agent.dataplane.base import (
    Balancer,
    Endpoint,
    HostPort,
    Leg,
    NetworkConfig,
    NetworkState,
    NodeState,
    Peer,
    Policy,
    PublishedPort,
    RemoteEndpoint,
    Rule,
    Subnet,
)
from agent.dataplane.windows import objects
from agent.dataplane.windows.backend import WindowsBackend
from agent.dataplane.windows.binding import load
from agent.dataplane.windows.features import features_of
from agent.dataplane.windows.service import Hns, Kind, Service, read_version
from swarmpy.errors import FailedPrecondition, SwarmError, TaskRejected
from swarmpy.model.ids import NetworkId, NodeId, ServiceId, TaskId
from swarmpy.version import VERSION

_SELF, _OTHER = NodeId("selftest"), NodeId("elsewhere")
_NETWORK = NetworkConfig(
    id=NetworkId("selftest"),
    name="selftest",
    vni=16_000_001,
    subnets=(Subnet(cidr="10.251.77.0/24", gateway="10.251.77.1"),),
    is_ingress=True,
)
_LOCAL, _REMOTE, _SOURCE, _VIP = "10.251.77.5", "10.251.77.6", "10.251.77.2", "10.251.77.3"
_NODE_PORT, _MESH_PORT = 61_077, 61_078
_TASK = Endpoint(
    task_id=TaskId("selftest"),
    legs=(Leg(network=_NETWORK, link="eth0", addresses=(f"{_LOCAL}/24",)),),
    host_ports=(HostPort(protocol="tcp", published_port=_NODE_PORT, target_port=80),),
)
_RULES = Policy(
    rules=(Rule(action="deny", direction="in", protocol="tcp", ports=("22",)),), rate_out_bps=8_000_000
)


class RecordingHns(Hns):
    """Passes all on, and writes it down."""

    def __init__(self, hns: Hns) -> None:
        self._hns = hns
        self.calls: list[dict[str, str]] = []

    def call(self, method: str, path: str, body: str) -> str:
        return self._kept(lambda: self._hns.call(method, path, body), f"{method} {path}", body)

    def enumerate(self, kind: Kind, query: str) -> str:
        return self._kept(lambda: self._hns.enumerate(kind, query), f"Enumerate {kind}", query)

    def query(self, kind: Kind, id_: str, query: str) -> str:
        return self._kept(lambda: self._hns.query(kind, id_, query), f"Query {kind} {id_}", query)

    def create(self, kind: Kind, settings: str, *, id_: str = "", network_id: str = "") -> str:
        return self._kept(
            lambda: self._hns.create(kind, settings, id_=id_, network_id=network_id),
            f"Create {kind} {network_id}",
            settings,
        )

    def modify(self, kind: Kind, id_: str, settings: str) -> None:
        def modify() -> str:
            self._hns.modify(kind, id_, settings)
            return ""

        self._kept(modify, f"Modify {kind} {id_}", settings)

    def delete(self, kind: Kind, id_: str) -> None:
        def delete() -> str:
            self._hns.delete(kind, id_)
            return ""

        self._kept(delete, f"Delete {kind} {id_}", "")

    def _kept(self, call: Callable[[], str], name: str, request: str) -> str:
        record = {"call": name, "request": request}
        self.calls.append(record)
        try:
            answer = call()
        except SwarmError as error:
            record["error"] = str(error)
            raise
        record["answer"] = answer
        return answer


class SelfTest:
    """One run. ``report`` is complete whatever happens."""

    def __init__(self, hns: Hns) -> None:
        self._hns = RecordingHns(hns)
        self._backend = WindowsBackend(lambda: self._hns)
        self._steps: list[dict[str, str]] = []

    async def run(self) -> dict[str, Any]:
        version = ""
        try:
            version = await self._prepare()
            for name, step in self._all_steps():
                await self._try(name, step)
            await self._backend.destroy()
            await self._try("nothing is left", self._find_nothing)
        except SwarmError as error:
            self._steps.append({"step": "the run itself", "result": "failed", "reason": str(error)})
        finally:
            await self._backend.shut_down()
        return {
            "swarmpy": VERSION,
            "system": platform.platform(),
            "hns": version,
            "is_good": all(step["result"] == "ok" for step in self._steps),
            "steps": self._steps,
            "calls": self._hns.calls,
        }

    async def _prepare(self) -> str:
        version = read_version(self._hns)
        ours = _our_names(Service(self._hns).observe())
        if ours:
            raise FailedPrecondition(
                f"this node has networks of a swarm already ({ours[0]}): leave the swarm before the test"
            )
        await self._backend.start_up()
        return f"{version} {msgspec.json.encode(features_of(version)).decode()}"

    def _all_steps(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        return [
            ("attach a task", self._attach),
            ("network, remote endpoint, balancers", self._apply_all),
            ("a daemon that starts anew changes nothing", self._restart),
            ("change the task's access list and cap", self._change_policy),
            ("a node dies: its task is behind nothing", self._cut),
            ("detach the task", self._detach),
        ]

    async def _try(self, name: str, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except SwarmError as error:
            self._steps.append({"step": name, "result": "failed", "reason": str(error)})
        else:
            self._steps.append({"step": name, "result": "ok"})

    # --- steps

    async def _attach(self) -> None:
        sandbox = await self._backend.attach(_TASK)
        if sandbox.addresses[:1] != (f"{_LOCAL}/24",):
            raise TaskRejected(f"HNS gave the task {sandbox.addresses} instead of {_LOCAL}")

    async def _apply_all(self) -> None:
        await self._backend.apply(_state(self._own_address()))

    async def _restart(self) -> None:
        before = await self._backend.endpoint_ids(_TASK.task_id)
        await self._backend.shut_down()
        self._backend = WindowsBackend(lambda: self._hns)
        await self._backend.start_up()
        await self._backend.apply(_state(self._own_address()))
        after = await self._backend.endpoint_ids(_TASK.task_id)
        if before != after:
            raise TaskRejected(f"the task's endpoints {before} were replaced by {after}")

    async def _change_policy(self) -> None:
        await self._backend.attach(replace(_TASK, legs=(replace(_TASK.legs[0], policy=_RULES),)))

    async def _cut(self) -> None:
        await self._backend.cut({_NETWORK.id: (_REMOTE,)})
        left = [each.value.address for each in Service(self._hns).observe().endpoints]
        if _REMOTE in left:
            raise TaskRejected("the dead node's endpoint is still there")

    async def _detach(self) -> None:
        await self._backend.detach(_TASK.task_id)
        if await self._backend.list():
            raise TaskRejected("the task's endpoint is still there")

    async def _find_nothing(self) -> None:
        observed = Service(self._hns).observe()
        ours = _our_names(observed)
        if ours or observed.namespaces:
            raise TaskRejected(f"still there: {', '.join(ours) or 'a namespace'}")

    def _own_address(self) -> str:
        networks = Service(self._hns).observe().networks
        return next((each.provider_address for each in networks if each.provider_address), "192.0.2.1")


def _our_names(observed: objects.Observed) -> list[str]:
    names = [each.value.name for each in observed.networks]
    names += [each.value.name for each in observed.endpoints]
    return [name for name in names if objects.is_ours(name)]


def _state(own_address: str) -> NodeState:
    peers = {
        _SELF: Peer(node_id=_SELF, addr=own_address, ingress_addresses=(_SOURCE,)),
        _OTHER: Peer(node_id=_OTHER, addr="192.0.2.77"),
    }
    remote = RemoteEndpoint(node_id=_OTHER, addresses=(_REMOTE,), mac="02:42:0a:fb:4d:06")
    network = NetworkState(
        config=_NETWORK,
        remotes={TaskId("elsewhere"): remote},
        balancers={ServiceId("selftest"): Balancer(vips=(_VIP,), backends=(_LOCAL, _REMOTE))},
    )
    port = PublishedPort(
        protocol="tcp", published_port=_MESH_PORT, target_port=80, backends=(_LOCAL, _REMOTE)
    )
    return NodeState(
        node_id=_SELF,
        peers=peers,
        networks={_NETWORK.id: network},
        published=(port,),
        endpoints={_TASK.task_id: _TASK},
    )


def main(open_hns: Callable[[], Hns] = load) -> int:
    """The report goes to the standard output; 0 if all went well, 1 if not, 2 without HNS."""
    try:
        hns = open_hns()
    except SwarmError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    report = asyncio.run(SelfTest(hns).run())
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0 if report["is_good"] else 1


if __name__ == "__main__":
    sys.exit(main())
