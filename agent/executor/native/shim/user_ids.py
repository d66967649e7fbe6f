"""A task's own user namespace, for nodes whose tasks have other ids than they believe (``--userns-remap``).

It is made first and joined last: mounts and control groups are made with the node's rights, in namespaces
that belong to the node, so a task has no power over them, whatever capabilities it is given. The image's
layers are seen through mounts that map ids; what a task writes has the mapped ids on disk. The network is
made before, by others, in a user namespace that the task takes over: its capabilities hold there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal

from agent.executor.native.shim import kernel
from agent.executor.native.shim.places import Unmountable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from agent.executor.native.job import Job
    from agent.executor.native.shim.accounts import Account

_PATH_BYTES = 64


def root_of(job: Job) -> tuple[int, int]:
    """The node's ids of the task's root and of its group."""
    return (job["ids"][0], _groups(job)[0]) if "ids" in job else (0, 0)


def make(job: Job) -> int:
    """A user namespace with the job's ids, or -1 if it has the node's. Needs the node's /proc.

    It is the one that the task's network belongs to, if that was made for these ids: then the task's
    capabilities hold for it. Networks of before, and those that nobody has made yet, belong to the node.
    """
    if "ids" not in job:
        return -1
    own = _owner_of_network(job["netns"])
    if own >= 0:
        with _somebody(lambda: kernel.setns(own, kernel.CLONE_NEWUSER)) as process:
            if all(_map_of(process, name) == line.split() for name, line in _maps(job).items()):
                return own
        os.close(own)
    # a namespace needs somebody to be in it until it is held by its file
    with _somebody(lambda: kernel.unshare(kernel.CLONE_NEWUSER)) as process:
        for name, line in _maps(job).items():
            with open(f"{process}/{name}", "w", encoding="ascii") as file:
                file.write(line)
        return os.open(f"{process}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def _maps(job: Job) -> dict[str, str]:
    return {
        name: f"0 {first} {size}\n"
        for name, (first, size) in (("gid_map", _groups(job)), ("uid_map", job["ids"]))
    }


def _groups(job: Job) -> list[int]:
    return job.get("group_ids") or job["ids"]


def _map_of(process: str, name: str) -> list[str]:
    with open(f"{process}/{name}", encoding="ascii") as file:
        return file.read().split()


def _owner_of_network(netns: str) -> int:
    """Opened; -1 if it is the node's, or is not to be seen: joining it says so."""
    try:
        network = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        own = kernel.owner_of(network)
    except OSError:  # of a namespace above the daemon's own, where this is a container's
        return -1
    finally:
        os.close(network)
    if not os.path.samestat(os.fstat(own), os.stat("/proc/self/ns/user")):
        return own
    os.close(own)
    return -1


@contextlib.contextmanager
def _somebody(enter: Callable[[], None]) -> Iterator[str]:
    """The folder in /proc of a process in a user namespace, as long as the block runs."""
    told, tell = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()  # noqa: TID251 - one thread, no daemon: this is the task's own first process
    if not pid:
        _be_held(tell, enter)
    os.close(tell)
    try:
        number = os.read(told, _PATH_BYTES).decode()  # its own there, where this process may have another
        if not number.isdecimal():
            raise Unmountable(
                f"the user namespace of the task cannot be made ({number or 'it was killed'}): "
                "--userns-remap needs a kernel with user namespaces, and user.max_user_namespaces above 0"
            )
        yield f"/proc/{number}"
    finally:
        os.close(told)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _be_held(tell: int, enter: Callable[[], None]) -> None:
    try:
        kernel.set_parent_death_signal(signal.SIGKILL)
        enter()
        os.write(tell, os.readlink("/proc/self").encode())
        while True:
            signal.pause()
    except OSError as error:
        os.write(tell, (error.strerror or str(error)).encode()[:_PATH_BYTES])
    finally:
        os._exit(0)


def map_layers(folder: str, layers: Iterable[str], user_namespace: int) -> None:
    """Have these layers belong to the task's ids, in this mount namespace alone."""
    for layer in dict.fromkeys(layers):
        path = f"{folder}/{layer}"
        tree = kernel.clone_tree(path)
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            kernel.map_ids(tree, user_namespace)
            kernel.attach_tree(tree, place)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            raise Unmountable(
                "the image's layers cannot be given to the ids of --userns-remap: this needs Linux 5.19, and "
                "a data folder on ext4, xfs, btrfs or another file system that can map ids"
            ) from None
        finally:
            os.close(tree)
            os.close(place)


def give(job: Job, path: str) -> None:
    """Have what the task is to have as its root's be so."""
    if "ids" in job:
        os.chown(path, *root_of(job))


def owner_options(job: Job) -> str:
    """Of a file system in memory that is to be the task's root's."""
    user, group = root_of(job)
    return f",uid={user},gid={group}" if "ids" in job else ""


def join(user_namespace: int) -> None:
    """Become the namespace's root, with all capabilities there and none anywhere else."""
    if user_namespace < 0:
        return
    kernel.setns(user_namespace, kernel.CLONE_NEWUSER)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def check(job: Job, account: Account) -> None:
    """Unmountable for an account whose ids the task's namespace has not."""
    if "ids" not in job:
        return
    users, groups = job["ids"][1], _groups(job)[1]
    wanted = ((account.uid, users), (account.gid, groups), *((group, groups) for group in account.groups))
    for number, size in wanted:
        if number >= size:
            raise Unmountable(
                f"id {number} cannot be had by tasks of this node: --userns-remap gives them the ids below "
                f"{size}"
            )
