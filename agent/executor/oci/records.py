"""What lies in a task's folder besides native's records, and what that says about the task.

* ``bundle.json``: the container, but for its account; ``config.json``: the whole, for the runtime;
  ``demands.json``: what it asks of control groups.
* ``attempt``: a start is under way or was cut off, so there may be processes that no record names.
* ``made``: the container exists, and its command is about to be run: conmon's and its own process. Written
  before the runtime is told to start it. A container without it was never started.
* ``started``, ``exit``: native's, written by the daemon. ``conmon/<task>``: the exit code as conmon wrote it,
  also while no daemon ran; ``conmon/oom``: conmon saw memory run out.

Nothing here kills or starts anything. All functions block briefly.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TypedDict

import msgspec

from agent.executor.native import folders
from agent.executor.native.demands import Demands
from agent.executor.native.folders import TaskState
from agent.executor.native.job import ExitRecord, Job, StartRecord
from agent.executor.native.process import is_zombie
from agent.executor.native.shim.supervise import has_oom_kill, process_start, write_record
from agent.executor.oci.bundle import Bundle
from swarmpy.errors import Unavailable

EXIT_DIR = "conmon"
OOM = "oom"


class Made(TypedDict):
    """``stdin``: the inode of the pipe that conmon feeds the task by, 0 if there is none."""

    conmon: int
    conmon_start: int
    pid: int
    pid_start: int
    stdin: int
    runtime: str
    is_apart: bool
    at: int


def write_bundle(folder: Path, bundle: Bundle) -> None:
    write_record(f"{folder}/bundle.json", json.dumps(bundle))


def read_bundle(folder: Path) -> Bundle | None:
    found: Bundle | None = folders.read_json(folder / "bundle.json")
    return found


def note_groups(folder: Path, job: Job, groups: list[str]) -> None:
    """Have commands inside join these control groups, too. What limits need comes first, as before."""
    job["cgroups"] = list(dict.fromkeys([*job["cgroups"], *groups]))
    write_record(f"{folder}/job.json", json.dumps(job))


def write_demands(folder: Path, demands: Demands) -> None:
    write_record(f"{folder}/demands.json", msgspec.json.encode(demands).decode())


def read_demands(folder: Path) -> Demands:
    try:
        return msgspec.json.decode((folder / "demands.json").read_bytes(), type=Demands)
    except (OSError, msgspec.DecodeError) as error:
        raise Unavailable(
            f"the task in {folder} has to be created again before it can start: {error}"
        ) from None


def note_attempt(folder: Path) -> None:
    (folder / "attempt").touch()


def is_attempted(folder: Path) -> bool:
    return (folder / "attempt").exists()


def forget_attempt(folder: Path) -> None:
    (folder / "attempt").unlink(missing_ok=True)


def write_made(folder: Path, made: Made) -> None:
    write_record(f"{folder}/made", json.dumps(made))


def read_made(folder: Path) -> Made | None:
    found: Made | None = folders.read_json(folder / "made")
    return found


def forget_made(folder: Path) -> None:
    (folder / "made").unlink(missing_ok=True)


def start_record(made: Made, at: int) -> StartRecord:
    return StartRecord(pid=made["pid"], pid_start=made["pid_start"], shim=made["conmon"], at=at)


def is_watched(made: Made) -> bool:
    """Whether the very conmon that was started still lives."""
    start = process_start(made["conmon"])
    return start != 0 and start == made["conmon_start"] and not is_zombie(made["conmon"])


def is_alive(made: Made) -> bool:
    """Whether the task's very first process still lives."""
    start = process_start(made["pid"])
    return start != 0 and start == made["pid_start"] and not is_zombie(made["pid"])


def read_state(folder: Path) -> TaskState:
    """``shim`` is conmon, while the task is started and not over."""
    state = folders.read_state(folder)
    made = read_made(folder)
    if state.started is None or state.ended is not None or made is None or not is_watched(made):
        return state
    return TaskState(shim=made["conmon"], started=state.started, ended=None)


def conmon_exit(folder: Path, job: Job) -> ExitRecord | None:
    """How the task ended, as conmon saw it; None if it has said nothing."""
    path = folder / EXIT_DIR / job["task_id"]
    try:
        code, at = int(path.read_bytes()), path.stat().st_mtime_ns
    except (OSError, ValueError):
        return None  # it is not there, or a power failure tore it
    is_oom_killed = (
        has_oom_kill(job["oom_file"]) or (folder / EXIT_DIR / OOM).exists() or (folder / OOM).exists()
    )
    return ExitRecord(code=code, is_oom_killed=is_oom_killed, at=at, message="", kind="ended")


def own_log(job: Job) -> str:
    """The file that conmon writes: the newest of the task's log, which is one of the numbered ones, too."""
    return os.path.join(job["log_dir"], "current")
