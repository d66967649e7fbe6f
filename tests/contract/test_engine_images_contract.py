"""A node's images are those of its Podman or Docker: what its API and other nodes may do with them."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from docker_engine import box_tar
from docker_rig import docker_daemon, has_docker
from engine_rig import SharedEngine
from podman_rig import has_podman, podman_engine

from agent.executor.engine.image_intake import BLOBS, EngineIntake
from agent.executor.images.archive import own_architecture
from swarmpy.errors import AlreadyExists, InvalidArgument, NotFound, SwarmError
from swarmpy.model.image_offers import PushSource
from swarmpy.model.images import Import, Progress
from swarmpy.node.engine_images import EngineImages
from swarmpy.runtime import Env

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not (has_docker() and has_podman()), reason="needs root, dockerd and podman"),
]


@pytest.fixture(scope="module", params=["podman", "docker"])
def engine(request: pytest.FixtureRequest) -> Iterator[SharedEngine]:
    with ExitStack() as stack:
        if request.param == "docker":
            yield stack.enter_context(docker_daemon())[1]
        else:
            yield stack.enter_context(podman_engine())


@pytest.fixture
def images(tmp_path: Path, engine: SharedEngine) -> EngineImages:
    images = EngineImages(tmp_path, Env(), flavour=engine.flavour, socket=engine.socket)
    images.prepare()
    return images


async def pieces(data: bytes = b"") -> AsyncIterator[bytes]:
    for at in range(0, len(data), 100_000):
        yield data[at : at + 100_000]


async def imported(images: EngineImages, name: str) -> str:
    changes = ('CMD ["sleep","9"]', "ENV A=b", "LABEL kind=test")
    return await images.import_rootfs(pieces(box_tar()), Import(name=name, comment="why", changes=changes))


@pytest.fixture(scope="module")
def base(engine: SharedEngine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image that every test may name as it likes: to import one takes Podman seconds."""
    images = EngineImages(
        tmp_path_factory.mktemp("base"), Env(), flavour=engine.flavour, socket=engine.socket
    )
    images.prepare()
    return asyncio.run(imported(images, "base:1"))


async def names(images: EngineImages) -> set[str]:
    return {tag for image in await images.list() for tag in image.tags}


async def test_from_its_import_to_its_end(images: EngineImages) -> None:
    id_ = await imported(images, "team/made:2")
    beginning = images.events.recent.next
    found = await images.find("team/made:2")
    assert (found.id, found.tags) == (id_, ("team/made:2",))
    assert found.config["config"]["Cmd"] == ["sleep", "9"]
    assert found.config["config"]["Labels"] == {"kind": "test"}
    assert len(found.diff_ids) == len(found.layer_sizes) == len(found.config["history"]) == 1
    assert found.created_at > 0
    await images.tag("team/made:2", "other", "x")
    assert {"team/made:2", "other:x"} <= await names(images)
    assert await images.usage() >= found.size_bytes
    first = await images.remove("team/made:2")
    assert (first.untagged, first.deleted, first.size_bytes) == (("team/made:2",), (), 0)
    last = await images.remove("other:x")
    assert last.untagged == ("other:x",)
    assert id_ in last.deleted
    assert last.size_bytes > 0
    told = images.events.recent.beginning_with(0)
    labels = {"kind": "test"}
    assert beginning == 2
    assert [(event.action, event.id, event.attributes) for event in told] == [
        ("tag", id_, {**labels, "name": "team/made:2"}),
        ("import", id_, {**labels, "name": id_}),
        ("tag", id_, {**labels, "name": "other:x"}),
        ("untag", id_, {**labels, "name": id_}),
        ("untag", id_, {**labels, "name": id_}),
        ("delete", id_, {"name": id_}),
    ]
    for name, shown in (("other:x", "other:x"), ("other", "other:latest")):
        with pytest.raises(NotFound, match=f"^No such image: {shown}$"):
            await images.find(name)


async def test_archives(images: EngineImages, base: str) -> None:
    await images.tag(base, "kept", "1")
    saved = b"".join([piece async for piece in images.save(("kept:1",))])
    await images.remove("kept:1")
    await images.remove("base:1")
    assert await images.load(pieces(saved)) == ("kept:1",)
    assert [(event.action, event.id) for event in images.events.recent.beginning_with(0)] == [
        *(("tag", base), ("save", base), ("untag", base), ("untag", base), ("delete", base), ("load", base)),
    ]
    assert (await images.find("kept:1")).id == base
    await images.tag("kept:1", "base", "1")
    assert await images.load(pieces(box_tar()), filename="bare.tar") == ("bare:latest",)
    bare = await images.find("bare")  # a step without a time is too much for Podman's own answer
    assert (bare.tags, len(bare.diff_ids), len(bare.config["history"])) == (("bare:latest",), 1, 1)
    with pytest.raises(InvalidArgument, match="no readable image archive"):
        await images.load(pieces(b"rubbish" * 1_000))
    with pytest.raises(InvalidArgument, match="empty"):
        await images.load(pieces())
    with pytest.raises(NotFound, match=r"^No such image: nobodys:1$"):
        await anext(aiter(images.save(("kept:1", "nobodys:1"))))
    with tarfile.open(fileobj=io.BytesIO(saved)) as tar:
        assert "manifest.json" in tar.getnames()


async def test_from_one_node_to_another(images: EngineImages, tmp_path: Path) -> None:
    """Under a name of its own, so that the image goes when that does."""
    id_ = await imported(images, "sent:1")
    async with images.parcel(
        PushSource(image="sent:1"), pieces(), architectures=(own_architecture(),)
    ) as parcel:
        offer = parcel.offers[own_architecture()]
        assert [image.id for image in offer.images] == [id_]
        folder = tmp_path / "received"
        (folder / BLOBS).mkdir(parents=True)
        intake = EngineIntake(images._served, tmp_path, asyncio.to_thread)
        assert await intake.missing(offer) == frozenset()
        await images.remove("sent:1")
        for digest in await intake.missing(offer):
            content = b"".join([piece async for piece in parcel.read(digest, 0)])
            (folder / BLOBS / digest.removeprefix("sha256:")).write_bytes(content)
    assert await intake.commit(offer, folder) == ("sent:1",)
    assert (await images.find("sent:1")).id == id_
    assert await intake.commit(offer, tmp_path / "nothing") == ("sent:1",)  # it only gets its names again


async def test_a_registry_that_is_not_there(images: EngineImages, base: str) -> None:
    told: list[Progress] = []
    with pytest.raises(SwarmError, match=r"127\.0\.0\.1:1"):
        await images.pull("127.0.0.1:1/none:1", told.append)
    await images.tag(base, "127.0.0.1:1/none", "2")
    with pytest.raises(SwarmError, match=r"127\.0\.0\.1:1"):
        await images.push("127.0.0.1:1/none:2", "", told.append)
    assert any("The push refers to repository [127.0.0.1:1/none" in step.status for step in told)


async def test_what_a_container_stands_on_stays(images: EngineImages) -> None:
    await imported(images, "used:1")
    async with images._served() as served:
        made = await served.call("POST", "/containers/create", body={"Image": "used:1", "Cmd": ["true"]})
        try:
            with pytest.raises(AlreadyExists):
                await images.remove("used:1")
        finally:
            await served.call("DELETE", f"/containers/{made['Id']}")
    await images.remove("used:1")
