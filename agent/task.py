"""The life of one task on its node, one step at a time.

``next_step`` looks at what is wished for, what was reported and what stands on this machine, and names the
one thing to do next, or nothing. It is the same decision for a new task, an adopted one and one whose
node has just lost power, so there is no other recovery code.

Invariants: a state only grows; a task is started only in state STARTING, which was persisted before; what
was made is taken down as soon as the task has ended, except for its log, which goes with the task itself.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import Enum, IntEnum, auto

from agent.dataplane.base import Endpoint
from agent.executor.base import Exit, ImageConfig, Sandbox
from agent.files import Followed
from swarmpy.model.containers import OUT_OF_MEMORY
from swarmpy.model.objects import Task, TaskStatus
from swarmpy.model.specs import Healthcheck
from swarmpy.model.states import HealthState, TaskState, is_terminal

UNHEALTHY = "dockerexec: unhealthy container"
"""Docker's words for why a task was ended that its health check had given up."""


class Trace(IntEnum):
    """What the executor may still hold of a task."""

    NOTHING = 0
    LOG = 1
    ALL = 2


@dataclass(slots=True)
class Run:
    """One task as the core knows it. Mutable; owned by the core.

    ``is_started``: a process of it may exist or have existed. ``exit``: it has ended. ``is_attached``: a
    sandbox may stand. ``endpoint``: what the task is to have in the network, until that is taken down.
    ``stop_at``: when a task that was told to stop may be stopped; 0: that was not decided. ``attempt``: the
    number of the operation under way, 0 for none; ``version``: of the task when it was asked for.
    ``started_at``: when its process was started, on the monotonic clock. ``health``, ``is_unready`` and
    ``health_output``: what its checks say now; ``status`` has what was told of them. ``follows``: the newest
    data of the files that it has reloaded; ``given``: those of them that it was given, as far as is known.
    """

    task: Task
    status: TaskStatus
    is_released: bool = False
    stop_signal: int = signal.SIGTERM
    image: ImageConfig | None = None
    sandbox: Sandbox | None = None
    endpoint: Endpoint | None = None
    is_created: bool = False
    is_started: bool = False
    pid: int = 0
    exit: Exit | None = None
    trace: Trace = Trace.NOTHING
    is_attached: bool = False
    attempt: int = 0
    doing: Do | None = None
    version: int = 0
    failures: int = 0
    retry_at: float = 0.0
    stop_at: float = 0.0
    image_check: Healthcheck | None = None
    started_at: float = 0.0
    health: HealthState = HealthState.UNSPECIFIED
    is_unready: bool = False
    health_output: str = ""
    follows: Followed = ()
    given: Followed = ()

    @property
    def has_ended(self) -> bool:
        return is_terminal(self.status.state)

    @property
    def is_live(self) -> bool:
        """Whether a process of the task may be running."""
        return self.is_started and self.exit is None

    @property
    def has_process(self) -> bool:
        """Whether a process of the task is known to run."""
        return self.pid != 0 and self.exit is None

    @property
    def is_condemned(self) -> bool:
        """Whether it was told that the task is unhealthy, so that it has to end."""
        return self.status.health is HealthState.UNHEALTHY and not self.has_ended

    @property
    def has_old_files(self) -> bool:
        """Whether there are newer data than it was given of files that it has reloaded."""
        return bool(self.follows) and self.follows != self.given

    @property
    def is_misplaced(self) -> bool:
        """Whether it was joined to a network, or taken off one, since its places were made."""
        return self.task.has_joined and self.status.places_version < self.task.version

    @property
    def may_wait_for_networks(self) -> bool:
        return bool(self.task.networks) and (self.sandbox is None or self.is_misplaced)

    @property
    def is_unwanted(self) -> bool:
        return self.is_released or self.task.desired_state >= TaskState.SHUTDOWN


@dataclass(frozen=True, slots=True)
class Move:
    """Report a new state."""

    state: TaskState
    message: str
    err: str = ""


class Do(Enum):
    """An operation to ask for. ``PLACE``: a running task was joined to networks, or taken off some.
    ``RELOAD``: there are newer data of its files. ``FORGET``: nothing is left of the task, drop the record.
    """

    ENSURE_IMAGE = auto()
    ATTACH = auto()
    CREATE = auto()
    START = auto()
    PLACE = auto()
    RELOAD = auto()
    STOP = auto()
    REMOVE = auto()
    DETACH = auto()
    FORGET = auto()


START_UP = frozenset({Do.ATTACH, Do.CREATE, Do.START})
"""The operations that are bounded in number. The others are never held up."""

Step = Move | Do


def next_step(run: Run) -> Step | None:
    """The one thing to do next for the task; None while there is nothing to do but wait."""
    if run.exit is not None and not run.has_ended and not run.is_released:
        return _ended(run, run.exit)
    if run.attempt:
        return None
    if run.is_released or run.has_ended:
        return _take_down(run)
    if run.is_unwanted:
        return Do.STOP if run.is_live else Move(TaskState.SHUTDOWN, "shutdown")
    if run.is_condemned:
        return Do.STOP if run.is_live else failure(run, UNHEALTHY)
    if run.has_process and run.status.state < TaskState.RUNNING:
        return _come_up(run)
    return _bring_up(run)


def _come_up(run: Run) -> Step | None:
    """A task that runs is RUNNING once its health check, if it has one, says so."""
    if run.health in (HealthState.UNSPECIFIED, HealthState.HEALTHY):
        return Move(TaskState.RUNNING, "started")
    return Move(TaskState.STARTING, "starting") if run.status.state < TaskState.STARTING else None


def _bring_up(run: Run) -> Step | None:
    match run.status.state:
        case TaskState.NEW | TaskState.PENDING | TaskState.ASSIGNED:
            return Move(TaskState.ACCEPTED, "accepted")
        case TaskState.ACCEPTED:
            return Move(TaskState.PREPARING, "preparing")
        case TaskState.PREPARING:
            return _prepare(run) or Move(TaskState.READY, "prepared")
        case TaskState.READY:
            # An adopted task is prepared once more: each operation of it finds its work done.
            is_wanted = run.task.desired_state >= TaskState.RUNNING
            return _prepare(run) or (Move(TaskState.STARTING, "starting") if is_wanted else None)
        case TaskState.STARTING:
            return _prepare(run) or Do.START
        case TaskState.RUNNING if run.is_misplaced:
            return Do.PLACE
        case TaskState.RUNNING if run.has_old_files:
            return Do.RELOAD
        case _:
            return None


def _prepare(run: Run) -> Do | None:
    if run.is_created and (run.is_started or not run.has_old_files):
        return None
    if run.image is None:
        return Do.ENSURE_IMAGE
    if run.sandbox is None:
        return Do.ATTACH
    return Do.CREATE


def _ended(run: Run, exit: Exit) -> Move:
    if run.is_unwanted:
        return Move(TaskState.SHUTDOWN, "shutdown")
    if run.is_condemned:
        message = "starting" if run.status.state is TaskState.STARTING else "started"
        return Move(TaskState.FAILED, message, exit_text(exit, UNHEALTHY) if exit.code else UNHEALTHY)
    if exit.code == 0:
        return Move(TaskState.COMPLETE, "finished")
    return Move(TaskState.FAILED, "started", exit_text(exit))


def exit_text(exit: Exit, cause: str = "") -> str:
    """Docker's sentence for a task that ended badly, with the cause if one is known."""
    cause = cause or exit.message or (OUT_OF_MEMORY if exit.is_oom_killed else "")
    return f"task: non-zero exit ({exit.code})" + (f": {cause}" if cause else "")


def _take_down(run: Run) -> Do | None:
    if run.is_live:
        return Do.STOP
    if run.trace is Trace.ALL or (run.is_released and run.trace is Trace.LOG):
        return Do.REMOVE
    if run.is_attached:
        return Do.DETACH
    return Do.FORGET if run.is_released else None


def failure(run: Run, error: str) -> Move:
    """The end of a task that cannot be run: rejected before it was started, failed afterwards."""
    if run.status.state < TaskState.STARTING:
        return Move(TaskState.REJECTED, run.status.message, error)
    return Move(TaskState.FAILED, run.status.message, error)
