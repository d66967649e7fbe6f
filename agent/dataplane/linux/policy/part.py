"""Policies of endpoints: what each may do in each of its networks. A ``Part`` that mends.

Enforced at the endpoint's port on the bridge of the network, outside of the task: whatever a task may do in
its namespace, it stays held. Endpoints without such a port (macvlan and its like) are held inside; what could
take that off needs CAP_NET_ADMIN, which tasks have only if their service asks for it.

It stands before the task's first packet, outlives the daemon, and is not touched while it is right.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from agent.dataplane.base import Endpoint, Leg, NodeState
from agent.dataplane.linux import plan
from agent.dataplane.linux.part import Space
from agent.dataplane.linux.policy.station import Station
from swarmpy.errors import TaskRejected, Unavailable
from swarmpy.model.endpoint_policy import UNRESTRICTED
from swarmpy.model.ids import NetworkId, TaskId

FindSandbox = Callable[[NetworkId], Space | None]
"""The namespace with the network's bridge; None: the network has none on this node."""

_LACKING: Final = frozenset({errno.ENOENT, errno.EOPNOTSUPP, errno.ENOTSUP})


@dataclass(frozen=True, slots=True)
class _Hold:
    """Where one leg is held."""

    station: Station
    port: str


class PolicyPart:
    """``find``: asked in turn for the sandbox of a leg's network."""

    def __init__(self, *find: FindSandbox) -> None:
        self._find = find
        self._stations: dict[NetworkId, Station] = {}
        self._holds: dict[TaskId, dict[NetworkId, _Hold]] = {}

    def start_up(self, node: Space) -> None:
        self._stations = {}
        self._holds = {}

    def apply(self, state: NodeState) -> None:
        """Policies come with endpoints; what is left to do is to let go of networks that are gone."""
        for network_id, station in list(self._stations.items()):
            if self._sandbox(network_id) is not station.space:
                del self._stations[network_id]

    def attach(self, endpoint: Endpoint, space: Space) -> None:
        task_id = endpoint.task_id
        former = self._holds.get(task_id, {})
        holds: dict[NetworkId, _Hold] = {}
        self._holds[task_id] = holds
        for leg in endpoint.legs:
            network_id, policy = leg.network.id, leg.policy or UNRESTRICTED
            hold = self._hold(leg, task_id, space)
            before = former.get(network_id)
            is_new = before is None or before.station is not hold.station
            with _translated(leg):
                hold.station.put_rules(hold.port, policy.rules)
                hold.station.put_caps(hold.port, policy, is_new=is_new)
            holds[network_id] = hold
        for network_id, hold in former.items():
            if network_id not in holds:
                hold.station.forget(hold.port)

    def _hold(self, leg: Leg, task_id: TaskId, space: Space) -> _Hold:
        network_id = leg.network.id
        sandbox = self._sandbox(network_id)
        if sandbox is None:
            former = self._holds.get(task_id, {}).get(network_id)
            if former is not None and former.station.space is space:
                return former
            return _Hold(Station(space, is_own=True), leg.link)
        station = self._stations.get(network_id)
        if station is None or station.space is not sandbox:
            station = self._stations[network_id] = Station(sandbox, is_own=False)
        return _Hold(station, plan.network_port_name(task_id))

    def _sandbox(self, network_id: NetworkId) -> Space | None:
        return next((space for find in self._find if (space := find(network_id)) is not None), None)

    def settle(self, endpoint: Endpoint, space: Space) -> None:
        pass  # it needs no addresses

    def mend(self) -> frozenset[TaskId]:
        for station in self._all_stations():
            try:
                station.mend_rules()
                station.mend_caps()
            except OSError as error:
                raise Unavailable(f"cannot mend the policies of a network: {error}") from error
        return frozenset()

    def _all_stations(self) -> list[Station]:
        found = {id(hold.station): hold.station for holds in self._holds.values() for hold in holds.values()}
        return list(found.values())

    def detach(self, task_id: TaskId) -> None:
        for hold in self._holds.pop(task_id, {}).values():
            hold.station.forget(hold.port)

    def shut_down(self) -> None:
        """The kernel keeps everything; the spaces are others' to close."""
        self._stations = {}
        self._holds = {}

    def destroy(self) -> None:
        pass  # all of it is in namespaces that go


@contextmanager
def _translated(leg: Leg) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name = leg.network.name or leg.network.id
        if error.errno in _LACKING:
            raise TaskRejected(
                f"this node cannot hold a task to a rate in network {name}: its kernel lacks tbf, ifb, u32 "
                "or mirred (modules sch_tbf, ifb, cls_u32, act_mirred); load them, or take the rate off the "
                "service"
            ) from error
        raise Unavailable(f"cannot set the policy of a task in network {name}: {error}") from error
