"""``WindowsBackend``: a Windows node's network, as objects of HNS. Never executed on Windows.

HNS keeps its objects, and their names say whose they are: there are no records beside it. What a former life
of the daemon made is found by name, kept as it is until it is said what there should be, and then mended.

All calls to HNS are made in one thread, in order. What is known of HNS is kept between calls; it is asked
anew at the start, from time to time, and after anything that failed.

What this cannot do: it ends no connections (HNS has no means to), answers no names, and starts nothing: an
executor for Windows would take ``endpoint_ids`` or the namespace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog

from agent.dataplane.base import BackendCapabilities, Endpoint, NodeState
from agent.dataplane.windows import diff, objects
from agent.dataplane.windows.binding import load
from agent.dataplane.windows.features import lacking
from agent.dataplane.windows.inventory import Inventory, NotBound
from agent.dataplane.windows.plan import choose_nat, make_plan, task_endpoints, without
from agent.dataplane.windows.refusals import KINDS, NONE_MODE, refusal
from agent.dataplane.windows.service import Hns, Service
from agent.executor.base import Sandbox
from swarmpy.errors import SwarmError, TaskRejected, Unavailable
from swarmpy.limits import HNS_BIND_POLL_S, HNS_BIND_S, NETWORK_RECHECK_S
from swarmpy.model.ids import NetworkId, TaskId
from swarmpy.runtime import start_threads

T = TypeVar("T")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Failure:
    """A step that was not carried out. ``owner``: the task that it is for alone."""

    step: diff.Step
    error: SwarmError
    owner: TaskId | None


class WindowsBackend:
    """One per node. ``threads`` as in Env."""

    name = "windows"
    epoch = ""

    def __init__(
        self, open_hns: Callable[[], Hns] = load, *, threads: Callable[[str, int], Executor] = start_threads
    ) -> None:
        self._open_hns = open_hns
        self._pool = threads("dataplane", 1)
        self._service: Service | None = None
        self._inventory: Inventory | None = None
        self._is_stale = True
        self._state = NodeState()
        self._is_applied = False
        self._done: NodeState | None = None
        """Applied without failures."""
        self._endpoints: dict[TaskId, Endpoint] = {}
        self._notes: tuple[str, ...] = ()
        self._recheck: asyncio.Task[None] | None = None

    # --- life

    async def start_up(self) -> None:
        await self._run(self._refresh)
        if self._recheck is None:
            self._recheck = asyncio.create_task(self._recheck_for_ever())

    async def shut_down(self) -> None:
        if self._recheck is not None:
            self._recheck.cancel()  # it holds nothing, and is not waited for: a killed daemon does not either
            self._recheck = None
        self._pool.shutdown(wait=True)

    async def probe(self) -> BackendCapabilities:
        try:
            features = (await self._run(self._reach)).features
        except SwarmError as error:
            return BackendCapabilities(name=self.name, is_usable=False, missing=(str(error),))
        return BackendCapabilities(
            name=self.name, is_usable=True, drivers=tuple(sorted(KINDS)), lacking=lacking(features)
        )

    @property
    def has_overlay_way_out(self) -> bool:
        """Whether tasks reach the outside through their first overlay; else by an endpoint of its own."""
        return self._reach().features.has_overlay_way_out

    async def destroy(self) -> None:
        await self._run(self._destroy)

    def _destroy(self) -> None:
        self._endpoints, self._state, self._is_applied = {}, NodeState(), True
        self._is_stale = True
        _raise_first(self._converge())

    async def _recheck_for_ever(self) -> None:
        """Mend what outsiders break. Errors are for the log: the next round tries again."""
        while True:
            await asyncio.sleep(NETWORK_RECHECK_S)
            try:
                await self._run(self.mend)
            except SwarmError as error:
                _log.warning("network_not_mended", error=str(error))

    def mend(self) -> None:
        """One round of it, in the backend's thread."""
        if self._is_applied:
            self._is_stale = True
            _raise_first(self._converge())

    # --- all at once

    async def apply(self, state: NodeState) -> None:
        await self._run(partial(self._apply, state))

    def _apply(self, state: NodeState) -> None:
        """What cannot be done for one task is its own attach's error."""
        if state is self._done:
            return
        self._state, self._is_applied, self._done = state, True, None
        self._endpoints = {}
        for task_id, endpoint in sorted(state.endpoints.items()):
            reason = self._refusal(endpoint)
            if reason:
                _log.warning("endpoint_not_attached", task_id=task_id, error=reason)
            else:
                self._endpoints[task_id] = endpoint
        failures = self._converge()
        dropped = self._drop_failed(failures)
        shared = [each for each in failures if each.owner not in dropped]
        if dropped:
            shared += self._converge()
        _raise_first(shared)
        self._done = state

    def _drop_failed(self, failures: Iterable[Failure]) -> set[TaskId]:
        """Tasks that cannot be attached. Those for whose network HNS needs a moment are not among them."""
        dropped: set[TaskId] = set()
        waiting = {each.owner for each in failures if isinstance(each.error, NotBound)}
        for each in failures:
            task_id = each.owner
            if task_id is not None and task_id not in waiting | dropped:
                _log.warning("endpoint_not_attached", task_id=task_id, error=str(each.error))
                self._endpoints.pop(task_id, None)
                dropped.add(task_id)
        return dropped

    async def cut(self, addresses: Mapping[NetworkId, tuple[str, ...]]) -> None:
        """Nothing leads there any more. Open connections are not ended: they time out in the task."""
        await self._run(partial(self._cut, addresses))

    def _cut(self, addresses: Mapping[NetworkId, tuple[str, ...]]) -> None:
        self._state, self._done = without(self._state, addresses), None
        _raise_first(self._converge())

    async def list(self) -> tuple[TaskId, ...]:
        return await self._run(self._list)

    def _list(self) -> tuple[TaskId, ...]:
        bare = {task_id for task_id, each in self._endpoints.items() if each.mode == NONE_MODE}
        return tuple(sorted(self._known().tasks() | bare))

    async def endpoint_ids(self, task_id: TaskId) -> tuple[str, ...]:
        """HNS's ids of a task's endpoints, in the order of its links: what HCS takes for a container."""
        return await self._run(partial(self._endpoint_ids, task_id))

    def _endpoint_ids(self, task_id: TaskId) -> tuple[str, ...]:
        endpoint = self._endpoints.get(task_id)
        if endpoint is None:
            return tuple(each.id for each in self._known().endpoints_of(task_id))
        found = [self._known().endpoint(each.name) for each in self._wished(endpoint)]
        return tuple(each.id for each in found if each is not None)

    # --- one task

    async def attach(self, endpoint: Endpoint) -> Sandbox:
        """HNS may need some seconds to bind a new network to its adapter: that is waited for."""
        for _ in range(int(HNS_BIND_S / HNS_BIND_POLL_S)):
            try:
                return await self._run(partial(self._attach, endpoint))
            except NotBound:
                await asyncio.sleep(HNS_BIND_POLL_S)
        return await self._run(partial(self._attach, endpoint, is_last=True))

    def _attach(self, endpoint: Endpoint, *, is_last: bool = False) -> Sandbox:
        task_id = endpoint.task_id
        reason = self._refusal(endpoint)
        if reason:
            raise TaskRejected(reason)
        is_new = task_id not in self._endpoints and task_id not in self._known().tasks()
        former = self._endpoints.get(task_id)
        if former != endpoint or self._is_stale or not self._is_whole(endpoint):
            self._endpoints[task_id] = endpoint
            self._finish_attach(endpoint, self._converge(), is_new=is_new, is_last=is_last)
        return self._sandbox(endpoint)

    def _finish_attach(
        self, endpoint: Endpoint, failures: Iterable[Failure], *, is_new: bool, is_last: bool
    ) -> None:
        """What fails for a new task leaves nothing; one that is running keeps what it has."""
        task_id = endpoint.task_id
        names = {objects.network_name(leg.network.id) for leg in endpoint.legs} | {objects.NAT_NAME}
        own = [each.error for each in failures if each.owner == task_id or _network_of(each.step) in names]
        if not own:
            return
        if not isinstance(own[0], NotBound) or is_last:
            self._endpoints.pop(task_id, None)
            if is_new:
                self._converge(gone=frozenset({task_id}))
        raise own[0]

    def _is_whole(self, endpoint: Endpoint) -> bool:
        known = self._known()
        return all(known.endpoint(each.name) is not None for each in self._wished(endpoint))

    async def detach(self, task_id: TaskId) -> None:
        await self._run(partial(self._detach, task_id))

    def _detach(self, task_id: TaskId) -> None:
        self._endpoints.pop(task_id, None)
        self._done = None
        failures = self._converge(gone=frozenset({task_id}))
        if task_id in self._known().tasks():
            _raise_first(failures)
            raise Unavailable(f"the network of task {task_id} could not be removed yet")

    # --- inside

    def _reach(self) -> Service:
        """HNS, once it answers."""
        if self._service is None:
            service = Service(self._open_hns())
            _log.info("hns_found", version=str(service.features.version))
            self._service, self._inventory = service, Inventory(service)
        return self._service

    def _refresh(self) -> None:
        self._reach()
        self._known().refresh()
        self._is_stale = False

    def _known(self) -> Inventory:
        self._reach()
        assert self._inventory is not None
        return self._inventory

    def _refusal(self, endpoint: Endpoint) -> str:
        return refusal(endpoint, self._reach().features, data_path_port=self._state.data_path_port)

    def _wished(self, endpoint: Endpoint) -> Sequence[objects.HnsEndpoint]:
        return task_endpoints(endpoint, self._reach().features)

    def _converge(self, *, gone: frozenset[TaskId] = frozenset()) -> Sequence[Failure]:
        """Carry out what is missing; a step that fails does not keep the others from being tried."""
        if self._is_stale:
            self._refresh()
        known, features = self._known(), self._reach().features
        observed = known.observed()
        plan = make_plan(
            self._state,
            self._endpoints,
            features,
            nat_name=choose_nat(observed),
            is_complete=self._is_applied,
            gone=gone,
        )
        failures: list[Failure] = []
        for step in diff.diff(plan.desired, observed, can_update=features.has_balancer_update):
            try:
                known.carry_out(step)
            except SwarmError as error:
                failures.append(Failure(step, error, self._owner(step)))
        self._is_stale = bool(failures)
        self._say(plan.notes)
        return failures

    def _say(self, notes: tuple[str, ...]) -> None:
        own = self._state.peers.get(self._state.node_id)
        bound = self._known().provider_addresses().items()
        strange = [
            f"network {name}: HNS has its tunnels end at {address}, others send to {own.addr}: start the "
            "daemon with this address as --data-path-addr, or name the adapter in the network's options"
            for name, address in sorted(bound)
            if own is not None and address and address != own.addr and objects.is_ours(name)
        ]
        notes = (*notes, *strange)
        for note in notes:
            if note not in self._notes:
                _log.warning("not_served_here", reason=note)
        self._notes = notes

    def _owner(self, step: diff.Step) -> TaskId | None:
        """The task that a step is for alone."""
        match step:
            case diff.CreateEndpoint(endpoint=wish) | diff.ModifyEndpoint(endpoint=wish):
                return objects.task_of(wish.name)
            case diff.CreateNamespace(id=id_) | diff.JoinNamespace(id=id_) | diff.LeaveNamespace(id=id_):
                return next((each for each in self._endpoints if objects.namespace_id(each) == id_), None)
            case _:
                return None

    def _sandbox(self, endpoint: Endpoint) -> Sandbox:
        """The namespace's id on V2; before, a name that ``endpoint_ids`` stands behind."""
        found = [self._known().endpoint(each.name) for each in self._wished(endpoint)]
        addresses = [each.value for each in found if each is not None]
        return Sandbox(
            netns=objects.namespace_id(endpoint.task_id),
            addresses=tuple(
                f"{each.address}/{each.prefix_length}" if each.prefix_length else each.address
                for each in addresses
            ),
        )

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)


def _network_of(step: diff.Step) -> str:
    return step.network.name if isinstance(step, diff.CreateNetwork) else ""


def _raise_first(failures: Sequence[Failure]) -> None:
    if failures:
        raise failures[0].error
