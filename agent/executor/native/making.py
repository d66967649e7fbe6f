"""Making a task ready to run: all that lies on disk and in control groups before its first process exists.

What is half made when something fails is taken away again, unless the task had been acknowledged before: then
it stays as it was, and the agent tries again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.executor.base import Launch, LaunchFile
from agent.executor.images.store import ImageStore
from agent.executor.native import folders, id_ranges
from agent.executor.native.cgroups import Cgroups
from agent.executor.native.demands import demands_of
from agent.executor.native.id_ranges import TaskIds
from agent.executor.native.job import HOST_NETWORK, Places, plan_job
from agent.executor.native.mounts import volume_requests
from agent.executor.native.shim import user_ids
from agent.executor.native.surroundings import Surroundings, look
from agent.executor.native.task_files import TaskFiles
from agent.volumes import Volumes
from swarmpy.errors import InvalidArgument, NotFound, SwarmError, TaskRejected


@dataclass(kw_only=True)
class Maker:
    """Blocks. ``dev``: where this node's device files are."""

    tasks_dir: Path
    logs_dir: Path
    images: ImageStore
    volumes: Volumes
    cgroups: Cgroups
    files: TaskFiles
    hidden: tuple[Path, ...]
    dev: Path = Path("/dev")
    ids: TaskIds | None = None
    """Those that tasks have in place of the node's."""

    def create(self, launch: Launch) -> None:
        """May be repeated until the task has begun; from then on it changes nothing."""
        folder = self.tasks_dir / launch.task_id
        was_created = folders.is_created(folder)
        if was_created and folders.read_state(folder).has_begun:
            return
        try:
            with self.volumes.held(volume_requests(launch.spec.mounts)) as volumes:
                self._make(launch, look(launch.spec, volumes, self.images, dev=self.dev))
        except SwarmError as error:
            if not was_created:  # what was acknowledged stays, and a shim may just be taking it up
                self.cgroups.remove(launch.task_id)
                self.files.remove(launch.task_id)
                folders.remove_tree(folder)
            if isinstance(error, InvalidArgument | NotFound):  # of a volume
                raise TaskRejected(str(error)) from None
            raise

    def renew(self, task_id: str, files: tuple[LaunchFile, ...], send: Callable[[int], None]) -> None:
        """Newer secrets and configs, for the ids that the task was made with: the node's may differ."""
        job = folders.read_job(self.tasks_dir / task_id)
        self.files.renew(task_id, files, send, root=user_ids.root_of(job) if job else (0, 0))

    def _make(self, launch: Launch, around: Surroundings) -> None:
        task_id, folder = launch.task_id, self.tasks_dir / launch.task_id
        demands = demands_of(launch, around.devices.rules)
        groups, oom_file = self.cgroups.places(task_id, demands)
        places = Places(
            folder=str(folder),
            log_dir=str(self.logs_dir / task_id),
            layers_dir=str(self.images.layers_dir),
            cgroups=groups,
            cgroup_mounts=self.cgroups.mounts(task_id, demands),
            oom_file=oom_file,
            hidden=[str(path) for path in self.hidden],
            given=self.files.mounts(task_id, launch.files),
        )
        job = plan_job(launch, places, around)
        ids = id_ranges.of_task(self.ids, launch.spec)
        if ids is not None:
            has_own_network = launch.sandbox.netns != HOST_NETWORK
            id_ranges.check(launch.spec, is_host_image=job["is_host"], is_host_network=not has_own_network)
            job["ids"], job["group_ids"] = [*ids.users], [*ids.groups]
        self.cgroups.create(task_id, demands)
        self.files.write(task_id, launch.files, root=user_ids.root_of(job))
        folders.create(folder, job)
