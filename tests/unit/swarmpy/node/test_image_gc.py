"""The loop around ``plan_collection``, on a real store: what it notes, what it removes, what it leaves."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from image_files import tar_of, write_layout

from agent.executor.images.collection import Rules, plan_collection
from agent.executor.images.removal import ImageUser
from agent.executor.images.store import ImageStore
from swarmpy.image_events import ImageEvents
from swarmpy.model.ids import SECOND_NS, Duration, Timestamp
from swarmpy.node import image_gc
from swarmpy.node.image_gc import ImageCollector
from swarmpy.runtime import Env, SystemClock

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="unpacking sets owners")]

DAY = 86_400
RULES = Rules(Duration(10 * DAY * SECOND_NS), 0, 0)


class Clock(SystemClock):
    def __init__(self) -> None:
        self.later_s = 0

    def now(self) -> Timestamp:
        return Timestamp(super().now() + self.later_s * SECOND_NS)


class Rig:
    """A store with ``users`` in place of its tasks."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.store = ImageStore(folder / "images", self.clock.now)
        self.store.prepare()
        self.folder = folder
        self.users: dict[str, tuple[ImageUser, ...]] = {}
        monkeypatch.setattr(image_gc, "image_users", lambda _, images: self.users)
        self.events = ImageEvents(self.clock)
        self.collector = ImageCollector(folder, Env(clock=self.clock), RULES, self.events)

    def collect(self) -> tuple[str, ...]:
        return tuple(gone.id for gone in self.collector.collect())

    def add(self, name: str, *, is_fetched: bool = True) -> str:
        layout = write_layout(self.folder / name, [tar_of((f"etc/{name}", name.encode()))], name=name)
        if not is_fetched:
            return self.store.find(self.store.load(layout, name=name)[0]).id
        names = (f"{name}:latest", f"{name}@sha256:{'a' * 64}")
        return self.store.load_pulled(layout, names).id


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(tmp_path, monkeypatch)


def test_an_age_counts_from_the_last_use(rig: Rig) -> None:
    old, used, loaded = rig.add("old"), rig.add("used"), rig.add("loaded", is_fetched=False)
    task = (ImageUser("task", is_running=False),)
    rig.users = {used: task}
    assert rig.collect() == ()  # begins to count
    rig.clock.later_s = 9 * DAY
    assert rig.collect() == ()
    rig.clock.later_s = 10 * DAY + 1
    assert rig.collect() == (old,)
    assert {image.id for image in rig.store.images()} == {used, loaded}
    assert len(list((rig.folder / "images" / "layers").iterdir())) == 2
    assert {path.name for path in (rig.folder / "images" / "used").iterdir()} == {
        id_.removeprefix("sha256:") for id_ in (used, loaded)
    }
    rig.users = {}
    rig.clock.later_s = 20 * DAY
    assert rig.collect() == ()  # its task was there ten days ago
    rig.clock.later_s = 20 * DAY + 2
    assert rig.collect() == (used,)


def test_a_task_that_is_being_made_keeps_its_image(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    old = rig.add("old")
    rig.collect()
    rig.clock.later_s = 11 * DAY
    plan = plan_collection

    def planned(*arguments: object, **more: object) -> object:
        victims = plan(*arguments, **more)  # type: ignore[arg-type]
        assert [victim.id for victim in victims] == [old]
        rig.store.use("old")  # in the middle of the round
        return victims

    monkeypatch.setattr(image_gc, "plan_collection", planned)
    assert rig.collect() == ()
    assert rig.store.find("old").id == old


def test_what_a_crash_left_goes(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer appears before the record of its image. One that a task stands on stays, whatever its image."""
    rig.add("app")
    images = rig.folder / "images"
    (kept,) = (images / "layers").iterdir()
    for name in ("left", "in-use"):
        (images / "layers" / name / "etc").mkdir(parents=True)
    (images / "blobs" / "left").touch()
    monkeypatch.setattr(image_gc, "layers_in_use", lambda _: {"in-use"})
    rig.collect()
    assert {path.name for path in (images / "layers").iterdir()} == {kept.name, "in-use"}
    assert not (images / "blobs" / "left").exists()
    assert list((images / "work").iterdir()) == []


async def test_what_went_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of an image that somebody has removed by its id."""
    id_ = rig.add("old")
    rig.collect()
    rig.clock.later_s = 11 * DAY
    monkeypatch.setattr(image_gc, "IMAGE_GC_FIRST_S", 0.0)
    async with asyncio.timeout(10):
        collecting = asyncio.create_task(rig.collector.run())
        await rig.events.recent.wait_beyond(2)
        collecting.cancel()
    told = rig.events.recent.beginning_with(0)
    assert [(event.action, event.id) for event in told] == [("untag", id_), ("untag", id_), ("delete", id_)]


def test_a_name_that_is_given_anew_counts_as_use(rig: Rig) -> None:
    old = rig.add("old")
    rig.collect()
    rig.clock.later_s = 9 * DAY
    rig.add("old")
    rig.clock.later_s = 11 * DAY
    assert rig.collect() == ()
    assert rig.store.find("old").id == old
