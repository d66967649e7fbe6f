"""Starting this node's daemon for whoever asks ``init`` or ``join`` while none runs.

Under systemd the unit does it, so that the daemon comes back with the machine. Elsewhere it runs in the
background, in a session of its own, and its log's place is told.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from swarmpy.cli.flags import Options, text
from swarmpy.cli.session import Session, tell
from swarmpy.client import Client, DaemonAbsent
from swarmpy.config import DATA_DIR, SOCKET
from swarmpy.errors import FailedPrecondition, Unavailable
from swarmpy.limits import DAEMON_START_POLL_S, DAEMON_START_TIMEOUT_S

UNIT: Final = "swarmpy.service"
LOG: Final = Path("/var/log/swarmpy.log")
_TAIL_LINES: Final = 5

START_FLAGS: Final = (
    text("data-dir", "Where a daemon that has to be started keeps its state", default=str(DATA_DIR)),
)


def ensure_daemon(session: Session, options: Options) -> None:
    """Return once a daemon answers. A daemon on another machine is not ours to start."""
    try:
        session.client.ping()
    except DaemonAbsent:
        if isinstance(session.client.address, str) and not session.client.address.startswith("unix://"):
            raise
    else:
        return
    socket = Path(session.client.address.removeprefix("unix://"))
    data_dir = Path(options.text("data-dir"))
    if socket == SOCKET and data_dir == DATA_DIR and has_unit():
        _run_systemctl("enable", "--now", UNIT)
        tell(f"Started {UNIT}; its log: journalctl -u {UNIT}")
        _wait_answer(session.client, None, f"journalctl -u {UNIT}")
        return
    log = LOG if data_dir == DATA_DIR else data_dir / "daemon.log"
    process = _spawn(socket, data_dir, log)
    _wait_answer(session.client, process, str(log))
    tell(f"Started the SwarmPy daemon in the background (pid {process.pid}); its log: {log}")


def has_unit() -> bool:
    """Whether systemd runs this machine and knows the daemon's unit."""
    if not Path("/run/systemd/system").is_dir():
        return False
    result = subprocess.run(["systemctl", "cat", UNIT], capture_output=True, check=False)
    return result.returncode == 0


def _run_systemctl(*arguments: str) -> None:
    result = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise Unavailable(f"systemctl {' '.join(arguments)} failed: {result.stderr.strip()}")


def daemon_command(socket: Path, data_dir: Path) -> list[str]:
    command = [sys.executable, "-m", "swarmpy", "daemon"]
    command += ["--data-dir", str(data_dir), "--socket", str(socket)]
    if socket != SOCKET:
        command += ["--run-dir", str(socket.parent)]
    return command


def _spawn(socket: Path, data_dir: Path, log: Path) -> subprocess.Popen[bytes]:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as output:
            return subprocess.Popen(
                daemon_command(socket, data_dir),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
            )
    except OSError as error:
        raise FailedPrecondition(
            f"The daemon cannot be started: {error.filename or log}: {error.strerror}. Run this as root."
        ) from error


def _wait_answer(client: Client, process: subprocess.Popen[bytes] | None, log: str) -> None:
    deadline = time.monotonic() + DAEMON_START_TIMEOUT_S
    while True:
        try:
            client.ping()
        except Unavailable as error:
            if process is not None and process.poll() is not None:
                raise Unavailable(
                    f"The daemon ended with exit code {process.returncode} as soon as it was started.\n"
                    f"{_tail(log)}The whole log: {log}"
                ) from error
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"The daemon was started but does not answer after {DAEMON_START_TIMEOUT_S:.0f} s. "
                    f"Its log: {log}"
                ) from error
        else:
            return
        time.sleep(DAEMON_START_POLL_S)


def _tail(log: str) -> str:
    try:
        lines = Path(log).read_text(errors="replace").splitlines()[-_TAIL_LINES:]
    except OSError:
        return ""
    return "".join(f"  {line}\n" for line in lines)
