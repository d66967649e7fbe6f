"""``Executor``: the seam between the agent and whatever runs processes.

Every call is idempotent by task id: the agent repeats a call after a crash without knowing whether it had
been carried out. An executor keeps what it needs to find its tasks again in its own folder, so that tasks
outlive the daemon and ``list`` finds them afterwards. Errors: ``TaskRejected`` where the task cannot be
run as asked, ``Unavailable`` where trying again may help; nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from swarmpy.errors import TaskRejected
from swarmpy.model.containers import ContainerFacts
from swarmpy.model.ids import TaskId, Timestamp
from swarmpy.model.objects import NodeVolume
from swarmpy.model.specs import ContainerSpec, Healthcheck, Limits
from swarmpy.model.value import Value


class NotRunning(TaskRejected):
    """The task has no processes now."""


class NotThere(TaskRejected):
    """The task has no such file."""


class Capabilities(Value, frozen=True, kw_only=True):
    """What ``probe`` found. ``missing`` are sentences for the user, empty if all is well."""

    name: str
    is_usable: bool
    cgroup_version: int = 0
    missing: tuple[str, ...] = ()


class ImageConfig(Value, frozen=True, kw_only=True):
    """What an image says about how it wants to be run."""

    reference: str
    digest: str = ""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    stop_signal: str = ""
    layers: tuple[str, ...] = ()
    healthcheck: Healthcheck | None = None
    volumes: tuple[str, ...] = ()
    """Folders that are volumes: nameless ones of the task, where its mounts have nothing else there."""
    exposed_ports: tuple[str, ...] = ()
    """Such as ``80/tcp``: told, and nothing else."""
    labels: dict[str, str] = {}


class Sandbox(Value, frozen=True, kw_only=True):
    """A task's network namespace, made by the dataplane before the task."""

    netns: str
    addresses: tuple[str, ...] = ()
    resolv_conf: str = ""
    hosts: str = ""


class LaunchFile(Value, frozen=True, kw_only=True):
    """A secret or config as the task is to find it: kept in memory, read-only. ``target`` is absolute.

    ``reload_signal``: sent to the task's first process when newer data are in place; 0: none.
    """

    target: str
    data: bytes
    uid: int = 0
    gid: int = 0
    mode: int = 0o444
    reload_signal: int = 0

    def __repr__(self) -> str:
        return f"LaunchFile({self.target!r}, {len(self.data)} bytes)"  # its data may be a secret


class Launch(Value, frozen=True, kw_only=True):
    """All that an executor needs to run one task. ``spec`` has its templates expanded already."""

    task_id: TaskId
    name: str
    spec: ContainerSpec
    image: ImageConfig
    sandbox: Sandbox
    limits: Limits = Limits()
    swap_bytes: int | None = None
    memory_swappiness: int | None = None
    hostname: str = ""
    labels: dict[str, str] = {}
    files: tuple[LaunchFile, ...] = ()


class Exit(Value, frozen=True, kw_only=True):
    """How a task ended. ``code`` is 128 + the signal's number for a task that a signal killed."""

    code: int
    is_oom_killed: bool = False
    at: Timestamp = Timestamp(0)
    message: str = ""


class Found(Value, frozen=True, kw_only=True):
    """A task that the executor knows of. Not started: no pid, no exit. ``pid`` is the host's view."""

    task_id: TaskId
    pid: int = 0
    started_at: Timestamp = Timestamp(0)
    exit: Exit | None = None


class ExitEvent(Value, frozen=True, kw_only=True):
    task_id: TaskId
    exit: Exit


class LogLine(Value, frozen=True, kw_only=True):
    """``stream`` is 1 for stdout, 2 for stderr; ``data`` has its line end, if it has one."""

    timestamp: Timestamp
    stream: int
    data: bytes


class LogQuery(Value, frozen=True, kw_only=True):
    """``tail``: that many last lines; negative means all."""

    since: Timestamp = Timestamp(0)
    until: Timestamp = Timestamp(0)
    """0: no such bound."""
    tail: int = -1
    is_following: bool = False
    stdout: bool = True
    stderr: bool = True


class LinkUsage(Value, frozen=True, kw_only=True):
    """Bytes, packets, errors, dropped; each way."""

    name: str
    received: tuple[int, ...]
    sent: tuple[int, ...]


class DiskUsage(Value, frozen=True, kw_only=True):
    major: int
    minor: int
    read_bytes: int = 0
    written_bytes: int = 0
    reads: int = 0
    writes: int = 0


class Stats(Value, frozen=True, kw_only=True):
    """Cumulative CPU time in nanoseconds, memory in bytes, processes, cumulative network traffic in bytes.

    What comes after ``sent_bytes`` is there only if it was asked for. ``memory``: by the kernel's names.
    """

    cpu_ns: int = 0
    memory_bytes: int = 0
    pids: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    cpu_user_ns: int = 0
    cpu_system_ns: int = 0
    system_cpu_ns: int = 0
    """Of the whole node, idle or not."""
    cpu_periods: int = 0
    throttled_periods: int = 0
    throttled_ns: int = 0
    memory_max_bytes: int = 0
    memory: dict[str, int] = {}
    pids_limit: int = 0
    links: tuple[LinkUsage, ...] = ()
    disks: tuple[DiskUsage, ...] = ()


class Command(Value, frozen=True, kw_only=True):
    """A command to run inside a task that runs. ``env`` comes over the task's own; empty ``user`` and
    ``workdir``: the task's."""

    argv: tuple[str, ...]
    env: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    has_terminal: bool = False
    has_input: bool = False
    is_privileged: bool = False
    is_detached: bool = False
    """It has no streams, and outlives its channel and the daemon; its task's end is its own."""
    rows: int = 0
    columns: int = 0
    """Of its terminal at first."""


class Attachment(Value, frozen=True, kw_only=True):
    """How a client wants to be attached to a task."""

    replays: bool = False
    """First what the task has printed since its start."""
    is_waited_for: bool = False
    """The task waits while the client takes no more; else a client that is slow reads from the log."""


FROM_NOW_ON: Final = Attachment()


class Output(NamedTuple):
    """``stream`` is 1 for stdout, 2 for stderr; a terminal has only the first."""

    stream: int
    data: bytes


class Channel(Protocol):
    """The standard streams of a process in a task: of a command, or of the task itself."""

    @property
    def pid(self) -> int:
        """Of a command, as the node sees it."""
        ...

    def output(self) -> AsyncIterator[Output]:
        """What it prints, until it ends or is let go. One consumer; who does not read slows it down."""
        ...

    async def write(self, data: bytes) -> None:
        """To its standard input; returns once it has room for more. Nothing happens if it has ended."""
        ...

    async def close_input(self) -> None: ...

    async def resize(self, *, rows: int, columns: int) -> None: ...

    async def exit_code(self) -> int:
        """Once ``output`` has come to its end. Of an attached task that goes on: raises Unavailable."""
        ...

    async def close(self) -> None:
        """Kill the command, unless it is detached; let go of the task. Fine at any time, also twice."""
        ...


class ProcessTable(Value, frozen=True, kw_only=True):
    """The processes of a task as ``ps`` prints them."""

    titles: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


class Executor(Protocol):
    """Runs tasks. One instance per node."""

    name: str

    async def start_up(self) -> None:
        """Find the tasks of a former life and begin to watch them; remove what is half made."""
        ...

    async def shut_down(self) -> None:
        """Stop watching. Tasks run on."""
        ...

    async def probe(self) -> Capabilities: ...

    async def ensure_image(self, reference: str, *, registry_auth: str = "") -> ImageConfig:
        """The image's configuration, after making sure that it is on this node. TaskRejected if not.

        ``registry_auth``: a client's X-Registry-Auth, for the registry that may be asked.
        """
        ...

    async def create(self, launch: Launch) -> None:
        """Prepare the task (root filesystem, cgroup, log) without running it.

        Repeated before the start in each life of the agent: what a reboot took of it is made anew.
        """
        ...

    async def start(self, task_id: TaskId) -> Found:
        """Run a created task; of a task that was started already, what became of it."""
        ...

    async def signal(self, task_id: TaskId, signal: int) -> None:
        """Send a signal to the task's first process; a task that has ended is fine."""
        ...

    async def reload(self, task_id: TaskId, files: tuple[LaunchFile, ...]) -> None:
        """Put newer data of a running task's files in place, and send the signals of those that differ.

        A signal is sent again if it is open whether it was; a task that has ended is fine. Targets, owners
        and modes are as they were.
        """
        ...

    async def stop(self, task_id: TaskId, *, signal: int, grace_s: float) -> Exit | None:
        """Signal, wait up to ``grace_s``, kill. Returns how it ended; None if it was never started."""
        ...

    async def remove(self, task_id: TaskId, *, keep_log: bool = False) -> None:
        """Take down all that ``create`` made, killing what still runs. An unknown task is fine."""
        ...

    def events(self) -> AsyncIterator[ExitEvent]:
        """Ends of tasks as they happen, also of those that ended while no daemon ran. One consumer."""
        ...

    async def list(self) -> tuple[Found, ...]: ...

    def logs(self, task_id: TaskId, query: LogQuery) -> AsyncIterator[LogLine]:
        """The task's log, oldest first; an unknown task has none."""
        ...

    async def stats(self, task_id: TaskId, *, is_full: bool = False) -> Stats: ...

    def reported_volumes(self) -> tuple[NodeVolume, ...]:
        """The named volumes here, by name, as many as are worth telling; cheap while nothing changes."""
        ...

    async def volume_call(self, name: str, body: bytes) -> bytes:
        """One of the calls of ``agent/volume_calls``."""
        ...

    async def exec(self, task_id: TaskId, command: Command) -> Channel:
        """Run a command in the task's namespaces. NotRunning; TaskRejected: it cannot be run (docker's
        text)."""
        ...

    async def attach(self, task_id: TaskId, wish: Attachment = FROM_NOW_ON) -> Channel:
        """The task's own streams from now on. NotRunning if it does not run.

        A channel that replays has all that the task has printed, each byte once, also of a task that has
        ended: NotRunning only of one that has not been started.
        """
        ...

    async def look(self, task_id: TaskId, *, has_sizes: bool = False) -> ContainerFacts | None:
        """What is to be told of the task's container, running or not; None if there is none."""
        ...

    async def top(self, task_id: TaskId, options: str = "") -> ProcessTable:
        """``options``: those of ps that choose columns; none: as ``ps -ef``."""
        ...

    def copy_out(self, task_id: TaskId, path: str) -> AsyncGenerator[bytes]:
        """A tar archive of what is there, as the task sees it. NotThere if nothing is."""
        ...

    async def copy_in(self, task_id: TaskId, path: str, archive: AsyncIterator[bytes]) -> None:
        """Unpack a tar archive into a folder of the task."""
        ...


def log_folder(data_dir: Path) -> Path:
    """Where task logs live: beside the executor's folders, since logs outlive their task."""
    return data_dir / "logs"
