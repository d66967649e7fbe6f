"""What the world sees of the managers and agents of a simulation: it watches, and feeds the checkers.

A manager is found soon after it was made; its store is then judged whole, and from there on change by change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from random import Random

from agent.core import Core
from agent.events import Record
from manager.manager import Manager
from manager.raft.proposer import RaftStatus
from manager.store.events import Resync
from manager.store.watch import Watch
from swarmpy.model.ids import NodeId
from swarmpy.sim.checkers import Checkers
from swarmpy.sim.fleet import Fleet
from swarmpy.sim.host import Host
from swarmpy.sim.journal import SimJournal

LOOK_PERIOD_S = 0.1
CHECK_PERIOD_S = 1.0
AGENTS_CHECKED_MAX = 250
"""Agents looked at each period, in turn; managers always are."""


class ObservedJournal(SimJournal):
    """An agent's journal that says what it was given."""

    def __init__(self, generator: Random, on_commit: Callable[[tuple[Record, ...]], None]) -> None:
        super().__init__(generator)
        self._on_commit = on_commit

    def commit(self, records: Iterable[Record]) -> None:
        given = tuple(records)
        self._on_commit(given)
        super().commit(given)


class Observer:
    """``run`` until cancelled."""

    def __init__(self, fleet: Fleet, checkers: Checkers) -> None:
        self._fleet = fleet
        self._checkers = checkers
        self._seen: dict[str, tuple[Host, Manager, Watch]] = {}
        self._turn = 0
        self._node_ids: dict[str, str] = {}
        for host in fleet.hosts:
            self._wire(host)

    def _wire(self, host: Host) -> None:
        def started(task_id: object) -> None:
            self._checkers.machine_started(NodeId(self.node_id(host)), task_id)  # type: ignore[arg-type]

        host.machine.on_start = started
        host.make_journal = lambda generator: ObservedJournal(
            generator, lambda records: self._checkers.persisted(NodeId(self.node_id(host)), records)
        )

    def node_id(self, host: Host) -> str:
        """The node that the host is, or was last."""
        found = host.node_id
        if found:
            self._node_ids[host.name] = found
        return self._node_ids.get(host.name, "")

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._check_now_and_then())
            while True:
                for host, manager, watch in self._seen.values():
                    if manager is not host.manager:
                        watch.close()
                for host in self._fleet.managers():
                    if host.name not in self._seen and host.manager is not None:
                        tasks.create_task(self._follow(host, host.manager))
                await asyncio.sleep(LOOK_PERIOD_S)

    async def _follow(self, host: Host, manager: Manager) -> None:
        """One manager, until it is stopped or its process ends."""
        name, process = host.name, host.process
        assert process is not None

        def told(status: RaftStatus) -> None:
            self._checkers.status(name, status, is_late=True)

        with manager.store.watch() as watch:
            self._seen[name] = host, manager, watch
            self._checkers.started(name, manager.store)
            self._checkers.status(name, manager.raft.status())
            unsubscribe = manager.raft.subscribe(told)
            forget = process.on_end(watch.close)
            try:
                while not process.is_dead and host.manager is manager:
                    for notice in watch.take():
                        if isinstance(notice, Resync):
                            self._checkers.resynced(name, manager.store)
                        else:
                            self._checkers.committed(name, notice)
                    await watch.wait()
            finally:
                unsubscribe()
                forget()
                self._checkers.ended(name)
                del self._seen[name]

    async def _check_now_and_then(self) -> None:
        hosts = self._fleet.hosts
        while True:
            await asyncio.sleep(CHECK_PERIOD_S)
            for _ in range(min(AGENTS_CHECKED_MAX, len(hosts))):
                self._check_agent(hosts[self._turn])
                self._turn = (self._turn + 1) % len(hosts)
            for name, (_, manager, _) in self._seen.items():
                self._checkers.status(name, manager.raft.status())
                self._checkers.queues(name, manager)

    def check_agents(self) -> None:
        for host in self._fleet.hosts:
            self._check_agent(host)

    def _check_agent(self, host: Host) -> None:
        part = host.daemon.part if host.daemon is not None and host.is_up else None
        if part is not None:
            part.agent.core.check()
            self._checkers.queues(host.name, part.agent)
            self._check_networks(NodeId(part.identity.node_id), part.agent.core)

    def _check_networks(self, node_id: NodeId, core: Core) -> None:
        """If the agent has taken all that there is to tell, it makes of it what the store says."""
        for _, manager, _ in self._seen.values():
            term = manager.term
            session = term.dispatcher.session_of(node_id) if term is not None else None
            if term is None or session is None or not term.dispatcher.is_caught_up:
                continue
            if session.progress is not None and session.progress == core.progress:
                self._checkers.networks(manager.store, node_id, core)
