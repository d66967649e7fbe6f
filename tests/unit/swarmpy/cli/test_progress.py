"""How far a service is: the decision behind the progress display."""

from __future__ import annotations

import pytest

from swarmpy.cli.progress import MONITOR_S, Picture, _Lines, _verify, _Watch, judge
from swarmpy.client import Json

NODES: list[Json] = [{"ID": "n1", "Status": {"State": "ready"}}, {"ID": "n2", "Status": {"State": "down"}}]


def service(replicas: int, **more: object) -> Json:
    return {"Spec": {"Mode": {"Replicated": {"Replicas": replicas}}}, **more}


def task(
    slot: int, state: str, *, desired: str = "running", node: str = "n1", err: str = "", at: str = "1"
) -> Json:
    return {
        "Slot": slot,
        "NodeID": node,
        "CreatedAt": at,
        "DesiredState": desired,
        "Status": {"State": state, "Err": err},
    }


def test_running_tasks_count() -> None:
    picture = judge(service(3), [task(1, "running"), task(2, "starting")], NODES)
    assert (picture.running, picture.wanted, picture.is_complete) == (1, 3, False)
    assert picture.headline == "overall progress: 1 out of 3 tasks"
    assert picture.rows == (("1/3", "running", 8), ("2/3", "starting", 7))


def test_a_task_on_a_dead_node_does_not_count() -> None:
    assert judge(service(1), [task(1, "running", node="n2")], NODES).running == 0


def test_the_newest_task_of_a_slot_counts() -> None:
    tasks = [
        task(1, "failed", desired="shutdown", err="task: non-zero exit (1)", at="1"),
        task(1, "running", at="2"),
    ]
    picture = judge(service(1), tasks, NODES)
    assert (picture.running, picture.trouble) == (1, "")


def test_trouble_is_told() -> None:
    reason = "no suitable node (scheduling constraints not satisfied on 2 nodes)"
    picture = judge(service(2), [task(1, "pending", err=reason), task(2, "pending", err=reason)], NODES)
    assert picture.trouble == reason
    assert picture.rows[0] == ("1/2", reason, 2)


def test_surplus_is_not_converged() -> None:
    assert not judge(service(1), [task(1, "running"), task(2, "running")], NODES).is_complete
    leaving = [task(1, "running"), task(2, "running", desired="remove")]
    assert judge(service(1), leaving, NODES).is_complete


def test_many_replicas_are_only_counted() -> None:
    picture = judge(service(100), [task(n, "running") for n in range(1, 101)], NODES)
    assert (picture.running, picture.rows) == (100, ())


def test_a_paused_update_ends_the_wait() -> None:
    status = {"State": "paused", "Message": "update paused due to failure"}
    picture = judge(service(1, UpdateStatus=status), [], NODES)
    assert picture.failure == "service update paused: update paused due to failure"


def with_policy(**policy: object) -> Json:
    return {
        "Spec": {"Mode": {"Replicated": {"Replicas": 1}}, "TaskTemplate": {"RestartPolicy": policy}},
    }


NEVER = with_policy(Condition="none")
TWICE = with_policy(Condition="on-failure", MaxAttempts=2)
TOLD = "a task has ended, and the service's restart policy does not start it again: task: non-zero exit (1)"


@pytest.mark.parametrize(
    ("wanted", "attempt", "state", "failure", "is_complete"),
    [
        (service(1), 9, "failed", "", False),
        (NEVER, 0, "failed", TOLD, False),
        (NEVER, 0, "complete", "", True),
        (TWICE, 0, "complete", "", True),
        (TWICE, 1, "failed", "", False),
        (TWICE, 2, "failed", TOLD, False),
        (with_policy(Condition="any", MaxAttempts=2, Window=5), 2, "failed", "", False),
    ],
)
def test_an_end_that_nothing_follows_ends_the_wait(
    wanted: Json, attempt: int, state: str, failure: str, is_complete: bool
) -> None:
    ended = task(1, state, desired="shutdown", err="task: non-zero exit (1)" if state == "failed" else "")
    picture = judge(wanted, [ended | {"Restart": {"Attempt": attempt}}], NODES)
    assert (picture.failure, picture.is_complete) == (failure, is_complete)


def test_a_task_that_follows_an_end_goes_on_with_the_wait() -> None:
    tasks = [
        task(1, "failed", desired="shutdown", err="task: non-zero exit (1)", at="1"),
        task(1, "starting", at="2"),
    ]
    picture = judge(TWICE, tasks, NODES)
    assert (picture.failure, picture.is_complete) == ("", False)


def test_a_global_service_wants_one_a_node() -> None:
    spec: Json = {"Spec": {"Mode": {"Global": {}}}}
    tasks = [task(0, "running", node="n1")]
    assert judge(spec, tasks, NODES).is_complete


def test_stability_is_waited_for() -> None:
    watch = _Watch()
    done, half = Picture(2, 2), Picture(1, 2)
    assert _verify(half, watch, 0.0) == ""
    assert _verify(done, watch, 1.0).startswith("verify: Waiting 6 seconds") or _verify(
        done, watch, 1.0
    ).startswith("verify: Waiting")
    assert _verify(half, watch, 3.0) == "", "a task that dies starts the wait again"
    assert _verify(done, watch, 4.0).startswith("verify: Waiting")
    assert _verify(done, watch, 4.0 + MONITOR_S) == "verify: Service converged"


def test_nothing_wanted_is_done_at_once() -> None:
    assert _verify(Picture(0, 0), _Watch(), 0.0) == "verify: Service converged"


def test_trouble_that_comes_and_goes_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = _Lines()
    for attempt in range(4):
        trouble = "No such image: nope:latest" if attempt % 2 else ""
        lines.show(Picture(running=0, wanted=2, trouble=trouble), "")
    lines.show(Picture(running=0, wanted=2, trouble="another"), "")
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["overall progress: 0 out of 2 tasks", "No such image: nope:latest", "another"]
