"""A container's state in docker's words: ``Up 3 minutes (healthy)``, ``Exited (0) 5 seconds ago``. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from manager.api.container_refs import ContainerRef, ContainerState, state_of
from swarmpy.model.containers import OUT_OF_MEMORY, ContainerFacts
from swarmpy.model.ids import SECOND_NS, Timestamp
from swarmpy.model.states import HealthState, TaskState, is_terminal

HEALTH_WORDS: Final = {
    HealthState.UNSPECIFIED: "none",
    HealthState.STARTING: "starting",
    HealthState.HEALTHY: "healthy",
    HealthState.UNHEALTHY: "unhealthy",
}
_OWN_ENDS: Final = ("task: non-zero exit",)
"""What is said of a task that ran and ended badly: docker says that by the exit code alone."""
_NEVER: Final = Timestamp(0)
_MINUTE_S, _HOUR_S, _DAY_H = 60, 3600, 24


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What is shown of a container's life. A time of 0: it has not come to that."""

    state: ContainerState
    started_at: Timestamp = _NEVER
    ended_at: Timestamp = _NEVER
    exit_code: int = 0
    pid: int = 0
    is_oom_killed: bool = False
    error: str = ""
    health: HealthState = HealthState.UNSPECIFIED
    health_output: str = ""


def condition_of(container: ContainerRef, facts: ContainerFacts | None) -> Condition:
    """The node's own figures where it has told them, the store's else."""
    state, task = state_of(container), container.task
    if task is None:
        return Condition(state=state)
    facts = facts or ContainerFacts(task_id=task.id)
    status = task.status
    found = status.container_status
    is_over = is_terminal(status.state)
    is_running = state is ContainerState.RUNNING
    has_run = is_running or bool(facts.started_at or status.running_since) or (is_over and found is not None)
    return Condition(
        state=state,
        started_at=(facts.started_at or status.running_since or status.timestamp)
        if has_run
        else Timestamp(0),
        ended_at=(facts.ended_at or status.timestamp) if is_over else Timestamp(0),
        exit_code=(found.exit_code if found is not None else facts.exit_code) if is_over else 0,
        pid=(found.pid if found is not None and found.pid else facts.pid) if is_running else 0,
        is_oom_killed=facts.is_oom_killed or (is_over and OUT_OF_MEMORY in status.err),
        error="" if status.err.startswith(_OWN_ENDS) else status.err,
        health=status.health,
        health_output=status.health_output,
    )


def has_container(container: ContainerRef) -> bool:
    """Whether a node has made one, or keeps what is left of it; one by hand is there from its creation."""
    task = container.task
    if container.is_by_hand or task is None:
        return container.is_by_hand
    if not task.node_id or task.status.state in (TaskState.ORPHANED, TaskState.REMOVE):
        return False
    return TaskState.READY <= task.status.state <= TaskState.RUNNING or (
        is_terminal(task.status.state) and task.status.container_status is not None
    )


def status_text(condition: Condition, now: Timestamp) -> str:
    match condition.state:
        case ContainerState.RUNNING:
            health = HEALTH_WORDS[condition.health]
            word = {"none": "", "starting": " (health: starting)"}.get(health, f" ({health})")
            return f"Up {duration_text(now - condition.started_at)}{word}"
        case ContainerState.RESTARTING:
            return f"Restarting ({condition.exit_code}) {duration_text(now - condition.ended_at)} ago"
        case ContainerState.EXITED if condition.ended_at:
            return f"Exited ({condition.exit_code}) {duration_text(now - condition.ended_at)} ago"
        case ContainerState.EXITED | ContainerState.CREATED:
            return "Created"


def duration_text(nanoseconds: int) -> str:
    """As docker rounds it."""
    seconds = max(nanoseconds, 0) // SECOND_NS
    minutes, hours = seconds // _MINUTE_S, (seconds + _HOUR_S // 2) // _HOUR_S
    steps = (
        (seconds < 1, "Less than a second"),
        (seconds == 1, "1 second"),
        (seconds < _MINUTE_S, f"{seconds} seconds"),
        (minutes == 1, "About a minute"),
        (minutes < _MINUTE_S, f"{minutes} minutes"),
        (hours == 1, "About an hour"),
        (hours < 2 * _DAY_H, f"{hours} hours"),
        (hours < 14 * _DAY_H, f"{hours // _DAY_H} days"),
        (hours < 60 * _DAY_H, f"{hours // _DAY_H // 7} weeks"),
        (hours < 730 * _DAY_H, f"{hours // _DAY_H // 30} months"),
    )
    return next((text for is_it, text in steps if is_it), f"{hours // _DAY_H // 365} years")
