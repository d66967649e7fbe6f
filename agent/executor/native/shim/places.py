"""Finding and making places below a task's root, safe from links that others may put there meanwhile.

Volumes are shared: while one task is being set up, another may exchange a folder for a link. So a place is
held by a file descriptor that the kernel found without leaving the root, never by its name.
"""

from __future__ import annotations

import errno
import os

from agent.executor.native.shim import kernel

_FOLDER_MODE = 0o755
_FILE_MODE = 0o644
_LINKS_MAX = 40
"""Links that lead to nothing yet, one after the other."""


class Unmountable(Exception):
    """The task asks for a mount that cannot be made. The text is for the user."""


def open_root(root: str) -> int:
    return os.open(root or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def find(root: int, path: str) -> int | None:
    """The place if it is there."""
    try:
        return kernel.open_in_root(root, path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error) from None


def make(root: int, path: str, *, is_folder: bool, links: int = _LINKS_MAX) -> int:
    """The place, made with all that leads there, links included. Nothing that is there is changed."""
    found = find(root, path)
    if found is not None:
        return found
    parent, _, name = path.rstrip("/").rpartition("/")
    above = make(root, parent or "/", is_folder=True, links=links)
    try:
        if is_folder:
            os.mkdir(name, _FOLDER_MODE, dir_fd=above)
        else:
            flags = os.O_CREAT | os.O_WRONLY | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(name, flags, _FILE_MODE, dir_fd=above))
    except FileExistsError:
        if (to := _link(name, above)) and links:
            inner = to if to.startswith("/") else f"{parent}/{to}"
            return make(root, inner, is_folder=is_folder, links=links - 1)
    except OSError as error:
        raise _unusable(path, error) from None
    finally:
        os.close(above)
    try:
        return kernel.open_in_root(root, path)
    except OSError as error:
        raise _unusable(path, error) from None


def _link(name: str, folder: int) -> str:
    """Where a link leads; empty if it is none, but something that somebody made just now."""
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError:
        return ""


def path_of(fd: int) -> str:
    """A name for a place that is held: of this very thing, wherever it is."""
    return f"/proc/self/fd/{fd}"


def _unusable(path: str, error: OSError) -> Unmountable:
    if error.errno == errno.ELOOP:
        return Unmountable(f'mount target "{path}" has too many levels of symbolic links')
    if error.errno == errno.ENOSYS:
        return Unmountable("mounts into tasks need Linux 5.6 or newer")
    return Unmountable(f'the place "{path}" in the task cannot be used: {os.strerror(error.errno or 0)}')
