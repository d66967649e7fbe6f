"""``LogChannel``: being attached to a task of conmon's: what it prints out of its log, what it is told by
conmon.

The log has each byte at once and once, so a client that is slow, or comes late, misses nothing and holds
nobody up, as long as the log goes back that far; one that falls behind it is told so. A task never waits for
its clients, whatever they wish.

The input of a task without a terminal is written to conmon's own end of the pipe, which is opened for each
write and never held: so all that wait for its end find it when one of its clients closes it, which conmon
does as soon as a client of its socket leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import groupby
from pathlib import Path
from typing import Any

from agent.executor.base import Attachment, Output
from agent.executor.native import folders
from agent.executor.native.attached import Watched
from agent.executor.native.log_reader import BEGINNING, LogReader, Place
from agent.executor.oci import logs, monitor, records
from agent.executor.oci.limits import (
    ATTACH_READ_PERIOD_S,
    INPUT_CHUNK_BYTES,
    INPUT_CLOSE_POLL_S,
    INPUT_CLOSE_TIMEOUT_S,
)
from agent.folder_sockets import connect_in
from swarmpy.errors import Unavailable

_RECEIVED_BYTES_MAX = 65_536
Run = Callable[[Callable[[], Any]], Awaitable[Any]]


class LogChannel:
    """``task_input``: None if the task has none, or has ended. To be closed."""

    def __init__(
        self, folder: Path, *, start: Place, task: Watched, task_input: TaskInput | None, run: Run
    ) -> None:
        self._folder = folder
        self._reader = LogReader(folder, start=start)
        self._ready: deque[Output] = deque()
        self._task = task
        self._input = task_input
        self._run = run
        self._is_closed = False
        task.readers.enter(task.task_id)

    @classmethod
    async def to(
        cls, logs_dir: Path, wish: Attachment, task: Watched, *, folder: Path, run: Run
    ) -> LogChannel:
        """``folder``: the task's own."""
        start = BEGINNING if wish.replays else await run(lambda: logs.end_of(logs_dir))
        task_input = await run(lambda: find_input(folder))
        return cls(logs_dir, start=start, task=task, task_input=task_input, run=run)

    @property
    def pid(self) -> int:
        return 0

    async def output(self) -> AsyncIterator[Output]:
        while True:
            while self._ready:
                yield self._ready.popleft()
            is_final = self._is_closed or self._task.exit() is not None
            found = await self._run(self._read)
            if self._reader.is_overtaken:
                raise Unavailable(
                    f"the client fell behind task {self._task.task_id} by more than the node keeps of its "
                    "log: attach again, and read faster"
                )
            pieces = [piece for record in found if (piece := logs.parse_record(record)) is not None]
            for stream, row in groupby(pieces, key=lambda piece: piece.stream):
                self._ready.append(Output(stream, b"".join(piece.data for piece in row)))
            if not found and is_final:
                return
            if not found:
                await asyncio.sleep(ATTACH_READ_PERIOD_S)

    def _read(self) -> list[bytes]:
        logs.give_number(self._folder)
        return self._reader.read()

    async def write(self, data: bytes) -> None:
        if self._input is not None and not self._is_closed:
            await self._input.write(data, run=self._run)

    async def close_input(self) -> None:
        if self._input is not None and not self._is_closed:
            await self._run(self._input.close_for_all)

    async def resize(self, *, rows: int, columns: int) -> None:
        if self._input is not None and self._input.is_terminal:
            folder = self._input.folder
            await self._run(lambda: monitor.resize(folder, rows=rows, columns=columns))

    async def exit_code(self) -> int:
        if self._is_closed:
            raise Unavailable("the task was let go of")
        return await self._task.exit_code()

    async def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._task.readers.leave(self._task.task_id)
            if self._input is not None:
                self._input.leave()


class TaskInput:
    """Of a task that has a terminal or an open input."""

    def __init__(self, folder: Path, made: records.Made, *, is_terminal: bool, is_fed: bool) -> None:
        self.folder = folder
        self.is_terminal = is_terminal
        self._is_fed = is_fed
        self._made = made
        self._socket: socket.socket | None = None
        self._has_left = False
        self._lock = threading.Lock()
        """Of the two: a thread connects."""

    async def write(self, data: bytes, *, run: Run) -> None:
        """Nothing happens if the task takes none, or no more."""
        if not self._is_fed:
            return
        try:
            if self.is_terminal:
                if self._socket is None:
                    await run(self._connect)  # it waits for a conmon that does not get round to it
                await self._write_to_terminal(data)
            else:
                await self._write_to_pipe(data)
        except OSError:
            return  # it has ended: its output says so

    def _connect(self) -> None:
        """Kept from here: who has asked for it may not wait for it any more. Blocks."""
        sock: socket.socket | None = _connect(self.folder)
        with self._lock:
            if self._socket is None and not self._has_left:
                sock, self._socket = None, sock
        if sock is not None:
            sock.close()
        elif self._socket is not None:
            # conmon would wait for who does not read what the task prints: that is not for us to hear
            self._socket.shutdown(socket.SHUT_RD)

    async def _write_to_terminal(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        for at in range(0, len(data), INPUT_CHUNK_BYTES):
            if self._socket is not None:
                await loop.sock_sendall(self._socket, data[at : at + INPUT_CHUNK_BYTES])

    async def _write_to_pipe(self, data: bytes) -> None:
        fd = _open_pipe(self._made)
        if fd is None:
            return
        try:
            left = memoryview(data)
            while left:
                try:
                    left = left[os.write(fd, left) :]
                except BlockingIOError:
                    await _wait_writable(fd)
        finally:
            os.close(fd)

    def close_for_all(self) -> None:
        """A terminal has no such end."""
        if self._is_fed and not self.is_terminal:
            with contextlib.suppress(OSError):  # the task has ended
                self._end_feeding()

    def _end_feeding(self) -> None:
        """Blocks. conmon closes the input as a client says no more, but only of one that still listens: so
        what the task prints is taken until it has."""
        deadline = time.monotonic() + INPUT_CLOSE_TIMEOUT_S
        with _connect(self.folder) as sock:
            sock.shutdown(socket.SHUT_WR)
            while _find_pipe(self._made) and time.monotonic() < deadline:
                is_readable = monitor.wait_readable(sock.fileno(), INPUT_CLOSE_POLL_S)
                if is_readable and not sock.recv(_RECEIVED_BYTES_MAX):
                    return

    def leave(self) -> None:
        with self._lock:
            self._has_left = True
            sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()


def find_input(folder: Path) -> TaskInput | None:
    """Blocks. None if the task has neither input nor terminal, or has ended."""
    job, made = folders.read_job(folder), records.read_made(folder)
    if job is None or made is None or not records.is_watched(made):
        return None
    is_fed = job.get("open_stdin", False)
    if not is_fed and not job["tty"]:
        return None
    return TaskInput(folder, made, is_terminal=job["tty"], is_fed=is_fed)


def _open_pipe(made: records.Made) -> int | None:
    """The end of the pipe that conmon writes to; None if it is closed. Only what conmon itself holds is
    looked at: a task may have made anything of its own end."""
    path = _find_pipe(made)
    return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC) if path else None


def _find_pipe(made: records.Made) -> str:
    wanted = f"pipe:[{made['stdin']}]"
    folder = f"/proc/{made['conmon']}/fd"
    if not records.is_watched(made):
        return ""
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"{folder}/{name}") == wanted:
                return f"{folder}/{name}"
    return ""


async def _wait_writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    writable: asyncio.Future[None] = loop.create_future()
    loop.add_writer(fd, _resolve, writable)
    try:
        await writable
    finally:
        loop.remove_writer(fd)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _connect(folder: Path) -> socket.socket:
    """To conmon. Blocks, for a while: one that does not get round to its clients has a full queue of them."""
    deadline = time.monotonic() + INPUT_CLOSE_TIMEOUT_S
    while True:
        try:
            return connect_in(folder, "attach", socket.SOCK_SEQPACKET, timeout_s=0.0)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
        time.sleep(INPUT_CLOSE_POLL_S)
