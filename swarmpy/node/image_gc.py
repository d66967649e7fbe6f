"""The node's images that nobody uses are given up, now and then: the loop around ``plan_collection``. So is
what has come of images that were never sent whole, and what a crash has left.

An image that a task stands on is noted as used at each round, so its age counts from its last task's end. One
whose use was never noted (an older version kept no notes) counts from the first round that sees it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from agent.executor.images.collection import Candidate, Disk, Rules, Victim, is_fetchable, plan_collection
from agent.executor.images.store import ImageStore, StoredImage
from agent.executor.native.image_users import image_users, layers_in_use
from agent.received import ReceivedBlobs
from swarmpy.image_events import ImageEvents
from swarmpy.image_limits import IMAGE_GC_FIRST_S, IMAGE_GC_PERIOD_S
from swarmpy.model.ids import Timestamp
from swarmpy.runtime import Env

log = structlog.get_logger(__name__)


class Collected(NamedTuple):
    """An image that went, with all of its names."""

    id: str
    names: tuple[str, ...]
    labels: Mapping[str, Any]


class ImageCollector:
    """Of the store in this data folder, whose tasks are there, too. ``events``: are told what went."""

    def __init__(self, data_dir: Path, env: Env, rules: Rules, events: ImageEvents) -> None:
        self._data_dir = data_dir
        self._tasks_dir = data_dir / "tasks"
        self._clock = env.clock
        self._store = ImageStore(data_dir / "images", env.clock.now)
        self._received = ReceivedBlobs(data_dir / "images" / "received")
        self._rules = rules
        self._events = events

    async def run(self) -> None:
        """Until cancelled."""
        await asyncio.sleep(IMAGE_GC_FIRST_S)
        while True:
            try:
                for gone in await asyncio.to_thread(self.collect):
                    self._events.tell_removed(
                        gone.id, names=len(gone.names), is_deleted=True, labels=gone.labels
                    )
            except Exception:  # the loop's top: a record that cannot be read must not end the daemon
                log.exception("images_not_collected")
            await asyncio.sleep(IMAGE_GC_PERIOD_S)

    def collect(self) -> tuple[Collected, ...]:
        """One round; blocks. The images that went."""
        now, images = self._clock.now(), self._store.images()
        self._received.sweep((), now)
        self._store.sweep(self._layers_in_use)
        if not images:
            return ()
        users = image_users(self._tasks_dir, images)
        self._note_used(images, users, now)
        candidates = [self._candidate(image, is_needed=image.id in users, now=now) for image in images]
        usage = shutil.disk_usage(self._data_dir)
        victims = plan_collection(
            candidates,
            rules=self._rules,
            disk=Disk(usage.used + usage.free, usage.used),  # what is kept for root alone counts for nobody
            now=now,
            needed_parts=self._layers_in_use(),
        )
        named = {image.id: image for image in images}
        gone = [self._give_up(victim, named[victim.id]) for victim in victims]
        self._store.marks.keep({image.id for image in self._store.images()})
        return tuple(each for each in gone if each is not None)

    def _layers_in_use(self) -> set[str]:
        return layers_in_use(self._tasks_dir)

    def _note_used(self, images: Sequence[StoredImage], used: Collection[str], now: Timestamp) -> None:
        for image in images:
            if image.id in used or self._store.last_used(image) is None:
                self._store.marks.note(image.id, now)

    def _candidate(self, image: StoredImage, *, is_needed: bool, now: Timestamp) -> Candidate:
        layers = dict(zip(image.record.config.layers, image.record.layer_sizes, strict=False))
        blobs = {digest: self._size(digest) for digest in image.record.kept_blobs()}
        noted = self._store.last_used(image)
        return Candidate(
            id=image.id,
            last_used=now if noted is None else noted,
            is_needed=is_needed,
            is_fetchable=is_fetchable(image),
            parts={**layers, **blobs},
        )

    def _size(self, digest: str) -> int:
        try:
            return os.stat(self._store.blob_path(digest)).st_size
        except FileNotFoundError:
            return 0

    def _give_up(self, victim: Victim, image: StoredImage) -> Collected | None:
        """A task may have been made meanwhile: its image was noted as used before, so it stays."""
        labels = self._store.labels(image)
        if not self._store.give_up(victim.id, last_used=victim.last_used, layers_in_use=self._layers_in_use):
            return None
        log.info(
            "image_collected",
            image_id=victim.id,
            names=image.references,
            reason=victim.reason.value,
            unused_s=(self._clock.now() - victim.last_used) // 1_000_000_000,
        )
        return Collected(image.id, image.references, labels)
