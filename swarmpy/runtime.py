"""Env: the seams through which production code meets time, chance and the disk.

Production passes the real ones, the simulator passes its own; nothing else differs. Decisions never
see an Env: shells fetch what a decision needs and hand it over as plain arguments.
"""

from __future__ import annotations

import importlib
import os
import random
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from swarmpy.model.ids import Timestamp

if TYPE_CHECKING:
    import grpc.aio

    from swarmpy.pki import Identity, Role


class Clock(Protocol):
    """Two clocks, as everywhere: one to stamp, one to measure."""

    def now(self) -> Timestamp:
        """Wall-clock time, integer nanoseconds since the epoch. May jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed point. Never goes back."""
        ...

    def rest(self, seconds: float) -> None:
        """Block the calling thread, one of ``Env.threads``: never the event loop's."""
        ...


class Entropy(Protocol):
    """A source of chance: one seeded generator in simulation, the system's in production."""

    def token_bytes(self, n: int) -> bytes: ...

    def uniform(self, low: float, high: float) -> float: ...


class AppendFile(Protocol):
    """An append-only file: what was written is durable only after ``sync`` returned."""

    def write(self, data: bytes) -> None:
        """Append all of ``data`` or raise OSError."""
        ...

    def sync(self) -> None: ...

    def size(self) -> int: ...

    def truncate(self, size: int) -> None: ...

    def close(self) -> None: ...


class ReadFile(Protocol):
    """A file read from front to back; it keeps its content even if its path is replaced meanwhile."""

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, fewer only at the end."""
        ...

    def close(self) -> None: ...


class Disk(Protocol):
    """The file operations that durable state needs, no more. Paths are absolute."""

    def read(self, path: Path) -> bytes: ...

    def open(self, path: Path) -> ReadFile: ...

    def exists(self, path: Path) -> bool: ...

    def append(self, path: Path) -> AppendFile:
        """Open for appending, creating the file (and syncing its folder) if it is missing."""
        ...

    def write_atomic(self, path: Path, data: bytes, *, mode: int = 0o600) -> None:
        """Replace the whole file: temporary file, sync, rename, sync of the folder."""
        ...

    def replace(self, source: Path, target: Path) -> None:
        """Rename over ``target`` and sync the folder."""
        ...

    def remove(self, path: Path) -> None:
        """Delete; a missing file is fine."""
        ...

    def remove_tree(self, path: Path) -> None:
        """Delete a folder and all in it; a missing one is fine.

        A crash leaves it whole under its name, or not there at all. May be repeated, as after an error: it
        then goes on where it was.
        """
        ...

    def make_dirs(self, path: Path, *, mode: int = 0o700) -> None: ...


@dataclass(frozen=True, kw_only=True)
class PortCredentials:
    """What a port shows and goes by in a handshake. PEM texts."""

    key: bytes = field(repr=False)
    chain: bytes
    """Presented, the leaf first; the roots follow it."""
    bundle: bytes
    """A client's certificate must be one of these, or be issued by one that is an authority's."""


class Port(Protocol):
    """A server's end of the transport. Servicers are added to ``grpc`` before ``listen``."""

    @property
    def grpc(self) -> grpc.aio.Server: ...

    async def listen(self, address: str) -> int:
        """Serve on ``host:port``; the port (of 0: any free one). OSError, with the reason as its text."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls at once; calls under way are cancelled after the grace."""
        ...


class Transport(Protocol):
    """Calls between nodes, with mutual TLS. The shapes are those of ``grpc.aio``, the network need not be.

    ``host:port`` is an address everywhere.
    """

    def channel(self, identity: Identity, address: str, *, server_role: Role = ...) -> grpc.aio.Channel:
        """A channel to the node there, which must prove to have ``server_role`` (default: a manager's).

        Dialling does not wait; the first call connects. A renewed identity needs a new channel.
        """
        ...

    def port(
        self, interceptor: grpc.aio.ServerInterceptor, credentials: Callable[[], PortCredentials]
    ) -> Port:
        """A port that listens nowhere yet. The credentials are asked for at every handshake."""
        ...

    async def fetch_chain(self, address: str) -> bytes:
        """The certificates (PEM, leaf first) that the server there presents. Nothing is verified."""
        ...

    async def is_turned_away(self, identity: Identity, address: str) -> bool:
        """Whether the server there completes a handshake with ``identity`` only to hang up at once."""
        ...


class SystemClock:
    def now(self) -> Timestamp:
        return Timestamp(time.time_ns())

    def monotonic(self) -> float:
        return time.monotonic()

    def rest(self, seconds: float) -> None:
        time.sleep(seconds)


class SystemEntropy:
    def __init__(self) -> None:
        self._random = random.SystemRandom()

    def token_bytes(self, n: int) -> bytes:
        return os.urandom(n)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)


class _SystemAppendFile:
    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = open(path, "ab", buffering=0)  # noqa: SIM115 - lives as long as this object

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def sync(self) -> None:
        os.fdatasync(self._file.fileno())

    def size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def truncate(self, size: int) -> None:
        self._file.truncate(size)
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class SystemDisk:
    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def open(self, path: Path) -> ReadFile:
        return open(path, "rb")

    def exists(self, path: Path) -> bool:
        return path.exists()

    def append(self, path: Path) -> AppendFile:
        is_new = not path.exists()
        file = _SystemAppendFile(path)
        if is_new:
            os.chmod(path, 0o600)
            _sync_folder(path.parent)
        return file

    def write_atomic(self, path: Path, data: bytes, *, mode: int = 0o600) -> None:
        temporary = path.with_name(path.name + ".tmp")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self.replace(temporary, path)

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)
        _sync_folder(target.parent)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def remove_tree(self, path: Path) -> None:
        condemned = path.with_name(f".{path.name}.removed")
        if condemned.exists():
            shutil.rmtree(condemned)  # what a crash has left
        try:
            self.replace(path, condemned)
        except FileNotFoundError:
            return
        shutil.rmtree(condemned)

    def make_dirs(self, path: Path, *, mode: int = 0o700) -> None:
        path.mkdir(mode=mode, parents=True, exist_ok=True)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def start_threads(name: str, workers: int) -> Executor:
    return ThreadPoolExecutor(max_workers=workers, thread_name_prefix=name)


def never(name: str) -> bool:
    """No fault point fires."""
    return False


def _real_transport() -> Transport:
    # By name, for it stands above this module; and here, for not every Env makes calls.
    return cast("Transport", importlib.import_module("swarmpy.rpc_grpc").GrpcTransport())


@dataclass(frozen=True, kw_only=True)
class Env:
    """What production and simulation do differently, in one value."""

    clock: Clock = field(default_factory=SystemClock)
    entropy: Entropy = field(default_factory=SystemEntropy)
    disk: Disk = field(default_factory=SystemDisk)
    transport: Transport = field(default_factory=_real_transport)
    threads: Callable[[str, int], Executor] = start_threads
    """Makes a pool of so many threads under a name, for work that would hold the event loop. Whoever makes
    one shuts it down. No thread is started before there is work."""
    buggify: Callable[[str], bool] = never
    """Whether the fault point of this name shall fire now. A fault point forces a branch that must be right
    at any time but is rare by nature; it costs this one call. Names are ``module.what_happens``, each used
    in one place; ``swarmpy.sim.fault_points`` lists them."""
