"""The server as such: versions, headers, errors, limits, what a hostile client sends."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from pathlib import Path

import pytest
from api_http import Http, spec
from api_node import FakeCluster, FakeNode

from manager.api.connection_bounds import API_PARSED_AT_ONCE_BYTES_MAX
from manager.api.control import LocalNode, LocalState
from manager.api.server import ApiServer, check_version
from swarmpy.errors import FailedPrecondition, InvalidArgument, NoLeader
from swarmpy.limits import API_BODY_BYTES_MAX
from swarmpy.runtime import Env


@pytest.mark.parametrize("path", ["/_ping", "/v1.24/_ping", "/v1.47/_ping"])
async def test_ping_says_who_answers(http: Http, path: str) -> None:
    answer = await http.get(path)
    assert answer.status == 200
    assert answer.body == b"OK"
    assert answer.headers["Api-Version"] == "1.47"
    assert answer.headers["Ostype"] == "linux"
    assert answer.headers["Docker-Experimental"] == "false"
    assert answer.headers["Swarm"] == "inactive"
    assert "no-cache" in answer.headers["Cache-Control"]
    assert answer.headers["Server"].startswith("SwarmPy/")
    assert "Builder-Version" not in answer.headers


async def test_ping_head_has_headers_and_no_body(http: Http) -> None:
    answer = await http.call("HEAD", "/_ping")
    assert (answer.status, answer.body, answer.headers["Swarm"]) == (200, b"", "inactive")


async def test_swarm_header_follows_the_state(http: Http, node: FakeNode) -> None:
    async def header() -> str:
        return (await http.get("/_ping")).headers["Swarm"]

    node.become_manager()
    assert await header() == "active/manager"
    node.become_worker()
    assert await header() == "active/worker"
    node.state = LocalNode(state=LocalState.LOCKED, is_manager=True)
    assert await header() == "locked"


def test_versions_outside_are_refused() -> None:
    check_version("/services")
    check_version("/v1.24/services")
    with pytest.raises(InvalidArgument, match=r"client version 1\.23 is too old\. Minimum supported API"):
        check_version("/v1.23/services")
    with pytest.raises(InvalidArgument, match=r"client version 1\.48 is too new\. Maximum supported API"):
        check_version("/v1.48/services")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/nowhere"), ("GET", "/v1.47/nowhere"), ("PUT", "/services"), ("GET", "/vx/services")],
)
async def test_unknown_paths_are_not_found(http: Http, method: str, path: str) -> None:
    answer = await http.call(method, path)
    assert (answer.status, answer.json) == (404, {"message": "page not found"})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b'{"Name": "web"' * 3,
        b"[" * 5000,
        b'{"Name":"\\ud800"}',
    ],
)
async def test_what_is_no_json_object_is_refused(http: Http, cluster: FakeCluster, data: bytes) -> None:
    answer = await http.call("POST", "/services/create", data=data)
    assert answer.status == 400
    assert answer.message
    assert not cluster.store.services()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"Mode": {"Replicated": {"Replicas": "x"}}},
            "ReplicatedService.Mode.Replicated.Replicas of type uint64",
        ),
        ({"Mode": {"Replicated": {"Replicas": 1.5}}}, "cannot unmarshal number 1.5"),
        ({"Mode": {"Replicated": {"Replicas": 2**70}}}, "cannot unmarshal number 1180591620717411303424"),
        ({"Name": 7}, "ServiceSpec.Name of type string"),
        ({"Labels": ["a"]}, "ServiceSpec.Labels of type map[string]string"),
        ({"TaskTemplate": "x"}, "ServiceSpec.TaskTemplate of type swarm.TaskSpec"),
        ({"UpdateConfig": {"FailureAction": "explode"}}, "unrecognized update failure action explode"),
    ],
)
async def test_wrong_types_are_named(
    http: Http, cluster: FakeCluster, change: dict[str, object], words: str
) -> None:
    answer = await http.post("/services/create", {**spec(), **change})
    assert answer.status == 400
    assert words in answer.message
    assert not cluster.store.services()


async def test_a_body_over_the_limit_is_refused(http: Http, cluster: FakeCluster) -> None:
    data = b'{"Name": "' + b"x" * (API_BODY_BYTES_MAX + 1024) + b'"}'
    answer = await http.call("POST", "/services/create", data=data)
    assert (answer.status, answer.message) == (413, "http: request body too large")


async def test_a_large_body_is_read_as_a_small_one(http: Http, cluster: FakeCluster) -> None:
    """Beside the loop, and refused in the same words."""
    labels = {f"label-{number}": "x" for number in range(10_000)}
    assert len(json.dumps(labels)) > API_PARSED_AT_ONCE_BYTES_MAX
    answer = await http.post("/services/create", spec("large", Labels=labels))
    assert answer.status == 201, answer.body
    answer = await http.post("/services/create", spec("large2", Labels=labels | {"a": 1}))
    assert (answer.status, answer.message) == (
        400,
        "json: cannot unmarshal number into Go struct field ServiceSpec.Labels of type string",
    )


async def test_nulls_count_as_left_out(http: Http, cluster: FakeCluster) -> None:
    body = {**spec(), "Labels": None, "UpdateConfig": None, "EndpointSpec": {"Ports": None}}
    answer = await http.post("/services/create", body)
    assert answer.status == 201


async def test_our_own_unknown_fields_cannot_be_planted(http: Http, cluster: FakeCluster) -> None:
    answer = await http.post("/services/create", {**spec(), "-": "AAAA"})
    assert answer.status == 201
    (service,) = cluster.store.services()
    assert service.spec.unknown_fields == b""


async def test_a_worker_says_that_it_is_no_manager(http: Http, node: FakeNode) -> None:
    answer = await http.get("/services")
    assert answer.status == 503
    assert answer.message.startswith("This node is not a swarm manager. Use ")
    node.become_worker()
    answer = await http.get("/nodes")
    assert answer.status == 503
    assert answer.message.startswith("This node is not a swarm manager. Worker nodes can't be used to view")


async def test_without_quorum_reads_fail_unless_stale_will_do(http: Http, cluster: FakeCluster) -> None:
    cluster.barrier_error = NoLeader()
    answer = await http.get("/nodes")
    assert answer.status == 503
    assert "The swarm does not have a leader" in answer.message
    stale = await http.call("GET", "/nodes", headers={"X-SwarmPy-Stale": "true"})
    assert stale.status == 200
    assert stale.headers["X-SwarmPy-Stale"] == "true"
    assert [item["ID"] for item in stale.json] == [item.id for item in cluster.store.nodes()]


async def test_info_answers_without_quorum(http: Http, cluster: FakeCluster) -> None:
    cluster.barrier_error = NoLeader()
    answer = await http.get("/info")
    assert answer.status == 200
    assert "does not have a leader" in answer.json["Swarm"]["Error"]
    assert answer.json["Swarm"]["Nodes"] == 1


async def test_info_and_version_outside_a_swarm(http: Http) -> None:
    info = (await http.get("/info")).json
    assert info["Swarm"]["LocalNodeState"] == "inactive"
    assert info["Swarm"]["ControlAvailable"] is False
    assert (info["NCPU"], info["MemTotal"], info["Name"]) == (2, 4 << 30, "node-1")
    version = (await http.get("/version")).json
    assert (version["ApiVersion"], version["MinAPIVersion"]) == ("1.47", "1.24")


async def test_the_socket_is_private_and_removed(node: FakeNode, tmp_path: Path) -> None:
    server = ApiServer(node, Env())
    path = tmp_path / "run" / "api.sock"
    await server.start(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    second = ApiServer(node, Env())
    with pytest.raises(FailedPrecondition, match="Another daemon already serves"):
        await second.start(path)
    assert path.exists(), "the refused server must not take the running one's socket away"
    await server.stop()
    assert not path.exists()


async def test_a_dead_daemons_socket_is_taken_over(node: FakeNode, tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    server = ApiServer(node, Env())
    await server.start(path)
    async with Http(path) as http:
        assert (await http.get("/_ping")).status == 200
    await server.stop()


@pytest.mark.parametrize(
    "address", ["0.0.0.0:2375", "[::]:2375", "nowhere", "127.0.0.1:x", "host.example:1", ":1"]
)
async def test_plain_tcp_only_on_loopback(node: FakeNode, tmp_path: Path, address: str) -> None:
    server = ApiServer(node, Env())
    with pytest.raises(InvalidArgument):
        await server.start(tmp_path / "api.sock", tcp_addresses=(address,))


async def test_a_port_in_use_is_said(node: FakeNode, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = ApiServer(node, Env())
        with pytest.raises(FailedPrecondition, match=f"cannot be served on {address}"):
            await server.start(tmp_path / "api.sock", tcp_addresses=(address,))
    assert not (tmp_path / "api.sock").exists()


async def test_an_oversized_header_is_refused(http: Http, tmp_path: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "api.sock"))
    writer.write(b"GET /_ping HTTP/1.1\r\nHost: x\r\nX-Big: " + b"a" * (100 << 10) + b"\r\n\r\n")
    line = await asyncio.wait_for(reader.readline(), 5)
    assert b" 400 " in line
    writer.close()


@pytest.mark.parametrize(
    "given", ["x", "{", "[]", '{"name": 1}', '{"name": {"a": "b"}}', '{"bogus": ["x"]}', "\ud800"]
)
async def test_bad_filters_are_refused(http: Http, cluster: FakeCluster, given: str) -> None:
    from urllib.parse import quote

    answer = await http.get(f"/services?filters={quote(given, errors='surrogatepass')}")
    assert answer.status == 400
    assert answer.message
