"""Whole managers in one process: real raft, real gRPC with mutual TLS on loopback, folders of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from ports import free_port

from agent import identity as identities
from manager import manager as managers
from manager.api.control import InitRequest
from manager.manager import Manager, ManagerConfig
from swarmpy.errors import Retry
from swarmpy.model.changes import Change
from swarmpy.model.objects import Cluster
from swarmpy.node import founding
from swarmpy.pki import Identity, Role
from swarmpy.runtime import Env

DEADLINE_S = 20.0


def free_address() -> str:
    """A loopback address on which nobody listens now."""
    return f"127.0.0.1:{free_port()}"


async def until(condition: Callable[[], bool], *, deadline_s: float = DEADLINE_S) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.01)


class Host:
    """One manager's identity and folder; ``start`` gives them a Manager, any number of times."""

    def __init__(self, identity: Identity, folder: Path, address: str) -> None:
        self.identity = identity
        self.config = ManagerConfig(folder=folder, key=bytes(32), listen_addr=address, advertise_addr=address)
        self.address = address
        self.env = Env()
        self.fatal: list[str] = []
        self.removed = asyncio.Event()
        self.manager: Manager | None = None

    @property
    def running(self) -> Manager:
        assert self.manager is not None
        return self.manager

    async def start(self) -> Manager:
        self.manager = Manager(
            self.config,
            self.identity,
            self.env,
            on_fatal=self.fatal.append,
            on_removed=self.removed.set,
        )
        await self.manager.start()
        return self.manager

    async def stop(self) -> None:
        if self.manager is not None:
            await self.manager.stop()
            self.manager = None


class Managers:
    """A cluster of managers without agents. ``found`` first, then ``join``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.hosts: list[Host] = []
        self.cluster: Cluster | None = None

    async def found(self) -> Host:
        address = free_address()
        wish = founding.Wish(request=InitRequest(), hostname="host-1", advertise_addr=address)
        cluster, node, identity = founding.make_cluster(wish, Env())
        host = self._host(identity, address)
        managers.found(host.config, node.id, host.env)
        await founding.record(await host.start(), cluster, node, advertise_addr=address)
        return host

    async def admit(self, *, role: Role = Role.MANAGER) -> Host:
        """A node with its certificate that has not entered raft yet."""
        view = self.hosts[0].running.access.view
        cluster = view.cluster()
        assert cluster is not None
        tokens = cluster.root_ca.join_tokens
        address = free_address()
        admission = await identities.join(
            identities.JoinRequest(
                addresses=(self.hosts[0].address,),
                token=tokens.manager if role is Role.MANAGER else tokens.worker,
                advertise_addr=address,
            ),
            env=Env(),
        )
        return self._host(admission.identity, address)

    async def join(self) -> Host:
        host = await self.admit()
        others = self.addresses(but=host)
        await managers.prepare_entry(host.config, host.identity, host.env, others)
        manager = await host.start()
        await manager.enter(others)
        async with asyncio.timeout(DEADLINE_S):
            await manager.wait_current()
        await until(lambda: self.is_recorded(host))
        return host

    def addresses(self, *, but: Host) -> list[str]:
        return [host.address for host in self.hosts if host is not but]

    def is_recorded(self, host: Host) -> bool:
        node = self.hosts[0].running.access.view.node(host.identity.node_id)
        return node is not None and node.manager_status is not None

    def leader(self) -> Host:
        leading = [
            host for host in self.hosts if host.manager and host.manager.access.raft_status().is_leader
        ]
        assert len(leading) == 1, leading
        return leading[0]

    async def settled(self) -> Host:
        """The leader, once there is one whose loops run."""

        def leading() -> list[Host]:
            return [host for host in self.hosts if host.manager and host.manager._leader.term is not None]

        await until(lambda: len(leading()) == 1)
        return leading()[0]

    async def propose(self, host: Host, *changes: Change) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    return await host.running.propose(changes)
                except Retry as error:
                    await asyncio.sleep(error.delay_s)

    def _host(self, identity: Identity, address: str) -> Host:
        host = Host(identity, self._folder / f"raft-{len(self.hosts) + 1}", address)
        self.hosts.append(host)
        return host


@asynccontextmanager
async def managers_in(folder: Path) -> AsyncIterator[Managers]:
    made = Managers(folder)
    try:
        yield made
        assert [host.fatal for host in made.hosts if host.fatal] == []
    finally:
        await asyncio.gather(*(host.stop() for host in made.hosts))
