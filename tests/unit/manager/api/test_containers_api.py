"""Commands, copies, usage over the API, on a pretended node: hijacked connections, frames, docker's codes."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from pathlib import Path

import inside_suite
import pytest
from api_containers import answering, made, pretended, until, upgraded
from api_http import Http
from api_node import FakeCluster
from stream_rig import TASK

from agent.executor.base import Output
from agent.executor.fake_exec import Reply
from manager.api.exec import exit_code_of
from manager.streams import LEADER_CHANGED
from swarmpy.model.container_ids import container_id
from swarmpy.model.states import TaskState


async def test_a_command_in_frames(http: Http, cluster: FakeCluster, tmp_path: Path) -> None:
    async with pretended(http, cluster) as rig:
        answering(rig, Reply(output=(Output(1, b"out"), Output(2, b"err")), is_echo=True, exit_code=4))
        id_ = await made(http, AttachStdin=True)
        head, raw = await upgraded(tmp_path / "api.sock", f"/v1.47/exec/{id_}/start", {})
        assert head.startswith("HTTP/1.1 101 UPGRADED\r\n")
        assert "application/vnd.docker.multiplexed-stream" in head
        assert [await raw.frame(), await raw.frame()] == [(1, b"out"), (2, b"err")]
        assert (await http.get(f"/exec/{id_}/json")).json["Running"]
        assert (await http.post(f"/exec/{id_}/resize", h=24, w=80)).status == 200
        raw.writer.write(b"typed")
        assert await raw.frame() == (1, b"typed")
        raw.writer.write_eof()  # its half alone: what is still to come can be read
        assert await raw.rest() == b""
        shown = (await http.get(f"/exec/{id_}/json")).json
        assert (shown["Running"], shown["ExitCode"], shown["ContainerID"]) == (False, 4, container_id(TASK))
        raw.writer.close()
        assert (await http.post(f"/exec/{id_}/start", {})).status == 409


async def test_a_terminal_is_raw(http: Http, cluster: FakeCluster, tmp_path: Path) -> None:
    async with pretended(http, cluster) as rig:
        answering(rig, Reply(output=(Output(1, b"out"),)))
        id_ = await made(http, Tty=True)
        head, raw = await upgraded(tmp_path / "api.sock", f"/exec/{id_}/start", {"Tty": True})
        assert "application/vnd.docker.raw-stream" in head
        assert await raw.rest() == b"out"
        raw.writer.close()


async def test_what_cannot_be_run_is_told_on_the_connection(
    http: Http, cluster: FakeCluster, tmp_path: Path
) -> None:
    async with pretended(http, cluster) as rig:
        text = (
            'OCI runtime exec failed: exec failed: x: exec: "sh": executable file not found in $PATH: unknown'
        )
        answering(rig, Reply(refusal=text))
        id_ = await made(http)
        head, raw = await upgraded(tmp_path / "api.sock", f"/exec/{id_}/start", {})
        assert head.startswith("HTTP/1.1 101")
        assert await raw.frame() == (2, f"{text}\r\n".encode())
        assert (await http.get(f"/exec/{id_}/json")).json["ExitCode"] == 127
        raw.writer.close()


async def test_the_head_does_not_wait_for_the_command(
    http: Http, cluster: FakeCluster, tmp_path: Path
) -> None:
    """docker-py loses what it receives together with the head."""
    async with pretended(http, cluster) as rig:
        id_ = await made(http)
        rig.has_session = False
        head, raw = await upgraded(tmp_path / "api.sock", f"/exec/{id_}/start", {})
        assert head.startswith("HTTP/1.1 101")
        stream, told = await raw.frame()
        assert (stream, b"is not available" in told) == (2, True)
        assert (await http.get(f"/exec/{id_}/json")).json["ExitCode"] == 137
        raw.writer.close()


async def test_a_client_that_leaves_ends_the_command(
    http: Http, cluster: FakeCluster, tmp_path: Path
) -> None:
    async with pretended(http, cluster) as rig:
        answering(rig, Reply(takes_s=None))
        for has_input in (True, False):
            id_ = await made(http, AttachStdin=has_input)
            _, raw = await upgraded(tmp_path / "api.sock", f"/exec/{id_}/start", {})
            await until(lambda: rig.commands == 1)
            raw.writer.close()
            await until(lambda: rig.commands == 0)
            assert (await http.get(f"/exec/{id_}/json")).json["ExitCode"] == 137


async def test_a_stream_that_breaks_says_why(http: Http, cluster: FakeCluster, tmp_path: Path) -> None:
    async with pretended(http, cluster) as rig:
        answering(rig, Reply(takes_s=None))
        _, raw = await upgraded(tmp_path / "api.sock", f"/exec/{await made(http)}/start", {})
        await until(lambda: rig.commands == 1)
        rig.hub.close()
        assert await raw.frame() == (3, LEADER_CHANGED.encode())
        raw.writer.close()


async def test_being_attached(http: Http, cluster: FakeCluster, tmp_path: Path) -> None:
    async with pretended(http, cluster) as rig:
        path = f"/containers/{TASK}/attach?stream=1&stdout=1&stdin=1"
        _, raw = await upgraded(tmp_path / "api.sock", path, None)
        raw.writer.write(b"typed")
        assert await raw.frame() == (1, b"typed")
        raw.writer.close()
        await until(lambda: rig.commands == 0)
        assert rig.machine.tasks[TASK].exit is None


async def test_archives(http: Http, cluster: FakeCluster) -> None:
    async with pretended(http, cluster):
        answer = await http.get("/containers/web.1/archive?path=/etc/hostname")
        told = json.loads(base64.b64decode(answer.headers["X-Docker-Container-Path-Stat"]))
        assert (told["name"], told["size"]) == ("hostname", 5)
        with tarfile.open(fileobj=io.BytesIO(answer.body)) as tar:
            assert tar.getnames() == ["hostname"]
        assert (await http.call("HEAD", "/containers/web.1/archive?path=/etc")).status == 200
        data = inside_suite.archive_of([("new", b"x" * 100_000)])
        assert (await http.call("PUT", "/containers/web.1/archive?path=/etc", data=data)).status == 200
        assert len((await http.get("/containers/web.1/archive?path=/etc/new")).body) > 100_000
        missing = await http.get("/containers/web.1/archive?path=/nowhere")
        assert (missing.status, missing.message) == (404, "Could not find the file /nowhere in container")
        assert (await http.call("PUT", "/containers/web.1/archive?path=/no", data=data)).status == 404
        assert (await http.get("/containers/web.1/archive")).status == 400


async def test_processes_and_usage(http: Http, cluster: FakeCluster) -> None:
    async with pretended(http, cluster) as rig:
        assert (await http.get("/containers/t1/top")).json["Titles"] == ["PID", "CMD"]
        one = (await http.get("/containers/t1/stats", **{"stream": 0, "one-shot": 1})).json
        assert (one["id"], one["name"], one["pids_stats"]) == (
            container_id(TASK),
            "/web.1.t1",
            {"current": 1},
        )
        assert one["blkio_stats"]["io_queue_recursive"] == []
        every = (await http.get("/swarmpy/stats", filters={"service": ["web"]})).json
        assert [row["id"] for row in every["Tasks"]] == [container_id(TASK)]
        rig.has_session = False
        told = (await http.get("/swarmpy/stats")).json
        assert told["Tasks"] == []
        assert "is not available" in told["Warnings"][0]


async def test_what_is_refused(http: Http, cluster: FakeCluster) -> None:
    async with pretended(http, cluster):
        config = {"Cmd": ["sh"]}
        unknown = await http.post("/containers/nothing/exec", config)
        assert (unknown.status, unknown.message) == (404, "No such container: nothing")
        assert (await http.post("/containers/web.1/exec", {})).message == "No exec command specified"
        assert (await http.post("/exec/none/start", {})).message == "No such exec instance: none"
        assert (await http.post("/containers/web.1/resize", h="x", w="1")).status == 400
        cluster.report(TASK, TaskState.FAILED)
        ended = await http.post("/containers/t1/exec", config)
        assert (ended.status, ended.message) == (409, f"Container {container_id('t1')} is not running")


@pytest.mark.parametrize(
    ("text", "code"),
    [("executable file not found in $PATH", 127), ("permission denied", 126), ("no space left", 128)],
)
def test_dockers_reading_of_refusals(text: str, code: int) -> None:
    assert exit_code_of(text) == code
