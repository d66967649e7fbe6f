"""Which tasks on this node were made from which image: while a task's folder is there, it uses its image."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from agent.executor.images.records import StoredImage
from agent.executor.images.removal import ImageUser
from agent.executor.native import folders


def image_users(tasks_dir: Path, images: Iterable[StoredImage]) -> dict[str, tuple[ImageUser, ...]]:
    """Image's id -> its tasks, what runs first. Of older jobs the image is known by its name alone."""
    by_name = {name: image.id for image in images for name in image.references}
    users: dict[str, list[ImageUser]] = {}
    for folder in sorted(tasks_dir.glob("*")):
        job = folders.read_job(folder)
        if job is None or job["is_host"]:
            continue
        image_id = job.get("image_id") or by_name.get(job["image"], "")
        state = folders.read_state(folder)
        is_running = state.shim != 0 or (state.started is not None and state.ended is None)
        users.setdefault(image_id, []).append(ImageUser(job["task_id"], is_running))
    return {
        image_id: tuple(sorted(found, key=lambda user: (not user.is_running, user.task_id)))
        for image_id, found in users.items()
    }


def layers_in_use(tasks_dir: Path) -> set[str]:
    jobs = [job for folder in tasks_dir.glob("*") if (job := folders.read_job(folder)) is not None]
    return {layer for job in jobs for layer in folders.layers_of(job)}
