"""Which images a node gives up by itself: those that no task has used for long, and, when its disk is nearly
full, those that were used longest ago. Pure.

Never one that a task was made from, whatever state that is in; never one that cannot be fetched again, since
a name of it, or all of it, came from no registry; never one that was brought or used a moment ago, for
somebody may be about to use it.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from agent.executor.images.records import StoredImage
from swarmpy.image_limits import IMAGE_GC_AGE_MIN_S, IMAGE_GC_FRESH_S
from swarmpy.model.ids import SECOND_NS, Duration, Timestamp
from swarmpy.model.image_names import repository_of


class Reason(enum.StrEnum):
    AGE = "age"
    DISK = "disk"


class Rules(NamedTuple):
    """``age``: unused for so long, 0 for ever. Above ``high_percent`` of the disk images go until
    ``low_percent``; 0: whatever the disk holds."""

    age: Duration
    high_percent: int
    low_percent: int


class Candidate(NamedTuple):
    """``is_needed``: a task was made from it. ``parts``: what lies on the disk for it, and how many bytes."""

    id: str
    last_used: Timestamp
    is_needed: bool
    is_fetchable: bool
    parts: Mapping[str, int]


class Disk(NamedTuple):
    total_bytes: int
    used_bytes: int


class Victim(NamedTuple):
    id: str
    reason: Reason
    last_used: Timestamp


def is_fetchable(image: StoredImage) -> bool:
    """Whether all of its names came from, or went to, a registry."""
    fetched = {repository_of(name) for name in image.digests}
    return bool(fetched) and all(repository_of(name) in fetched for name in image.tags)


def plan_collection(
    images: Sequence[Candidate],
    *,
    rules: Rules,
    disk: Disk,
    now: Timestamp,
    needed_parts: Collection[str] = (),
) -> tuple[Victim, ...]:
    """In the order in which they are to go, longest unused first. ``needed_parts``: of tasks."""
    unused = sorted(
        (image for image in images if image.is_fetchable and not image.is_needed),
        key=lambda image: (image.last_used, image.id),
    )
    users = Counter(part for image in images for part in image.parts)
    users.update(needed_parts)
    to_free = _to_free(rules, disk)
    victims = []
    for image in unused:
        unused_s = (now - image.last_used) // SECOND_NS
        is_old = bool(rules.age) and unused_s >= max(rules.age // SECOND_NS, IMAGE_GC_AGE_MIN_S)
        is_in_the_way = to_free > 0 and unused_s >= IMAGE_GC_FRESH_S
        if not is_old and not is_in_the_way:
            break  # those that follow are younger
        victims.append(Victim(image.id, Reason.AGE if is_old else Reason.DISK, image.last_used))
        users.subtract(image.parts.keys())
        to_free -= sum(size for part, size in image.parts.items() if not users[part])
    return tuple(victims)


def _to_free(rules: Rules, disk: Disk) -> int:
    if not rules.high_percent or disk.used_bytes * 100 < disk.total_bytes * rules.high_percent:
        return 0
    return disk.used_bytes - disk.total_bytes * rules.low_percent // 100
