"""The shim: one process per task, between the launcher's fork and the task's exit file.

Files in the task's folder, each written whole by renaming, in room that was taken when the task was created:
a full disk loses no end.

* ``lock``: a POSIX record lock, held as long as this process lives. The kernel drops it at death and names
  its holder to who asks, so it cannot be fooled by a reused pid.
* ``started``: the command has been executed: its pid (the node's view), that pid's start time, when.
* ``exit``: the task is over: code, whether memory ran out, when, and why if it never started.

``lock`` free and no ``exit``: with ``started``, the shim was killed, and its task with it (parent-death
signal); without, nothing was run. So that a power failure does not make the one look like the other,
``started`` is synced, after it was reported: the task need not wait for the disk.

The shim is no child of the daemon and holds nothing of it but the report pipe of the start order, which it
closes as soon as the command runs.
"""

from __future__ import annotations

import _socket
import array
import errno
import fcntl
import json
import os
import select
import signal
import time

from agent.executor.native.shim import attach, inner, kernel
from agent.executor.native.shim.log_writer import LogWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.executor.native.job import ExitRecord, Job, Report, StartRecord

_READ_BYTES = 65_536
_RESERVED_BYTES = 4096
_PIPE_BYTES = 1 << 16
_TERMINAL_BYTES_MAX = 1 << 20
_FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGCONT,
)


def run(folder: str, report: int) -> None:
    """The whole life of a shim. ``report`` is the pipe on which the daemon waits for the start."""
    os.setsid()
    kernel.set_process_name("swarmpy-shim")
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    lock = os.open(f"{folder}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        # another shim has the task: the daemon finds out about it from the lock
        _send(report, {"state": "taken"})
        return
    if os.path.exists(f"{folder}/exit") or os.path.exists(f"{folder}/started"):
        _send(report, {"state": "taken"})
        return
    with open(f"{folder}/job.json", encoding="utf-8") as file:
        job: Job = json.load(file)
    _supervise(folder, job, report)


def _supervise(folder: str, job: Job, report: int) -> None:
    try:
        log = _open_log(job)
    except OSError as error:
        text = f"cannot write the task's log: {(error.strerror or str(error)).lower()}"
        _end_unstarted(folder, {"kind": "failed", "code": inner.NOT_STARTED, "message": text}, report)
        return
    is_fed = job.get("open_stdin", False)
    stdio, outputs, feed = _open_stdio(is_terminal=job["tty"], is_fed=is_fed)
    status_read, status_write = os.pipe2(os.O_CLOEXEC)
    kernel.unshare(kernel.CLONE_NEWPID)
    pid = os.fork()  # noqa: TID251 - the shim has one thread and is not the daemon
    if not pid:
        os.close(status_read)
        inner.main(job, stdio, status_write)
    for fd in {*stdio, status_write}:
        os.close(fd)
    child = os.pidfd_open(pid)
    for number in _FORWARDED:
        signal.signal(number, lambda received, _: signal.pidfd_send_signal(child, received))
    failure = _read_all(status_read)
    if failure:
        os.waitpid(pid, 0)
        _end_unstarted(folder, json.loads(failure), report)
        return
    started: StartRecord = {
        "pid": pid,
        "pid_start": process_start(pid),
        "shim": os.getpid(),
        "at": time.time_ns(),
    }
    poll = select.poll()
    terminal = -1
    if job["tty"]:
        terminal = _take_terminal(feed)
        outputs, feed = {terminal: 1}, os.dup(terminal) if is_fed else -1
    # before it is known to have started: who finds it started may rely on the socket
    audience = attach.Audience(
        folder, poll, feed=feed, terminal=terminal, place=lambda: json.dumps(log.place()).encode()
    )
    write_record(f"{folder}/started", json.dumps(started))
    _send(report, {"state": "started"})
    sync_record(folder, "started")
    _write_log(log, outputs, (child, poll), audience)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    code = code if code >= 0 else 128 - code
    ended: ExitRecord = {
        "code": code,
        "is_oom_killed": has_oom_kill(job["oom_file"]),
        "at": time.time_ns(),
        "message": "",
        "kind": "ended",
    }
    write_record(f"{folder}/exit", json.dumps(ended))
    audience.finish(code)


def _end_unstarted(folder: str, failure: dict[str, str | int], report: int) -> None:
    ended = {
        "code": failure["code"],
        "is_oom_killed": False,
        "at": time.time_ns(),
        "message": failure["message"],
        "kind": failure["kind"],
    }
    write_record(f"{folder}/exit", json.dumps(ended))
    _send(report, {"state": "ended"})


def _open_stdio(*, is_terminal: bool, is_fed: bool) -> tuple[tuple[int, int, int], dict[int, int], int]:
    """The task's ends (stdin, stdout, stderr), ours (fd -> stream number), and what feeds its input (or -1).

    Its input is held open as long as it runs: clients that are attached come and go. A terminal is made by
    the task, inside of it: until then both are a socket on which it comes.
    """
    if is_terminal:
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        inside = theirs.detach()
        return (inside, inside, inside), {}, ours.detach()
    if is_fed:
        theirs_in, feed = os.pipe2(os.O_CLOEXEC)
    else:
        theirs_in, feed = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), -1
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    error_read, error_write = os.pipe2(os.O_CLOEXEC)
    return (theirs_in, out_write, error_write), {out_read: 1, error_read: 2}, feed


def _take_terminal(sock: int) -> int:
    """What ``inner`` has sent before it executed the command."""
    inside = _socket.socket(fileno=sock)
    _, ancillary, _, _ = inside.recvmsg(1, _socket.CMSG_SPACE(4))
    inside.close()
    if not ancillary:
        raise OSError(errno.EPIPE, "the task was killed before it had its terminal")
    [(_, _, data)] = ancillary
    [terminal] = array.array("i", data[:4])
    os.set_inheritable(terminal, False)
    return int(terminal)


def _open_log(job: Job) -> LogWriter:
    return LogWriter(
        job["log_dir"],
        file_bytes_max=job["log_file_bytes_max"],
        files_max=job["log_files_max"],
        line_bytes_max=job["log_line_bytes_max"],
    )


def _write_log(
    log: LogWriter, outputs: dict[int, int], watched: tuple[int, select.poll], audience: attach.Audience
) -> None:
    """Copy the task's words to its log and to who is attached, until it has ended and all is written."""
    child, poll = watched
    poll.register(child, select.POLLIN)
    talking = set(outputs)
    for fd in outputs:
        os.set_blocking(fd, False)
        poll.register(fd, select.POLLIN)
    is_alive, is_held = True, False
    while is_alive:
        for fd, event in poll.poll():
            if fd == child:
                is_alive = False
            elif fd in outputs:
                if not _copy(fd, outputs[fd], log, audience):
                    poll.unregister(fd)
                    talking.discard(fd)
            else:
                audience.serve(fd, event)
        if audience.is_behind != is_held:
            is_held = audience.is_behind
            for fd in talking:
                poll.modify(fd, 0 if is_held else select.POLLIN)
    # the pid namespace is gone: what is in the pipes now is all that there will ever be, unless the task has
    # given its end to somebody else, who may go on for ever
    for fd, stream in outputs.items():
        left = _room(fd)
        while left > 0 and (size := _copy(fd, stream, log, audience)):
            left -= size
    log.finish(time.time_ns())
    log.close()


def _room(fd: int) -> int:
    """As many bytes as the task can have left behind there."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    except OSError:  # a terminal
        return _TERMINAL_BYTES_MAX


def _copy(fd: int, stream: int, log: LogWriter, audience: attach.Audience) -> int:
    """One read's worth, and how much that was. 0 when there is nothing (more) to read."""
    try:
        data = os.read(fd, _READ_BYTES)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EIO):  # EIO: a terminal whose other end is closed
            return 0
        raise
    if data:
        log.feed(stream, data, time.time_ns())
        audience.tell(stream, data)
    return len(data)


def has_oom_kill(path: str) -> bool:
    """v1's memory.oom_control and v2's memory.events both have a line ``oom_kill N``."""
    if not path:
        return False
    try:
        with open(path, encoding="ascii") as file:
            return any(line.startswith("oom_kill ") and int(line[9:]) > 0 for line in file)
    except OSError:
        return False


def process_start(pid: int) -> int:
    """Field 22 of /proc/PID/stat: with the pid it names a process for ever. 0 if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return 0


def reserve_record(path: str) -> None:
    """Take the room for a record that is to be written when the disk may be full. Not twice: a shim that the
    daemon's former life ordered may be writing there."""
    try:
        fd = os.open(f"{path}.tmp", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return
    try:
        _write_all(fd, b" " * _RESERVED_BYTES)
    finally:
        os.close(fd)


def write_record(path: str, text: str) -> None:
    """Whole or not at all, but for a power failure: this does not sync. In the room that was reserved."""
    data = text.encode()
    fd = os.open(f"{path}.tmp", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _write_all(fd, data)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)
    os.replace(f"{path}.tmp", path)


def _write_all(fd: int, data: bytes) -> None:
    if os.write(fd, data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def sync_record(folder: str, name: str) -> None:
    """Have a record outlive a power failure: its text, then its name."""
    for path in (f"{folder}/{name}", folder):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:  # removed meanwhile, or a failing disk: the task is not to die of it
            os.write(2, f"swarmpy-shim: {path} is not synced: {error.strerror}\n".encode())


def _read_all(fd: int) -> bytes:
    chunks = []
    while chunk := os.read(fd, _READ_BYTES):
        chunks.append(chunk)
    os.close(fd)
    return b"".join(chunks)


def _send(report: int, message: Report) -> None:
    try:
        os.write(report, json.dumps(message).encode())
    except OSError:
        pass  # the daemon is gone; its successor reads the files
    os.close(report)
