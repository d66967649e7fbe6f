"""Task states, who may move a task from one to the next, and the enumerations of specs and statuses.

``TRANSITIONS`` is the one table of the task's life: ``apply`` enforces it, the documentation draws it.
A state only grows. Every transition has one owner, with the exceptions that the table names:
the orchestrator gives up tasks that no agent will ever report on (node removed or down for too long),
and ends tasks that never reached an agent.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class TaskState(IntEnum):
    """Where a task is in its life; the numbers are swarm mode's wire values."""

    NEW = 0
    PENDING = 64
    ASSIGNED = 192
    ACCEPTED = 256
    PREPARING = 320
    READY = 384
    STARTING = 448
    RUNNING = 512
    COMPLETE = 576
    SHUTDOWN = 640
    FAILED = 704
    REJECTED = 768
    REMOVE = 800
    ORPHANED = 832


DESIRED_STATES = frozenset(
    {TaskState.READY, TaskState.RUNNING, TaskState.COMPLETE, TaskState.SHUTDOWN, TaskState.REMOVE}
)
"""The states that the orchestrator may wish for. READY: prepare, but wait for the order to run."""

TERMINAL_STATES = frozenset(
    {TaskState.COMPLETE, TaskState.SHUTDOWN, TaskState.FAILED, TaskState.REJECTED, TaskState.ORPHANED}
)


def is_terminal(state: TaskState) -> bool:
    """Whether a task in this state will never run (again)."""
    return state > TaskState.RUNNING


class Owner(StrEnum):
    """Who proposes a change; ``apply`` checks task transitions against it."""

    API = "api"
    ORCHESTRATOR = "orchestrator"
    SCHEDULER = "scheduler"
    AGENT = "agent"
    REAPER = "reaper"
    DISPATCHER = "dispatcher"


_BEFORE_AGENT = (TaskState.NEW, TaskState.PENDING)
_ON_AGENT = (
    TaskState.ASSIGNED,
    TaskState.ACCEPTED,
    TaskState.PREPARING,
    TaskState.READY,
    TaskState.STARTING,
    TaskState.RUNNING,
)
_ENDED = (TaskState.COMPLETE, TaskState.SHUTDOWN, TaskState.FAILED, TaskState.REJECTED)


def _transitions() -> dict[tuple[TaskState, TaskState], frozenset[Owner]]:
    table: dict[tuple[TaskState, TaskState], set[Owner]] = {}

    def allow(source: TaskState, target: TaskState, owner: Owner) -> None:
        if target > source:
            table.setdefault((source, target), set()).add(owner)

    for source in _BEFORE_AGENT:
        allow(source, TaskState.PENDING, Owner.ORCHESTRATOR)
        # placement: orchestrator and scheduler compose over one draft, so either proposes it
        allow(source, TaskState.ASSIGNED, Owner.ORCHESTRATOR)
        allow(source, TaskState.ASSIGNED, Owner.SCHEDULER)
        # nobody else will ever report on a task that reached no agent
        allow(source, TaskState.SHUTDOWN, Owner.ORCHESTRATOR)
        allow(source, TaskState.SHUTDOWN, Owner.SCHEDULER)
    for source in _ON_AGENT:
        for target in (*_ON_AGENT, *_ENDED):
            allow(source, target, Owner.AGENT)
        # the constraint enforcer turns down what no longer fits its node
        allow(source, TaskState.REJECTED, Owner.ORCHESTRATOR)
    for source in (*_BEFORE_AGENT, *_ON_AGENT):
        allow(source, TaskState.ORPHANED, Owner.ORCHESTRATOR)
    return {pair: frozenset(owners) for pair, owners in table.items()}


TRANSITIONS: dict[tuple[TaskState, TaskState], frozenset[Owner]] = _transitions()
"""(from, to) -> owners that may make the step. What is not here is refused."""

CREATED_STATES: dict[TaskState, frozenset[Owner]] = {
    TaskState.NEW: frozenset({Owner.ORCHESTRATOR}),
    TaskState.PENDING: frozenset({Owner.ORCHESTRATOR}),
    TaskState.ASSIGNED: frozenset({Owner.ORCHESTRATOR}),
}
"""The states that a task may be created in."""


class NodeRole(StrEnum):
    UNSPECIFIED = ""
    WORKER = "worker"
    MANAGER = "manager"


class NodeAvailability(StrEnum):
    UNSPECIFIED = ""
    ACTIVE = "active"
    PAUSE = "pause"
    DRAIN = "drain"


class NodeState(StrEnum):
    UNSPECIFIED = ""
    UNKNOWN = "unknown"
    DOWN = "down"
    READY = "ready"
    DISCONNECTED = "disconnected"


class Reachability(StrEnum):
    UNSPECIFIED = ""
    UNKNOWN = "unknown"
    UNREACHABLE = "unreachable"
    REACHABLE = "reachable"


class RestartCondition(StrEnum):
    UNSPECIFIED = ""
    NONE = "none"
    ON_FAILURE = "on-failure"
    ANY = "any"


class FailureAction(StrEnum):
    UNSPECIFIED = ""
    PAUSE = "pause"
    CONTINUE = "continue"
    ROLLBACK = "rollback"


class UpdateOrder(StrEnum):
    UNSPECIFIED = ""
    STOP_FIRST = "stop-first"
    START_FIRST = "start-first"


class UpdateState(StrEnum):
    UNSPECIFIED = ""
    UPDATING = "updating"
    PAUSED = "paused"
    COMPLETED = "completed"
    ROLLBACK_STARTED = "rollback_started"
    ROLLBACK_PAUSED = "rollback_paused"
    ROLLBACK_COMPLETED = "rollback_completed"


class EndpointMode(StrEnum):
    UNSPECIFIED = ""
    VIP = "vip"
    DNSRR = "dnsrr"


class PortProtocol(StrEnum):
    UNSPECIFIED = ""
    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"


class PublishMode(StrEnum):
    UNSPECIFIED = ""
    INGRESS = "ingress"
    HOST = "host"


class ConcurrencyPolicy(StrEnum):
    """What a cron job does when a run is due and the one before has not ended."""

    UNSPECIFIED = ""
    ALLOW = "allow"
    FORBID = "forbid"
    REPLACE = "replace"


class PlacementStrategy(StrEnum):
    UNSPECIFIED = ""
    SPREAD = "spread"
    BINPACK = "binpack"


class DependencyCondition(StrEnum):
    """What of another service is waited for; the words are the Compose specification's."""

    UNSPECIFIED = ""
    STARTED = "service_started"
    HEALTHY = "service_healthy"
    COMPLETED = "service_completed_successfully"


class HealthState(StrEnum):
    """What a task's health check says; UNSPECIFIED: it has none."""

    UNSPECIFIED = ""
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class RunState(StrEnum):
    """What became of one run of a cron job. REPLACED: the next one ended it."""

    UNSPECIFIED = ""
    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    REPLACED = "replaced"


class MountType(StrEnum):
    UNSPECIFIED = ""
    BIND = "bind"
    VOLUME = "volume"
    TMPFS = "tmpfs"
    NPIPE = "npipe"
    CLUSTER = "cluster"
    IMAGE = "image"
