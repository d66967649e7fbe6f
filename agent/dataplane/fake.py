"""A backend without a network, for simulation and tests.

``FakeNetwork`` is the machine's part and outlives the agent; ``FakeBackend`` is one daemon's view of it.
It passes the same contract suite as the real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from agent.dataplane.base import BackendCapabilities, Endpoint, NodeState
from agent.executor.base import Sandbox
from swarmpy.errors import Unavailable
from swarmpy.model.ids import NetworkId, TaskId

_NODE_ADDRESSES: Final = "10.88."


def no_trouble(verb: str, task_id: TaskId) -> float:
    """The script in which everything works at once."""
    return 0.0


@dataclass
class FakeNetwork:
    """What stands on the machine. ``script(verb, task_id)`` returns a delay in seconds, or raises."""

    script: Callable[[str, TaskId], float] = no_trouble
    endpoints: dict[TaskId, Endpoint] = field(default_factory=dict)
    sandboxes: dict[TaskId, Sandbox] = field(default_factory=dict)
    given: int = 0
    state: NodeState = field(default_factory=NodeState)
    """As applied last."""
    encryption: tuple[str, ...] = ()
    """The ways in which it says that it can encrypt."""
    cuts: list[Mapping[NetworkId, tuple[str, ...]]] = field(default_factory=list)

    def forget(self) -> None:
        """Nothing stands any more, as after a reboot."""
        self.endpoints.clear()
        self.sandboxes.clear()
        self.state = NodeState()


class FakeBackend:
    """Hands out addresses of 10.88.0.0/16 in turn, and refuses a host port that is taken."""

    name = "fake"
    epoch = ""

    def __init__(self, network: FakeNetwork | None = None) -> None:
        self.network = network if network is not None else FakeNetwork()

    async def start_up(self) -> None:
        pass

    async def shut_down(self) -> None:
        pass

    async def probe(self) -> BackendCapabilities:
        return BackendCapabilities(name=self.name, is_usable=True, encryption=self.network.encryption)

    async def apply(self, state: NodeState) -> None:
        """An endpoint that cannot be attached is left out, and its own ``attach`` says why."""
        await asyncio.sleep(self.network.script("apply", TaskId("")))
        self.network.state = state
        for task_id in sorted(set(self.network.sandboxes) - set(state.endpoints)):
            self._unplug(task_id)
        for endpoint in state.endpoints.values():
            with contextlib.suppress(Unavailable):
                self._plug(endpoint)

    async def attach(self, endpoint: Endpoint) -> Sandbox:
        await asyncio.sleep(self.network.script("attach", endpoint.task_id))
        return self._plug(endpoint)

    def _plug(self, endpoint: Endpoint) -> Sandbox:
        task_id, network = endpoint.task_id, self.network
        former = network.sandboxes.get(task_id)
        if former is None:
            self._check_ports(endpoint)
        addresses = tuple(address for leg in endpoint.legs for address in leg.addresses)
        is_inside = bool(endpoint.legs) and all(leg.network.is_internal for leg in endpoint.legs)
        if not endpoint.mode and not is_inside:
            addresses += (self._node_address(former),)
        network.sandboxes[task_id] = Sandbox(netns=f"/fake/netns/{task_id}", addresses=addresses)
        network.endpoints[task_id] = endpoint
        return network.sandboxes[task_id]

    def _node_address(self, former: Sandbox | None) -> str:
        """The one that the task has, or the next."""
        for address in former.addresses[-1:] if former is not None else ():
            if address.startswith(_NODE_ADDRESSES):
                return address
        self.network.given += 1
        high, low = divmod(self.network.given, 250)
        return f"{_NODE_ADDRESSES}{high % 250}.{low + 2}"

    def _check_ports(self, endpoint: Endpoint) -> None:
        for other in self.network.endpoints.values():
            taken = {(port.protocol, port.published_port) for port in other.host_ports}
            for port in endpoint.host_ports:
                if (port.protocol, port.published_port) in taken:
                    raise Unavailable(f"host port {port.published_port}/{port.protocol} is in use")

    async def detach(self, task_id: TaskId) -> None:
        await asyncio.sleep(self.network.script("detach", task_id))
        self._unplug(task_id)

    def _unplug(self, task_id: TaskId) -> None:
        self.network.endpoints.pop(task_id, None)
        self.network.sandboxes.pop(task_id, None)

    async def cut(self, addresses: Mapping[NetworkId, tuple[str, ...]]) -> None:
        self.network.cuts.append(addresses)

    async def list(self) -> tuple[TaskId, ...]:
        return tuple(sorted(self.network.sandboxes))

    async def destroy(self) -> None:
        self.network.forget()
