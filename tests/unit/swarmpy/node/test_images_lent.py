"""What is being given away stays whole, whoever removes the image meanwhile, and counts as used."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest
from image_files import tar_of, write_layout

from agent.executor.images.archive import own_architecture
from agent.executor.images.collection import Rules
from agent.executor.images.store import ImageStore
from swarmpy.errors import FailedPrecondition, NotFound
from swarmpy.model.ids import SECOND_NS, Duration, Timestamp
from swarmpy.model.image_offers import PushSource
from swarmpy.node.image_gc import ImageCollector
from swarmpy.node.images import Images
from swarmpy.runtime import Env, SystemClock

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="unpacking sets owners")]

DAY = 86_400
RULES = Rules(Duration(10 * DAY * SECOND_NS), 0, 0)
LAYERS = [tar_of(("a", b"a" * 1_000)), tar_of(("b", b"b" * 1_000)), tar_of(("c", b"c" * 1_000))]


class Clock(SystemClock):
    def __init__(self) -> None:
        self.later_s = 0

    def now(self) -> Timestamp:
        return Timestamp(super().now() + self.later_s * SECOND_NS)


class Node:
    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        env = Env(clock=self.clock)
        self.folder = folder
        self.images = Images(folder, env, is_offline=True)
        self.images.prepare()
        self.store = ImageStore(folder / "images", self.clock.now)
        self.collector = ImageCollector(folder, env, RULES, self.images.events)
        layout = write_layout(folder / "app", LAYERS, name="app")
        self.id = self.store.load_pulled(layout, ("app:latest", f"app@sha256:{'a' * 64}")).id
        assert self.collector.collect() == ()
        self.clock.later_s = 11 * DAY

    def spooled(self) -> list[Path]:
        return list((self.folder / "images" / "incoming").iterdir())


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def nothing() -> AsyncIterator[bytes]:
    for piece in tuple[bytes, ...]():
        yield piece


async def test_an_image_that_is_removed_is_saved_to_the_end(node: Node, tmp_path: Path) -> None:
    pieces = node.images.save(("app",))
    content = [await anext(pieces)]
    assert node.collector.collect() == ()  # it is being used
    node.store.remove("app", is_forced=True)
    with pytest.raises(NotFound):
        node.store.find("app")
    content += [piece async for piece in pieces]
    assert node.spooled() == []
    saved = tmp_path / "saved.tar"
    saved.write_bytes(b"".join(content))
    node.store.load(saved)
    assert node.store.find("app").id == node.id


async def test_a_save_that_is_left_leaves_nothing(node: Node) -> None:
    pieces = node.images.save(("app",))
    assert isinstance(pieces, AsyncGenerator)
    await anext(pieces)
    assert node.spooled()
    await pieces.aclose()
    assert node.spooled() == []


async def test_no_room_for_what_is_on_its_way(node: Node) -> None:
    """As on a disk that is full: an error that says so, at the first step of each."""
    (node.folder / "images" / "incoming").rmdir()
    with pytest.raises(FailedPrecondition, match="cannot store the image: No such file"):
        await node.images.load(nothing())
    with pytest.raises(FailedPrecondition, match="cannot store the image: No such file"):
        await anext(node.images.save(("app",)))
    source = PushSource(image="app")
    with pytest.raises(FailedPrecondition, match="cannot store the image: No such file"):
        async with node.images.parcel(source, nothing(), architectures=(own_architecture(),)):
            pass


async def test_an_image_that_goes_to_nodes_counts_as_used(node: Node) -> None:
    source = PushSource(image="app")
    async with node.images.parcel(source, nothing(), architectures=(own_architecture(),)) as parcel:
        assert node.collector.collect() == ()
        node.store.remove("app", is_forced=True)
        (offer,) = parcel.offers.values()
        for digest, blob in offer.blobs().items():
            content = [piece async for piece in parcel.read(digest, 0)]
            assert sum(map(len, content)) == blob.size
    assert node.spooled() == []


def test_what_went_before_it_was_lent_is_not_here(node: Node, tmp_path: Path) -> None:
    image = node.store.find("app")
    node.store.remove("app", is_forced=True)
    with pytest.raises(NotFound, match="No such image"):
        node.store.lend([image], tmp_path)
