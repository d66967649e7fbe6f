"""conmon: starting one for a task, and what is said to it while the task runs. Blocks.

conmon makes the container by the runtime, reports the pid of its first process, copies what the task prints
into its log, holds its terminal or its input, and writes the exit code. It is no child of the daemon and
outlives it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal as signals
import subprocess
import time
from pathlib import Path
from typing import Final

from agent.executor.native import process
from agent.executor.native.job import Job
from agent.executor.native.shim.supervise import process_start
from agent.executor.oci import records
from agent.executor.oci.limits import (
    LOG_BACKSTOP_BYTES,
    RUNTIME_OUTPUT_BYTES_MAX,
    STRAY_POLL_S,
    STRAY_TIMEOUT_S,
    TERMINAL_SIDE_MAX,
)
from agent.executor.oci.records import Made
from agent.executor.oci.runtimes import Runtime, environment
from swarmpy.errors import Unavailable
from swarmpy.limits import TASK_START_TIMEOUT_S

_RESIZE: Final = 1
_REOPEN: Final = 2
_LAST_WORDS: Final = "conmon.log"
_COMMAND_BYTES_MAX: Final = 8_192


class NotMade(Exception):
    """The runtime could not make the container. The text is what it said."""


def command_line(conmon: str, runtime: Runtime, job: Job, folder: Path) -> list[str]:
    """Pure. Its socket and fifos lie in the task's folder, whose path may be long: conmon goes by way of
    /proc there."""
    task_id = job["task_id"]
    words = [
        conmon,
        "--api-version=1",
        f"--cid={task_id}",
        f"--cuuid={task_id}",
        f"--name={task_id}",
        f"--runtime={runtime.path}",
        *(f"--runtime-arg={word}" for word in runtime.arguments),
        f"--bundle={folder}",
        f"--container-pidfile={folder}/container.pid",
        f"--conmon-pidfile={folder}/conmon.pid",
        f"--exit-dir={folder}/{records.EXIT_DIR}",
        f"--persist-dir={folder}/{records.EXIT_DIR}",
        f"--log-path=k8s-file:{records.own_log(job)}",
        f"--log-size-max={LOG_BACKSTOP_BYTES}",
        "--no-sync-log",
        "--full-attach",
    ]
    if job["tty"]:
        words.append("--terminal")
    if job.get("open_stdin", False):
        # the input of a terminal outlives who is attached; a pipe is fed past the socket, see ``feeding``
        words += ["--stdin", *(["--leave-stdin-open"] if job["tty"] else [])]
    return words


def make(command: list[str], runtime: Runtime, job: Job, folder: Path) -> Made:
    """Have the container made, its command not yet run. NotMade, Unavailable."""
    sync_read, sync_write = os.pipe2(os.O_CLOEXEC)
    start_read, start_write = os.pipe2(os.O_CLOEXEC)
    try:
        with open(folder / _LAST_WORDS, "wb") as said:
            starting = runtime.run(
                lambda: subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    env=environment() | {"_OCI_SYNCPIPE": str(sync_write), "_OCI_STARTPIPE": str(start_read)},
                    cwd=folder,  # where it notes that memory ran out
                    pass_fds=(sync_write, start_read),
                )
            )
        os.close(sync_write)
        sync_write = -1
        os.write(start_write, b"\0")
        starting.wait(TASK_START_TIMEOUT_S)
        answer = _read_line(sync_read, time.monotonic() + TASK_START_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"conmon cannot be started: {error}") from None
    finally:
        for fd in (sync_read, sync_write, start_read, start_write):
            if fd >= 0:
                os.close(fd)
    return _made(answer, runtime, job, folder)


def _made(answer: bytes, runtime: Runtime, job: Job, folder: Path) -> Made:
    try:
        told = json.loads(answer)
        pid = int(told.get("data", told.get("pid", -1)))
    except ValueError:
        said = (folder / _LAST_WORDS).read_bytes()[-RUNTIME_OUTPUT_BYTES_MAX:].decode(errors="replace")
        raise Unavailable(f"conmon ended before it had made the task: {said.strip() or 'no word'}") from None
    if pid <= 0:
        raise NotMade(str(told.get("message", "")))
    try:
        conmon = int((folder / "conmon.pid").read_text())
        # of the runtime's own process, which waits to be told to become the task
        is_fed = job.get("open_stdin", False) and not job["tty"]
        stdin = os.stat(f"/proc/{pid}/fd/0").st_ino if is_fed else 0
    except (OSError, ValueError) as error:
        raise Unavailable(f"the task that conmon had made was gone at once: {error}") from None
    return Made(
        conmon=conmon,
        conmon_start=process_start(conmon),
        pid=pid,
        pid_start=process_start(pid),
        stdin=stdin,
        runtime=runtime.name,
        is_apart=runtime.is_apart,
        at=time.time_ns(),
    )


def _read_line(fd: int, deadline: float) -> bytes:
    """Up to its end, or the end of all."""
    found = b""
    while b"\n" not in found and len(found) < RUNTIME_OUTPUT_BYTES_MAX:
        if not wait_readable(fd, max(0.0, deadline - time.monotonic())):
            raise Unavailable(f"the runtime did not make the task in {TASK_START_TIMEOUT_S:g} s")
        chunk = os.read(fd, RUNTIME_OUTPUT_BYTES_MAX)
        if not chunk:
            break
        found += chunk
    return found


def wait_readable(fd: int, timeout_s: float) -> bool:
    """Whether it is by then, or has ended. select(2) knows the first 1,024 descriptors alone, and a node with
    many tasks has more."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1_000))


def resize(folder: Path, *, rows: int, columns: int) -> None:
    sides = (min(max(side, 0), TERMINAL_SIDE_MAX) for side in (rows, columns))
    _tell(folder, "{} {} {}\n".format(_RESIZE, *sides))


def begin_log_anew(folder: Path) -> None:
    """Have conmon go on in another file; the former one stays for who has another name of it."""
    _tell(folder, f"{_REOPEN} 0 0\n")


def _tell(folder: Path, text: str) -> None:
    """Does not block: a line is far smaller than a fifo. Nothing happens if conmon has ended."""
    try:
        fd = os.open(folder / "ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return  # ENXIO: nobody listens any more; ENOENT: nobody has yet
    try:
        os.write(fd, text.encode())
    except OSError:
        return
    finally:
        os.close(fd)


def kill(made: Made) -> None:
    """Kill the task's conmon, if it lives, and wait until it is gone."""
    conmon = made["conmon"]
    fd = process.open_pidfd(conmon)
    if fd is None:
        return
    try:
        if not records.is_watched(made):
            return  # the number is another's by now
        signals.pidfd_send_signal(fd, signals.SIGKILL)
        if not wait_readable(fd, STRAY_TIMEOUT_S):
            raise Unavailable(f"conmon, process {conmon}, does not die")
    except ProcessLookupError:
        return
    finally:
        os.close(fd)


def kill_strays(folder: Path) -> None:
    """Kill conmon and runtimes that work on the task in ``folder``, whoever started them, and wait for it.

    Found by their command lines, which name the folder: a former daemon may have died before it could note
    a number. A task's own processes cannot be taken for such: no program outside of its pid namespace is its.
    """
    deadline = time.monotonic() + STRAY_TIMEOUT_S
    while strays := _strays(folder):
        for pid in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signals.SIGKILL)
        if time.monotonic() > deadline:
            raise Unavailable(f"processes {sorted(strays)}, which work on the task in {folder}, do not die")
        time.sleep(STRAY_POLL_S)


def _strays(folder: Path) -> set[int]:
    wanted = {os.fsencode(f"--bundle={folder}"), os.fsencode(str(folder))}
    own = os.stat("/proc/self/ns/pid").st_ino
    found = set()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read(_COMMAND_BYTES_MAX).split(b"\0")
            if wanted.isdisjoint(words) or os.stat(f"/proc/{name}/ns/pid").st_ino != own:
                continue
            if os.path.basename(words[0]) not in (b"conmon", b"crun", b"runc"):
                continue
        except OSError:
            continue  # it went while we looked
        found.add(int(name))
    return found
