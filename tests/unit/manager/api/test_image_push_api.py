"""``/swarmpy/images/push`` over HTTP: who is meant, what is told, what ends before any node hears of it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from api_http import Answer, Http
from api_node import FIRST, FakeCluster, FakeNode
from image_files import tar_of, write_docker_save
from stream_rig import StreamRig

from swarmpy.image_push_limits import IMAGE_PUSHES_MAX
from swarmpy.model.ids import NodeId
from swarmpy.model.states import NodeState

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="unpacking sets owners")]

PUSH = "/swarmpy/images/push"
SECOND = NodeId("nodebbbbbbbbbbbbbbbbbbbbb")


@pytest.fixture
async def rig(node: FakeNode, cluster: FakeCluster) -> AsyncIterator[StreamRig]:
    """The node can be reached over streams of its own."""
    async with asyncio.TaskGroup() as tasks:
        rig = StreamRig(tasks, node_id=FIRST, talks=node.image_store.talks)
        cluster.streams = rig.streams
        yield rig


@pytest.fixture
def archive(tmp_path: Path) -> bytes:
    layer = tar_of(("a", b"a" * 1_000))
    return write_docker_save(tmp_path / "image.tar", [layer], names=["app:1"]).read_bytes()


def ends(answer: Answer) -> dict[str, dict[str, object]]:
    """How it ended at each node."""
    assert answer.status == 200, answer.body
    lines = [json.loads(line) for line in answer.body.splitlines()]
    return {line["aux"]["Node"]: line["aux"] for line in lines if "aux" in line}


async def test_an_archive_goes_to_all_nodes(
    http: Http, node: FakeNode, cluster: FakeCluster, rig: StreamRig, archive: bytes
) -> None:
    cluster.add_node(SECOND, "node-2", state=NodeState.DOWN)
    first = ends(await http.call("POST", PUSH, data=archive, all="true"))
    assert first == {
        "node-1": {
            "NodeID": FIRST,
            "Node": "node-1",
            "Images": ["app:1"],
            "LayersSent": 1,
            "LayersPresent": 0,
            "BytesSent": len(tar_of(("a", b"a" * 1_000))),
        },
        "node-2": {
            "NodeID": SECOND,
            "Node": "node-2",
            "Error": "node node-2 is down: push to it again once it is back",
        },
    }
    again = ends(await http.call("POST", PUSH, data=archive, nodes=f"node-1,{FIRST}"))
    assert (again["node-1"]["LayersSent"], again["node-1"]["BytesSent"]) == (0, 0)
    mine = ends(await http.call("POST", PUSH, nodes="node-1", image="app:1", name="mine:2"))
    assert mine["node-1"]["Images"] == ["mine:2"]
    assert [image.tags for image in await node.images()] == [("app:1", "mine:2")]


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ({}, 400, "name the nodes to push to"),
        ({"nodes": "node-1", "all": "true"}, 400, "not both"),
        ({"nodes": "node-1,node-9"}, 404, "node node-9 not found"),
        ({"nodes": "node-1", "image": "gone:1"}, 404, "No such image: gone:1"),
        ({"nodes": "node-1", "name": "host"}, 400, 'the image name "host" is taken'),
    ],
)
async def test_what_is_wrong_with_the_request(
    http: Http, rig: StreamRig, archive: bytes, query: dict[str, Any], status: int, words: str
) -> None:
    answer = await http.call("POST", PUSH, data=archive, **query)
    assert answer.status == status
    assert words in answer.message
    assert rig.attended == [], "no node has heard of it"


async def test_a_broken_archive_is_told_to_no_node(
    http: Http, node: FakeNode, rig: StreamRig, archive: bytes
) -> None:
    for data in (archive[:-20_000], b"", b"junk" * 600):
        answer = await http.call("POST", PUSH, data=data, all="true")
        assert answer.status == 400, answer.body
    assert rig.attended == []
    assert await node.images() == ()


async def test_without_a_swarm_there_is_nobody_to_push_to(http: Http, archive: bytes) -> None:
    answer = await http.call("POST", PUSH, data=archive, all="true")
    assert (answer.status, "not a swarm manager" in answer.message) == (503, True)


async def test_so_many_pushes_at_a_time(http: Http, node: FakeNode, rig: StreamRig, archive: bytes) -> None:
    """Those whose archive is still on its way count."""
    go_on = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield archive[:1_000]
        await go_on.wait()
        yield archive[1_000:]

    async def one() -> Answer:
        url = f"http://swarmpy{PUSH}?nodes=node-1"
        async with http.session.post(url, data=slowly()) as reply:
            return Answer(reply.status, reply.headers, await reply.read())

    slow = [asyncio.create_task(one()) for _ in range(IMAGE_PUSHES_MAX)]
    async with asyncio.timeout(30):
        while len(list(node.folder.glob("images/incoming/*/image.tar"))) < IMAGE_PUSHES_MAX:
            await asyncio.sleep(0.01)
        answer = await http.call("POST", PUSH, data=archive, nodes="node-1")
        assert (answer.status, "pushes to nodes already" in answer.message) == (503, True)
        go_on.set()
        assert ["node-1" in ends(answer) for answer in await asyncio.gather(*slow)] == [True, True]
        while list(node.folder.glob("images/incoming/*")):  # a thread removes them
            await asyncio.sleep(0.01)
