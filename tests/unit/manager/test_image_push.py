"""Images from a manager to a node over a stream: real folders and stores, no network between."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from image_files import digest, image_config, tar_of, write_docker_save, write_layout
from stream_rig import NODE, StreamRig

from agent.executor.images import shipping
from agent.executor.images.archive import own_architecture
from agent.executor.images.intake import StoreIntake
from agent.executor.images.store import ImageStore
from agent.image_receiver import ImageReceiver
from agent.received import ReceivedBlobs
from manager import image_push
from manager.image_push import Step, Target
from swarmpy.errors import NotFound
from swarmpy.model.image_offers import Offer, Receipt
from swarmpy.node.image_shipping import FolderParcel
from swarmpy.runtime import SystemClock

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="unpacking sets owners")]

BASE = tar_of(("base", b"b" * 1_500_000))
TOP, OTHER = tar_of(("top", b"one")), tar_of(("top", b"two"))
HERE = Target(NODE, "node-1", own_architecture())
DEADLINE_S = 60.0


@dataclass
class Node:
    """A node's store and what receives for it. ``steps``: what the manager has reported."""

    folder: Path
    store: ImageStore = field(init=False)
    blobs: ReceivedBlobs = field(init=False)
    receiver: ImageReceiver = field(init=False)
    steps: list[Step] = field(default_factory=list)
    parcels: int = 0

    def __post_init__(self) -> None:
        self.store = ImageStore(self.folder / "images")
        self.store.prepare()
        self.restart()

    def restart(self) -> None:
        self.blobs = ReceivedBlobs(self.folder / "received")
        self.receiver = ImageReceiver(StoreIntake(self.store), self.blobs, SystemClock())
        self.receiver.prepare()

    @property
    def left(self) -> list[str]:
        """What lies among the received blobs."""
        return sorted(path.name for path in (self.folder / "received").rglob("*") if path.is_file())

    def parcel(self, archive: Path, *, name: str = "") -> FolderParcel:
        self.parcels += 1
        folder = self.folder / f"parcel{self.parcels}"
        folder.mkdir()
        shipped = shipping.of_archive(archive, folder, name=name, architectures={own_architecture()})
        return FolderParcel(shipped)

    async def push(self, parcel: image_push.Parcel, target: Target = HERE) -> Step:
        """How it ended."""
        async with self.rig() as rig:
            return await self.push_over(rig, parcel, target)

    async def push_over(self, rig: StreamRig, parcel: image_push.Parcel, target: Target = HERE) -> Step:
        self.steps.clear()
        async with asyncio.timeout(DEADLINE_S):
            await image_push.push(rig.streams, parcel, [target], self.steps.append)
        assert not rig.hub, "no stream is left open"
        return self.steps[-1]

    @contextlib.asynccontextmanager
    async def rig(self) -> AsyncIterator[StreamRig]:
        async with asyncio.TaskGroup() as tasks:
            yield StreamRig(tasks, talks=self.receiver.talks)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "node")


def receipt_of(step: Step) -> Receipt:
    assert step.receipt is not None, step.error
    return step.receipt


def saved(path: Path, *layers: bytes, name: str = "app:1") -> Path:
    return write_docker_save(path, list(layers), names=[name], Cmd=["sh"])


async def test_only_what_is_missing_is_sent(node: Node, tmp_path: Path) -> None:
    one = saved(tmp_path / "one.tar", BASE, TOP)
    receipt = receipt_of(await node.push(node.parcel(one)))
    assert receipt == Receipt(
        names=("app:1",), layers_here=0, layers_sent=2, layer_bytes=len(BASE) + len(TOP)
    )
    elsewhere = Node(tmp_path / "elsewhere")
    elsewhere.store.load(one)
    assert node.store.find("app:1").id == elsewhere.store.find("app:1").id
    again = receipt_of(await node.push(node.parcel(one)))
    assert again == Receipt(names=("app:1",), layers_here=2)
    two = saved(tmp_path / "two.tar", BASE, OTHER, name="app:2")
    assert receipt_of(await node.push(node.parcel(two))) == Receipt(
        names=("app:2",), layers_here=1, layers_sent=1, layer_bytes=len(OTHER)
    )
    assert [image.tags for image in node.store.images()].count(("app:2",)) == 1
    assert node.left == []


async def test_a_layer_that_is_here_in_another_form_is_not_sent(node: Node, tmp_path: Path) -> None:
    node.store.load(write_layout(tmp_path / "packed", [BASE], name="base:1"), name="base:1")
    plain = receipt_of(await node.push(node.parcel(saved(tmp_path / "plain.tar", BASE, TOP))))
    assert (plain.layers_here, plain.layers_sent) == (1, 1)
    record = node.store.find("app:1").record
    assert record.blobs == (digest(gzip.compress(BASE, mtime=0)), digest(TOP))
    assert record.diff_ids == (digest(BASE), digest(TOP))

    layout = write_layout(tmp_path / "both", [BASE, TOP], name="both:1", is_gzipped=True)
    packed = receipt_of(await node.push(node.parcel(layout, name="both:1")))
    assert (packed.layers_here, packed.layer_bytes) == (2, 0)
    assert node.store.find("both:1").record.manifest == "", "it would name bytes that are not here"


async def test_a_layout_keeps_its_manifest(node: Node, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", [BASE], name="app:1")
    await node.push(node.parcel(layout, name="app:1"))
    record = node.store.find("app:1").record
    assert record.manifest
    assert node.store.blob_path(record.manifest).read_bytes()


async def test_a_root_file_system_is_the_image_that_load_makes_of_it(node: Node, tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(tar_of(("etc", None), ("etc/.wh.name", b"kept")))
    receipt = receipt_of(await node.push(node.parcel(tmp_path / "root.tar")))
    assert (receipt.names, receipt.layers_sent) == (("root:latest",), 1)
    image = node.store.find("root")
    (layer,) = image.record.config.layers
    assert (node.store.layers_dir / layer / "etc" / ".wh.name").read_bytes() == b"kept"
    elsewhere = Node(tmp_path / "elsewhere")
    elsewhere.store.load(tmp_path / "root.tar")
    assert elsewhere.store.find("root").id == image.id
    assert receipt_of(await node.push(node.parcel(tmp_path / "root.tar"))).layers_sent == 0


async def test_what_the_store_has_is_pushed(node: Node, tmp_path: Path) -> None:
    here = Node(tmp_path / "here")
    here.store.load(saved(tmp_path / "one.tar", BASE, TOP))
    (tmp_path / "root.tar").write_bytes(tar_of(("etc", None)))
    here.store.load(tmp_path / "root.tar")
    for name, layers in (("app:1", 2), ("root:latest", 1)):
        folder = tmp_path / f"shipped-{layers}"
        folder.mkdir()
        image = here.store.find(name)
        shipped = shipping.of_stored(
            here.store, [(image, image.tags)], folder, architectures={own_architecture(), "riscv64"}
        )
        assert "linux/riscv64" in shipped.refusals["riscv64"]
        assert receipt_of(await node.push(FolderParcel(shipped))).layers_sent == layers
        assert node.store.find(name).record.config == image.record.config


class Breaking:
    """A parcel that does something when so much was read of its blobs."""

    def __init__(self, inner: FolderParcel, at_bytes: int, then: Callable[[], None]) -> None:
        self.offers, self.refusals = inner.offers, inner.refusals
        self._inner = inner
        self._left = at_bytes
        self._then = then

    async def read(self, digest_: str, offset: int) -> AsyncGenerator[bytes]:
        async for piece in self._inner.read(digest_, offset):
            yield piece
            self._left -= len(piece)
            if self._left < 0:
                self._then()


async def test_a_node_that_is_away_for_a_moment_is_waited_for(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that was promoted: its connections break, and come again with its new certificate."""
    one = saved(tmp_path / "one.tar", TOP, BASE)
    write, loop = node.blobs.write, asyncio.get_running_loop()

    def go_away() -> None:
        rig.has_session = False
        rig.cut()
        loop.call_later(0.3, rig.renew_session)

    def then_away(digest_: str, offset: int, data: bytes) -> None:
        write(digest_, offset, data)
        if digest_ == digest(BASE) and offset and rig.session is rig:
            loop.call_soon_threadsafe(go_away)

    async with node.rig() as rig:
        monkeypatch.setattr(node.blobs, "write", then_away)
        receipt = receipt_of(await node.push_over(rig, node.parcel(one)))
    assert (receipt.layers_here, receipt.layers_sent) == (1, 1), "what came is not sent twice"
    assert 0 < receipt.layer_bytes < len(BASE)
    assert any(step.doing == "waiting for the node" for step in node.steps)


async def test_of_a_node_that_stays_away_it_is_told_what_broke(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_push, "IMAGE_RETURN_S", 0.3)

    def go_away() -> None:
        rig.has_session = False
        rig.cut()

    async with node.rig() as rig:
        parcel = node.parcel(saved(tmp_path / "one.tar", BASE))
        last = await node.push_over(rig, Breaking(parcel, 300_000, go_away))
    assert "the connection to node node-1 is lost" in last.error


async def test_a_stream_that_breaks_leaves_no_image_and_the_next_try_goes_on(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = saved(tmp_path / "one.tar", TOP, BASE)
    write, loop = node.blobs.write, asyncio.get_running_loop()

    def then_cut(digest_: str, offset: int, data: bytes) -> None:
        write(digest_, offset, data)
        if digest_ == digest(BASE) and offset:
            loop.call_soon_threadsafe(rig.cut)

    monkeypatch.setattr(image_push, "IMAGE_RETURN_S", 0.0)
    async with node.rig() as rig:
        monkeypatch.setattr(node.blobs, "write", then_cut)
        broken = await node.push_over(rig, node.parcel(one))
    assert "connection to node" in broken.error
    assert broken.receipt is None
    assert node.store.images() == ()
    assert digest(TOP).removeprefix("sha256:") in node.left, "it came whole"
    assert [path.name for path in node.store.layers_dir.iterdir()] == []
    node.restart()
    retried = receipt_of(await node.push(node.parcel(one)))
    assert (retried.layers_here, retried.layers_sent) == (1, 1)
    assert 0 < retried.layer_bytes < len(BASE)
    assert node.store.find("app:1")
    assert node.left == []


async def test_a_change_of_leader_is_told_and_a_retry_ends_well(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_push, "IMAGE_RETURN_S", 0.0)
    one = saved(tmp_path / "one.tar", BASE)
    async with node.rig() as rig:
        broken = await node.push_over(rig, Breaking(node.parcel(one), 300_000, rig.hub.close))
    assert "leader of the swarm has changed" in broken.error
    assert node.store.images() == ()
    assert receipt_of(await node.push(node.parcel(one))).layers_sent == 1


async def test_wrong_bytes_are_never_stored(node: Node, tmp_path: Path) -> None:
    parcel = node.parcel(saved(tmp_path / "one.tar", BASE, TOP))
    (path,) = (node.folder / "parcel1").glob(digest(TOP).removeprefix("sha256:"))
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    step = await node.push(parcel)
    assert "did not come whole" in step.error
    assert node.store.images() == ()


async def test_a_layer_that_unpacks_to_something_else_changes_nothing(node: Node, tmp_path: Path) -> None:
    folder = write_layout(tmp_path / "layout", [BASE, TOP], name="app:1")
    bad = gzip.compress(OTHER, mtime=0)
    index = (folder / "index.json").read_text()
    manifest_digest = index.split('"digest": "')[1].split('"')[0]
    path = folder / "blobs" / "sha256" / manifest_digest.removeprefix("sha256:")
    text = path.read_text().replace(digest(gzip.compress(TOP, mtime=0)), digest(bad)).encode()
    for data in (bad, text):
        (folder / "blobs" / "sha256" / digest(data).removeprefix("sha256:")).write_bytes(data)
    (folder / "index.json").write_text(index.replace(manifest_digest, digest(text)))
    step = await node.push(node.parcel(folder, name="app:1"))
    assert "does not unpack to the digest" in step.error
    assert (node.store.images(), node.left) == ((), []), "it need not be kept for another try"


async def test_a_full_disk_is_told_and_leaves_nothing(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = node.blobs.write

    def full(digest_: str, offset: int, data: bytes) -> None:
        if offset > 0:
            raise OSError(28, "No space left on device")
        write(digest_, offset, data)

    monkeypatch.setattr(node.blobs, "write", full)
    step = await node.push(node.parcel(saved(tmp_path / "one.tar", BASE)))
    assert step.error == "cannot store the image: No space left on device"
    assert (node.store.images(), node.left) == ((), [])


async def test_a_node_takes_one_push_at_a_time(node: Node, tmp_path: Path) -> None:
    parcels = [
        node.parcel(saved(tmp_path / f"{number}.tar", BASE, TOP, name=f"app:{number}")) for number in (1, 2)
    ]
    async with node.rig() as rig:
        steps: list[Step] = []
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
            for parcel in parcels:
                tasks.create_task(image_push.push(rig.streams, parcel, [HERE], steps.append))
    sent = [step.receipt.layers_sent for step in steps if step.receipt is not None]
    assert sorted(sent) == [0, 2]
    assert {tag for image in node.store.images() for tag in image.tags} == {"app:1", "app:2"}


async def test_an_image_that_is_removed_meanwhile_is_asked_for_by_the_next_try(
    node: Node, tmp_path: Path
) -> None:
    one = saved(tmp_path / "one.tar", BASE, TOP)
    node.store.load(one)
    two = node.parcel(saved(tmp_path / "two.tar", BASE, OTHER, name="app:2"))
    async with node.rig() as rig:
        step = await node.push_over(rig, Breaking(two, 0, lambda: _remove(node.store, "app:1")))
    assert "removed meanwhile: push the image again" in step.error
    assert node.store.images() == ()
    assert receipt_of(await node.push(two)).layers_sent == 1 + 0, "the other layer has come already"


def _remove(store: ImageStore, name: str) -> None:
    with contextlib.suppress(NotFound):
        store.remove(name)


async def test_nodes_are_told_apart(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One gets it; one has no session, one is down, one is of another platform: each with its own words."""
    monkeypatch.setattr(image_push, "IMAGE_RETURN_S", 0.0)
    parcel = node.parcel(saved(tmp_path / "one.tar", TOP))
    targets = [
        HERE,
        Target(NODE, "other", "riscv64"),
        Target(NODE, "down", own_architecture(), "node down is down"),
    ]
    last: dict[str, Step] = {}
    async with node.rig() as rig:
        await image_push.push(
            rig.streams, parcel, targets, lambda step: last.update({step.target.name: step})
        )
        rig.has_session = False
        gone = await node.push_over(rig, parcel)
    assert receipt_of(last["node-1"]).layers_sent == 1
    assert "has not said yet what it is" in last["other"].error
    assert last["down"].error == "node down is down"
    assert "has no session with the leader" in gone.error


async def test_a_node_refuses_what_is_for_another_machine(node: Node, tmp_path: Path) -> None:
    """Also if the manager did not notice."""
    other = image_config([TOP]).replace(b"amd64", b"riscv64")
    folder = tmp_path / "blobs"
    folder.mkdir()
    for data in (other, TOP):
        (folder / digest(data).removeprefix("sha256:")).write_bytes(data)
    (sent,) = node.parcel(saved(tmp_path / "one.tar", TOP)).offers[own_architecture()].images
    config = type(sent.config)(digest=digest(other), size=len(other))
    image = type(sent)(id=digest(other), names=("app:1",), config=config, layers=sent.layers)
    offers = {own_architecture(): Offer(images=(image,))}
    step = await node.push(FolderParcel(shipping.Shipment(folder=folder, offers=offers)))
    assert "the image is for linux/riscv64, and this node is" in step.error
    assert node.store.images() == ()
    shutil.rmtree(folder)
