"""The task's first process, from ``fork`` to ``execve``: namespaces, root, account, privileges, command.

Runs as process 1 of the task's pid namespace. Whatever goes wrong is written to the status pipe as JSON
``{"kind": "rejected"|"failed", "code": n, "message": text}``; the pipe closes by itself when the command
has been executed, which is how the shim learns of success.

Invariant: the command never runs without a shim. The parent-death signal is set as the last step (a change
of account would clear it), and the status pipe then tells whether the shim was still there.
"""

from __future__ import annotations

import _socket
import array
import codecs
import contextlib
import errno
import fcntl
import json
import os
import resource
import select
import signal
import stat
import struct
import sys
import termios

from agent.executor.native.shim import accounts, kernel, privileges, rootfs, user_ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from agent.executor.native.job import Job

NOT_FOUND = 127
NOT_EXECUTABLE = 126
NOT_STARTED = 128

_ACCOUNTS_BYTES_MAX = 8 << 20
for _codec in ("utf-8", "ascii", "iso8859-1"):
    codecs.lookup(_codec)  # which would be loaded at its first use, too late: see ``seal_imports``
_INIT = "swarmpy-init"
_NULL = "/dev/null"
_NULL_DEVICE = os.makedev(1, 3)
_SIOCSIFFLAGS = 0x8914
_IFF_UP_RUNNING = 0x41


class _NotStarted(Exception):
    """The command cannot be executed. The text is for the user."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def main(job: Job, stdio: tuple[int, int, int], status: int) -> None:
    """Never returns: executes the command, or reports and exits."""
    run_reporting(lambda: _become_task(job, stdio, status), status)


def run_reporting(steps: Callable[[], None], status: int) -> NoReturn:
    """Carry out steps that end in another program; what stops them goes to ``status``."""
    try:
        steps()
    except rootfs.Unmountable as error:
        report(status, "rejected", NOT_STARTED, str(error))
    except accounts.UnknownAccount as error:
        report(status, "failed", NOT_STARTED, str(error))
    except _NotStarted as error:
        report(status, "failed", error.code, str(error))
    except OSError as error:
        # errors made by kernel.py carry the call's name in their text
        report(status, "failed", NOT_STARTED, error.strerror or str(error))
    except Exception as error:  # noqa: BLE001 - the top of a process: silence would read as success
        report(status, "failed", NOT_STARTED, f"the task's first steps broke: {error!r}")
    finally:
        os._exit(NOT_FOUND)


def _become_task(job: Job, stdio: tuple[int, int, int], status: int) -> None:
    seal_imports()
    own_ids = user_ids.make(job)
    kernel.unshare(kernel.CLONE_NEWNS)
    trees = rootfs.stage(job)
    join_cgroups(job)
    _join_network(job["netns"])
    kernel.unshare(kernel.CLONE_NEWUTS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWCGROUP)
    if job["hostname"]:
        kernel.set_hostname(job["hostname"])
    terminal = rootfs.enter(job, trees, own_ids)
    if terminal is not None:
        stdio = _hand_over(terminal, stdio[0])
    execute(job, stdio, status, own_ids)


def _hand_over(terminal: tuple[int, int], sock: int) -> tuple[int, int, int]:
    """Our end of the task's terminal goes to the shim, by the socket that stood in for the task's streams."""
    ours, theirs = terminal
    outside = _socket.socket(fileno=sock)
    outside.sendmsg([b"t"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [ours]))])
    outside.detach()
    os.close(ours)
    return theirs, theirs, theirs


def execute(job: Job, stdio: tuple[int, int, int], status: int, own_ids: int = -1) -> None:
    """Account, privileges, command: what is left to do once the task's namespaces and root are ours.

    ``own_ids``: the task's user namespace, if it has one.
    """
    account = accounts.resolve(
        job["user"], job["groups"], read_accounts("/etc/passwd"), read_accounts("/etc/group")
    )
    user_ids.check(job, account)
    _apply_limits(job)
    _enter_workdir(job["workdir"])
    _use_stdio(stdio, user_ids.root_of(job)[0] + account.uid, is_terminal=job["tty"])
    kernel.leave_session_keys()
    user_ids.join(own_ids)
    privileges.drop(job, account)
    env = _environment(job["env"], account)
    path = _find_command(job["argv"][0], env)
    _reset_signals()
    os.umask(0o022)
    kernel.set_parent_death_signal(signal.SIGKILL)
    _require_shim(status)
    if job["init"]:
        _become_init()
    privileges.confine(job, account)
    if job["init"]:
        _reap_for_child()
    try:
        os.execve(path, job["argv"], env)
    except OSError as error:
        raise _not_started(job["argv"][0], error) from None


def seal_imports() -> None:
    """From now on no code is loaded: what lies where the interpreter would look is about to be the task's."""
    sys.path.clear()
    sys.meta_path.clear()


def join_cgroups(job: Job, pid: int = 0) -> None:
    """Have a process, or this one, in the task's control groups. It has one thread."""
    for folder in job["cgroups"]:
        try:
            fd = _open_members(folder, is_own=not pid)
            try:
                os.write(fd, str(pid).encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise OSError(error.errno, f"cannot join cgroup {folder}: {error.strerror}") from None


def _open_members(folder: str, *, is_own: bool) -> int:
    """v1 moves a thread that asks for itself at once; for any other, the node's processes are held up first,
    which takes some 10 ms."""
    if is_own:
        try:
            return os.open(f"{folder}/tasks", os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            pass  # v2
    return os.open(f"{folder}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)


def _join_network(netns: str) -> None:
    if not netns:
        kernel.unshare(kernel.CLONE_NEWNET)
        _raise_loopback()
        return
    try:
        fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        text = f"cannot open the network namespace {netns}: {error.strerror}"
        raise OSError(error.errno, text) from None
    kernel.setns(fd, kernel.CLONE_NEWNET)
    os.close(fd)


def _raise_loopback() -> None:
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    fcntl.ioctl(sock.fileno(), _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP_RUNNING))
    sock.close()


def _apply_limits(job: Job) -> None:
    for number, soft, hard in job["rlimits"]:
        try:
            resource.setrlimit(number, (soft, hard))
        except ValueError:  # how the library says that it is not permitted
            own = resource.getrlimit(number)[1]
            raise rootfs.Unmountable(
                f"the ulimit {_ulimit_name(number)}={soft}:{hard} cannot be set on this node: operation not "
                f"permitted; more than {own} needs a daemon with CAP_SYS_RESOURCE"
            ) from None
        except OSError as error:
            raise rootfs.Unmountable(
                f"the ulimit {_ulimit_name(number)}={soft}:{hard} cannot be set on this node: "
                f"{_phrase(error)}"
            ) from None
    if job["oom_score_adj"]:
        _set_oom_score(job["oom_score_adj"])


def _ulimit_name(number: int) -> str:
    names = (name for name in dir(resource) if name.startswith("RLIMIT_"))
    return next(name for name in names if getattr(resource, name) == number).removeprefix("RLIMIT_").lower()


def _set_oom_score(score: int) -> None:
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(score))
    except OSError as error:
        raise rootfs.Unmountable(
            f"the OOM score {score} cannot be set on this node: {error.strerror}; one below the daemon's own "
            "needs CAP_SYS_RESOURCE"
        ) from None


def _enter_workdir(workdir: str) -> None:
    try:
        os.chdir(workdir)
    except OSError as error:
        code = NOT_EXECUTABLE if error.errno in (errno.EACCES, errno.ENOTDIR) else NOT_FOUND
        raise _NotStarted(f'chdir to cwd ("{workdir}") failed: {_phrase(error)}', code) from None


def _use_stdio(stdio: tuple[int, int, int], owner: int, *, is_terminal: bool) -> None:
    """As in docker, the account may open its own streams again by name (/dev/stdout)."""
    os.setsid()
    for target, fd in enumerate(stdio):
        if _is_null(fd):
            # by way of a descriptor of the node's, its device file could be changed
            own = _open_null()
            os.dup2(own, target)
            os.close(own)
        else:
            os.dup2(fd, target)
            os.fchown(target, owner, -1)
    if is_terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _open_null() -> int:
    """The task's own, which a privileged one may have made anything of."""
    try:
        fd = os.open(_NULL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise OSError(error.errno, f"cannot open {_NULL} of the task: {_phrase(error)}") from None
    if not _is_null(fd):
        raise OSError(errno.ENODEV, f"{_NULL} of the task is no null device")
    return fd


def _is_null(fd: int) -> bool:
    found = os.fstat(fd)
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == _NULL_DEVICE


def _environment(pairs: list[str], account: accounts.Account) -> dict[str, str]:
    env = dict(pair.split("=", 1) for pair in pairs)
    env.setdefault("HOME", account.home)
    return env


def _find_command(name: str, env: dict[str, str]) -> str:
    """Docker's lookup: a name with a slash is a path, any other is searched in the task's own PATH."""
    if "/" in name:
        try:
            os.stat(name)
        except OSError as error:
            raise _NotStarted(f'exec: "{name}": stat {name}: {_phrase(error)}', NOT_FOUND) from None
        return name
    for folder in env.get("PATH", "").split(":"):
        path = f"{folder or '.'}/{name}"
        try:
            mode = os.stat(path).st_mode
        except OSError:
            continue
        if stat.S_ISREG(mode) and os.access(path, os.X_OK):
            return path
    raise _NotStarted(f'exec: "{name}": executable file not found in $PATH', NOT_FOUND)


def _not_started(name: str, error: OSError) -> _NotStarted:
    code = NOT_FOUND if error.errno in (errno.ENOENT, errno.ENOTDIR) else NOT_EXECUTABLE
    return _NotStarted(f'exec: "{name}": {_phrase(error)}', code)


def _phrase(error: OSError) -> str:
    """The kernel's words as Docker spells them."""
    return (error.strerror or str(error)).lower()


def _reset_signals() -> None:
    """Python ignores two signals, and ignoring is inherited; a task starts with defaults."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _require_shim(status: int) -> None:
    """The reader of the status pipe is the shim: without it nobody would ever wait for the task."""
    poll = select.poll()
    poll.register(status, 0)
    if any(event & select.POLLERR for _, event in poll.poll(0)):
        os._exit(NOT_STARTED)


def _become_init() -> None:
    """Process 1 loads no program of its own, so what it is on the node must not show in the task."""
    kernel.set_process_name(_INIT)
    kernel.set_command_line(_INIT)
    kernel.forbid_looking_in()


def _reap_for_child() -> None:
    """``init``: the caller goes on as the child; process 1 stays behind, passing signals on and reaping."""
    child = os.fork()  # noqa: TID251 - one thread, no daemon: this is the task's own process 1
    if not child:
        return
    # process 1 executes nothing, so what would close by itself then has to be closed by hand
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):
                os.close(int(name))
    for number in range(1, signal.SIGRTMAX + 1):
        if number not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD):
            try:
                signal.signal(number, lambda received, _: _pass_on(child, received))
            except (OSError, ValueError):
                continue  # the C library keeps two real-time signals for itself
    while True:
        pid, wait_status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(wait_status)
            os._exit(code if code >= 0 else 128 - code)


def _pass_on(child: int, number: int) -> None:
    try:
        os.kill(child, number)
    except ProcessLookupError:
        return


def read_accounts(path: str) -> str:
    """A file that the task may have made anything of: a pipe is not waited for, nor all of /dev/zero read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            is_file = stat.S_ISREG(os.fstat(fd).st_mode)
            content = os.read(fd, _ACCOUNTS_BYTES_MAX) if is_file else b""
        finally:
            os.close(fd)
    except OSError:
        return ""
    return content.decode(errors="surrogateescape")


def report(status: int, kind: str, code: int, message: str) -> None:
    """To who reads the status pipe: the shim, or who waits for a command to begin."""
    os.write(status, json.dumps({"kind": kind, "code": code, "message": message}).encode())
