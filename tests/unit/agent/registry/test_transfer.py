"""Pulling from a registry that asks for tokens, has images for many machines, breaks off, lies."""

from __future__ import annotations

import asyncio
import gzip
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fake_registry import LAYERS, WHO, FakeRegistry, Node, digest, left_in_spool, node_in, served
from image_files import image_config, tar_of, write_docker_save

from agent.executor.images.archive import own_architecture
from agent.registry import client, remotes
from agent.registry.client import Denied, RegistryAway, RegistryFailed
from agent.registry.manifests import OCI_INDEX, OCI_MANIFEST
from agent.registry.sharing import SharedFetches
from agent.registry.transfer import layers_to_push
from swarmpy.errors import InvalidArgument, NotFound, SwarmError, Unauthenticated
from swarmpy.image_limits import REGISTRY_AWAY_S, REGISTRY_RETRY_AFTER_MAX_S
from swarmpy.model.image_names import parse
from swarmpy.model.images import Credentials

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="unpacking sets owners")]


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    async with served() as registry:
        yield registry


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return node_in(tmp_path)


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was to be waited before each repetition; nothing is waited."""
    noted: list[float] = []
    real = remotes.retry_delay

    def noting(attempt: int, retry_after: str = "") -> float:
        noted.append(real(attempt, retry_after))
        return 0.0

    monkeypatch.setattr(remotes, "retry_delay", noting)
    return noted


async def test_an_index_with_tokens(registry: FakeRegistry, node: Node) -> None:
    registry.wants_token = True
    ours, other = registry.add_image(), registry.add_image(layers=LAYERS[:1])
    platforms = {"architecture": "s390x", "os": "linux"}, {"architecture": own_architecture(), "os": "linux"}
    rows = [
        {"mediaType": OCI_MANIFEST, "digest": digest_, "size": 1, "platform": platform}
        for digest_, platform in zip((other, ours), platforms, strict=True)
    ]
    top = registry.put({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": rows}, OCI_INDEX, "1")
    name = f"{registry.host}/app"
    id_ = await node.pull(f"{name}:1", credentials=WHO)
    image = node.store.find(f"{name}:1")
    assert (image.id, image.digests) == (id_, (f"{name}@{top}",))
    assert image.record.manifest == ours
    facts = await node.transfers.look(parse(f"{name}:1"), WHO)
    assert (facts.digest, [each.architecture for each in facts.platforms]) == (
        top,
        ["s390x", own_architecture()],
    )
    assert await node.pull(f"{name}:1", platform="linux/s390x", credentials=WHO) != id_
    with pytest.raises(Unauthenticated, match="unauthorized: wrong"):
        await node.pull(f"{name}:1", credentials=Credentials(username="joe", password="bad"))
    with pytest.raises(NotFound, match="no matching manifest for linux/mips"):
        await node.pull(f"{name}:1", platform="linux/mips", credentials=WHO)


async def test_a_layer_that_breaks_off_goes_on_where_it_broke(
    registry: FakeRegistry, node: Node, delays: list[float]
) -> None:
    registry.add_image("1")
    registry.faults = ["cut", "busy", "cut"]
    await node.pull(f"{registry.host}/app:1")
    assert (node.store.layers_dir / node.store.config(f"{registry.host}/app:1").layers[0] / "etc/a").exists()
    assert registry.faults == []
    spool = node.store.layers_dir.parent.parent / "spool"
    assert list(spool.iterdir()) == []


async def test_only_what_is_missing_is_fetched(registry: FakeRegistry, node: Node) -> None:
    registry.add_image("1", layers=LAYERS[:1])
    registry.add_image("2")
    await node.pull(f"{registry.host}/app:1")
    registry.asked.clear()
    await node.pull(f"{registry.host}/app:2")
    large = digest(gzip.compress(LAYERS[0], mtime=0))
    assert not [asked for asked in registry.asked if large in asked]
    assert [step.status for step in node.said if step.id == large[7:19]][-1] == "Already exists"


async def test_a_registry_that_lies_leaves_nothing(registry: FakeRegistry, node: Node) -> None:
    registry.add_image("1")
    registry.faults = ["lie"]
    with pytest.raises(RegistryFailed, match="filesystem layer verification failed"):
        await node.pull(f"{registry.host}/app:1")
    other = registry.add_image("2", layers=LAYERS[1:])
    registry.manifests["sha256:" + "0" * 64] = registry.manifests[other]
    with pytest.raises(RegistryFailed, match="manifest verification failed"):
        await node.pull(f"{registry.host}/app@sha256:{'0' * 64}")
    registry.put({"schemaVersion": 1}, "text/plain", "3")
    with pytest.raises(InvalidArgument, match="not supported any more"):
        await node.pull(f"{registry.host}/app:3")
    assert node.store.images() == ()


async def test_errors_in_dockers_words(registry: FakeRegistry, node: Node) -> None:
    name = f"{registry.host}/app:9"
    with pytest.raises(NotFound, match=f"manifest for {name} not found: manifest unknown: gone"):
        await node.pull(name)
    registry.wants_token = True
    registry.add_image("1")
    with pytest.raises((Denied, Unauthenticated)):
        await node.pull(f"{registry.host}/app:1")


async def test_a_registry_that_is_away_is_left_alone_for_a_while(registry: FakeRegistry, node: Node) -> None:
    registry.add_image("1")
    right, registries = registry.host, node.transfers._registries
    registries._note_away(right, "it was away")
    name = parse(f"{right}/app:1")
    with pytest.raises(RegistryAway, match="it was away"):
        await node.transfers.look(name, Credentials())
    with pytest.raises(RegistryAway, match="it was away"):
        await node.transfers.pull(name, node.said.append, is_hurried=True)
    await node.pull(f"{right}/app:1")  # somebody asks for it now
    node.clock.later_s = REGISTRY_AWAY_S
    await node.transfers.look(name, Credentials())
    with pytest.raises(
        RegistryAway, match=r'Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: co'
    ):
        await node.pull("127.0.0.1:1/app:1")


async def test_a_busy_registry_is_asked_again_when_it_says(
    registry: FakeRegistry, node: Node, delays: list[float]
) -> None:
    registry.add_image("1")
    registry.refusals = [(429, "7"), (503, ""), (500, "99999")]
    await node.pull(f"{registry.host}/app:1")
    assert delays == [7.0, 1.0, REGISTRY_RETRY_AFTER_MAX_S]
    registry.refusals = [(429, "1")] * 4
    with pytest.raises(RegistryFailed, match="the registry answers 429 Too Many Requests"):
        await node.pull(f"{registry.host}/app:1")
    registry.refusals = [(200, ""), *[(429, "1")] * 4]
    with pytest.raises(RegistryFailed, match="unexpected status from the registry: 429 Too Many Requests"):
        await node.pull(f"{registry.host}/app:1")
    assert registry.refusals == []


async def test_a_registry_that_says_a_byte_now_and_then(
    registry: FakeRegistry, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them comes in time, and all of them never."""
    monkeypatch.setattr(client, "REGISTRY_SMALL_TIMEOUT_S", 0.05)
    registry.add_image("1")
    registry.drips = True
    async with asyncio.timeout(20):
        with pytest.raises(RegistryAway, match="deadline exceeded"):
            await node.pull(f"{registry.host}/app:1")
    assert left_in_spool(node) == []


async def test_a_registry_that_dies_in_the_middle(
    registry: FakeRegistry, node: Node, delays: list[float]
) -> None:
    # so large that some of it is read before the end is noticed
    registry.add_image("1", layers=(tar_of(("etc/a", os.urandom(1_500_000))),))
    # what has come counts anew each time that anything comes
    registry.faults = ["drop"] * 4 + ["cut"] + ["drop"] * 4 + ["less", "cut"]
    await node.pull(f"{registry.host}/app:1")
    assert registry.faults == []
    registry.add_image("2", layers=(tar_of(("etc/c", os.urandom(9_000))),))
    registry.faults = ["drop"] * 20
    with pytest.raises(RegistryFailed, match="Server disconnected"):
        await node.pull(f"{registry.host}/app:2")
    registry.faults.clear()
    assert left_in_spool(node) == []
    await node.pull(f"{registry.host}/app:2")
    registry.add_image("3", layers=(tar_of(("etc/d", os.urandom(9_000))),))
    registry.faults = ["less"] * 20
    with pytest.raises(RegistryFailed, match="unexpected EOF"):
        await node.pull(f"{registry.host}/app:3")
    assert left_in_spool(node) == []


def put(registry: FakeRegistry, name: str, *, layer: bytes, config: bytes) -> None:
    registry.put(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": registry.blob(config),
            "layers": [registry.blob(layer)],
        },
        OCI_MANIFEST,
        name,
    )


async def test_broken_images(registry: FakeRegistry, node: Node, delays: list[float]) -> None:
    good = gzip.compress(LAYERS[1], mtime=0)
    noise = os.urandom(2_000)
    put(registry, "layer", layer=noise, config=image_config([noise]))
    put(registry, "gzip", layer=good[:-9], config=image_config([LAYERS[1]]))
    put(registry, "json", layer=good, config=b"{")
    put(registry, "list", layer=good, config=b"[]")
    put(registry, "other", layer=good, config=image_config([LAYERS[0]]))
    put(registry, "more", layer=good, config=image_config(list(LAYERS)))
    put(registry, "gone", layer=b"x" * 2_000, config=image_config([b"x" * 2_000]))
    del registry.blobs[digest(b"x" * 2_000)]
    for tag, error, text in (
        ("layer", InvalidArgument, "the layer is no readable tar archive"),
        ("gzip", InvalidArgument, "what is compressed here cannot be read"),
        ("json", InvalidArgument, "is no JSON"),
        ("list", InvalidArgument, "does not name as many layers as the image has"),
        ("other", InvalidArgument, "does not unpack to the digest"),
        ("more", InvalidArgument, "does not name as many layers as the image has"),
        ("gone", NotFound, "manifest unknown: gone"),
    ):
        with pytest.raises(error, match=text):
            await node.pull(f"{registry.host}/app:{tag}")
        assert left_in_spool(node) == []
    assert node.store.images() == ()
    assert list(node.store.blobs_dir.iterdir()) == []
    assert list(node.store.layers_dir.iterdir()) == []
    with pytest.raises(InvalidArgument, match="is no JSON"):
        await node.transfers.look(parse(f"{registry.host}/app:json"), Credentials())


async def test_a_mirror_is_asked_first_and_not_told_who_asks(
    registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served() as mirror:
        monkeypatch.setattr(remotes, "DEFAULT_HOST", registry.host)
        node = node_in(tmp_path, mirrors=("http://127.0.0.1:1", f"http://{mirror.host}"))
        mirror.add_image("1")
        registry.add_image("2", layers=LAYERS[:1])
        registry.wants_token = True
        await node.pull("app:1", credentials=WHO)
        assert (await node.transfers.look(parse("app:1"), WHO)).digest in mirror.manifests
        assert registry.asked == []
        with pytest.raises(Unauthenticated):
            await node.pull("app:2")
        registry.wants_token = False
        await node.pull("app:2", credentials=WHO)
        assert node.store.find("app:2").digests == node.store.find("library/app:2").digests
        # a mirror that gives what it should not is passed over, too
        registry.add_image("3", layers=LAYERS[1:])
        mirror.add_image("3", layers=LAYERS[1:])
        mirror.blobs = dict.fromkeys(mirror.blobs, b"{}")
        await node.pull("app:3")
        mirror.asked.clear()
        name = registry.host.replace("127.0.0.1", "localhost")
        await node.pull(f"{name}/app:2")  # it is none of another registry's
        assert mirror.asked == []
        assert set(mirror.who) == {""}


@pytest.mark.parametrize(
    ("attempt", "retry_after", "expected"),
    [(0, "", 0.5), (1, "", 1.0), (9, "", 8.0), (3, "2", 2.0), (0, "90", 30.0), (0, "Wed, 21 Oct", 0.5)],
)
def test_delays(attempt: int, retry_after: str, expected: float) -> None:
    assert remotes.retry_delay(attempt, retry_after) == expected


class Fetching:
    def __init__(self) -> None:
        self.shared = SharedFetches()
        self.going = asyncio.Event()
        self.count = 0
        self.error: SwarmError | None = None

    async def fetch(self) -> None:
        self.count += 1
        await self.going.wait()
        if self.error is not None:
            raise self.error

    def start(self, name: str = "a") -> asyncio.Task[None]:
        return asyncio.create_task(self.shared.run((name, ""), self.fetch))


async def test_tasks_that_need_the_same_image_fetch_it_once() -> None:
    fetching = Fetching()
    tasks = [fetching.start() for _ in range(3)] + [fetching.start("b")]
    await asyncio.sleep(0)
    fetching.going.set()
    await asyncio.gather(*tasks)
    assert fetching.count == 2
    await fetching.start()
    assert fetching.count == 3


async def test_who_waits_hears_the_error_or_fetches_itself() -> None:
    fetching = Fetching()
    fetching.error = NotFound("there is none")
    tasks = [fetching.start() for _ in range(3)]
    await asyncio.sleep(0)
    fetching.going.set()
    assert [str(each) for each in await asyncio.gather(*tasks, return_exceptions=True)] == [
        "there is none"
    ] * 3
    assert fetching.count == 1
    fetching.going.clear()
    fetching.error = None
    first, *others = (fetching.start() for _ in range(3))
    await asyncio.sleep(0)
    first.cancel()
    while fetching.count < 3:
        await asyncio.sleep(0)
    fetching.going.set()
    await asyncio.gather(*others)
    assert fetching.count == 3
    assert first.cancelled()


def test_an_image_with_the_same_plain_layer_twice(node: Node, tmp_path: Path) -> None:
    layer = tar_of(("etc/a", b"a"))
    (name,) = node.store.load(write_docker_save(tmp_path / "app.tar", [layer, layer], names=["app:1"]))
    folder = tmp_path / "push"
    folder.mkdir()
    layers, files = layers_to_push(node.store, node.store.find(name), folder)
    for descriptor in layers:
        content = files[descriptor.digest].read_bytes()
        assert (digest(content), len(content)) == (descriptor.digest, descriptor.size)
