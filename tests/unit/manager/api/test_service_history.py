"""``/swarmpy/services/{id}/…``: kept revisions, the return to one, and updates that wait for a word."""

from __future__ import annotations

from typing import Any

import pytest
from api_http import Http, spec
from api_node import FakeCluster
from msgspec.structs import replace

from swarmpy.limits import REVISIONS_KEPT
from swarmpy.model.changes import Update
from swarmpy.model.ids import ServiceId, Timestamp
from swarmpy.model.objects import UpdateStatus
from swarmpy.model.states import TaskState, UpdateState


async def made(http: Http, **fields: Any) -> dict[str, Any]:
    answer = await http.post("/services/create", spec(**fields))
    assert answer.status == 201, answer.body
    return await inspect(http)


async def inspect(http: Http) -> dict[str, Any]:
    found: dict[str, Any] = (await http.get("/services/web")).json
    return found


async def relabel(http: Http, value: str) -> None:
    service = await inspect(http)
    service["Spec"]["Labels"] = {"k": value}
    await post(http, service, "update", service["Spec"])


async def post(http: Http, service: dict[str, Any], what: str, body: object = None, **query: Any) -> Any:
    prefix = "/services" if what == "update" else "/swarmpy/services"
    version = query.pop("version", service["Version"]["Index"])
    return await http.post(f"{prefix}/{service['ID']}/{what}", body, version=version, **query)


async def test_history_lists_what_is_kept(http: Http, cluster: FakeCluster) -> None:
    await made(http)
    await relabel(http, "1")
    await relabel(http, "2")
    found = (await http.get("/swarmpy/services/web/history")).json
    assert (found["Name"], found["Kept"]) == ("web", REVISIONS_KEPT)
    marks = [(each["Number"], each["Current"], each["Previous"]) for each in found["Revisions"]]
    assert marks == [(1, False, False), (2, False, True), (3, True, False)]
    assert [each["Spec"]["Labels"] for each in found["Revisions"]] == [{}, {"k": "1"}, {"k": "2"}]
    assert (await http.get("/swarmpy/services/nope/history")).status == 404


async def test_rollback_to_a_number(http: Http, cluster: FakeCluster) -> None:
    await made(http)
    await relabel(http, "1")
    await relabel(http, "2")
    service = await inspect(http)
    assert (await post(http, service, "rollback", to="1")).status == 200
    service = await inspect(http)
    assert service["Spec"]["Labels"] == {}
    assert service["PreviousSpec"]["Labels"] == {"k": "2"}
    assert service["UpdateStatus"]["State"] == "rollback_started"
    assert service["UpdateStatus"]["Message"] == "manually requested rollback"
    refused = await post(http, service, "rollback", to="7")
    assert (refused.status, refused.message) == (
        404,
        "rpc error: code = NotFound desc = revision 7 of service web is not kept: give one of 1, 2, 3",
    )
    assert (await post(http, service, "rollback", to="1")).status == 400
    assert (await post(http, service, "rollback", to="x")).status == 400
    assert (await post(http, service, "rollback", to="2", version=1)).message.endswith("out of sequence")


async def pause(http: Http, cluster: FakeCluster) -> dict[str, Any]:
    """As if an update of ``web`` had paused."""
    found = await inspect(http)
    stored = cluster.view.service(ServiceId(found["ID"]))
    assert stored is not None
    status = UpdateStatus(state=UpdateState.PAUSED, started_at=Timestamp(10**18), message="update paused …")
    cluster.change(Update(object=replace(stored, update_status=status)))
    return await inspect(http)


@pytest.mark.parametrize("way", ["resume", "update"])
async def test_a_paused_update_goes_on(http: Http, cluster: FakeCluster, way: str) -> None:
    """By our own word, or by docker's: the same spec again."""
    await made(http)
    service = await pause(http, cluster)
    body = service["Spec"] if way == "update" else None
    assert (await post(http, service, way, body)).status == 200
    status = (await inspect(http))["UpdateStatus"]
    assert (status["State"], status["Message"]) == ("updating", "update in progress")
    assert status["StartedAt"].startswith("2001-09-09")
    assert status["ResumedAt"] > status["StartedAt"]


async def test_scaling_lets_nothing_go_on(http: Http, cluster: FakeCluster) -> None:
    await made(http)
    service = await pause(http, cluster)
    service["Spec"]["Mode"] = {"Replicated": {"Replicas": 9}}
    assert (await post(http, service, "update", service["Spec"])).status == 200
    assert (await inspect(http))["UpdateStatus"]["State"] == "paused"


async def test_nothing_to_resume(http: Http, cluster: FakeCluster) -> None:
    refused = await post(http, await made(http), "resume")
    assert refused.status == 400
    assert refused.message.endswith("service web has no paused update to go on with: there is none")


async def test_a_task_that_nothing_follows_says_why(http: Http, cluster: FakeCluster) -> None:
    body = spec()
    body["TaskTemplate"]["RestartPolicy"] = {"Condition": "any", "MaxAttempts": 2}
    await http.post("/services/create", body)
    service = cluster.view.service(ServiceId((await inspect(http))["ID"]))
    assert service is not None
    for id_ in ("task0", "task1"):
        cluster.add_task(id_, service.id, state=TaskState.FAILED)
        cluster.order(id_, TaskState.SHUTDOWN)
    found = {task["ID"]: task for task in (await http.get("/tasks")).json}
    assert "Restart" not in found["task0"]
    assert found["task1"]["Restart"]["Declined"] == "restart policy: 2 attempts used up"
    assert (await http.get("/tasks/task1")).json == found["task1"]
