"""``LinuxBackend``: the network of a node. Records, namespaces, and an ordered list of parts.

A task's endpoint is: a record on disk, a namespace kept at ``<run_dir>/netns/<task>``, the files for its
/etc, and whatever each part (see ``part.py``) adds to it. The record is written first and removed last, so
whatever a crash leaves is either recorded, and then mended or taken down, or carries our name without a
record, and is then removed: at start, or once it has been said which networks there should be.

All kernel work runs in one thread, in order, so no two endpoints ever race for an address or a port.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Interface
from math import ceil
from pathlib import Path
from typing import TypeVar

import structlog

from agent.dataplane.base import BackendCapabilities, Endpoint, NodeState
from agent.dataplane.linux import namespaces, netlink, owned, plan, preflight
from agent.dataplane.linux.drivers.probe import find_drivers
from agent.dataplane.linux.mesh.probe import find_lacking
from agent.dataplane.linux.nftables import NftError
from agent.dataplane.linux.part import Cutting, LegMaker, Mending
from agent.dataplane.linux.parts import make_parts
from agent.dataplane.linux.records import EndpointRecord, Records
from agent.dataplane.linux.spaces import NamespaceSpace, OpenContexts
from agent.executor.base import Sandbox
from agent.executor.native.id_ranges import TaskIds
from swarmpy.errors import SwarmError, TaskRejected, Unavailable
from swarmpy.limits import LINKS_POLL_S, LINKS_READY_S, NETWORK_RECHECK_S
from swarmpy.model.ids import NetworkId, TaskId

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_HOST_NETNS = "/proc/self/ns/net"
"""For a task in the node's namespace: its first process begins in the daemon's."""


class LinuxBackend:
    """One per node. ``run_dir`` must not outlive a boot: /run is where it belongs."""

    name = "linux"

    def __init__(
        self, *, run_dir: Path = Path("/run/swarmpy"), subnet: str = "", ids: TaskIds | None = None
    ) -> None:
        """``ids``: those of the node's that tasks have as theirs, and their networks with them."""
        self._netns_dir = run_dir / "netns"
        self._store = Records(run_dir / "network")
        self._parts = make_parts(self._netns_dir, subnet=subnet)
        self._ids = ids
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="dataplane")
        self._records: dict[TaskId, EndpointRecord] = {}
        self._node = NamespaceSpace()
        self._contexts = OpenContexts()
        self._spaces: dict[TaskId, NamespaceSpace] = {}
        self._state: NodeState | None = None
        self._checked: dict[TaskId, Endpoint] = {}
        """Endpoints that all parts have seen in this life of the daemon."""
        self._unasked: set[TaskId] = set()
        """New ones among them, that ``apply`` has made and ``attach`` was not called for yet."""
        self._doomed: deque[TaskId] = deque()
        self._doomed_failed: set[TaskId] = set()
        self._recheck: asyncio.Task[None] | None = None

    @property
    def netns_dir(self) -> Path:
        """Where namespaces are kept; an executor hides it from its tasks."""
        return self._netns_dir

    @property
    def epoch(self) -> str:
        return self._parts.encryption.epoch

    # --- life

    async def start_up(self) -> None:
        await self._run(self._start_up)
        if self._recheck is None:
            self._recheck = asyncio.create_task(self._recheck_for_ever())

    async def shut_down(self) -> None:
        if self._recheck is not None:
            self._recheck.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._recheck
            self._recheck = None
        await self._run(self._let_go)
        self._pool.shutdown(wait=True)

    async def probe(self) -> BackendCapabilities:
        missing = await self._run(preflight.find_missing)
        if missing:
            return BackendCapabilities(name=self.name, is_usable=False, missing=missing)
        overlays = await self._run(preflight.find_lacking_of_overlays)
        drivers, lacking = await self._run(find_drivers)
        return BackendCapabilities(
            name=self.name,
            is_usable=True,
            drivers=drivers if overlays else tuple(sorted((*drivers, "overlay"))),
            lacking=overlays + lacking + await self._run(find_lacking),
            encryption=self._parts.encryption.told,
            wireguard_key=self._parts.encryption.wireguard_key,
        )

    async def destroy(self) -> None:
        await self._run(self._destroy)

    def _start_up(self) -> None:
        self._store.prepare()
        namespaces.prepare_folder(self._netns_dir)
        self._state = None
        self._checked = {}
        self._unasked = set()
        for part in self._parts.ordered:
            part.start_up(self._node)
        self._read_records()
        self._collect_leftovers()
        endpoints = [record.endpoint for _, record in sorted(self._records.items())]
        for part in self._parts.ordered:
            if isinstance(part, LegMaker):
                part.adopt(endpoints)

    def _let_go(self) -> None:
        for part in reversed(self._parts.ordered):
            part.shut_down()
        for task_id in list(self._spaces):
            self._spaces.pop(task_id).close()
        self._node.close()

    def _destroy(self) -> None:
        """Everything with our names, whether recorded or not."""
        self._start_up()
        self._detach(list(self._records))
        for part in reversed(self._parts.ordered):
            part.destroy()
        namespaces.remove_folder(self._netns_dir)
        self._store.destroy()
        self._state = None

    async def _recheck_for_ever(self) -> None:
        """Mend what outsiders break. Errors are for the log: the next round tries again."""
        while True:
            await asyncio.sleep(NETWORK_RECHECK_S)
            try:
                await self.mend()
            except SwarmError as error:
                _log.warning("network_not_mended", error=str(error))
            except Exception as error:  # noqa: BLE001 - the top of the loop: a part that broke is asked again
                _log.error("network_mending_broke", exc_info=error)

    async def mend(self) -> None:
        """Compare all with the kernel, and make it so. Tasks that have lost a link get it again."""
        await self._run(self._mend)

    def _mend(self) -> None:
        if self._state is None:
            return
        broken: set[TaskId] = set()
        errors: list[SwarmError] = []
        for part in self._parts.ordered:
            if isinstance(part, Mending):
                with _collecting(errors):
                    broken |= part.mend() or frozenset()
        for task_id in sorted(broken & set(self._records)):
            with _collecting(errors):
                self._prepare(self._records[task_id].endpoint)
        if errors:
            raise errors[0]

    # --- all at once

    async def apply(self, state: NodeState) -> None:
        await self._run(partial(self._apply, state))

    def _apply(self, state: NodeState) -> None:
        """Networks first, then tasks; each part gets its turn, whatever becomes of the others, and the first
        error is raised at the end. What cannot be done for one task is its own attach's error."""
        if state is self._state:
            return
        former, self._state = self._state, None
        errors: list[SwarmError] = []
        with _collecting(errors):
            self._detach(sorted(self._records.keys() - state.endpoints.keys()))
        for part in self._parts.ordered:
            with _collecting(errors):
                part.apply(state)
        if former is None or former.endpoints is not state.endpoints:
            for task_id, endpoint in state.endpoints.items():
                self._check(task_id, endpoint)
        if errors:
            raise errors[0]
        self._state = state

    def _check(self, task_id: TaskId, endpoint: Endpoint) -> None:
        """Attach it, unless it is as it should be."""
        checked = self._checked.get(task_id)
        if checked is endpoint or checked == endpoint:
            return
        is_new = task_id not in self._records
        try:
            self._attach(endpoint)
        except SwarmError as error:
            _log.warning("endpoint_not_attached", task_id=task_id, error=str(error))
        else:
            self._unasked.update([task_id] if is_new else [])

    async def cut(self, addresses: Mapping[NetworkId, tuple[str, ...]]) -> None:
        await self._run(partial(self._cut, addresses))

    def _cut(self, addresses: Mapping[NetworkId, tuple[str, ...]]) -> None:
        for part in self._parts.ordered:
            if isinstance(part, Cutting):
                part.cut(addresses)

    async def list(self) -> tuple[TaskId, ...]:
        return tuple(sorted(self._records))

    async def describe(self, network_id: NetworkId) -> dict[str, object]:
        """What there is of an overlay network on this node, for people; empty if nothing."""
        return await self._run(partial(self._parts.overlays.describe, network_id))

    # --- one task

    async def attach(self, endpoint: Endpoint) -> Sandbox:
        """It returns once packets pass: what a task sends first is not lost."""
        sandbox = await self._run(partial(self._attach_asked, endpoint))
        for _ in range(ceil(LINKS_READY_S / LINKS_POLL_S)):
            if await self._run(partial(self._is_ready, endpoint.task_id)):
                return sandbox
            await asyncio.sleep(LINKS_POLL_S)
        _log.warning("links_not_ready", task_id=endpoint.task_id)
        return sandbox

    def _is_ready(self, task_id: TaskId) -> bool:
        return task_id not in self._records or all(
            part.is_ready(task_id) for part in self._parts.ordered if isinstance(part, LegMaker)
        )

    async def detach(self, task_id: TaskId) -> None:
        """Calls that come while the kernel is busy with one are carried out together after it."""
        self._doomed.append(task_id)
        await self._run(self._detach_doomed)
        if task_id in self._doomed_failed:
            self._doomed_failed.discard(task_id)
            raise Unavailable(f"the network of task {task_id} could not be removed yet")

    def _detach_doomed(self) -> None:
        doomed: list[TaskId] = []
        while self._doomed:
            doomed.append(self._doomed.popleft())
        self._doomed_failed.difference_update(doomed)
        try:
            self._detach(doomed)
        except (OSError, SwarmError):
            self._doomed_failed.update(doomed)
            raise

    def _attach_asked(self, endpoint: Endpoint) -> Sandbox:
        """What ``apply`` has made just before need not be made twice; what stands for longer is mended."""
        endpoint, task_id = self._newest(endpoint), endpoint.task_id
        is_made = task_id in self._unasked and self._checked.get(task_id) == endpoint
        self._unasked.discard(task_id)
        return self._sandbox(self._records[task_id]) if is_made else self._attach(endpoint)

    def _newest(self, endpoint: Endpoint) -> Endpoint:
        """Policies may have changed since the task was asked for: what was applied last is newer."""
        known = self._state.endpoints.get(endpoint.task_id) if self._state is not None else None
        if known is None or plan.without_policies(known) != plan.without_policies(endpoint):
            return endpoint
        return known

    def _attach(self, endpoint: Endpoint) -> Sandbox:
        """What fails for a new task leaves nothing; one that is running keeps what it has."""
        task_id = endpoint.task_id
        reason = plan.refusal(endpoint)
        if reason:
            raise TaskRejected(reason)
        former = self._records.get(task_id)
        if former is not None and former.endpoint.mode != endpoint.mode:
            self._detach([task_id])
            former = None
        try:
            gateway = self._parts.gateway
            address = str(gateway.take(task_id)) if plan.has_node_leg(endpoint) else ""
            record = EndpointRecord(endpoint=endpoint, address=address)
            if record != former:
                self._store.write(record)
                self._records[task_id] = record
            self._prepare(endpoint)
        except (OSError, SwarmError, NftError) as error:
            self._checked.pop(task_id, None)
            if former is None:
                self._take_back(task_id)
            if isinstance(error, SwarmError):
                raise
            raise Unavailable(f"cannot make the network of task {task_id}: {error}") from error
        self._checked[task_id] = endpoint
        return self._sandbox(record)

    def _take_back(self, task_id: TaskId) -> None:
        """A task has not come so far as to have a record, or has one and goes."""
        if task_id in self._records:
            self._detach([task_id])
        else:
            self._store.remove(task_id)
            self._parts.gateway.release(task_id)

    def _prepare(self, endpoint: Endpoint) -> None:
        """Namespace, links, all that has to be there before the first packet; only then are the links up.

        A namespace that stands is kept: a task may be running in it.
        """
        if endpoint.mode == plan.HOST_MODE:
            return
        task_id = endpoint.task_id
        path = self._netns_dir / task_id
        if not namespaces.is_live(path):
            self._close_space(task_id)
            path.unlink(missing_ok=True)
            self._make_namespace(path)
        space = self._spaces.setdefault(task_id, NamespaceSpace(path, contexts=self._contexts))
        names = ["lo"]
        if not endpoint.mode:
            for part in self._parts.ordered:
                part.attach(endpoint, space)
            names += [leg.link for leg in endpoint.legs]
            names += [plan.node_link(endpoint)] if plan.has_node_leg(endpoint) else []
        space.netlink.do(*map(netlink.set_up_by_name, names))
        if not endpoint.mode:
            for part in self._parts.ordered:
                part.settle(endpoint, space)
        space.rest()

    def _make_namespace(self, path: Path) -> None:
        if self._ids is None:
            namespaces.make(path, has_bridge=False).close()
        else:
            owned.make(path, self._ids)

    def _detach(self, task_ids: Iterable[TaskId]) -> None:
        doomed = [task_id for task_id in dict.fromkeys(task_ids) if task_id in self._records]
        if not doomed:
            return
        for part in reversed(self._parts.ordered):
            for task_id in doomed:
                part.detach(task_id)
        for part in reversed(self._parts.ordered):
            if isinstance(part, LegMaker):
                part.unplug(doomed)
        for task_id in doomed:
            self._checked.pop(task_id, None)
            self._unasked.discard(task_id)
            self._close_space(task_id)
            namespaces.remove(self._netns_dir / task_id)
            self._store.remove(task_id)
            self._parts.gateway.release(task_id)
            del self._records[task_id]

    def _sandbox(self, record: EndpointRecord) -> Sandbox:
        task_id = record.endpoint.task_id
        is_host = record.endpoint.mode == plan.HOST_MODE
        return Sandbox(
            netns=_HOST_NETNS if is_host else str(self._netns_dir / task_id),
            addresses=record.addresses,
            resolv_conf=str(self._store.resolv_conf(task_id)),
            hosts=str(self._store.hosts(task_id)),
        )

    # --- records and namespaces

    def _read_records(self) -> None:
        """Those with a living namespace; the others' tasks are gone with it."""
        self._records = {}
        for task_id, record in self._store.read().items():
            if self._is_alive(record):
                self._records[task_id] = record
                if record.interface is not None:
                    self._parts.gateway.keep(task_id, record.interface)
            else:
                self._store.remove(task_id)

    def _is_alive(self, record: EndpointRecord) -> bool:
        if record.endpoint.mode == plan.HOST_MODE:
            return True
        address: IPv4Interface | None = record.interface
        is_known = address is None or address.ip in self._parts.gateway.subnet
        return is_known and namespaces.is_live(self._netns_dir / record.endpoint.task_id)

    def _collect_leftovers(self) -> None:
        """Namespaces of tasks without a record. Those whose name begins with a dot are the parts' affair."""
        for path in list(self._netns_dir.iterdir()):
            if path.name not in self._records and not path.name.startswith("."):
                namespaces.remove(path)

    def _close_space(self, task_id: TaskId) -> None:
        space = self._spaces.pop(task_id, None)
        if space is not None:
            space.close()

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)


@contextlib.contextmanager
def _collecting(errors: list[SwarmError]) -> Iterator[None]:
    try:
        yield
    except SwarmError as error:
        errors.append(error)
    except (OSError, NftError) as error:
        errors.append(Unavailable(f"the node's network is not as it should be: {error}"))
