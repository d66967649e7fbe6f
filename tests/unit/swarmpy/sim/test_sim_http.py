"""The API without a network: the answers are those of the real application."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from api_http import spec
from api_node import FakeNode

from manager.api.context import STALE_HEADER, Api
from manager.api.server import make_app
from swarmpy.errors import NoLeader
from swarmpy.limits import API_BODY_BYTES_MAX
from swarmpy.runtime import Env
from swarmpy.sim.http import Answer, SharedHttp, SimHttp
from swarmpy.sim.loop import SimLoop

Scenario = Callable[[SimHttp, FakeNode], Awaitable[None]]


def play(scenario: Scenario) -> None:
    """In virtual time, on a loop without sockets, as in the simulation."""
    loop = SimLoop()
    node = FakeNode()
    node.become_manager()
    try:
        loop.run_until_complete(scenario(SimHttp(make_app(Api(node, Env()))), node))
    finally:
        loop.close()


def test_a_service_from_creation_to_removal() -> None:
    async def scenario(http: SimHttp, node: FakeNode) -> None:
        created = await http.request("POST", "/services/create", body=spec("web", replicas=2))
        assert created.status == 201, created.message
        assert created.headers["Content-Type"].startswith("application/json")
        listed = await http.request("GET", "/v1.44/services", query={"filters": '{"name":["web"]}'})
        assert [each["ID"] for each in listed.json] == [created.json["ID"]]

        before = (await http.request("GET", "/services/web")).json
        path = f"/services/{before['ID']}/update"
        version = str(before["Version"]["Index"])
        updated = await http.request("POST", path, body=spec("web", replicas=5), query={"version": version})
        assert updated.status == 200, updated.message
        stale = await http.request("POST", f"{path}?version={version}", body=spec("web"))
        assert "out of sequence" in stale.message
        after = (await http.request("GET", "/services/web")).json
        assert after["Spec"]["Mode"]["Replicated"]["Replicas"] == 5

        removed = await http.request("DELETE", "/services/web")
        assert (removed.status, removed.json, removed.message) == (200, None, "")
        assert (await http.request("GET", "/services/web")).status == 404
        assert node.access.store.service(created.json["ID"]) is None

    play(scenario)


def test_errors_are_docker_s() -> None:
    async def scenario(http: SimHttp, node: FakeNode) -> None:
        nowhere = await http.request("GET", "/no/such/path")
        assert (nowhere.status, nowhere.message) == (404, "page not found")
        broken = await http.request("POST", "/services/create", body=b"{")
        assert broken.status == 400
        assert broken.message == "unexpected EOF"
        empty = await http.request("POST", "/services/create")
        assert "EOF" in empty.message
        large = await http.request("POST", "/services/create", body=b" " * (API_BODY_BYTES_MAX + 1))
        assert large.status == 413

    play(scenario)


def test_a_stale_read_needs_no_leader() -> None:
    async def scenario(http: SimHttp, node: FakeNode) -> None:
        node.access.barrier_error = NoLeader()
        refused = await http.request("GET", "/services")
        assert refused.status >= 500
        assert "does not have a leader" in refused.message
        stale = await http.request("GET", "/services", headers={STALE_HEADER: "true"})
        assert (stale.status, stale.json) == (200, [])
        assert stale.headers[STALE_HEADER] == "true"

    play(scenario)


@pytest.mark.parametrize("path", ["/events", "/services/web/logs?stdout=1"])
def test_a_stream_is_refused_and_says_why(path: str) -> None:
    async def scenario(http: SimHttp, node: FakeNode) -> None:
        assert (await http.request("POST", "/services/create", body=spec("web"))).status == 201
        answer = await http.request("GET", path)
        assert answer.status == 501
        assert "streams are not simulated" in answer.message

    play(scenario)


def test_many_requests_at_once() -> None:
    async def scenario(http: SimHttp, node: FakeNode) -> None:
        async def create(number: int) -> Answer:
            return await http.request("POST", "/services/create", body=spec(f"web{number}"))

        answers = await asyncio.gather(*(create(number) for number in range(20)))
        assert {answer.status for answer in answers} == {201}
        listed: list[Any] = (await http.request("GET", "/services")).json
        assert len(listed) == 20

    play(scenario)


def test_one_application_serves_many_daemons() -> None:
    """Requests that overlap are each answered by the daemon that was asked."""
    nodes = [FakeNode() for _ in range(3)]
    for node in nodes:
        node.become_manager()
    apis = [Api(node, Env()) for node in nodes]
    http = SharedHttp()

    async def create(number: int) -> None:
        answer = await http.request(apis[number], "POST", "/services/create", body=spec(f"web-{number}"))
        assert answer.status == 201, answer.message

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(3):
                tasks.create_task(create(number))

    loop = SimLoop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    names = [[service.spec.name for service in node.access.store.services()] for node in nodes]
    assert names == [["web-0"], ["web-1"], ["web-2"]]
