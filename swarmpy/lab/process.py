"""Processes of a lab: found by mark, identified beyond doubt, entered, ended.

Two things make a lab certain to clean up. The init of every host carries the lab's mark in its command
line, so it is found in /proc even when no file about it was written. And it is pid 1 of a pid namespace,
so its death is the death of all processes that were started inside, however deep.

A pid alone is never trusted: a daemon is (pid, start time), an init is (pid, mark).
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from swarmpy.errors import FailedPrecondition, Unavailable
from swarmpy.lab.layout import HOST_SCRIPT, MARK, Host
from swarmpy.lab.limits import (
    LAB_COMMAND_TIMEOUT_S,
    LAB_HOST_START_TIMEOUT_S,
    LAB_KILL_TIMEOUT_S,
    LAB_LOG_TAIL_LINES,
    LAB_POLL_S,
)

_STARTERS: Final = {"setsid", "unshare", "sh"}
"""The programs under which a marked command line runs, one after the other."""

_SYSTEM_FOLDERS: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin")
_TOOLS: Final = {
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "setsid": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
}
"""Programs that the lab runs, and the package of each."""

_NEW_HOST: Final = (
    "setsid", "--fork",  # we must not be the parent, or we would have to stay to reap
    "unshare", "--pid", "--mount", "--uts", "--ipc", "--net", "--fork", "--kill-child", "sh",
)  # fmt: skip


class Running(msgspec.Struct, frozen=True):
    """A process, told from a later one of the same number by its start time (in clock ticks after boot)."""

    pid: int
    start: int


def start_time(pid: int) -> int | None:
    """When ``pid`` was started; None if it is gone or only waits to be reaped."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in "ZX" else None


def state_letter(process: Running) -> str | None:
    """The kernel's letter for the process's state (T is stopped); None if it is gone."""
    fields = _stat(process.pid)
    if not fields or int(fields[19]) != process.start or fields[0] in "ZX":
        return None
    return fields[0]


def send(process: Running, number: signal.Signals) -> bool:
    """Signal exactly this process. False if it was gone already."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.ENOENT, errno.EINVAL):
            return False  # nobody, or by now a thread of some process
        raise
    try:
        if start_time(process.pid) != process.start:
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def wait_until(condition: Callable[[], bool], *, timeout_s: float) -> bool:
    """Poll the world until it is so. False if the deadline came first."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(LAB_POLL_S)
    return True


def wait_gone(process: Running, *, timeout_s: float) -> bool:
    return wait_until(lambda: state_letter(process) is None, timeout_s=timeout_s)


def inits(lab: str, host: str | None = None) -> list[Running]:
    """The inits of a lab's hosts (or of one), and what is still on the way to become one."""
    found = []
    for pid in _pids():
        words = _command_line(pid)
        if not _is_marked(words, lab=lab, host=host):
            continue
        start = start_time(pid)
        if start is not None:
            found.append(Running(pid, start))
    return found


def init_pid(host: Host) -> int | None:
    """The machine's pid of the host's init; None if the host is off."""
    try:
        pid = int((host.folder / "init.pid").read_text())
    except (FileNotFoundError, ValueError):
        return None
    is_ours = _is_marked(_command_line(pid), lab=host.lab, host=host.name)
    return pid if is_ours and start_time(pid) is not None else None


def start_init(host: Host) -> int:
    """Make the host: namespaces and a pid 1. Returns when it is ready."""
    (host.folder / "boot").mkdir(exist_ok=True)
    host.run_dir.mkdir(exist_ok=True)
    (host.folder / "init.pid").unlink(missing_ok=True)
    log = host.folder / "init.log"
    with log.open("wb") as file:
        run(
            [*_NEW_HOST, str(HOST_SCRIPT), MARK, host.lab, host.name, str(host.folder)],
            output=file.fileno(),
        )

    def is_decided() -> bool:
        return init_pid(host) is not None or log.stat().st_size > 0

    wait_until(is_decided, timeout_s=LAB_HOST_START_TIMEOUT_S)
    pid = init_pid(host)
    if pid is None:
        reason = (
            log.read_text(errors="replace").strip() or f"not ready within {LAB_HOST_START_TIMEOUT_S:.0f} s"
        )
        raise Unavailable(f"The namespaces of {host.name} could not be made: {reason}")
    return pid


def end_inits(lab: str, host: str | None = None) -> int:
    """Kill the hosts of a lab (or one) with all that runs inside. Returns how many processes were killed.

    Looks again until nothing is found: a host may have been on the way into being.
    """
    killed = 0
    deadline = time.monotonic() + LAB_KILL_TIMEOUT_S
    while found := inits(lab, host):
        # A starter ends by itself when its init has ended, and reaps it.
        shells = [process for process in found if _command_line(process.pid)[:1] == ["sh"]]
        for process in shells or found:
            killed += send(process, signal.SIGKILL)
        for process in shells or found:
            if not wait_gone(process, timeout_s=max(0.0, deadline - time.monotonic())):
                raise Unavailable(
                    f"The process {process.pid} of the lab does not end although it was killed; "
                    'look at it, then run "swarmpy dev down" again.'
                )
    return killed


def enter_argv(pid: int, argv: Sequence[str]) -> list[str]:
    """A command line that runs ``argv`` inside the host whose init is ``pid``."""
    return ["nsenter", "--target", str(pid), "--pid", "--mount", "--uts", "--ipc", "--net", "--", *argv]


def enter_network_argv(pid: int, argv: Sequence[str]) -> list[str]:
    """The same, only into its network: files and pids stay the machine's."""
    return ["nsenter", "--target", str(pid), "--net", "--", *argv]


# Runs with the machine's files still mounted, so /proc tells the machine's pid and the log is reachable;
# entering the mount namespace comes last. The daemon becomes an orphan inside the host, which reaps it.
_LAUNCH: Final = """
init=$1 log=$2; shift 2
(
    read -r pid _ </proc/self/stat
    echo "$pid"
    exec >>"$log" 2>&1 </dev/null
    exec nsenter --target "$init" --mount -- setsid "$@"
) &
"""


def launch(init: int, argv: Sequence[str], *, log: Path) -> Running:
    """Start a process inside a host that outlives us, its output appended to ``log``."""
    shell = ["sh", "-c", _LAUNCH, "launch", str(init), str(log), *argv]
    output = run(["nsenter", "--target", str(init), "--pid", "--uts", "--ipc", "--net", "--", *shell])
    pid = int(output)
    start = start_time(pid)
    if start is None:
        raise Unavailable(f"{argv[0]} ended at once; the end of its log:\n{tail(log)}")
    return Running(pid, start)


def tail(log: Path, *, lines: int = LAB_LOG_TAIL_LINES) -> str:
    if not log.exists():
        return "(no log)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) or "(the log is empty)"


def environment() -> dict[str, str]:
    """What lab commands and daemons inherit: ours, with the system's tools and our own console script in
    reach, and without a DOCKER_HOST that would lead a client on a lab host to some other daemon."""
    values = {key: value for key, value in os.environ.items() if key != "DOCKER_HOST"}
    folders = [str(Path(sys.executable).parent), *values.get("PATH", "").split(":"), *_SYSTEM_FOLDERS]
    values["PATH"] = ":".join(dict.fromkeys(folder for folder in folders if folder))
    return values


def check_tools() -> None:
    """Say what is missing before anything is made."""
    if os.geteuid() != 0:
        raise FailedPrecondition("The lab makes network namespaces and needs root: run it with sudo.")
    path = environment()["PATH"]
    missing = [tool for tool in _TOOLS if shutil.which(tool, path=path) is None]
    if missing:
        packages = sorted({_TOOLS[tool] for tool in missing})
        raise FailedPrecondition(
            f"The lab needs {', '.join(missing)}: "
            f'"apt-get install {" ".join(packages)}" on Debian and Ubuntu.'
        )


def run(argv: Sequence[str], *, text: str | None = None, output: int = subprocess.PIPE) -> str:
    """Run one command of the system and return what it printed; its complaint is the error."""
    try:
        result = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL if text is None else None,
            input=text,
            stdout=output,
            stderr=subprocess.STDOUT if output != subprocess.PIPE else subprocess.PIPE,
            text=True,
            check=False,
            env=environment(),
            timeout=LAB_COMMAND_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(
            f'"{" ".join(argv[:6])}" did not end within {LAB_COMMAND_TIMEOUT_S:.0f} s.'
        ) from None
    if result.returncode != 0:
        reason = (result.stderr or result.stdout or "").strip() or f"exit code {result.returncode}"
        raise Unavailable(f'"{" ".join(argv[:8])}" failed: {reason}')
    return result.stdout or ""


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; the name before it may hold anything."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def _command_line(pid: int) -> list[str]:
    try:
        data = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [word.decode(errors="replace") for word in data.split(b"\0")[:-1]]


def _is_marked(words: list[str], *, lab: str, host: str | None) -> bool:
    if MARK not in words or Path(words[0]).name not in _STARTERS:
        return False
    at = words.index(MARK)
    if at == 0 or Path(words[at - 1]).name != HOST_SCRIPT.name:
        return False
    return words[at + 1 : at + 2] == [lab] and (host is None or words[at + 2 : at + 3] == [host])
