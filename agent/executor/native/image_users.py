"""Which tasks on this node stand on which image, be it as their root or as a mount: while a task's folder is
there, it uses its images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from agent.executor.images.records import StoredImage
from agent.executor.images.removal import ImageUser
from agent.executor.native import folders
from agent.executor.native.job import Job


def image_users(tasks_dir: Path, images: Iterable[StoredImage]) -> dict[str, tuple[ImageUser, ...]]:
    """Image's id -> its tasks, what runs first. Of older jobs the image is known by its name alone."""
    images = tuple(images)
    by_name = {name: image.id for image in images for name in image.references}
    users: dict[str, list[ImageUser]] = {}
    for folder in sorted(tasks_dir.glob("*")):
        job = folders.read_job(folder)
        if job is None:
            continue
        used = _mounted(job, images)
        if not job["is_host"]:
            used.add(job.get("image_id") or by_name.get(job["image"], ""))
        if not used:
            continue
        state = folders.read_state(folder)
        is_running = state.shim != 0 or (state.started is not None and state.ended is None)
        for image_id in used:
            users.setdefault(image_id, []).append(ImageUser(job["task_id"], is_running))
    return {
        image_id: tuple(sorted(found, key=lambda user: (not user.is_running, user.task_id)))
        for image_id, found in users.items()
    }


def _mounted(job: Job, images: Sequence[StoredImage]) -> set[str]:
    """A mount knows its image's layers, not its name."""
    mounted = {tuple(mount.get("layers", ())) for mount in job["mounts"]} - {()}
    return {image.id for image in images if image.record.config.layers in mounted}


def layers_in_use(tasks_dir: Path) -> set[str]:
    jobs = [job for folder in tasks_dir.glob("*") if (job := folders.read_job(folder)) is not None]
    return {layer for job in jobs for layer in folders.layers_of(job)}
