"""Secrets and configs of tasks, in a file system in memory that outlives the daemon and no power failure.

One file system per node, for root alone, with a folder for each task; the shim binds what lies in it into the
task, read-only. What goes to /run/secrets lies in one folder there, so that a newer file takes the place of
the former one whole, by renaming; any other file is bound alone, and is written over in place. Nothing else
of the node sees the file system: it is mounted in a mount that is passed on to nobody, and hidden from tasks.

Newer data are put in place in this order: the signals that are due are noted, files are written, signals are
sent, the note goes. So after a crash at any step the call is repeated and no signal is lost, though one may
come twice. All functions block briefly: call them in a thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from agent.executor.base import LaunchFile
from agent.executor.native import folders
from agent.executor.native.shim import kernel
from agent.executor.native.shim.supervise import write_record
from swarmpy.errors import TaskRejected, Unavailable

SECRETS: Final = "/run/secrets"
_FOLDER_MODE: Final = 0o755
_SEALED: Final = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
_KINDS: Final = (("tmpfs", "mode=0700,noswap"), ("ramfs", "mode=0700"))
"""What never reaches a disk: tmpfs that may not be swapped out needs Linux 6.4."""
_CHARS: Final = 32


class TaskFiles:
    """``root`` in what follows: the node's ids of a task's root and its group. Its others count from them."""

    def __init__(self, folder: Path) -> None:
        self.folder: Final = folder
        self._mounting = threading.Lock()

    def prepare(self) -> None:
        """Mount the file system, unless a former life of the daemon did."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._mounting:  # tasks are made in several threads
                if not self.is_mounted():
                    kernel.mount(str(self.folder), str(self.folder), flags=kernel.MS_BIND)
                    kernel.mount("", str(self.folder), flags=kernel.MS_PRIVATE)
                    self._mount()
        except OSError as error:
            raise Unavailable(
                f"no file system in memory can be mounted on {self.folder}: {error.strerror}; secrets and "
                "configs are kept nowhere else"
            ) from None

    def _mount(self) -> None:
        *others, last = _KINDS
        for kind, options in others:
            try:
                return kernel.mount(kind, str(self.folder), kind, _SEALED, options)
            except OSError:
                continue  # an older kernel: the next kind is never swapped out either
        return kernel.mount(last[0], str(self.folder), last[0], _SEALED, last[1])

    def is_mounted(self) -> bool:
        try:
            return os.stat(self.folder).st_dev != os.stat(self.folder.parent).st_dev
        except FileNotFoundError:
            return False

    def unmount(self) -> None:
        """Let go of everything, as a node that is taken down. Tasks keep what is bound into them."""
        with contextlib.suppress(OSError):  # in the end nothing is mounted there any more
            while True:
                kernel.unmount(str(self.folder), kernel.MNT_DETACH)
        if self.folder.is_dir():
            self.folder.rmdir()

    def write(self, task_id: str, files: Iterable[LaunchFile], *, root: tuple[int, int] = (0, 0)) -> None:
        """Make the files of a task that has not been started, all anew."""
        self.remove(task_id)
        wanted = tuple(files)
        if not wanted:
            return
        self.prepare()
        try:
            _make_folder(self.folder / task_id)
            for file in wanted:
                self._write_anew(task_id, file, root)
        except OSError as error:
            self.remove(task_id)
            raise Unavailable(
                f"the secrets and configs of task {task_id} cannot be kept: {error.strerror}"
            ) from None

    def mounts(self, task_id: str, files: Iterable[LaunchFile]) -> list[tuple[str, str]]:
        """What the shim is to bind: from where, to where."""
        return list(dict.fromkeys(self._place(task_id, file)[1:] for file in files))

    def renew(
        self,
        task_id: str,
        files: Iterable[LaunchFile],
        send: Callable[[int], None],
        *,
        root: tuple[int, int] = (0, 0),
    ) -> None:
        """Put newer data of a running task in place, and ``send`` the signals of what differs."""
        if not (self.folder / task_id).is_dir():
            raise TaskRejected(
                f"newer secrets and configs cannot be put in place: those of task {task_id} are not in this "
                "node's memory any more; restart the task"
            )
        note = self.folder / task_id / "due"
        try:
            due = set(json.loads(note.read_text())) if note.exists() else set()
            changed = [file for file in files if self._differs(task_id, file)]
            due |= {file.reload_signal for file in changed if file.reload_signal}
            if due:
                write_record(str(note), json.dumps(sorted(due)))
            for file in changed:
                if self._is_alone(file):
                    _write_over(self._place(task_id, file)[0], file.data)
                else:
                    self._write_anew(task_id, file, root)
            for number in sorted(due):
                send(number)
            note.unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(
                f"newer secrets and configs of task {task_id} cannot be put in place: {error.strerror}"
            ) from None

    def remove(self, task_id: str) -> None:
        folders.remove_tree(self.folder / task_id)

    def task_ids(self) -> set[str]:
        """Of which tasks there are files."""
        if not self.is_mounted():
            return set()
        return {entry.name for entry in os.scandir(self.folder)}

    # --- places

    def _is_alone(self, file: LaunchFile) -> bool:
        return not os.path.normpath(file.target).startswith(f"{SECRETS}/")

    def _place(self, task_id: str, file: LaunchFile) -> tuple[Path, str, str]:
        """Where the file lies, and what is bound where for it."""
        base = self.folder / task_id
        if self._is_alone(file):
            path = base / "files" / hashlib.sha256(file.target.encode()).hexdigest()[:_CHARS]
            return path, str(path), file.target
        inner = os.path.normpath(file.target).removeprefix(f"{SECRETS}/")
        return base / "secrets" / inner, str(base / "secrets"), SECRETS

    def _write_anew(self, task_id: str, file: LaunchFile, root: tuple[int, int]) -> None:
        """Under another name first: whoever reads sees the one or the other, whole."""
        path = self._place(task_id, file)[0]
        for folder in reversed(path.relative_to(self.folder / task_id).parents[:-1]):
            _make_folder(self.folder / task_id / folder)
        # outside of what the task sees, on the same file system
        new = self.folder / task_id / "new"
        new.unlink(missing_ok=True)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, file.data)
            os.fchown(fd, root[0] + file.uid, root[1] + file.gid)
            os.fchmod(fd, file.mode)
        finally:
            os.close(fd)
        os.replace(new, path)

    def _differs(self, task_id: str, file: LaunchFile) -> bool:
        try:
            return self._place(task_id, file)[0].read_bytes() != file.data
        except FileNotFoundError:
            return True


def _make_folder(path: Path) -> None:
    """Open to the task's users, whatever mask the daemon was started with."""
    path.mkdir(exist_ok=True)
    path.chmod(_FOLDER_MODE)


def _write_over(path: Path, data: bytes) -> None:
    """The same file, since the task has it bound: first the new bytes, then the new length."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        _write_all(fd, data)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
