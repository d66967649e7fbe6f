"""Daemons in one process, without an API server: real certificates, raft and sessions on loopback.

The machine and its network are pretended and outlive the daemon, as real ones do.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from clusters import make_service
from manager_rig import DEADLINE_S, free_address
from msgspec.structs import replace

from agent.dataplane.fake import FakeBackend, FakeNetwork
from agent.describe import describe
from agent.executor.fake import FakeExecutor, FakeMachine
from agent.journal import Journal
from manager.api.control import InitRequest, JoinRequest, LocalState
from manager.store.view import View
from swarmpy.config import NodeConfig
from swarmpy.errors import Retry
from swarmpy.model.changes import Batch, Change, Create, Group, Update
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Node
from swarmpy.model.states import NodeRole, Owner
from swarmpy.node.daemon import Daemon, Machine
from swarmpy.node.images import Images
from swarmpy.node.system import read_system
from swarmpy.node.volumes import NodeVolumes
from swarmpy.runtime import AppendFile, Disk, Env, ReadFile, SystemClock, SystemDisk


class Host:
    """One machine: its data folder, its tasks and its network; ``daemon`` is there while it is started."""

    def __init__(self, folder: Path, address: str | None = None) -> None:
        self.folder = folder
        self.address = address or free_address()
        self.machine, self.network = FakeMachine(), FakeNetwork()
        self.disk: Disk = SystemDisk()
        self.daemon: Daemon | None = None

    @property
    def running(self) -> Daemon:
        assert self.daemon is not None
        return self.daemon

    @property
    def state(self) -> LocalState:
        return self.running.local().state

    @property
    def view(self) -> View:
        access = self.running.cluster()
        assert access is not None
        return access.view

    async def start(self) -> None:
        config = NodeConfig(
            data_dir=self.folder,
            run_dir=self.folder / "run",
            hostname=self.folder.name,
            listen_address=self.address,
            advertise_address=self.address,
        )
        machine = Machine(
            executor_name="fake",
            make_executor=lambda: FakeExecutor(self.machine),
            make_backend=lambda: FakeBackend(self.network),
            open_journal=Journal,
            describe=lambda: describe(hostname=self.folder.name),
            read_system=read_system,
            images=Images(self.folder, Env(), is_offline=True),
            volumes=NodeVolumes(self.folder, SystemClock()),
        )
        self.daemon = Daemon(config, Env(disk=self.disk), machine)
        await self.daemon.resume()

    async def stop(self) -> None:
        if self.daemon is not None:
            await self.daemon.stop()
            self.daemon = None

    async def init(self) -> NodeId:
        return await self.running.init(InitRequest())

    async def join(self, other: Host, role: NodeRole = NodeRole.WORKER) -> None:
        cluster = other.view.cluster()
        assert cluster is not None
        tokens = cluster.root_ca.join_tokens
        token = tokens.manager if role is NodeRole.MANAGER else tokens.worker
        await self.running.join(JoinRequest(remote_addrs=(other.address,), join_token=token))

    async def propose(self, *changes: Change) -> None:
        access = self.running.cluster()
        assert access is not None
        batch = Batch(groups=(Group(owner=Owner.API, changes=changes),), at=Env().clock.now())
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    applied = await access.propose(batch)
                except Retry as error:
                    await asyncio.sleep(error.delay_s)
                else:
                    assert not applied.refused, applied.refused
                    return

    async def wish_role(self, node_id: NodeId, role: NodeRole) -> None:
        node = self.node(node_id)
        await self.propose(Update(object=replace(node, spec=replace(node.spec, role=role))))

    def node(self, node_id: NodeId) -> Node:
        node = self.view.node(node_id)
        assert node is not None
        return node

    async def run_service(self, replicas: int) -> None:
        service, revision = make_service("web", replicas=replicas)
        await self.propose(Create(object=service), Create(object=revision))

    def moved_to(self, folder: Path) -> Host:
        """The same machine with another data folder: what a crash has left of this one."""
        host = Host(folder, self.address)
        host.machine, host.network = self.machine, self.network
        return host


class Camera:
    """A disk that copies a folder before each change: every crash that could have been."""

    def __init__(self, folder: Path, album: Path) -> None:
        self._disk = SystemDisk()
        self._folder, self._album = folder, album
        self.photos: list[Path] = []
        self.is_on = False

    def _shoot(self) -> None:
        if self.is_on:
            photo = self._album / f"crash-{len(self.photos) + 1:02}"
            shutil.copytree(self._folder, photo)
            self.photos.append(photo)

    def read(self, path: Path) -> bytes:
        return self._disk.read(path)

    def open(self, path: Path) -> ReadFile:
        return self._disk.open(path)

    def exists(self, path: Path) -> bool:
        return self._disk.exists(path)

    def append(self, path: Path) -> AppendFile:
        self._shoot()
        return self._disk.append(path)

    def write_atomic(self, path: Path, data: bytes, *, mode: int = 0o600) -> None:
        self._shoot()
        self._disk.write_atomic(path, data, mode=mode)

    def replace(self, source: Path, target: Path) -> None:
        self._shoot()
        self._disk.replace(source, target)

    def remove(self, path: Path) -> None:
        self._shoot()
        self._disk.remove(path)

    def remove_tree(self, path: Path) -> None:
        self._shoot()
        self._disk.remove_tree(path)

    def make_dirs(self, path: Path, *, mode: int = 0o700) -> None:
        self._shoot()
        self._disk.make_dirs(path, mode=mode)


class FailingDisk(SystemDisk):
    """Refuses the n-th write, and only that one."""

    def __init__(self, nth: int) -> None:
        self._left = nth
        self.has_failed = False

    def write_atomic(self, path: Path, data: bytes, *, mode: int = 0o600) -> None:
        self._left -= 1
        if self._left == 0:
            self.has_failed = True
            raise OSError(28, "No space left on device", str(path))
        super().write_atomic(path, data, mode=mode)


@asynccontextmanager
async def hosts_in(folder: Path, count: int) -> AsyncIterator[list[Host]]:
    """Started daemons in no swarm."""
    hosts = [Host(folder / f"host-{number}") for number in range(1, count + 1)]
    for host in hosts:
        host.folder.mkdir()
        await host.start()
    try:
        yield hosts
    finally:
        for host in hosts:
            await host.stop()
