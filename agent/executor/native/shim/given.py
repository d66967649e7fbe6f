"""Secrets and configs on their way into the task: bound from the node's file system in memory, read-only.

They are taken up (``stage``) before that file system is hidden from the task, and put in place after what the
user mounts, which may lie above. A file's place is made if it is not there; on the node's own root (image
``host``) that leaves an empty file behind, so there the folder that it goes to has to exist.
"""

from __future__ import annotations

import os

from agent.executor.native.shim import kernel, places
from agent.executor.native.shim.kernel import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REMOUNT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.executor.native.job import Job

Staged = list[tuple[int, str, bool]]
"""A tree that is not mounted yet, where it goes, whether it is a folder."""


def stage(job: Job) -> Staged:
    """In the task's mount namespace, while the node's file systems are still seen."""
    staged = []
    for source, target in job.get("given", ()):
        try:
            staged.append((kernel.clone_tree(source), target, os.path.isdir(source)))
        except FileNotFoundError:
            raise places.Unmountable(
                f"the secrets and configs of this task are gone from this node's memory: {target}"
            ) from None
    return staged


def mount_all(staged: Staged, root: str, *, is_host: bool) -> None:
    root_fd = places.open_root(root)
    for tree, target, is_folder in staged:
        if is_host and not os.path.isdir(os.path.dirname(target)):
            raise places.Unmountable(
                f'the folder of "{target}" does not exist on this node, and image host has no root of its '
                "own to make it in; create it on the node or choose another target"
            )
        place = places.make(root_fd, target, is_folder=is_folder)
        try:
            kernel.attach_tree(tree, place)
        except OSError as error:
            is_mismatch = os.path.isdir(places.path_of(place)) and not is_folder
            why = "a folder is there" if is_mismatch else error.strerror
            raise places.Unmountable(f'cannot put a secret or config at "{target}": {why}') from None
        flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
        kernel.mount("", places.path_of(tree), flags=MS_BIND | MS_REMOUNT | flags)
        os.close(place)
        os.close(tree)
    os.close(root_fd)
