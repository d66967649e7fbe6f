"""Volumes over HTTP: of the daemon's own node, also outside of a swarm, and of another one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from api_http import Http
from api_node import FakeCluster, FakeNode

from swarmpy.model.ids import NodeId
from swarmpy.model.objects import NodeVolume
from swarmpy.model.volumes import VolumeAnswer


async def names(http: Http, **query: object) -> list[str]:
    return [volume["Name"] for volume in (await http.get("/volumes", **query)).json["Volumes"]]


async def test_the_life_of_a_volume(http: Http, node: FakeNode) -> None:
    body = {
        "Name": "data",
        "Labels": {"tier": "db"},
        "DriverOpts": {"type": "tmpfs", "device": "tmpfs"},
    }
    made = await http.post("/volumes/create", body)
    assert made.status == 201
    assert made.json["Mountpoint"].endswith("/data/_data")
    shown = {key: made.json[key] for key in ("Name", "Driver", "Scope", "Labels", "Options")}
    assert shown == {
        "Name": "data",
        "Driver": "local",
        "Scope": "local",
        "Labels": {"tier": "db"},
        "Options": {"type": "tmpfs", "device": "tmpfs"},
    }
    assert (await http.get("/volumes/data")).json == made.json
    node.volume_users = {"data": ("t1",)}
    refused = await http.delete("/volumes/data")
    assert (refused.status, refused.message) == (409, "remove data: volume is in use - [t1]")
    node.volume_users = {}
    assert (await http.delete("/volumes/data")).status == 204
    missing = await http.get("/volumes/data")
    assert (missing.status, missing.message) == (404, "get data: no such volume")
    assert (await http.delete("/volumes/data", force="1")).status == 204


async def test_filters(http: Http, node: FakeNode) -> None:
    await http.post("/volumes/create", {"Name": "one", "Labels": {"a": "1"}})
    await http.post("/volumes/create", {"Name": "two"})
    node.volume_users = {"two": ("t",)}
    for wanted, expected in [
        ({}, ["one", "two"]),
        ({"name": ["wo"]}, ["two"]),
        ({"label": ["a=1"]}, ["one"]),
        ({"dangling": ["true"]}, ["one"]),
        ({"dangling": ["false"]}, ["two"]),
        ({"driver": ["nfs"]}, []),
    ]:
        assert await names(http, filters=wanted) == expected, wanted
    assert (await http.get("/volumes", filters={"odd": ["1"]})).status == 400


async def test_prune_means_what_it_meant_to_the_clients_version(http: Http) -> None:
    await http.post("/volumes/create", {"Name": "named"})
    nameless = (await http.post("/volumes/create", {})).json["Name"]
    assert (await http.post("/volumes/prune")).json == {"VolumesDeleted": [nameless], "SpaceReclaimed": 0}
    assert (await http.post("/volumes/prune", filters={"label": ["x"], "all": ["1"]})).json[
        "VolumesDeleted"
    ] == []
    assert (await http.post("/v1.41/volumes/prune")).json["VolumesDeleted"] == ["named"]
    await http.post("/volumes/create", {"Name": "named"})
    assert (await http.post("/volumes/prune", filters={"all": ["true"]})).json["VolumesDeleted"] == ["named"]


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"Name": "a"}, 400, "too short"),
        ({"Name": "a/b"}, 400, "includes invalid characters"),
        ({"Name": "ok", "Driver": "nfs"}, 404, 'error looking up volume plugin nfs: plugin "nfs" not found'),
        ({"Name": "ok", "DriverOpts": {"size": "1"}}, 400, 'invalid option: "size"'),
        ({"Name": "ok", "ClusterVolumeSpec": {}}, 501, "not supported yet"),
        ({"Name": 7}, 400, "json: cannot unmarshal number"),
    ],
)
async def test_bad_input(http: Http, body: dict[str, Any], status: int, text: str) -> None:
    answer = await http.post("/volumes/create", body)
    assert (answer.status, text in answer.message) == (status, True), answer.message
    assert await names(http) == []


async def test_cluster_volumes_cannot_be_changed(http: Http) -> None:
    assert (await http.call("PUT", "/volumes/any")).status == 501


async def test_another_nodes_volumes(http: Http, node: FakeNode, cluster: FakeCluster) -> None:
    class Far:
        async def call(self, node_id: NodeId, name: str, body: bytes) -> bytes:
            asked.append((node_id, name, msgspec.json.decode(body)))
            return msgspec.json.encode(VolumeAnswer(volumes=(NodeVolume(name="far"),)))

    asked: list[tuple[str, str, object]] = []
    cluster.streams = Far()  # type: ignore[assignment]
    second = NodeId("node2aaaaaaaaaaaaaaaaaaaa")
    cluster.add_node(second, "node-2")
    assert await names(http, node="node-2") == ["far"]
    assert (await http.post("/volumes/create", {"Name": "far"}, node=second)).json["Name"] == "far"
    assert [entry[:2] for entry in asked] == [(second, "volume.list"), (second, "volume.create")]
    assert await names(http, node="node-1") == [], "its own are not asked for over the wire"
    assert (await http.get("/volumes", node="nowhere")).status == 404
