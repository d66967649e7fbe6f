"""The daemon's side of the launcher: start it, give it orders, start it again should it die.

The launcher (``shim/launcher``) is the only process that the daemon itself starts; everything it forks is
on its own afterwards.

Tasks can get hold of the program that it runs, the node's interpreter: an image's command may be a link to
``/proc/self/exe``, and the first process of a task with ``init`` is one. So it is run from a mount of its own
that is read-only: by way of /proc, root in a task changes neither its content nor its mode.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import structlog

from agent.executor.native.shim import kernel
from agent.executor.native.shim.launcher import ENTER, START
from swarmpy.errors import Unavailable
from swarmpy.limits import TASK_START_TIMEOUT_S

log = structlog.get_logger(__name__)

_SOURCE_ROOT = Path(__file__).resolve().parents[3]
_PROGRAM = (
    "import sys; sys.path.append(sys.argv[1]); from agent.executor.native.shim.launcher import main; main()"
)


class Launcher:
    """Blocking; ``order`` may be called from several threads."""

    def __init__(self, log_path: Path) -> None:
        self._log_path = log_path
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: socket.socket | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def start(self) -> None:
        with self._lock:
            self._start()

    def order(self, folder: Path, report: int) -> None:
        """Have a shim started for the task in ``folder``; ``report`` is handed over to it."""
        self._order(START + os.fsencode(folder), report)

    def enter(self, folder: Path, sock: int) -> None:
        """Have a process started that works inside the task in ``folder``, as it is told on ``sock``."""
        self._order(ENTER + os.fsencode(folder), sock)

    def _order(self, packet: bytes, fd: int) -> None:
        with self._lock:
            try:
                self._send(packet, fd)
            except (BrokenPipeError, ConnectionError):
                # it was killed: a fresh one takes the order, running shims have noticed nothing
                self._stop()
                self._send(packet, fd)

    def stop(self) -> None:
        """End of file tells the launcher to go. Shims stay."""
        with self._lock:
            self._stop()

    def _send(self, packet: bytes, fd: int) -> None:
        if self._orders is None:
            self._start()
        assert self._orders is not None
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        self._orders.sendmsg([packet], rights)

    def _start(self) -> None:
        if self._process is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(TASK_START_TIMEOUT_S)
        with theirs, open(self._log_path, "ab") as words, _read_only(sys.executable) as program:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _PROGRAM, str(_SOURCE_ROOT)],
                    executable=program,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=words,
                    cwd="/",
                    env={"LC_ALL": "C.UTF-8"},
                )
            except OSError as error:
                ours.close()
                raise Unavailable(f"cannot start the task launcher: {error}") from None
        self._orders = ours

    def _stop(self) -> None:
        if self._orders is not None:
            self._orders.close()
            self._orders = None
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def _read_only(program: str) -> Iterator[str]:
    """A path by which the program is executed from a mount that nothing is written through."""
    tree = -1
    try:
        tree = kernel.clone_tree(program)
        kernel.set_mount(tree, kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID)
        # not /proc/self: the process that executes it has not got this descriptor
        path = f"/proc/{os.getpid()}/fd/{tree}"
    except OSError as error:  # before Linux 5.12
        log.warning("interpreter_unguarded", reason=error.strerror)
        path = program
    try:
        yield path
    finally:
        if tree >= 0:
            os.close(tree)
