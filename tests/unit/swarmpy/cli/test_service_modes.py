"""Modes on the command line: flags to the spec, the columns of ``service ls``, how far a job is."""

from __future__ import annotations

from typing import Any

import pytest

from swarmpy.cli.flags import UsageError, parse
from swarmpy.cli.progress import judge
from swarmpy.cli.service_change import COMMANDS, change_spec, new_spec
from swarmpy.cli.service_modes import mode_of, replicas_of
from swarmpy.cli.service_runs import told
from swarmpy.cli.task_rows import slot_key, task_name
from swarmpy.client import Json

NODES: list[Json] = [{"ID": "n1", "Status": {"State": "ready"}}]


def created(*words: str) -> Any:
    arguments, options = parse(COMMANDS["create"], [*words, "host"])
    return new_spec(arguments[0], arguments[1:], options, {})["Mode"]


def changed(mode: Json, *words: str) -> Any:
    _, options = parse(COMMANDS["update"], [*words, "j"])
    spec: Json = {"Mode": mode, "TaskTemplate": {}}
    change_spec(spec, options, {})
    return spec["Mode"]


@pytest.mark.parametrize(
    ("words", "mode"),
    [
        (["--mode", "replicated-job"], {"ReplicatedJob": {}}),
        (
            ["--mode", "replicated-job", "--replicas", "3"],
            {"ReplicatedJob": {"TotalCompletions": 3, "MaxConcurrent": 3}},
        ),
        (
            ["--mode", "replicated-job", "--replicas", "3", "--max-concurrent", "2"],
            {"ReplicatedJob": {"TotalCompletions": 3, "MaxConcurrent": 2}},
        ),
        (["--mode", "replicated-job", "--max-concurrent", "2"], {"ReplicatedJob": {"MaxConcurrent": 2}}),
        (["--mode", "global-job"], {"GlobalJob": {}}),
        (["--mode", "cron", "--schedule", "@daily"], {"CronJob": {"Schedule": "@daily"}}),
        (
            [
                *("--mode", "cron", "--schedule", "@daily", "--timezone", "Asia/Tokyo"),
                *("--concurrency-policy", "forbid", "--failed-history", "0", "--successful-history", "7"),
                *("--starting-deadline", "90s", "--suspend", "--replicas", "2"),
            ],
            {
                "CronJob": {
                    "Schedule": "@daily",
                    "Timezone": "Asia/Tokyo",
                    "ConcurrencyPolicy": "forbid",
                    "FailedHistory": 0,
                    "SuccessfulHistory": 7,
                    "StartingDeadline": 90_000_000_000,
                    "Suspended": True,
                    "TotalCompletions": 2,
                    "MaxConcurrent": 2,
                }
            },
        ),
    ],
)
def test_new_modes(words: list[str], mode: Json) -> None:
    assert created(*words) == mode


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["--mode", "batch"],
            "Unknown mode: batch, only replicated, global, replicated-job, global-job, cron",
        ),
        (["--mode", "cron"], "a cron job needs a --schedule"),
        (["--schedule", "@daily"], "schedule can only be used with cron mode"),
        (["--max-concurrent", "2"], "max-concurrent can only be used with replicated-job mode"),
        (["--mode", "global-job", "--replicas", "2"], "replicas can only be used with replicated"),
        (["--mode", "replicated-job", "--replicas=-1"], "it cannot be negative"),
        (
            ["--mode", "cron", "--schedule", "@daily", "--concurrency-policy", "x"],
            "give one of allow, forbid",
        ),
    ],
)
def test_what_is_refused(words: list[str], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        created(*words)
    assert text in str(caught.value)


def test_changes() -> None:
    job = {"ReplicatedJob": {"TotalCompletions": 3, "MaxConcurrent": 2}}
    assert changed(job, "--replicas", "5") == {"ReplicatedJob": {"TotalCompletions": 5, "MaxConcurrent": 2}}
    cron = {"CronJob": {"Schedule": "@daily", "Suspended": True}}
    assert changed(cron, "--suspend=false", "--max-concurrent", "2") == {
        "CronJob": {"Schedule": "@daily", "Suspended": False, "MaxConcurrent": 2}
    }
    with pytest.raises(UsageError, match="suspend can only be used with cron mode"):
        changed({"ReplicatedJob": {}}, "--suspend")


def service(mode: Json, status: tuple[int, int, int] = (0, 0, 0), **more: Any) -> Json:
    names = ("RunningTasks", "DesiredTasks", "CompletedTasks")
    return {
        "Spec": {"Mode": mode, "TaskTemplate": {}},
        "ServiceStatus": dict(zip(names, status, strict=True)),
        **more,
    }


@pytest.mark.parametrize(
    ("mode", "status", "shown"),
    [
        ({"ReplicatedJob": {"MaxConcurrent": 3, "TotalCompletions": 10}}, (1, 3, 5), "1/3 (5/10 completed)"),
        ({"GlobalJob": {}}, (1, 2, 3), "1/2 (3/5 completed)"),
        ({"CronJob": {"Schedule": "@daily", "MaxConcurrent": 2}}, (0, 2, 1), "0/2 (1/2 completed)"),
        ({"Replicated": {"Replicas": 3}}, (2, 3, 0), "2/3"),
    ],
)
def test_columns(mode: Json, status: tuple[int, int, int], shown: str) -> None:
    assert replicas_of(service(mode, status)) == shown


def test_modes_in_words() -> None:
    names = ["replicated job", "global job", "cron job", "replicated"]
    assert [
        mode_of(service({m: {}})) for m in ("ReplicatedJob", "GlobalJob", "CronJob", "Replicated")
    ] == names


def test_names_of_tasks() -> None:
    job: Json = {"ServiceID": "s", "Slot": 0, "NodeID": "n1", "JobIteration": {"Index": 0}}
    assert task_name(job, {"s": "count"}) == "count.0"
    assert task_name(job | {"Run": 12}, {"s": "tidy"}) == "tidy.12.0"
    assert slot_key(job | {"Run": 2}, {}) < slot_key(job | {"Run": 10}, {})
    everywhere = {key: value for key, value in job.items() if key != "Slot"}
    assert task_name(everywhere, {"s": "all"}) == "all.n1"


# --- progress

JOB: Json = {"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 3}}


def task(
    slot: int, state: str, *, desired: str = "complete", run: int = 0, at: str = "1", err: str = ""
) -> Json:
    return {
        "Slot": slot,
        "NodeID": "n1",
        "CreatedAt": at,
        "DesiredState": desired,
        "JobIteration": {"Index": run},
        "Status": {"State": state, "Err": err},
    }


def test_a_job_in_the_middle() -> None:
    tasks = [task(0, "complete"), task(1, "running"), task(2, "preparing"), task(2, "running", run=7)]
    picture = judge(service(JOB), tasks, NODES)
    assert picture.headline == "job progress: 1 out of 3 complete\nactive tasks: 1 out of 2 tasks"
    assert picture.rows == (("1/3", "running", 8), ("2/3", "preparing", 5))
    assert (picture.is_complete, picture.failure) == (False, "")


def test_a_job_that_is_done_need_not_be_watched() -> None:
    picture = judge(service(JOB), [task(slot, "complete") for slot in range(3)], NODES)
    assert (picture.is_complete, picture.done) == (True, "job complete")


def test_a_job_ends_the_wait_with_an_error_when_nothing_of_it_goes_on() -> None:
    failed = task(1, "failed", desired="shutdown", err="task: non-zero exit (3)")
    going_on = judge(service(JOB), [task(0, "complete"), failed], NODES)
    assert going_on.failure == ""
    over = judge(service(JOB), [task(0, "complete"), failed, task(2, "complete")], NODES)
    assert over.failure.endswith("does not start it again: task: non-zero exit (3)")
    retried = judge(service(JOB), [failed, task(1, "running", at="2")], NODES)
    assert retried.failure == ""


def test_a_global_job_counts_nodes() -> None:
    tasks = [{**task(0, "complete"), "NodeID": "n1"}, {**task(0, "running"), "NodeID": "n2"}]
    picture = judge(service({"GlobalJob": {}}), tasks, NODES)
    assert picture.headline == "job progress: 1 out of 2 complete\nactive tasks: 1 out of 1 tasks"


def test_a_cron_job_is_not_waited_for() -> None:
    status = {"NextTick": "2026-11-21T18:20:00.000000000Z"}
    picture = judge(service({"CronJob": {"Schedule": "@daily"}}, CronStatus=status), [], NODES)
    assert (picture.is_complete, picture.done) == (True, "cron job: next run at 2026-11-21 18:20:00 UTC")


def test_what_was_missed_is_told() -> None:
    status = {
        "NextTick": "2026-11-21T18:20:00.000000000Z",
        "Missed": 4,
        "LastMissed": "2026-11-21T18:10:00.000000000Z",
        "Message": "a run was missed: why",
    }
    assert told(service({"CronJob": {}}, CronStatus=status)) == [
        "next run at 2026-11-21 18:20:00 UTC",
        "missed: 4, the last one at 2026-11-21 18:10:00 UTC",
        "a run was missed: why",
    ]
