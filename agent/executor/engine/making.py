"""Making a task's container, and all that lies on the node for it, before its first process exists.

The order in which things appear: secrets, folder, record; the pause container, the container; what an image
has for empty volumes. What is half made when something fails is taken away again, unless the task had been
acknowledged before: then it stays as it was, and the agent tries again.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from agent import trees
from agent.executor.base import Launch
from agent.executor.engine import pause, records
from agent.executor.engine.body import (
    SECCOMP_FILE,
    Around,
    Body,
    container_body,
    container_name,
    custom_profile,
    hostname_of,
    needs_pause,
    own_ulimits,
    pause_body,
    pause_name,
    planned_mounts,
)
from agent.executor.engine.client import Engine
from agent.executor.engine.containers import Containers
from agent.executor.engine.filling import Filler, is_to_be_filled
from agent.executor.engine.parts import foreign_places, mount_parts, place_of, unmount_parts
from agent.executor.engine.task import EngineTask, Record
from agent.executor.native import devices
from agent.executor.native.mounts import JobMount, volume_requests
from agent.executor.native.surroundings import has_apparmor
from agent.executor.native.task_files import TaskFiles
from agent.volumes import Volumes
from swarmpy.errors import InvalidArgument, NotFound, SwarmError, TaskRejected, Unavailable
from swarmpy.model.containers import ContainerMount
from swarmpy.model.ids import TaskId

log = structlog.get_logger(__name__)

Run = Callable[[Callable[[], Any]], Awaitable[Any]]


class Plan(NamedTuple):
    record: Record
    around: Around
    body: Body
    mounts: list[JobMount]


@dataclass(kw_only=True)
class Maker:
    """``has_left`` is told that the engine has kept something of a task that nobody knows any more."""

    engine: Engine
    containers: Containers
    node: str
    tasks_dir: Path
    volumes: Volumes
    files: TaskFiles
    cgroup_version: int
    run: Run
    has_left: Callable[[], None]

    async def create(self, launch: Launch, task: EngineTask) -> None:
        """May be repeated until the task has begun."""
        try:
            plan = await self.run(partial(self._write, launch))
            task.record = plan.record
            if needs_pause(launch, self.engine.flavour):
                task.pause = await self.containers.make_pause(
                    pause_name(plan.record.container), pause_body(launch, plan.around, image=pause.IMAGE)
                )
                # docker keeps the id: if the name becomes another's, so has the task's to be made anew
                plan.body["HostConfig"]["NetworkMode"] = f"container:{task.pause}"
            task.container = await self.containers.make(plan.record.container, plan.body)
            await self._fill(launch, plan)
        except SwarmError:
            if not task.is_created:  # what was acknowledged stays
                await self._undo(launch.task_id)
            raise
        task.is_created = True

    async def _undo(self, task_id: TaskId) -> None:
        """As far as the engine answers: what it keeps is found without a record, and removed, later on."""
        try:
            for one in await self.containers.find(task_id):
                await self.containers.remove(one.id)
        except SwarmError as error:
            log.warning("task_not_undone", task_id=task_id, reason=str(error))
            self.has_left()
        await self.run(partial(self.clear, task_id))

    def clear(self, task_id: TaskId) -> None:
        """Blocks."""
        self.files.remove(task_id)
        unmount_parts(self.tasks_dir / task_id)
        records.remove(self.tasks_dir / task_id)

    def _write(self, launch: Launch) -> Plan:
        """All that lies on the node. Blocks."""
        spec, folder = launch.spec, self.tasks_dir / launch.task_id
        try:
            with self.volumes.held(volume_requests(spec.mounts)) as volumes:
                around = Around(
                    folder=str(folder),
                    node=self.node,
                    volumes=volumes,
                    given=tuple(self.files.mounts(launch.task_id, launch.files)),
                    gpus=devices.find_gpus() if spec.device_requests else (),
                    has_apparmor=has_apparmor(),
                    cgroup_version=self.cgroup_version,
                    ulimits=own_ulimits(),
                )
                body = container_body(launch, self.engine.flavour, around)
                mounts = planned_mounts(spec, self.engine.flavour, around)
                record = _record(launch, body, mounts, folder)
                self.files.write(launch.task_id, launch.files)
                _make_folder(folder, launch, mounts)
                mount_parts(str(folder), mounts, volumes)
                records.write(folder, record)
        except (InvalidArgument, NotFound) as error:  # of a volume
            raise TaskRejected(str(error)) from None
        except OSError as error:
            raise Unavailable(f"cannot prepare the folder of task {launch.task_id}: {error}") from None
        return Plan(record, around, body, mounts)

    async def _fill(self, launch: Launch, plan: Plan) -> None:
        if empty := [mount for mount in plan.mounts if mount["copies"]]:
            foreign = foreign_places(plan.around.volumes, plan.around.folder)
            places = [(place_of(mount, plan.around.folder, foreign), mount["target"]) for mount in empty]
            wanted = await self.run(lambda: [each for each in places if is_to_be_filled(each[0])])
            if wanted:
                filler = Filler(engine=self.engine, containers=self.containers, run=self.run)
                await filler.fill(launch, plan.around, wanted)


def _make_folder(folder: Path, launch: Launch, mounts: list[JobMount]) -> None:
    trees.make_private(folder)
    for mount in mounts:
        place = Path(mount["source"])
        is_own = mount["type"] == "volume" and folder in place.parents
        if is_own or (mount["type"] == "bind" and mount["makes_source"] and not os.path.lexists(place)):
            place.mkdir(mode=0o755, parents=True, exist_ok=True)
        elif mount["type"] == "bind" and not place.exists():  # podman would find out at the start only
            raise TaskRejected(
                f'invalid mount config for type "bind": bind source path does not exist: {place}'
            )
    profile = custom_profile(launch.spec)
    if profile:
        (folder / SECCOMP_FILE).write_bytes(profile)


def _record(launch: Launch, body: Body, mounts: list[JobMount], folder: Path) -> Record:
    named = {
        mount["source"]: Path(mount["source"]).parent.name
        for mount in mounts
        if mount["type"] == "volume" and folder not in Path(mount["source"]).parents
    }
    return Record(
        task_id=launch.task_id,
        name=launch.name,
        container=container_name(launch),
        image=launch.image.reference,
        image_id=launch.image.digest,
        argv=tuple(body["Entrypoint"]),
        hostname=hostname_of(launch),
        netns=launch.sandbox.netns,
        tty=launch.spec.tty,
        open_stdin=launch.spec.open_stdin,
        has_memory_limit=launch.limits.memory_bytes > 0,
        volumes=tuple(dict.fromkeys(named.values())),
        mounts=tuple(
            ContainerMount(
                type=mount["type"],
                name=named.get(mount["source"], ""),
                source=mount["source"],
                target=mount["target"],
                is_read_only=mount["read_only"],
                propagation=mount["propagation"],
            )
            for mount in sorted(mounts, key=lambda mount: mount["target"])
        ),
    )
