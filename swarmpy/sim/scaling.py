"""Load of simulated tasks, and which services have their replicas follow it.

A task's load follows from its id alone and never changes: what a service as a whole wants depends on which
tasks it happens to have, so some services grow, some shrink, some go on looking for the right number.
"""

from __future__ import annotations

from random import Random
from typing import Any
from zlib import crc32

from swarmpy.model.ids import SECOND_NS, TaskId

REPLICAS_MIN, REPLICAS_MAX = 1, 6
CPU_PERCENT = 50
LOAD_STEPS = 1000
_FOLLOWING = 0.2
"""Of replicated services: how many follow load."""


def load_of(task_id: TaskId) -> float:
    """CPUs that the task uses: below one, a third on the average, many of them next to nothing."""
    return (crc32(task_id.encode()) % LOAD_STEPS / LOAD_STEPS) ** 2


def autoscale(dice: Random) -> dict[str, Any] | None:
    """What a replicated service's spec says of it; None: it has the replicas that it asks for."""
    if dice.random() >= _FOLLOWING:
        return None
    return {
        "Min": REPLICAS_MIN,
        "Max": REPLICAS_MAX,
        "CpuPercent": CPU_PERCENT,
        "ScaleDownDelay": dice.choice([0, 5 * SECOND_NS, 20 * SECOND_NS]),
    }
