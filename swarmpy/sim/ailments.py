"""Checks of simulated tasks: which services ask for them, and what ailing tasks answer.

A task that is asked answers well, unless a fault has made it ail; then each of its checks fails, hangs or is
late for as long as the fault lasts.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from agent.executor.base import Command, Output
from agent.executor.fake_exec import Reply
from swarmpy.model.ids import SECOND_NS, TaskId

HEALTH, READINESS = "healthy", "ready"
"""The commands of the two checks."""
WELL = Reply(takes_s=0.01)
AILING = (
    Reply(exit_code=1, output=(Output(2, b"simulated: not now"),)),
    Reply(takes_s=None),
    Reply(takes_s=1.5),
    Reply(refusal="simulated: no such command"),
)
_CHECKED = 0.35
"""Of services: how many have a health check, and how many a check of readiness."""


def checks(dice: Random) -> dict[str, Any]:
    """What a service's container says of checks."""
    found: dict[str, Any] = {}
    if dice.random() < _CHECKED:
        found["Healthcheck"] = {
            "Test": ["CMD", HEALTH],
            "Interval": 2 * SECOND_NS,
            "Timeout": SECOND_NS,
            "Retries": dice.randint(1, 3),
            "StartPeriod": dice.choice([0, 5 * SECOND_NS]),
            "StartInterval": SECOND_NS,
        }
    if dice.random() < _CHECKED:
        found["Readiness"] = {
            "Test": ["CMD", READINESS],
            "Interval": 3 * SECOND_NS,
            "Timeout": SECOND_NS,
            "Retries": dice.randint(1, 2),
        }
    return found


def well(task_id: TaskId, command: Command) -> Reply:
    return WELL


def ailing(dice: Random) -> Callable[[TaskId, Command], Reply]:
    """Some checks of some tasks go wrong, always in the same way."""
    fate: dict[tuple[TaskId, str], Reply] = {}

    def answer(task_id: TaskId, command: Command) -> Reply:
        key = (task_id, command.argv[0])
        if key not in fate:
            fate[key] = dice.choice(AILING) if dice.random() < 0.7 else WELL
        return fate[key]

    return answer
