"""Events of images over HTTP, out of a real store, on a node that leads and on one in no swarm."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from api_http import Http, spec
from api_node import FakeCluster, FakeNode
from image_files import tar_of, write_docker_save

from manager.api.events import is_wanted
from swarmpy import image_events
from swarmpy.image_limits import IMAGE_EVENTS_KEPT_MAX
from swarmpy.model.ids import SECOND_NS
from swarmpy.runtime import SystemClock

root = pytest.mark.skipif(os.geteuid() != 0, reason="unpacking sets owners")
LAYER = tar_of(("a", b"a" * 5_000))


def saved(folder: Path, *names: str, **config: Any) -> bytes:
    return write_docker_save(folder / "image.tar", [LAYER], names=list(names), **config).read_bytes()


def exactly(moment: int) -> str:
    return f"{moment // SECOND_NS}.{moment % SECOND_NS:09}"


async def told(http: Http, **params: str) -> list[dict[str, Any]]:
    until = exactly(SystemClock().now())
    answer = await http.get("/events", **{"since": "1", "until": until, **params})
    return [json.loads(line) for line in answer.body.splitlines()]


@root
@pytest.mark.root
async def test_a_node_that_is_in_no_swarm_tells_them(http: Http, tmp_path: Path) -> None:
    archive = saved(tmp_path, "app:1", "app:2", Labels={"b": "c", "a": "x"})
    await http.call("POST", "/images/load", data=archive)
    id_ = (await http.get("/images/app:1/json")).json["Id"]
    await http.post("/images/app:1/tag?repo=docker.io/library/web&tag=1", None)
    await http.delete(f"/images/{id_}?force=1")
    found = await told(http)
    assert [(event["Action"], event["Actor"]["Attributes"]["name"]) for event in found] == [
        ("load", id_),
        ("tag", "web:1"),
        *[("untag", id_)] * 3,
        ("delete", id_),
    ]
    assert list(found[0]) == [
        *("status", "id", "Type", "Action", "Actor", "scope", "time", "timeNano"),
    ]
    assert list(found[0]["Actor"]["Attributes"].items()) == [("a", "x"), ("b", "c"), ("name", id_)]
    assert found[-1]["Actor"] == {"ID": id_, "Attributes": {"name": id_}}
    (second,) = await told(http, since=exactly(found[1]["timeNano"]), filters='{"image": ["web"]}')
    assert second == found[1]


@root
@pytest.mark.root
async def test_they_come_as_they_happen_among_the_others(
    http: Http, node: FakeNode, cluster: FakeCluster, tmp_path: Path
) -> None:
    async def read(count: int) -> list[str]:
        found = []
        async with http.session.get("http://swarmpy/events") as reply:
            async for line in reply.content:
                event = json.loads(line)
                found.append(f"{event['Type']} {event['Action']}")
                if len(found) == count:
                    break
        return found

    reading = asyncio.create_task(read(3))
    archive = saved(tmp_path, "app:1")
    async with asyncio.timeout(10):
        while not node.image_store.events.recent._bells:  # nobody listens yet
            await asyncio.sleep(0.01)
        await http.call("POST", "/images/load", data=archive)
        await http.post("/services/create", spec())
        await http.post("/images/app:1/tag?repo=web", None)
        assert await reading == ["image load", "service create", "image tag"]


async def test_prune_says_how_much(http: Http) -> None:
    await http.post("/images/prune", None)
    (event,) = await told(http)
    assert event["Actor"] == {"ID": "", "Attributes": {"reclaimed": "0"}}
    assert (event["status"], "id" in event) == ("prune", False)


async def test_so_many_are_kept_and_who_reads_too_slowly_is_told(http: Http, node: FakeNode) -> None:
    events = node.image_store.events
    for number in range(IMAGE_EVENTS_KEPT_MAX + 10):
        events.tell("tag", f"sha256:{number}")
    assert len(await told(http)) == IMAGE_EVENTS_KEPT_MAX
    async with asyncio.timeout(10), http.session.get("http://swarmpy/events") as reply:
        while not events.recent._bells:
            await asyncio.sleep(0.01)
        for number in range(IMAGE_EVENTS_KEPT_MAX + 1):
            events.tell("tag", f"sha256:{number}")
        assert await reply.content.read() == b""


def test_labels_that_are_too_much_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_events, "IMAGE_EVENT_LABEL_CHARS_MAX", 8)
    assert image_events.bounded({"a": "b", "long": "x" * 9, "no": 5, "z": "abcde"}) == {
        "a": "b",
        "z": "abcde",
    }


@pytest.mark.parametrize(
    ("wanted", "is_so"),
    [
        ({"image": ("app",)}, True),
        ({"image": ("app:1",)}, True),
        ({"image": ("ap",)}, False),
        ({"container": ("app",)}, True),
        ({"container": ("app",), "service": ("ap",)}, True),
        ({"container": ("app",), "service": ("web",)}, False),
        ({"node": ("web",)}, False),
        ({"type": ("image", "node"), "event": ("pull",)}, True),
        ({"type": ("container",)}, False),
        ({"scope": ("swarm",)}, False),
        ({"label": ("a=b",)}, True),
        ({"label": ("a=b", "c")}, False),
    ],
)
def test_filters(wanted: dict[str, tuple[str, ...]], is_so: bool) -> None:
    attributes = {"name": "app", "a": "b"}
    event = {"Type": "image", "Action": "pull", "Actor": {"ID": "app:1", "Attributes": attributes}}
    assert is_wanted({**event, "scope": "local"}, wanted) is is_so
