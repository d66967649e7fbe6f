"""The daemon's side of the user-space port: find it, start it, replace one that runs other code, tell it what
to do.

The process outlives the daemon. Its replacement goes on counting where the former one stopped; of one that
was killed nobody knows how far it came, and its keys are not used again (see ``epoch``).
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from agent.dataplane.linux.encryption.lock import USERSPACE_LINK
from agent.dataplane.linux.encryption.userspace import orders
from agent.dataplane.linux.encryption.userspace.orders import (
    SOCKET_NAME,
    Ask,
    Configure,
    Order,
    Status,
    Stop,
    program_digest,
)
from agent.folder_sockets import connect_in
from swarmpy.errors import Unavailable
from swarmpy.limits import SECURE_PORT_ANSWER_S, SECURE_PORT_START_S

_SOURCE_ROOT: Final = Path(__file__).resolve().parents[5]
_PROGRAM: Final = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from agent.dataplane.linux.encryption.userspace.process import main; main()"
)
_LOG_NAME: Final = "port.log"
_POLL_S: Final = 0.01
_ZOMBIE: Final = "Z"
"""It has ended; whoever started it has not asked how."""


class UserspacePort:
    """For one thread, in the node's namespace. ``folder`` is only root's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._reached: dict[str, int] = {}
        self._program = program_digest()

    def ensure(self) -> Status:
        """One that runs this code is there; what it has now."""
        status = self.ask()
        if status is not None and status.program != self._program:
            self.stop()
            status = None
        if status is None:
            status = self._start()
        return status

    def ask(self) -> Status | None:
        return self._order(Ask())

    @property
    def reached(self) -> dict[str, int]:
        """How far the former process came with its keys, for the next ``configure``."""
        return self._reached

    def configure(self, order: Configure) -> Status:
        status = self._order(order)
        if status is None:
            raise Unavailable("the process of the user-space port has ended; it is started again")
        if status.error:
            raise Unavailable(status.error)
        self._reached = {}
        return status

    def stop(self) -> None:
        """End it, and keep in mind how far it came. Also one that another life of the daemon has started."""
        status = self._order(Stop())
        deadline = time.monotonic() + SECURE_PORT_START_S
        while status is not None and not _is_over(status.pid, self._process):
            if time.monotonic() > deadline:
                raise Unavailable(f"process {status.pid} of the user-space port does not end; end it")
            time.sleep(_POLL_S)
        self._reap()
        if status is not None:
            self._reached = {**self._reached, **status.sending, **status.receiving}

    # --- small things

    def _start(self) -> Status:
        self._reap()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        words = [str(_SOURCE_ROOT), USERSPACE_LINK, str(self._folder / SOCKET_NAME), self._program]
        with open(self._folder / _LOG_NAME, "ab") as log:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-c", _PROGRAM, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    cwd="/",
                    env={"LC_ALL": "C.UTF-8"},
                    start_new_session=True,
                )
            except OSError as error:
                raise Unavailable(f"cannot start the user-space port: {error}") from None
        deadline = time.monotonic() + SECURE_PORT_START_S
        while True:
            status = self.ask()
            if status is not None:
                return status
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise Unavailable(f"the user-space port does not start; see {self._folder / _LOG_NAME}")
            time.sleep(_POLL_S)

    def _order(self, order: Order) -> Status | None:
        """None: there is no process that answers."""
        try:
            with connect_in(
                self._folder, SOCKET_NAME, socket.SOCK_STREAM, timeout_s=SECURE_PORT_ANSWER_S
            ) as connection:
                orders.send(connection, order)
                return orders.receive_status(connection)
        except (FileNotFoundError, ConnectionError):
            return None
        except (TimeoutError, msgspec.DecodeError) as error:
            raise Unavailable(f"the user-space port does not answer ({error}); see {self._folder}") from None

    def _reap(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            self._process = None


def _is_over(pid: int, child: subprocess.Popen[bytes] | None) -> bool:
    if child is not None and child.pid == pid:
        return child.poll() is not None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] == _ZOMBIE
