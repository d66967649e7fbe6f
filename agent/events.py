"""What the agent's core is told (events) and what it asks for (instructions).

Every instruction that takes time carries an ``attempt`` number, and its outcome is an event with the same
number; the core ignores an outcome whose attempt it no longer waits for. ``Persist`` comes first in a round
and is durable before anything else of the round is carried out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from agent.dataplane.base import Endpoint, NodeState
from agent.executor.base import Exit, Found, ImageConfig, Launch, LaunchFile, Sandbox
from swarmpy.model.discovery import (
    DiscoveryRecord,
    NetworkEndpoint,
    NetworkService,
    NetworkSettings,
    NodePeer,
    RecordKind,
)
from swarmpy.model.ids import Duration, NetworkId, RevisionId, SessionId, TaskId, Timestamp
from swarmpy.model.objects import Config, Kind, Network, Revision, Secret, Task, TaskStatus
from swarmpy.model.specs import Healthcheck

NEVER = Duration(0)
"""Of the time after which a node without managers stops its tasks."""


class Now(NamedTuple):
    """Both clocks at one moment: ``wall`` stamps statuses, ``mono`` measures delays in seconds."""

    wall: Timestamp
    mono: float


# --- assignments


@dataclass(frozen=True, slots=True)
class Removal:
    """The node should no longer hold this."""

    kind: Kind
    id: str


@dataclass(frozen=True, slots=True)
class RecordRemoval:
    """The node should no longer hold this record of a network."""

    kind: RecordKind
    id: str


NetworkChange = Network | DiscoveryRecord | RecordRemoval
NETWORK_CHANGES = (Network, NetworkSettings, NodePeer, NetworkService, NetworkEndpoint, RecordRemoval)
AssignmentChange = Task | Revision | Secret | Config | Removal | NetworkChange


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentsReceived:
    """One message of the manager. COMPLETE: what is not in ``changes`` is not ours any more."""

    is_complete: bool
    applies_to: int
    results_in: int
    changes: tuple[AssignmentChange, ...]


# --- other events


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTask:
    """A task as the journal holds it. ``is_released``: no longer assigned, being taken down."""

    task: Task
    status: TaskStatus
    is_released: bool = False
    stop_signal: int = 0
    image_check: Healthcheck | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The first event: what the journal remembers, and what is found on this machine."""

    tasks: tuple[StoredTask, ...] = ()
    revisions: tuple[Revision, ...] = ()
    networks: tuple[Network, ...] = ()
    discovery: tuple[DiscoveryRecord, ...] = ()
    found: tuple[Found, ...] = ()
    attached: tuple[TaskId, ...] = ()
    stop_after: Duration = NEVER


@dataclass(frozen=True, slots=True)
class NodeNoticed:
    """How long after the loss of all managers this node stops its tasks; 0: never."""

    stop_after: Duration


@dataclass(frozen=True, slots=True)
class SessionUp:
    session_id: SessionId


@dataclass(frozen=True, slots=True)
class SessionDown:
    pass


@dataclass(frozen=True, slots=True)
class Tick:
    """The moment that ``wake_at`` asked for has come."""


@dataclass(frozen=True, slots=True)
class TaskExited:
    task_id: TaskId
    exit: Exit


# --- outcomes


@dataclass(frozen=True, slots=True)
class ImageReady:
    reference: str
    attempt: int
    image: ImageConfig


@dataclass(frozen=True, slots=True)
class Attached:
    task_id: TaskId
    attempt: int
    sandbox: Sandbox


@dataclass(frozen=True, slots=True)
class Created:
    task_id: TaskId
    attempt: int


@dataclass(frozen=True, slots=True)
class Started:
    task_id: TaskId
    attempt: int
    found: Found


@dataclass(frozen=True, slots=True)
class Reloaded:
    task_id: TaskId
    attempt: int


@dataclass(frozen=True, slots=True)
class Stopped:
    task_id: TaskId
    attempt: int
    exit: Exit | None


@dataclass(frozen=True, slots=True)
class Removed:
    task_id: TaskId
    attempt: int
    keep_log: bool


@dataclass(frozen=True, slots=True)
class Detached:
    task_id: TaskId
    attempt: int


@dataclass(frozen=True, slots=True)
class Probed:
    """A ``Probe`` has come to its end. ``exit_code`` None: it could not be run, which says nothing of the
    task; ``output`` says why."""

    attempt: int
    exit_code: int | None
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """An instruction was not carried out. ``is_final``: trying again cannot help.

    For ``EnsureImage`` there is no ``task_id``, and ``reference`` names the image.
    """

    attempt: int
    error: str
    is_final: bool
    task_id: TaskId | None = None
    reference: str = ""
    exit_code: int | None = None
    delay_s: float = 0.0


TaskOutcome = Attached | Created | Started | Reloaded | Stopped | Removed | Detached
Outcome = TaskOutcome | ImageReady | Failed | Probed
Event = Restored | NodeNoticed | SessionUp | SessionDown | AssignmentsReceived | Tick | TaskExited | Outcome


# --- instructions


@dataclass(frozen=True, slots=True)
class SaveTask:
    """What comes from the image is kept, since that may be gone when it is needed."""

    task: Task
    is_released: bool
    stop_signal: int
    image_check: Healthcheck | None = None


@dataclass(frozen=True, slots=True)
class SaveStatus:
    task_id: TaskId
    status: TaskStatus


@dataclass(frozen=True, slots=True)
class DropTask:
    task_id: TaskId


@dataclass(frozen=True, slots=True)
class SaveRevision:
    revision: Revision


@dataclass(frozen=True, slots=True)
class DropRevision:
    revision_id: RevisionId


@dataclass(frozen=True, slots=True)
class SaveDiscovery:
    """A network, or a record of one."""

    value: Network | DiscoveryRecord


@dataclass(frozen=True, slots=True)
class DropDiscovery:
    """``kind`` None: a network."""

    kind: RecordKind | None
    id: str


@dataclass(frozen=True, slots=True)
class SaveStopAfter:
    stop_after: Duration


Record = (
    SaveTask
    | SaveStatus
    | DropTask
    | SaveRevision
    | DropRevision
    | SaveDiscovery
    | DropDiscovery
    | SaveStopAfter
)


@dataclass(frozen=True, slots=True)
class Persist:
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class EnsureImage:
    """``registry_auth``: who asks a registry for it, if this node has to."""

    reference: str
    attempt: int
    registry_auth: str = ""


@dataclass(frozen=True, slots=True)
class Attach:
    task_id: TaskId
    attempt: int
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Create:
    task_id: TaskId
    attempt: int
    launch: Launch


@dataclass(frozen=True, slots=True)
class Start:
    task_id: TaskId
    attempt: int


@dataclass(frozen=True, slots=True)
class Reload:
    """Put newer data of a running task's secrets and configs in place."""

    task_id: TaskId
    attempt: int
    files: tuple[LaunchFile, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    task_id: TaskId
    attempt: int
    signal: int
    grace_s: float


@dataclass(frozen=True, slots=True)
class Remove:
    task_id: TaskId
    attempt: int
    keep_log: bool


@dataclass(frozen=True, slots=True)
class Detach:
    task_id: TaskId
    attempt: int


@dataclass(frozen=True, slots=True)
class Probe:
    """Run a check in the task. Answered by exactly one ``Probed``, soon after ``timeout_s`` at the latest."""

    task_id: TaskId
    attempt: int
    argv: tuple[str, ...]
    timeout_s: float


Operation = EnsureImage | Attach | Create | Start | Reload | Stop | Remove | Detach
"""What the driver carries out beside its loop; each is answered by exactly one outcome."""


@dataclass(frozen=True, slots=True)
class ApplyNetworks:
    """Have the node's networks be so. Only the newest counts; an ``Attach`` of the same round or a later one
    waits for it."""

    state: NodeState


@dataclass(frozen=True, slots=True)
class CutConnections:
    """Once the networks are as was asked for last, end connections to those who are gone."""

    addresses: Mapping[NetworkId, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class ReportStatus:
    task_id: TaskId
    status: TaskStatus


@dataclass(frozen=True, slots=True)
class DropStatus:
    """The task is gone: nobody waits for its status any more."""

    task_id: TaskId


@dataclass(frozen=True, slots=True)
class EndSession:
    """Start a new session: this one has lost a message."""

    reason: str


Instruction = (
    Persist | ApplyNetworks | CutConnections | Operation | Probe | ReportStatus | DropStatus | EndSession
)
