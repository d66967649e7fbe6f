"""Containers as clients see them: lists with their filters, inspection, words for times, keys, events."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from api_containers import answering, made, pretended, until, upgraded
from api_http import Http
from api_node import FIRST, FakeCluster
from msgspec.structs import replace

from agent.executor.fake_exec import Reply
from agent.executor.native.ps_columns import columns_of
from manager.api.container_events import container_events
from manager.api.container_refs import ContainerRef
from manager.api.container_status import condition_of, duration_text
from manager.api.detach_keys import DetachKeys, parse_keys
from manager.history import Change
from swarmpy.errors import InvalidArgument, SwarmError
from swarmpy.model.container_ids import container_id
from swarmpy.model.ids import SECOND_NS, NodeId, TaskId, Timestamp
from swarmpy.model.objects import ContainerStatus, Task, TaskStatus
from swarmpy.model.states import HealthState, TaskState

AT = Timestamp(1_700_000_000_000_000_000)
NO_HEALTH = HealthState.UNSPECIFIED
MINUTE, HOUR, DAY = 60, 3600, 86_400


async def test_a_list_of_this_node(http: Http, cluster: FakeCluster) -> None:
    async with pretended(http, cluster):
        (row,) = (await http.get("/containers/json")).json
        assert (row["Id"], row["Names"], row["State"]) == (container_id("t1"), ["/web.1.t1"], "running")
        assert row["Status"].startswith("Up ")
        assert row["Labels"]["com.docker.swarm.task.name"] == "web.1.t1"
        assert (row["Command"], "Node" in row, "SizeRootFs" in row) == ("sleep 1000", False, False)
        assert "SizeRootFs" in (await http.get("/containers/json", size=1)).json[0]
        (row,) = (await http.get("/containers/json", cluster=1)).json
        assert row["Node"] == {"ID": FIRST, "Name": "node-1"}
        assert (await http.get("/containers/json", node="nowhere")).status == 404
        cluster.report("t1", TaskState.FAILED)
        assert (await http.get("/containers/json")).json == []
        assert (await http.get("/containers/json", filters={"exited": ["1"]})).json == []


FILTERS = [
    ({"name": ["web"]}, True),
    ({"name": ["^/web.1"]}, True),
    ({"name": ["other"]}, False),
    ({"id": ["bd"]}, True),
    ({"label": ["com.docker.swarm.task"]}, True),
    ({"label": ["com.docker.swarm.service.name=web"]}, True),
    ({"label": ["com.docker.swarm.service.name=other"]}, False),
    ({"status": ["running"]}, True),
    ({"status": ["exited"]}, False),
    ({"is-task": ["false"]}, False),
    ({"health": ["none"]}, True),
    ({"health": ["healthy"]}, False),
    ({"network": ["bridge"]}, True),
    ({"network": ["front"]}, False),
    ({"volume": ["data"]}, False),
    ({"publish": ["80"]}, False),
    ({"since": ["t1"]}, False),
    ({"ancestor": ["nothing"]}, False),
]


async def test_filters(http: Http, cluster: FakeCluster) -> None:
    async with pretended(http, cluster):
        for filters, is_found in FILTERS:
            rows = (await http.get("/containers/json", filters=filters)).json
            assert bool(rows) is is_found, filters


REFUSED: list[tuple[dict[str, object], int, str]] = [
    ({"filters": {"nope": ["x"]}}, 400, "nvalid filter 'nope'"),
    ({"filters": {"status": ["nope"]}}, 400, "Invalid filter 'status=nope'"),
    ({"filters": {"health": ["x"]}}, 400, "Unrecognised filter value for health: x"),
    ({"filters": {"is-task": ["x"]}}, 400, "Invalid filter 'is-task=[x]'"),
    ({"filters": {"before": ["x"]}}, 500, "no such container x"),
    ({"filters": {"exited": ["x"]}}, 500, 'strconv.Atoi: parsing "x": invalid syntax'),
    ({"limit": "x"}, 500, 'strconv.Atoi: parsing "x": invalid syntax'),
]


async def test_lists_that_are_refused(http: Http, cluster: FakeCluster) -> None:
    for query, status, words in REFUSED:
        answer = await http.get("/containers/json", **query)
        assert answer.status == status, query
        assert words in answer.message


async def test_inspection(http: Http, cluster: FakeCluster) -> None:
    async with pretended(http, cluster):
        shown = (await http.get("/containers/web.1/json", size=1)).json
        assert (shown["Id"], shown["Path"], shown["Args"]) == (container_id("t1"), "sleep", ["1000"])
        assert shown["State"]["Status"] == "running"
        assert shown["State"]["FinishedAt"] == "0001-01-01T00:00:00Z"
        assert shown["HostConfig"]["Isolation"] == "default"
        assert shown["NetworkSettings"]["Networks"]["bridge"]["IPAddress"] == "172.30.0.2"
        assert shown["SizeRootFs"] == 0


@pytest.mark.parametrize(
    ("err", "is_told"),
    [("task: non-zero exit (137): out of memory", True), ("task: non-zero exit (137)", False)],
)
def test_an_end_for_want_of_memory_is_told_when_the_node_keeps_nothing(err: str, is_told: bool) -> None:
    status = TaskStatus(state=TaskState.FAILED, err=err, container_status=ContainerStatus(exit_code=137))
    ended = condition_of(ContainerRef(task=Task(id=TaskId("t1"), status=status)), None)
    assert (ended.exit_code, ended.is_oom_killed, ended.error) == (137, is_told, "")


async def test_logs(http: Http, cluster: FakeCluster) -> None:
    assert (await http.get("/containers/t1/logs", stdout=1)).status == 404
    async with pretended(http, cluster):
        assert (await http.get("/containers/t1/logs")).status == 400
        assert (await http.get("/containers/t1/logs", stdout=1, tail="x", until="5")).status == 200


async def test_a_detached_command(http: Http, cluster: FakeCluster) -> None:
    async with pretended(http, cluster) as rig:
        answering(rig, Reply(takes_s=None, exit_code=3))
        id_ = await made(http)
        started = await http.post(f"/exec/{id_}/start", {"Detach": True})
        assert (started.status, started.body) == (200, b"")
        shown = (await http.get(f"/exec/{id_}/json")).json
        assert (shown["Running"], shown["ExitCode"], shown["Pid"] > 0) == (True, None, True)
        again = await http.post(f"/exec/{id_}/start", {"Detach": True})
        assert (again.status, again.message) == (409, f"Error: Exec command {id_} is already running")
        (command,) = rig.machine.tasks[TaskId("t1")].channels
        command.end(3)
        await _until_async(http, f"/exec/{id_}/json", 3)
        answering(rig, Reply(refusal="OCI runtime exec failed: exec failed: executable file not found"))
        assert (await http.post(f"/exec/{await made(http)}/start", {"Detach": True})).status == 400


async def _until_async(http: Http, path: str, code: int) -> None:
    async with asyncio.timeout(20):
        while (shown := (await http.get(path)).json)["Running"]:
            await asyncio.sleep(0.01)
    assert shown["ExitCode"] == code


async def test_attached_with_what_was_before(http: Http, cluster: FakeCluster, tmp_path: Path) -> None:
    async with pretended(http, cluster) as rig:
        rig.machine.write_log(TaskId("t1"), b"before\n")
        path = "/containers/t1/attach?stream=1&logs=1&stdout=1"
        _, raw = await upgraded(tmp_path / "api.sock", path, None)
        assert await raw.frame() == (1, b"before\n")
        rig.machine.write_log(TaskId("t1"), b"after\n")
        assert await raw.frame() == (1, b"after\n")
        rig.machine.end(TaskId("t1"), 0)
        assert await raw.rest() == b""
        raw.writer.close()


async def test_attached_before_the_start(http: Http, cluster: FakeCluster, tmp_path: Path) -> None:
    """The connection is there at once; what the task prints from its first byte on comes when it does."""
    async with pretended(http, cluster) as rig:
        task = cluster.store.task(TaskId("t1"))
        assert task is not None
        cluster.add_task("t2", task.service_id, state=TaskState.READY, slot=2)
        head, raw = await upgraded(tmp_path / "api.sock", "/containers/t2/attach?stream=1&stdout=1", None)
        assert head.startswith("HTTP/1.1 101")
        launch = replace(rig.machine.tasks[TaskId("t1")].launch, task_id=TaskId("t2"))
        await rig.executor.create(launch)
        rig.services[TaskId("t2")] = task.service_id
        await rig.executor.start(TaskId("t2"))
        rig.machine.write_log(TaskId("t2"), b"first\n")
        rig.machine.end(TaskId("t2"), 0)
        assert await raw.rest() == bytes((1, 0, 0, 0, 0, 0, 0, 6)) + b"first\n"
        raw.writer.close()


async def test_attaching_that_is_refused(http: Http, cluster: FakeCluster) -> None:
    async with pretended(http, cluster):
        unknown = await http.post("/containers/nope/attach", stream=1)
        assert (unknown.status, unknown.body) == (404, b"No such container: nope\r\n")
        keys = await http.post("/containers/t1/attach", stream=1, detachKeys="xx")
        assert (keys.status, keys.body) == (400, b"Invalid detach keys (xx) provided\r\n")


async def test_detach_keys(http: Http, cluster: FakeCluster, tmp_path: Path) -> None:
    async with pretended(http, cluster) as rig:
        path = "/containers/t1/attach?stream=1&stdout=1&stdin=1&detachKeys=ctrl-p,q"
        _, raw = await upgraded(tmp_path / "api.sock", path, None)
        raw.writer.write(b"ab\x10")
        assert await raw.frame() == (1, b"ab")
        raw.writer.write(b"q")
        assert await raw.rest() == b""
        await until(lambda: rig.commands == 0)
        raw.writer.close()


@pytest.mark.parametrize(
    "pieces", [[b"ab\x10\x11cd"], [b"ab\x10", b"\x11cd"], [b"a", b"b", b"\x10", b"\x11"]]
)
def test_keys_over_the_bounds_of_pieces(pieces: list[bytes]) -> None:
    keys = DetachKeys(parse_keys("ctrl-p,ctrl-q"))
    assert b"".join(map(keys.pass_on, pieces)) == b"ab"
    assert keys.are_typed


def test_keys_that_were_half_typed_are_passed_on() -> None:
    keys = DetachKeys(parse_keys("ctrl-p,ctrl-q"))
    assert b"".join(map(keys.pass_on, (b"\x10", b"x\x10\x10", b"y"))) == b"\x10x\x10\x10y"
    assert parse_keys("a,ctrl-@,ctrl-_") == b"a\0\x1f"
    for text in ("ctrl-1", "ctrl-P", "", "ab"):
        with pytest.raises(InvalidArgument):
            parse_keys(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (2 * MINUTE, "2 minutes"),
        (59 * MINUTE, "59 minutes"),
        (HOUR, "About an hour"),
        (47 * HOUR, "47 hours"),
        (2 * DAY, "2 days"),
        (13 * DAY, "13 days"),
        (14 * DAY, "2 weeks"),
        (60 * DAY, "2 months"),
        (730 * DAY, "2 years"),
    ],
)
def test_durations(seconds: int, text: str) -> None:
    assert duration_text(seconds * SECOND_NS) == text


def test_columns_of_ps() -> None:
    assert [title for title, _ in columns_of("aux")][:4] == ["USER", "PID", "%CPU", "%MEM"]
    assert columns_of("") == columns_of("-ef") == columns_of("-e -f")
    assert [title for title, _ in columns_of("-o pid,comm")] == ["PID", "COMMAND"]
    assert [title for title, _ in columns_of("-eopid,args")] == ["PID", "COMMAND"]
    with pytest.raises(SwarmError, match='unknown user-defined format specifier "foo"'):
        columns_of("-o foo")
    with pytest.raises(SwarmError, match="Couldn't find PID field"):
        columns_of("-o comm")
    with pytest.raises(SwarmError, match="unsupported option --sort"):
        columns_of("-ef --sort")


def task_in(
    state: TaskState,
    *,
    pid: int = 0,
    code: int = 0,
    health: HealthState = HealthState.UNSPECIFIED,
    err: str = "",
) -> Task:
    found = ContainerStatus(container_id="t9", pid=pid, exit_code=code) if state >= TaskState.READY else None
    status = TaskStatus(state=state, timestamp=AT, container_status=found, health=health, err=err)
    return Task(id=TaskId("t9"), node_id=FIRST, status=status)


@pytest.mark.parametrize(
    ("states", "actions"),
    [
        (
            [task_in(TaskState.ASSIGNED), task_in(TaskState.READY), task_in(TaskState.STARTING),
             task_in(TaskState.RUNNING, pid=7), task_in(TaskState.FAILED, pid=7, code=3), None],
            ["create", "start", "die", "destroy"],
        ),
        (
            [task_in(TaskState.STARTING), task_in(TaskState.COMPLETE)],
            ["create", "start", "die"],
        ),
        (
            [task_in(TaskState.READY), task_in(TaskState.SHUTDOWN), None],
            ["create", "destroy"],
        ),
        (
            [task_in(TaskState.STARTING, pid=7, health=HealthState.STARTING),
             task_in(TaskState.RUNNING, pid=7, health=HealthState.HEALTHY),
             task_in(TaskState.RUNNING, pid=7, health=HealthState.UNHEALTHY),
             task_in(TaskState.SHUTDOWN, pid=7, code=143)],
            ["create", "start", "health_status: healthy", "health_status: unhealthy", "kill", "die", "stop"],
        ),
        (
            [task_in(TaskState.RUNNING, pid=7), task_in(TaskState.FAILED, pid=7, err="x: out of memory")],
            ["create", "start", "oom", "die"],
        ),
        ([task_in(TaskState.PREPARING), task_in(TaskState.REJECTED), None], ["create", "destroy"]),
    ],
)  # fmt: skip
def test_events_out_of_states(states: list[Task | None], actions: list[str]) -> None:
    view = FakeCluster().store
    told = []
    for old, new in zip([None, *states], states, strict=False):
        change = Change(AT, old, new)
        told += [event["Action"] for event in container_events(view, change, here=FIRST, removed={})]
        assert not list(container_events(view, change, here=NodeId("other"), removed={}))
    assert told == actions
