"""A task's own user namespace, for nodes whose tasks have other ids than they believe (``--userns-remap``).

It is made first and joined last: mounts, network and control groups are made with the node's rights, in
namespaces that belong to the node, so a task has no power over them, whatever capabilities it is given. The
image's layers are seen through mounts that map ids; what a task writes has the mapped ids on disk.
"""

from __future__ import annotations

import errno
import os
import signal

from agent.executor.native.shim import kernel
from agent.executor.native.shim.places import Unmountable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.executor.native.job import Job

_PATH_BYTES = 64


def first_of(job: Job) -> int:
    """The node's id of the task's root."""
    return job.get("ids", [0, 0])[0]


def make(job: Job) -> int:
    """A user namespace with the job's ids, or -1 if it has the node's. Needs the node's /proc."""
    if "ids" not in job:
        return -1
    first, size = job["ids"]
    told, tell = os.pipe2(os.O_CLOEXEC)
    # a namespace needs somebody to be in it until it is held by its file
    pid = os.fork()  # noqa: TID251 - one thread, no daemon: this is the task's own first process
    if not pid:
        _be_held(tell)
    os.close(tell)
    try:
        own = os.read(told, _PATH_BYTES).decode()  # its number there, where this process may have another
        if not own.isdecimal():
            raise Unmountable(
                f"the user namespace of the task cannot be made ({own or 'it was killed'}): --userns-remap "
                "needs a kernel with user namespaces, and user.max_user_namespaces above 0"
            )
        for name in ("gid_map", "uid_map"):
            with open(f"/proc/{own}/{name}", "w", encoding="ascii") as file:
                file.write(f"0 {first} {size}\n")
        return os.open(f"/proc/{own}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(told)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _be_held(tell: int) -> None:
    try:
        kernel.set_parent_death_signal(signal.SIGKILL)
        kernel.unshare(kernel.CLONE_NEWUSER)
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
    first = first_of(job)
    if first:
        os.chown(path, first, first)


def owner_options(job: Job) -> str:
    """Of a file system in memory that is to be the task's root's."""
    first = first_of(job)
    return f",uid={first},gid={first}" if first else ""


def join(user_namespace: int) -> None:
    """Become the namespace's root, with all capabilities there and none anywhere else."""
    if user_namespace < 0:
        return
    kernel.setns(user_namespace, kernel.CLONE_NEWUSER)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def check(job: Job, ids: Iterable[int]) -> None:
    """Unmountable for an account whose ids the task's namespace has not."""
    if "ids" not in job:
        return
    size = job["ids"][1]
    for number in ids:
        if number >= size:
            raise Unmountable(
                f"id {number} cannot be had by tasks of this node: --userns-remap gives them the ids below "
                f"{size}"
            )
