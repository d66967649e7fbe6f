"""What becomes of an image that somebody wants removed: docker's rules, and its words where they forbid it.

Pure. A name goes first; the image goes with its last name, unless a task stands on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from agent.executor.images.records import StoredImage
from swarmpy.errors import AlreadyExists
from swarmpy.model.image_names import parse, repository_of

SHORT_ID_CHARS = 12


class ImageUser(NamedTuple):
    """A task that was made from an image."""

    task_id: str
    is_running: bool


class Removal(NamedTuple):
    """``untagged``: names that go, in order. ``is_deleted``: the image goes too."""

    untagged: tuple[str, ...]
    is_deleted: bool


def plan_removal(
    image: StoredImage, asked: str, users: Sequence[ImageUser], *, is_forced: bool = False
) -> Removal:
    """AlreadyExists (a conflict), in docker's words, if nothing may be removed."""
    if is_id_prefix(image.id, asked):
        return _by_id(image, users, is_forced=is_forced)
    if users and not is_forced and _is_single(image.references):
        raise AlreadyExists(
            f'conflict: unable to remove repository reference "{asked}" (must force) - '
            f"container {short(users[0].task_id)} is using its referenced image {short(image.id)}"
        )
    key = parse(asked).key
    gone = [key]
    left = [name for name in image.references if name != key]
    repository = repository_of(key)
    if "@" not in key and not any("@" not in name and repository_of(name) == repository for name in left):
        gone += [name for name in left if repository_of(name) == repository]
        left = [name for name in left if repository_of(name) != repository]
    return Removal(tuple(gone), not left and not any(user.is_running for user in users))


def _by_id(image: StoredImage, users: Sequence[ImageUser], *, is_forced: bool) -> Removal:
    running = next((user for user in users if user.is_running), None)
    if running is not None:
        raise _conflict(
            image, f"image is being used by running container {short(running.task_id)}", is_final=True
        )
    if not is_forced:
        if not _is_single(image.references):
            raise _conflict(image, "image is referenced in multiple repositories")
        if users:
            raise _conflict(image, f"image is being used by stopped container {short(users[0].task_id)}")
    return Removal(image.references, True)


def _conflict(image: StoredImage, reason: str, *, is_final: bool = False) -> AlreadyExists:
    force = "cannot be forced" if is_final else "must be forced"
    return AlreadyExists(f"conflict: unable to delete {short(image.id)} ({force}) - {reason}")


def is_id_prefix(id_: str, text: str) -> bool:
    return bool(text) and (id_.startswith(text) or id_.partition(":")[2].startswith(text))


def _is_single(references: Sequence[str]) -> bool:
    """One name, or one tag with digests of the same repository: to the user it is the same."""
    if len(references) <= 1:
        return True
    tags = [name for name in references if "@" not in name]
    if len(tags) > 1:
        return False
    repositories = {repository_of(name) for name in references if "@" in name}
    return repositories == {repository_of(tags[0] if tags else references[0])}


def chain_ids(diff_ids: Sequence[str]) -> tuple[str, ...]:
    """What docker calls each layer together with those below it."""
    chain: list[str] = []
    for diff_id in diff_ids:
        text = f"{chain[-1]} {diff_id}" if chain else ""
        chain.append("sha256:" + hashlib.sha256(text.encode()).hexdigest() if text else diff_id)
    return tuple(chain)


def short(id_: str) -> str:
    return id_.removeprefix("sha256:")[:SHORT_ID_CHARS]
