"""What ``service ps`` says of a task that does not run."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from swarmpy.cli.task_rows import current_state, slot_key, task_name, trouble
from swarmpy.client import Json

NOW = datetime(2026, 1, 1, 0, 0, 0, tzinfo=UTC)


def task(**changes: object) -> Json:
    return {"ServiceID": "s", "Slot": 1, "DesiredState": "ready", "Status": {"State": "ready"}, **changes}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ""),
        (
            {"Restart": {"Attempt": 3, "NotBefore": "2026-01-01T00:00:08.500000000Z"}},
            "restarting in 8s after 3 failures",
        ),
        ({"Restart": {"Attempt": 3, "NotBefore": "2025-12-31T00:00:00.000000000Z"}}, ""),
        (
            {
                "Restart": {"Attempt": 3, "NotBefore": "2026-01-01T00:00:08.500000000Z"},
                "DesiredState": "running",
            },
            "",
        ),
        (
            {
                "Restart": {"Attempt": 3, "NotBefore": "2026-01-01T00:00:08.500000000Z"},
                "Status": {"State": "rejected", "Err": "No such image: nope:1"},
            },
            "No such image: nope:1",
        ),
        (
            {"Status": {"State": "failed", "Err": "unhealthy", "Health": {"Output": "no\nroute\n"}}},
            "unhealthy: no route",
        ),
        (
            {
                "Restart": {"Attempt": 3, "Declined": "restart policy: 3 attempts used up"},
                "Status": {"State": "failed", "Err": "task: non-zero exit (1)"},
                "DesiredState": "shutdown",
            },
            "task: non-zero exit (1); restart policy: 3 attempts used up",
        ),
        (
            {
                "Restart": {"Attempt": 0, "Declined": 'restart policy: the condition is "none"'},
                "Status": {"State": "complete"},
                "DesiredState": "shutdown",
            },
            'restart policy: the condition is "none"',
        ),
        ({"Status": {"State": "running", "Health": {"Unready": True, "Output": "busy"}}}, "busy"),
    ],
)
def test_trouble(changes: Json, expected: str) -> None:
    assert trouble(task(**changes), NOW) == expected


def test_names_and_order() -> None:
    one, ten = task(Slot=1), task(Slot=10)
    anywhere = task(Slot=0, NodeID="n1")
    assert task_name(one, {"s": "web"}) == "web.1"
    assert task_name(anywhere, {}) == "s.n1"
    assert sorted([ten, one], key=lambda t: slot_key(t, {})) == [one, ten]


@pytest.mark.parametrize(
    ("state", "health", "expected"),
    [
        ("running", None, "Running 10 seconds ago"),
        ("running", {"Status": "healthy"}, "Running 10 seconds ago"),
        ("starting", {"Status": "starting"}, "Starting (health: starting) 10 seconds ago"),
        ("running", {"Status": "healthy", "Unready": True}, "Running (unready) 10 seconds ago"),
        ("running", {"Status": "unhealthy", "Unready": True}, "Running (health: unhealthy) 10 seconds ago"),
        ("failed", {"Status": "unhealthy"}, "Failed 10 seconds ago"),
    ],
)
def test_what_checks_say_is_beside_the_state(state: str, health: Json | None, expected: str) -> None:
    status = {"State": state, "Timestamp": "2025-12-31T23:59:50.000000000Z", "Health": health}
    assert current_state(task(Status=status), NOW) == expected
