"""What can be told of a container from its folder: its command line, image, mounts, times, sizes.

Blocks. What is not there any more is left out: a task may be removed while it is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from agent.executor.base import ImageConfig
from agent.executor.native import folders
from agent.executor.native.job import Job
from agent.executor.native.shim.log_writer import file_name, file_numbers
from agent.executor.native.shim.supervise import has_oom_kill
from agent.trees import files_below
from swarmpy.errors import InvalidArgument, NotFound
from swarmpy.model.containers import ContainerFacts, ContainerMount
from swarmpy.model.ids import TaskId, Timestamp


def look(
    folder: Path, image_of: Callable[[str], ImageConfig], *, has_sizes: bool = False
) -> ContainerFacts | None:
    """None if the task was not created here, or is gone."""
    job = folders.read_job(folder) if folders.is_task_id(folder.name) else None
    if job is None:
        return None
    state = folders.read_state(folder)
    started, ended = state.started, state.ended
    try:
        image = image_of(job["image"])
    except (NotFound, InvalidArgument):  # its name was taken away meanwhile
        image = ImageConfig(reference=job["image"])
    numbers = file_numbers(job["log_dir"])
    return ContainerFacts(
        task_id=TaskId(job["task_id"]),
        image_id=image.digest,
        entrypoint=image.entrypoint,
        command=image.command,
        image_env=image.env,
        image_user=image.user,
        image_workdir=image.workdir,
        image_volumes=image.volumes,
        image_ports=image.exposed_ports,
        image_labels=image.labels,
        stop_signal=image.stop_signal,
        argv=tuple(job["argv"]),
        hostname=job["hostname"],
        pid=started["pid"] if started and not ended else 0,
        started_at=Timestamp(started["at"] if started else 0),
        ended_at=Timestamp(ended["at"] if ended else 0),
        exit_code=ended["code"] if ended else 0,
        is_oom_killed=ended["is_oom_killed"] if ended else has_oom_kill(job["oom_file"]),
        log_path=str(Path(job["log_dir"], file_name(numbers[-1]))) if numbers else "",
        mounts=tuple(_mounts(job, folder)),
        size_rw=size_of(Path(job["upper"])) if has_sizes else -1,
        size_root=sum(size_of(path) for path in _root_of(job)) if has_sizes else -1,
    )


def _mounts(job: Job, folder: Path) -> Iterator[ContainerMount]:
    """In docker's order. A volume is the folder that its mount shows; one without a name lies in the task's
    own folder."""
    for mount in sorted(job["mounts"], key=lambda mount: mount["target"]):
        place = Path(mount["source"]) if mount["source"] else None
        is_named = mount["type"] == "volume" and place is not None and folder not in place.parents
        yield ContainerMount(
            type=mount["type"],
            name=place.parent.name if is_named and place is not None else "",
            source=mount["source"] if mount["type"] != "tmpfs" else "",
            target=mount["target"],
            is_read_only=mount["read_only"],
            propagation=mount["propagation"],
        )


def _root_of(job: Job) -> Iterator[Path]:
    """Its own files and those of its image, as far as they are its own to count: not the node's root."""
    yield Path(job["upper"])
    for layer in job["layers"]:
        yield Path(job["layers_dir"], layer)


def size_of(folder: Path) -> int:
    """Bytes of all files below, each inode once."""
    total, seen = 0, set()
    for found in files_below(folder):
        if (found.st_dev, found.st_ino) not in seen:
            seen.add((found.st_dev, found.st_ino))
            total += found.st_size
    return total
