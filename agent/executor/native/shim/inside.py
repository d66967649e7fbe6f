"""One order carried out inside a running task: a command, or files copied out of it or into it.

A process per order, forked by the launcher. It stays outside with the socket to the daemon; its child enters
the task's namespaces. The child of a command becomes a member of the task in all respects: control groups,
every namespace, root, account, privileges; so it ends with the task. The child of a copy enters the mount
namespace only, and works there on its own: links in the task's files cannot lead it out, and nothing of the
task can reach it, for it is in none of its other namespaces and loads no code once it is inside.

Among the task's processes nothing is ever seen that has the node's root or folder: another command, which for
a moment has all rights, could be led there by a link to ``/proc/PID/root``. So a process between enters every
other namespace first, and the command's process is forked by it, to be adopted by the one outside.

The daemon lets go by closing the socket: then the command is killed with all of its session, unless it is
detached, which nobody feeds or listens to and only its task's end outlives.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal

from agent.executor.native.shim import frames, inner, kernel, relay, user_ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypedDict

    from agent.executor.native.job import Job, StartRecord

    class Order(TypedDict):
        """``verb``: "exec", "read" or "write"; the rest is of a command but for ``path``."""

        verb: str
        path: str
        argv: list[str]
        env: list[str]
        user: str
        workdir: str
        tty: bool
        has_input: bool
        privileged: bool
        capabilities: list[int]
        detached: bool
        rows: int
        columns: int


_NAMESPACES = (
    ("cgroup", kernel.CLONE_NEWCGROUP),
    ("ipc", kernel.CLONE_NEWIPC),
    ("uts", kernel.CLONE_NEWUTS),
    ("net", kernel.CLONE_NEWNET),
    ("mnt", kernel.CLONE_NEWNS),
)
"""The mount namespace last: after it, nothing of the node can be opened."""
_READ_BYTES = 65_536
_NUMBER_BYTES = 32
_GONE = b'{"kind": "gone", "code": 128, "message": ""}'
_PTMX = os.makedev(5, 2)
_UNLOCK = 0x40045431  # TIOCSPTLCK
_OPEN_PEER = 0x5441  # TIOCGPTPEER


class _NotRunning(Exception):
    """The task has ended."""


def run(folder: str, sock: int) -> None:
    """The whole life of the process."""
    os.setsid()
    kernel.set_process_name("swarmpy-inside")
    kernel.forbid_looking_in()  # once the child is among the task's processes, their root would find it
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    kind, content = frames.read_frame(sock)
    if kind != frames.ORDER:
        raise frames.Garbled(f"a frame of kind {kind} where an order should be")
    order: Order = json.loads(content)
    with open(f"{folder}/job.json", encoding="utf-8") as file:
        job: Job = json.load(file)
    try:
        with open(f"{folder}/started", encoding="utf-8") as file:
            started: StartRecord = json.load(file)
        entrances = _open_namespaces(started, has_own_ids="ids" in job)
        terminal = _open_terminal(started) if order["verb"] == "exec" and order["tty"] else ()
        job["cgroups"] = [joinable_group(group, started["pid"]) for group in job["cgroups"]]
        _check_same(started)
    except (OSError, ValueError, _NotRunning):
        _fail(sock, {"kind": "gone", "code": inner.NOT_STARTED, "message": ""})
        return
    _carry_out(sock, order, job, (entrances, terminal))


def _open_namespaces(started: StartRecord, *, has_own_ids: bool) -> dict[str, int]:
    pid = started["pid"]
    own = ("user",) if has_own_ids else ()
    return {
        name: os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        for name in ("pid", *own, *(name for name, _ in _NAMESPACES))
    }


def _open_terminal(started: StartRecord) -> tuple[int, ...]:
    """Both ends of a terminal of the task's own, so that it has a name there; or else of the node's."""
    try:
        ours = os.open(f"/proc/{started['pid']}/root/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return os.openpty()
    if os.fstat(ours).st_rdev != _PTMX:
        os.close(ours)
        return os.openpty()
    fcntl.ioctl(ours, _UNLOCK, bytes(4))
    return ours, fcntl.ioctl(ours, _OPEN_PEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


def joinable_group(group: str, pid: int, proc: str = "/proc") -> str:
    """A group of v2 that shares controllers out has no processes of its own: a task that has made groups in
    its own, as one that runs containers does, has moved its first process. Commands belong where that is."""
    try:
        with open(f"{group}/cgroup.subtree_control", encoding="ascii") as file:
            if not file.read().strip():
                return group
    except FileNotFoundError:
        return group  # v1
    with open(f"{proc}/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        path = next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), "")
    _, is_below, below = path.partition(f"/{os.path.basename(group)}/")
    return f"{group}/{below}" if is_below else group


def _check_same(started: StartRecord) -> None:
    """It is of the very process that was started: all is opened first, then its start time is compared."""
    with open(f"/proc/{started['pid']}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    if int(fields[19]) != started["pid_start"] or fields[0] in (b"Z", b"X"):
        raise _NotRunning


def _carry_out(sock: int, order: Order, job: Job, opened: tuple[dict[str, int], tuple[int, ...]]) -> None:
    """``opened``: the task's namespaces, and the ends of the terminal if there is one."""
    entrances, ends = opened
    is_command = order["verb"] == "exec"
    theirs, outputs, feed, terminal = _open_stdio(order, ends)
    status_read, status_write = status = os.pipe2(os.O_CLOEXEC)
    if is_command:
        pid = _fork_command(order, job, entrances, theirs, status)
    else:
        _load_copying()
        pid = os.fork()  # noqa: TID251 - this process has one thread and is not the daemon
        if not pid:
            os.close(status_read)
            inner.run_reporting(lambda: _copy(order, entrances, (theirs, status_write)), status_write)
    for fd in {*theirs, status_write, *entrances.values()}:
        os.close(fd)
    failure = wait_begun(status_read, sock)
    if not pid:
        _fail(sock, json.loads(failure or _GONE))
        return
    child = os.pidfd_open(pid)
    if failure is None:
        os.kill(pid, signal.SIGKILL)
        return
    if failure:
        os.waitpid(pid, 0)
        _fail(sock, json.loads(failure))
        return
    if order.get("detached"):
        _see_to_its_end(sock, pid, child, tuple(outputs))
        return
    channel = relay.Relay(sock, outputs, feed, terminal=terminal)
    channel.send(frames.STARTED, str(pid).encode())
    try:
        channel.run(child)
        _, wait_status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(wait_status)
        channel.finish(frames.EXITED, str(code if code >= 0 else 128 - code).encode())
    except relay.Gone:
        relay.kill_session(pid, job["cgroups"])


def _see_to_its_end(sock: int, pid: int, child: int, outputs: tuple[int, ...]) -> None:
    """Of a detached command, which may have a terminal that nobody looks at. The daemon need not be there."""
    _tell(sock, frames.STARTED, pid)
    poll = select.poll()
    poll.register(child, select.POLLIN)
    for fd in outputs:
        poll.register(fd, select.POLLIN)
    while child not in (ready := [fd for fd, _ in poll.poll()]):
        for fd in ready:
            try:
                os.read(fd, _READ_BYTES)
            except OSError:  # every other end of the terminal is closed
                poll.unregister(fd)
    _, wait_status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(wait_status)
    _tell(sock, frames.EXITED, code if code >= 0 else 128 - code)


def _tell(sock: int, kind: int, number: int) -> None:
    try:
        os.write(sock, frames.frame(kind, str(number).encode()))
    except OSError:
        pass  # the daemon has let go: nobody asks any more


def _open_stdio(order: Order, ends: tuple[int, ...]) -> tuple[tuple[int, int, int], dict[int, int], int, int]:
    """The command's ends; ours (fd -> kind of frame), the end that feeds it, and the terminal (-1: none)."""
    if ends:
        ours, theirs = ends
        if order.get("rows") and order.get("columns"):
            relay.resize(ours, f"{order['rows']} {order['columns']}".encode())
        return (theirs, theirs, theirs), {ours: frames.STDOUT}, ours, ours
    if order.get("detached"):
        nothing = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        return (nothing, nothing, nothing), {}, -1, -1
    if order["has_input"]:
        theirs_in, feed = os.pipe2(os.O_CLOEXEC)
    else:
        theirs_in, feed = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), -1
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    error_read, error_write = os.pipe2(os.O_CLOEXEC)
    return (theirs_in, out_write, error_write), {out_read: frames.STDOUT, error_read: frames.STDERR}, feed, -1


def _fork_command(
    order: Order,
    job: Job,
    entrances: dict[str, int],
    stdio: tuple[int, int, int],
    status: tuple[int, int],
) -> int:
    """The command's process, a child of ours. 0 if there is none: the status pipe says why, if anything."""
    kernel.adopt_orphans()
    told_read, told_write = os.pipe2(os.O_CLOEXEC)
    go_read, go_write = os.pipe2(os.O_CLOEXEC)
    between = os.fork()  # noqa: TID251 - this process has one thread and is not the daemon
    if not between:
        os.close(status[0])
        os.close(go_write)
        inner.run_reporting(
            lambda: _enter(
                entrances,
                told_write,
                go_read,
                lambda: _become(order, job, stdio, (status[1], entrances.get("user", -1))),
            ),
            status[1],
        )
    os.close(told_write)
    os.close(go_read)
    os.waitpid(between, 0)  # from now on its child is ours
    pid = int(os.read(told_read, _NUMBER_BYTES) or b"0")
    os.close(told_read)
    try:
        if pid:
            inner.join_cgroups(job, pid)
            os.write(go_write, b".")
    except (ProcessLookupError, BrokenPipeError):
        pass  # the task has killed it: that is how it ended
    except OSError as error:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        inner.report(status[1], "failed", inner.NOT_STARTED, error.strerror or str(error))
        pid = 0
    finally:
        os.close(go_write)
    return pid


def _enter(entrances: dict[str, int], told: int, go: int, become: Callable[[], None]) -> None:
    """Of the process between: into the task, but for its processes; then fork the one that goes there."""
    inner.seal_imports()
    for name, kind in _NAMESPACES:
        kernel.setns(entrances[name], kind)
    kernel.setns(entrances["pid"], kernel.CLONE_NEWPID)
    try:
        pid = os.fork()  # noqa: TID251 - one thread, not the daemon
    except OSError:  # the pid namespace has ended
        os._exit(inner.NOT_STARTED)
    if pid:
        os.write(told, str(pid).encode())
        os._exit(0)
    os.close(told)
    # its parent has to be the one outside before it asks to die with its parent
    if not os.read(go, 1):
        os._exit(inner.NOT_STARTED)
    become()


def _become(order: Order, job: Job, stdio: tuple[int, int, int], fds: tuple[int, int]) -> None:
    """``fds``: the status pipe, and the task's user namespace, if it has one."""
    status, own_ids = fds
    own: Job = {
        **job,
        "argv": order["argv"],
        "env": order["env"],
        "user": order["user"],
        "workdir": order["workdir"],
        "tty": order["tty"],
        "capabilities": order["capabilities"],
        "init": False,
    }
    if order["privileged"]:
        own["seccomp"] = ""
    inner.execute(own, stdio, status, own_ids)


def _copy(order: Order, entrances: dict[str, int], fds: tuple[tuple[int, int, int], int]) -> None:
    # what this needs was loaded before the fork: inside, nothing may be
    from agent.executor.native.shim import archive

    stdio, status = fds
    kernel.set_parent_death_signal(signal.SIGKILL)
    kernel.setns(entrances["mnt"], kernel.CLONE_NEWNS)
    user_ids.join(entrances.get("user", -1))
    for target, fd in enumerate(stdio):
        os.dup2(fd, target)
    # no program is executed, so nothing closes by itself: not the other end of its own input either
    os.closerange(len(stdio), status)
    os.closerange(status + 1, os.sysconf("SC_OPEN_MAX"))
    inner.seal_imports()
    if order["verb"] == "read":
        archive.send(order["path"], status)
    else:
        archive.receive(order["path"], status)
    os._exit(0)


def _load_copying() -> None:
    """Import what copying needs, while the node's files are what this process sees."""
    from agent.executor.native.shim import archive

    archive.prepare()


def _fail(sock: int, failure: dict[str, str | int]) -> None:
    os.set_blocking(sock, True)
    try:
        os.write(sock, frames.frame(frames.FAILED, json.dumps(failure).encode()))
    except OSError:
        pass  # the daemon has let go meanwhile


def wait_begun(status: int, sock: int) -> bytes | None:
    """What kept the child from its work, nothing if it has begun; None if the daemon has let go meanwhile."""
    poll = select.poll()
    poll.register(status, select.POLLIN)
    poll.register(sock, 0)  # what it sends already is the command's to read
    chunks: list[bytes] = []
    while True:
        ready = [fd for fd, _ in poll.poll()]
        if status not in ready:
            return None
        chunk = os.read(status, _READ_BYTES)
        if not chunk:
            os.close(status)
            return b"".join(chunks)
        chunks.append(chunk)
