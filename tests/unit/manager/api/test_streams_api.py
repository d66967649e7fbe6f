"""Logs, events, secrets, configs over HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from api_http import Http, spec
from api_node import FIRST, FakeCluster, FakeNode

from manager.api.control import LogLine
from manager.api.logs import MULTIPLEXED, RAW
from manager.api.streams import parse_moment
from swarmpy.errors import InvalidArgument
from swarmpy.model.container_ids import container_id
from swarmpy.model.ids import ServiceId, TaskId, Timestamp
from swarmpy.model.states import TaskState
from swarmpy.runtime import SystemClock


def frames(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        length = int.from_bytes(data[4:8])
        found.append((data[0], data[8 : 8 + length]))
        data = data[8 + length :]
    return found


async def service_with_lines(http: Http, cluster: FakeCluster, **container: Any) -> str:
    answer = await http.post("/services/create", spec(container=container))
    id_: str = answer.json["ID"]
    cluster.add_task("t1", id_)
    cluster.log_lines = tuple(
        LogLine(
            task_id=TaskId("t1"),
            node_id=FIRST,
            service_id=ServiceId(id_),
            timestamp=Timestamp(1_700_000_000_000_000_001),
            stream=stream,
            data=data,
        )
        for stream, data in ((1, b"out\n"), (2, b"err\n"))
    )
    return id_


async def test_logs_are_framed(http: Http, cluster: FakeCluster) -> None:
    await service_with_lines(http, cluster)
    answer = await http.get("/services/web/logs", stdout="1", stderr="1")
    assert answer.headers["Content-Type"] == MULTIPLEXED
    assert frames(answer.body) == [(1, b"out\n"), (2, b"err\n")]


async def test_log_details_name_the_task(http: Http, cluster: FakeCluster) -> None:
    id_ = await service_with_lines(http, cluster)
    answer = await http.get("/tasks/t1/logs", stdout="1", details="1", timestamps="1", tail="1")
    assert frames(answer.body) == [
        (
            2,
            b"2023-11-14T22:13:20.000000001Z com.docker.swarm.node.id="
            + FIRST.encode()
            + f",com.docker.swarm.service.id={id_},com.docker.swarm.task.id=t1 err\n".encode(),
        )
    ]


async def test_a_terminals_log_is_raw(http: Http, cluster: FakeCluster) -> None:
    await service_with_lines(http, cluster, TTY=True)
    answer = await http.get("/services/web/logs", stdout="1")
    assert answer.headers["Content-Type"] == RAW
    assert answer.body == b"out\nerr\n"


async def test_a_tail_is_a_number_or_all(http: Http, cluster: FakeCluster) -> None:
    await service_with_lines(http, cluster)
    for tail in ("x", "-1", "9" * 20):
        answer = await http.get("/services/web/logs", stdout="1", tail=tail)
        assert (answer.status, answer.message) == (400, 'tail value must be a positive integer or "all"')
    for tail in ("", "all", "7"):
        assert (await http.get("/services/web/logs", stdout="1", tail=tail)).status == 200


async def test_missing_logs_are_told_at_the_end(http: Http, cluster: FakeCluster) -> None:
    await service_with_lines(http, cluster)
    cluster.log_warnings = ("node node-9 is not available",)
    answer = await http.get("/services/web/logs", stdout="1")
    last = frames(answer.body)[-1]
    assert last[0] == 3
    assert last[1].startswith(b"warning: incomplete log stream.")
    assert last[1].endswith(b"node node-9 is not available")


async def test_logs_need_a_stream_and_a_service(http: Http, cluster: FakeCluster) -> None:
    await service_with_lines(http, cluster)
    answer = await http.get("/services/web/logs")
    assert (answer.status, answer.message) == (400, "Bad parameters: you must choose at least one stream")
    assert (await http.get("/services/nope/logs", stdout="1")).status == 404


async def test_a_follower_that_leaves_ends_the_stream(
    http: Http, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()
    original = cluster.logs

    async def logs(selector: Any) -> Any:
        try:
            async for batch in original(selector):
                yield batch
        finally:
            ended.set()

    monkeypatch.setattr(cluster, "logs", logs)
    await service_with_lines(http, cluster)
    params = {"stdout": "1", "follow": "1"}
    async with http.session.get("http://swarmpy/services/web/logs", params=params) as reply:
        assert await reply.content.readexactly(12) == b"\x01\0\0\0\0\0\0\x04out\n"
        reply.close()
    async with asyncio.timeout(10):
        await ended.wait()


async def read_events(http: Http, count: int, **params: str) -> list[dict[str, Any]]:
    found = []
    async with http.session.get("http://swarmpy/events", params=params) as reply:
        async for line in reply.content:
            found.append(json.loads(line))
            if len(found) == count:
                break
    return found


async def test_events_tell_what_changed(http: Http, cluster: FakeCluster) -> None:
    reading = asyncio.create_task(read_events(http, 7, tasks="1"))
    while not cluster.store._watches:
        await asyncio.sleep(0.01)
    id_ = (await http.post("/services/create", spec())).json["ID"]
    found = (await http.get("/services/web")).json
    found["Spec"]["Mode"]["Replicated"]["Replicas"] = 7
    await http.post(f"/services/{id_}/update", found["Spec"], version=found["Version"]["Index"])
    cluster.add_task("t1", id_, state=TaskState.ASSIGNED)
    cluster.report("t1", TaskState.RUNNING)
    await http.delete("/services/web")
    async with asyncio.timeout(10):
        create, update, task, running, made, started, remove = await reading
    assert (create["Type"], create["Action"], create["scope"]) == ("service", "create", "swarm")
    assert create["Actor"] == {"ID": id_, "Attributes": {"name": "web"}}
    assert create["timeNano"] // 10**9 == create["time"]
    assert update["Actor"]["Attributes"] == {"name": "web", "replicas.old": "3", "replicas.new": "7"}
    assert (task["Type"], task["Action"]) == ("task", "create")
    assert running["Actor"]["Attributes"] == {
        "name": "web.1",
        "node": "node-1",
        "service": "web",
        "state": "running",
        "state.old": "assigned",
        "state.new": "running",
    }
    assert [made["Action"], started["Action"]] == ["create", "start"]
    assert (made["Type"], made["scope"], made["Actor"]["ID"]) == ("container", "local", container_id("t1"))
    assert made["Actor"]["Attributes"]["com.docker.swarm.service.name"] == "web"
    assert (remove["Action"], remove["Actor"]["ID"]) == ("remove", id_)


async def test_event_filters(http: Http, cluster: FakeCluster) -> None:
    wanted = json.dumps({"type": ["service"], "event": ["remove"], "service": ["web"]})
    reading = asyncio.create_task(read_events(http, 1, filters=wanted))
    while not cluster.store._watches:
        await asyncio.sleep(0.01)
    for name in ("other", "web"):
        await http.post("/services/create", spec(name))
    await http.delete("/services/other")
    await http.delete("/services/web")
    async with asyncio.timeout(10):
        (event,) = await reading
    assert event["Actor"]["Attributes"]["name"] == "web"
    assert event["Action"] == "remove"


async def test_events_of_tasks_are_for_who_asks(http: Http, cluster: FakeCluster) -> None:
    assert cluster.history.changes.next == 0
    await asyncio.sleep(0)  # its reader begins
    id_ = (await http.post("/services/create", spec())).json["ID"]
    cluster.add_task("t1", id_, state=TaskState.ASSIGNED)
    await cluster.history.changes.wait_beyond(1)

    async def told(**params: str) -> list[str]:
        now = f"{SystemClock().now() / 1e9:.6f}"
        lines = (await http.get("/events", since="1", until=now, **params)).body.splitlines()
        return [f"{event['Type']} {event['Action']}" for event in map(json.loads, lines)]

    assert await told() == ["service create"]
    assert await told(tasks="1") == ["service create", "task create"]
    assert await told(filters='{"type": ["task"]}') == ["task create"]
    assert await told(filters='{"type": ["service"]}', tasks="1") == ["service create"]
    refused = await http.get("/events", since="5", until="3")
    assert (refused.status, refused.message) == (400, "`since` time (5) cannot be after `until` time (3)")


async def test_events_end_when_told(http: Http, node: FakeNode) -> None:
    answer = await http.get("/events", until="1")
    assert (answer.status, answer.body) == (200, b"")
    node.become_worker()
    assert (await http.get("/events", until="1")).status == 200
    assert (await http.get("/events", until="yesterday")).status == 400


def test_moments() -> None:
    assert parse_moment("") is None
    assert parse_moment("1700000000.5") == 1_700_000_000_500_000_000
    assert parse_moment("1700000000.000000001") == 1_700_000_000_000_000_001
    assert parse_moment("2023-11-14T22:13:20Z") == 1_700_000_000_000_000_000
    with pytest.raises(InvalidArgument):
        parse_moment("soon")


# --- secrets and configs


@pytest.mark.parametrize("kind", ["secrets", "configs"])
async def test_the_life_of_a_file(http: Http, cluster: FakeCluster, kind: str) -> None:
    data = base64.b64encode(b"hunter2").decode()
    answer = await http.post(f"/{kind}/create", {"Name": "s1", "Data": data, "Labels": {"a": "b"}})
    assert answer.status == 201, answer.body
    id_ = answer.json["ID"]
    (item,) = (await http.get(f"/{kind}", filters={"names": ["s1"]})).json
    assert item["ID"] == id_
    assert item["Spec"].get("Data") == (None if kind == "secrets" else data), "secrets are not read back"
    assert (await http.post(f"/{kind}/create", {"Name": "s1", "Data": data})).status == 409
    version = item["Version"]["Index"]
    answer = await http.post(f"/{kind}/{id_}/update", {"Name": "s1", "Labels": {"c": "d"}}, version=version)
    assert answer.status == 200
    shown = (await http.get(f"/{kind}/s1")).json
    assert shown["Spec"]["Labels"] == {"c": "d"}
    other = base64.b64encode(b"other").decode()
    answer = await http.post(
        f"/{kind}/s1/update", {"Name": "s1", "Data": other}, version=shown["Version"]["Index"]
    )
    assert answer.status == 400
    assert "only updates to Labels are allowed" in answer.message
    assert (await http.delete(f"/{kind}/s1")).status == 204
    assert (await http.get(f"/{kind}/s1")).status == 404


@pytest.mark.parametrize(
    ("kind", "name", "size", "status"),
    [
        ("secrets", "s", 511_999, 201),
        ("secrets", "s", 512_000, 400),
        ("secrets", "s", 0, 400),
        ("configs", "s", 1_023_999, 201),
        ("configs", "s", 1_024_000, 400),
        ("secrets", "s" * 64, 1, 201),
        ("secrets", "s" * 65, 1, 400),
        ("secrets", "-s", 1, 400),
        ("secrets", "", 1, 400),
    ],
)
async def test_exact_limits_of_files(
    http: Http, cluster: FakeCluster, kind: str, name: str, size: int, status: int
) -> None:
    data = base64.b64encode(b"x" * size).decode()
    answer = await http.post(f"/{kind}/create", {"Name": name, "Data": data})
    assert answer.status == status, answer.body


async def test_a_secret_in_use_stays(http: Http, cluster: FakeCluster) -> None:
    id_ = (await http.post("/secrets/create", {"Name": "s1", "Data": "eA=="})).json["ID"]
    reference = {
        "SecretID": id_,
        "SecretName": "s1",
        "File": {"Name": "s1", "UID": "0", "GID": "0", "Mode": 292},
    }
    answer = await http.post("/services/create", spec(container={"Secrets": [reference]}))
    assert answer.status == 201, answer.body
    answer = await http.delete("/secrets/s1")
    assert answer.status == 400
    assert "secret 's1' is in use by the following service: web" in answer.message
