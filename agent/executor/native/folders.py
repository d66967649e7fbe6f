"""Task folders: what lies on disk for one task, and what that says about the task.

``<tasks>/<task id>/`` holds ``job.json`` (its presence means: created), ``lock``, ``started`` and ``exit``
(see ``shim/supervise``), ``hostname``, and for images ``root``, ``upper`` and ``work``. Logs lie elsewhere
and may outlive the folder.

``read_state`` is the one place that judges a folder. A power failure may leave the name of a file without its
text: such a record counts as far as its name goes. All functions block briefly: call them in a thread.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from agent.executor.native.job import ExitRecord, Job, StartRecord
from agent.executor.native.shim.supervise import reserve_record, write_record
from agent.trees import remove_tree as remove_tree
from swarmpy.errors import TaskRejected, Unavailable

log = structlog.get_logger(__name__)

_FLOCK = struct.Struct("hhqqi4x")
"""struct flock of 64-bit Linux: type, whence, start, length, pid."""
_UNKNOWN_START = StartRecord(pid=0, pid_start=0, shim=0, at=0)
"""Something ran, and nobody can tell which process it was."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class TaskState:
    """``shim`` is the pid of the living shim, 0 if there is none."""

    shim: int
    started: StartRecord | None
    ended: ExitRecord | None

    @property
    def has_begun(self) -> bool:
        """Whether a process of it exists or has existed."""
        return bool(self.shim or self.started or self.ended)


def is_task_id(task_id: str) -> bool:
    """A task id becomes part of paths and of cgroup names."""
    return _NAME.fullmatch(task_id) is not None


def check_task_id(task_id: str) -> None:
    if not is_task_id(task_id):
        raise TaskRejected(f"{task_id!r} is no task id: letters, digits, dots and dashes only, 64 at most")


def create(folder: Path, job: Job) -> None:
    """Make the folder; ``job.json`` last, so that a half-made folder is known by its absence."""
    try:
        folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        if not job["is_host"]:
            for name in ("root", "upper", "work"):
                (folder / name).mkdir(mode=0o755, exist_ok=True)
        for mount in job["mounts"]:
            if mount["type"] in ("volume", "image"):
                Path(mount["source"]).mkdir(mode=0o755, parents=True, exist_ok=True)
        (folder / "hostname").write_text(job["hostname"] + "\n")
        for name in ("started", "exit"):
            reserve_record(f"{folder}/{name}")
        write_record(f"{folder}/job.json", json.dumps(job))
    except OSError as error:
        raise Unavailable(f"cannot prepare the folder of task {job['task_id']}: {error}") from None


def is_created(folder: Path) -> bool:
    return (folder / "job.json").exists()


def read_job(folder: Path) -> Job | None:
    """None if there is none, or a power failure tore it: then the task is created again before it starts."""
    job: Job | None = read_json(folder / "job.json")
    return job


def layers_of(job: Job) -> set[str]:
    """The layers that the task's root and its mounts are made of."""
    return {*job["layers"], *(layer for mount in job["mounts"] for layer in mount.get("layers", ()))}


def volume_users(tasks_dir: Path) -> dict[str, tuple[str, ...]]:
    """Which tasks on this node have which named volume: while a task's folder is there, it may use it."""
    users: dict[str, list[str]] = {}
    for folder in sorted(tasks_dir.glob("*")):
        job = read_job(folder)
        for mount in job["mounts"] if job else ():
            place = Path(mount["source"])
            if job and mount["type"] == "volume" and folder not in place.parents:
                users.setdefault(place.parent.name, []).append(job["task_id"])
    return {name: tuple(dict.fromkeys(tasks)) for name, tasks in users.items()}


def read_state(folder: Path) -> TaskState:
    """What became of the task. The lock is asked first: after a free lock the files are final."""
    shim = lock_holder(folder)
    started: StartRecord | None = read_json(folder / "started", torn=_UNKNOWN_START)
    ended: ExitRecord | None = read_json(folder / "exit")
    return TaskState(shim=shim, started=started, ended=ended)


def lock_holder(folder: Path) -> int:
    """The pid of the process that holds the task's lock, 0 if none does."""
    try:
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, _FLOCK.pack(fcntl.F_WRLCK, 0, 0, 0, 0))
    finally:
        os.close(fd)
    kind, _, _, _, pid = _FLOCK.unpack(answer)
    return 0 if kind == fcntl.F_UNLCK else int(pid)


def record_exit(folder: Path, ended: ExitRecord) -> None:
    try:
        write_record(f"{folder}/exit", json.dumps(ended))
    except OSError as error:
        raise Unavailable(f"cannot write how task {folder.name} has ended: {error.strerror}") from None


def remove(folder: Path) -> None:
    """``job.json`` first: whatever interrupts this, the rest is then known to be rubbish."""
    (folder / "job.json").unlink(missing_ok=True)
    remove_tree(folder)


def read_json(path: Path, *, torn: StartRecord | None = None) -> Any:
    """None if the file is not there, ``torn`` if it does not read."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        log.warning("task_record_torn", path=str(path), error=str(error))
        return torn
