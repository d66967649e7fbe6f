"""Jobs over the API: what is stored, what begins anew, the shapes that clients read."""

from __future__ import annotations

from typing import Any

import pytest
from api_http import Http
from api_node import FakeCluster

JOB: dict[str, Any] = {"ReplicatedJob": {}}
CRON: dict[str, Any] = {"CronJob": {"Schedule": "30 4 1 1 *", "Timezone": "Europe/Berlin"}}


def spec(mode: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"Name": "j", "TaskTemplate": {"ContainerSpec": {"Image": "host"}}, "Mode": mode, **more}


async def create(http: Http, mode: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = await http.post("/services/create", spec(mode, **more))
    assert answer.status == 201, answer.message
    return await read(http)


async def read(http: Http) -> dict[str, Any]:
    found: dict[str, Any] = (await http.get("/services/j")).json
    return found


async def update(http: Http, changed: dict[str, Any], *, rollback: str = "") -> dict[str, Any]:
    version = (await read(http))["Version"]["Index"]
    answer = await http.post(f"/services/j/update?version={version}&rollback={rollback}", changed)
    assert answer.status == 200, answer.message
    return await read(http)


async def test_the_numbers_of_a_job_are_written_out(http: Http, cluster: FakeCluster) -> None:
    service = await create(http, JOB)
    assert service["Spec"]["Mode"] == {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 1}}
    service = await update(http, spec({"ReplicatedJob": {"MaxConcurrent": 3}}))
    assert service["Spec"]["Mode"] == {"ReplicatedJob": {"MaxConcurrent": 3, "TotalCompletions": 3}}


@pytest.mark.parametrize("mode", [JOB, {"GlobalJob": {}}])
async def test_every_change_of_a_job_is_another_iteration(
    http: Http, cluster: FakeCluster, mode: dict[str, Any]
) -> None:
    service = await create(http, mode)
    assert service["JobStatus"]["JobIteration"] == {}
    same = await update(http, service["Spec"])
    assert same["JobStatus"] == service["JobStatus"]
    relabelled = await update(http, service["Spec"] | {"Labels": {"a": "b"}})
    assert relabelled["JobStatus"]["JobIteration"] == {"Index": 1}
    assert relabelled["JobStatus"]["LastExecution"] >= service["JobStatus"]["LastExecution"]
    returned = await update(http, service["Spec"], rollback="previous")
    assert returned["JobStatus"]["JobIteration"] == {"Index": 2}
    assert "UpdateStatus" not in returned


async def test_a_cron_job_whose_runs_could_never_end_is_refused(http: Http, cluster: FakeCluster) -> None:
    mode = {"CronJob": {"Schedule": "@daily", "TotalCompletions": 2, "MaxConcurrent": 0}}
    answer = await http.post("/services/create", spec(mode))
    assert answer.status == 400
    assert "no run of it could ever end" in answer.message
    mode["CronJob"]["TotalCompletions"] = 0
    await create(http, mode)


async def test_the_list_counts_completions(http: Http, cluster: FakeCluster) -> None:
    await create(http, {"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 5}})
    (service,) = (await http.get("/services?status=true")).json
    assert service["ServiceStatus"] == {"RunningTasks": 0, "DesiredTasks": 2, "CompletedTasks": 0}


async def test_the_list_says_what_a_service_waits_for(http: Http, cluster: FakeCluster) -> None:
    await create(http, JOB, DependsOn=[{"Service": "db", "Condition": "service_healthy"}])
    (service,) = (await http.get("/services?status=true")).json
    assert service["ServiceStatus"]["Waiting"] == (
        "waiting for service db, which does not exist: service_healthy"
    )


async def test_a_cron_job_tells_its_next_run(http: Http, cluster: FakeCluster) -> None:
    service = await create(http, CRON)
    assert service["CronStatus"]["NextTick"].endswith("-01-01T03:30:00Z")
    assert service["CronStatus"]["LastTick"] <= service["CreatedAt"]
    paused = {"CronJob": {**CRON["CronJob"], "Suspended": True}}
    assert "NextTick" not in (await update(http, spec(paused)))["CronStatus"]
    moved = await update(http, spec(CRON))
    assert moved["CronStatus"]["LastTick"] > service["CronStatus"]["LastTick"]
    assert moved["JobStatus"]["JobIteration"] == {}


async def test_cron_jobs_can_be_listed_by_mode(http: Http, cluster: FakeCluster) -> None:
    await create(http, CRON)
    assert len((await http.get('/services?filters={"mode":["cronjob"]}')).json) == 1
    assert (await http.get('/services?filters={"mode":["replicated"]}')).json == []


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (spec(JOB, UpdateConfig={"Parallelism": 1}), "Jobs may not have an update config"),
        (spec(CRON, UpdateConfig={}), "Jobs may not have an update config"),
        (spec({"CronJob": {}}), 'a schedule is needed, such as "*/5 * * * *" or "@daily"'),
        (spec({"CronJob": {"Schedule": "* * * *"}}), "has 4 fields and needs 5"),
        (spec({"CronJob": {"Schedule": "@daily", "Timezone": "Mars/X"}}), 'unknown time zone "Mars/X"'),
        (spec({"CronJob": {"Schedule": "@daily", "FailedHistory": -1}}), "must be between 0 and 100 runs"),
        (spec({"CronJob": {"Schedule": "@daily", "StartingDeadline": -1}}), "cannot be negative"),
        (spec({"ReplicatedJob": {"MaxConcurrent": -1}}), "cannot unmarshal number -1"),
        (spec({**JOB, **CRON}), "must specify only one service mode"),
        (spec(JOB, DependsOn=[{"Service": "j"}]), "j cannot wait for itself"),
        (spec(JOB, DependsOn=[{"Service": "a"}, {"Service": "a"}]), "a is named more than once"),
        (spec(JOB, DependsOn=[{}]), "the name of a service is missing"),
    ],
)
async def test_what_is_refused(http: Http, cluster: FakeCluster, body: dict[str, Any], told: str) -> None:
    answer = await http.post("/services/create", body)
    assert answer.status == 400
    assert told in answer.message


@pytest.mark.parametrize("mode", [CRON, {"GlobalJob": {}}, {"Replicated": {}}])
async def test_the_mode_cannot_change(http: Http, cluster: FakeCluster, mode: dict[str, Any]) -> None:
    service = await create(http, JOB)
    answer = await http.post(f"/services/j/update?version={service['Version']['Index']}", spec(mode))
    assert answer.status == 501
    assert answer.message.endswith("service mode change is not allowed")
