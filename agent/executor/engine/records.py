"""Folders of tasks that are containers: ``record.json``, ``started``, ``exit``. All functions block briefly.

``record.json`` means: created. It is there before the container is, and goes after it: so a container of ours
without a record is rubbish, and a record without a container is a task that is to be created again, or one
that has ended.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import structlog

from agent.executor.engine.parts import unmount_parts
from agent.executor.engine.task import Ended, EngineTask, Record, Started
from agent.executor.native import folders
from agent.executor.native.shim.supervise import sync_record, write_record
from swarmpy.errors import Unavailable
from swarmpy.model.ids import TaskId, Timestamp

log = structlog.get_logger(__name__)

T = TypeVar("T")
_RECORD: Final = "record.json"
_KEY: Final = "engine.key"
_KEY_BYTES: Final = 12


def node_key(data_dir: Path) -> str:
    """What tells this data folder's containers from others on the same engine: made once, and kept."""
    path = data_dir / _KEY
    try:
        found = path.read_text().strip()
    except FileNotFoundError:
        found = ""
    if not found:
        found = secrets.token_hex(_KEY_BYTES)
        write_record(str(path), found)
        sync_record(str(data_dir), _KEY)  # another key after a power failure would make strangers of them
    return found


def is_created(folder: Path) -> bool:
    return (folder / _RECORD).exists()


def write(folder: Path, record: Record) -> None:
    _write(folder / _RECORD, record)


def write_started(folder: Path, started: Started) -> None:
    _write(folder / "started", started)


def write_ended(folder: Path, ended: Ended) -> None:
    _write(folder / "exit", ended)


def read(folder: Path) -> EngineTask | None:
    """None if it was not created. A torn record is as good as none but for its name: it is made again."""
    if not is_created(folder):
        return None
    task_id = TaskId(folder.name)
    record = _read(folder / _RECORD, Record) or Record(task_id=task_id, name="", container="", image="")
    task = EngineTask(record=record, is_created=True)
    task.started = _read(folder / "started", Started, torn=Started(at=Timestamp(0)))
    task.end = _read(folder / "exit", Ended)
    return task


def scan(tasks_dir: Path) -> list[EngineTask]:
    """Every task that was created. Half-made folders are removed."""
    found = []
    for entry in sorted(os.scandir(tasks_dir), key=lambda entry: entry.name):
        task = read(Path(entry.path))
        if task is None:
            unmount_parts(Path(entry.path))
            folders.remove_tree(Path(entry.path))
        else:
            found.append(task)
    return found


def remove(folder: Path) -> None:
    """The record first: whatever interrupts this, the rest is then known to be rubbish."""
    (folder / _RECORD).unlink(missing_ok=True)
    folders.remove_tree(folder)


def volume_users(tasks_dir: Path) -> dict[str, tuple[str, ...]]:
    """Which tasks on this node have which named volume."""
    users: dict[str, list[str]] = {}
    for folder in sorted(tasks_dir.glob("*")):
        record = _read(folder / _RECORD, Record)
        for name in record.volumes if record is not None else ():
            users.setdefault(name, []).append(folder.name)
    return {name: tuple(tasks) for name, tasks in users.items()}


def _write(path: Path, value: object) -> None:
    try:
        write_record(str(path), msgspec.json.encode(value).decode())
    except OSError as error:
        raise Unavailable(f"cannot keep the record {path}: {error.strerror or error}") from None


def _read(path: Path, kind: type[T], *, torn: T | None = None) -> T | None:
    """None if the file is not there, ``torn`` if it does not read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        log.warning("task_record_torn", path=str(path), error=str(error))
        return torn
