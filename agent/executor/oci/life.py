"""A task's life as blocking steps: its start, what became of it while nobody looked, its end, its traces.

Each step finds in the task's folder how far the ones before it came (``records``), so a daemon may die
between any two. The order of a start: whatever an attempt before has left is taken away; root, log and
config.json are made; conmon has the runtime make the container; ``made`` is written; the runtime is told to
run it; ``started`` is written. A container without ``made`` is taken down; one with it is asked for
whether it runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal as signals
import threading
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from msgspec import json as msgspec_json

from agent.executor.native import folders, process
from agent.executor.native.cgroups import Cgroups
from agent.executor.native.folders import TaskState
from agent.executor.native.job import ExitRecord, Job
from agent.executor.native.shim import inner
from agent.executor.native.shim.accounts import UnknownAccount
from agent.executor.native.shim.places import Unmountable
from agent.executor.native.shim.supervise import sync_record, write_record
from agent.executor.oci import bundle as bundles
from agent.executor.oci import groups, logs, monitor, records, roots, runtimes
from agent.executor.oci.bundle import Bundle
from agent.executor.oci.records import Made
from agent.executor.oci.runtimes import Failure, Runtime
from swarmpy.errors import Unavailable
from swarmpy.runtime import Clock

log = structlog.get_logger(__name__)

_KILLED = 128 + signals.SIGKILL
_LOST = "the task's conmon was killed, and the task with it"
_CREATED = "created"
_LOCKS = 16


@dataclass(kw_only=True)
class Life:
    """Of the tasks whose folders lie in ``tasks_dir``. ``runtime``: the one for new tasks."""

    tasks_dir: Path
    runtime_root: Path
    cgroups: Cgroups
    clock: Clock
    conmon: str = ""
    runtime: Runtime | None = None
    locks: tuple[threading.Lock, ...] = field(
        default_factory=lambda: tuple(threading.Lock() for _ in range(_LOCKS))
    )
    """One of them for each task: what is released as a task ends may just be removed, too."""

    def start(self, task_id: str) -> TaskState:
        """Run a created task; what became of it. Unavailable: nothing of it runs."""
        folder = self.tasks_dir / task_id
        state = self.recover(task_id)
        if state.started or state.ended:
            return state
        job, bundle = folders.read_job(folder), records.read_bundle(folder)
        if job is None or bundle is None:
            raise Unavailable(f"task {task_id} has to be created again before it can start")
        if self.runtime is None or not self.conmon:
            raise Unavailable("no OCI runtime on this node can run tasks: see the node's description")
        try:
            failure = self._start(job, bundle, self.runtime)
        except BaseException as error:
            self.take_down(task_id)
            if isinstance(error, OSError):  # a full disk, mostly
                raise Unavailable(f"task {task_id} cannot be started: {error}") from None
            raise
        if failure is not None:
            self.take_down(task_id)
            folders.record_exit(folder, self._unstarted(failure))
        return records.read_state(folder)

    def recover(self, task_id: str) -> TaskState:
        """What stands of a task that a former life of the daemon may have been starting."""
        folder = self.tasks_dir / task_id
        state = records.read_state(folder)
        if state.started or state.ended:
            return state
        made = records.read_made(folder)
        has_run = self._has_run(task_id, made) if made is not None else False
        if made is not None and has_run is not False:
            started = records.start_record(made, made["at"])
            write_record(f"{folder}/started", json.dumps(started))
            if has_run is None:  # one that waits for its start for ever must not count as running
                process.send_signal(started, signals.SIGKILL)
            return records.read_state(folder)
        self.take_down(task_id)
        return state

    def settle(self, task_id: str) -> TaskState:
        """The final word of a task without conmon: one that was lost is killed, and gets its exit here."""
        folder = self.tasks_dir / task_id
        state = records.read_state(folder)
        job = folders.read_job(folder)
        if state.shim:
            raise Unavailable(f"conmon, process {state.shim}, still watches over task {task_id}")
        if state.ended is not None or state.started is None:
            return state
        ended = records.conmon_exit(folder, job) if job is not None else None
        if ended is None:
            process.send_signal(state.started, signals.SIGKILL)
            self.cgroups.kill(task_id)
            ended = ExitRecord(
                code=_KILLED, is_oom_killed=False, at=self.clock.now(), message=_LOST, kind="ended"
            )
        if job is not None:
            logs.give_number(Path(job["log_dir"]))
        folders.record_exit(folder, ended)
        return TaskState(shim=0, started=state.started, ended=ended)

    def take_down(self, task_id: str) -> None:
        """All of a task but its folder: processes, runtime's state, control groups of the runtime's, mounts.

        ``made`` goes first, so what is left of an interrupted call is nothing that ever ran.
        """
        folder = self.tasks_dir / task_id
        made = records.read_made(folder)
        records.forget_made(folder)
        self.cgroups.kill(task_id)
        if made is not None:
            monitor.kill(made)
        if records.is_attempted(folder):
            monitor.kill_strays(folder)
            records.forget_attempt(folder)
        self.release(task_id, made)
        self.cgroups.kill(task_id)

    def remove_groups(self, task_id: str) -> None:
        """The task's groups of all controllers: a runtime makes some that limits need none of."""
        bundle = records.read_bundle(self.tasks_dir / task_id)
        if bundle is not None:
            _remove_groups(str(bundle["linux"]["cgroupsPath"]))

    def release(self, task_id: str, made: Made | None) -> None:
        """Of a task whose processes are gone: what the runtime and the kernel keep of it."""
        with self.locks[zlib.crc32(task_id.encode()) % _LOCKS]:
            runtime = self._runtime_of(made)
            if runtime is not None and runtime.knows(task_id):
                try:
                    runtime.call("delete", "--force", task_id)
                except Unavailable as error:
                    log.warning("container_not_deleted", task_id=task_id, error=str(error))
                    folders.remove_tree(runtime.root / task_id)  # torn by a death in the middle of a call
            roots.take_apart(self.tasks_dir / task_id)

    # --- steps of a start

    def _start(self, job: Job, bundle: Bundle, runtime: Runtime) -> Failure | None:
        folder = self.tasks_dir / job["task_id"]
        try:
            made = self._make(job, bundle, runtime)
            records.note_groups(folder, job, _groups_of(made, bundle))
            records.write_made(folder, made)
            runtime.call("start", job["task_id"])
        except Unmountable as error:
            return Failure("rejected", inner.NOT_STARTED, str(error))
        except UnknownAccount as error:
            return Failure("failed", inner.NOT_STARTED, str(error))
        except monitor.NotMade as error:
            return runtimes.failure_of(str(error), job["argv"])
        write_record(f"{folder}/started", json.dumps(records.start_record(made, self.clock.now())))
        records.forget_attempt(folder)
        sync_record(str(folder), "started")
        return None

    def _make(self, job: Job, bundle: Bundle, runtime: Runtime) -> Made:
        folder = self.tasks_dir / job["task_id"]
        records.note_attempt(folder)
        # a runtime that deletes a container takes its groups with it, those of our limits, too
        self.cgroups.create(job["task_id"], records.read_demands(folder))
        sources = roots.put_together(job, folder)
        for mount in bundle["mounts"]:
            if mount["destination"] in sources and mount["type"] == "bind":
                mount["source"] = sources[mount["destination"]]
        if job["is_host"] and not os.path.isdir(job["workdir"]):
            text = f'chdir to cwd ("{job["workdir"]}") failed: no such file or directory'
            raise monitor.NotMade(text)
        config = bundles.with_account(bundle, roots.account_of(job))
        (folder / records.EXIT_DIR).mkdir(exist_ok=True)
        (folder / records.EXIT_DIR / job["task_id"]).unlink(missing_ok=True)
        (folder / "config.json").write_bytes(msgspec_json.encode(config))
        logs.begin(Path(job["log_dir"]))
        self.runtime_root.mkdir(mode=0o700, parents=True, exist_ok=True)
        command = monitor.command_line(self.conmon, runtime, job, folder)
        return monitor.make(command, runtime, job, folder)

    def _has_run(self, task_id: str, made: Made) -> bool | None:
        """No only of a container that still waits for its start. None: nobody can tell."""
        runtime = self._runtime_of(made)
        if runtime is None or not runtime.knows(task_id):
            return True
        try:
            return bool(json.loads(runtime.call("state", task_id))["status"] != _CREATED)
        except (Unavailable, ValueError, KeyError) as error:
            log.warning("container_state_unknown", task_id=task_id, error=str(error))
            return None

    def _runtime_of(self, made: Made | None) -> Runtime | None:
        """The one that made the container, whatever new ones are made by."""
        if made is None:
            return self.runtime
        path = runtimes.find(made["runtime"])
        if not path:
            return None
        return Runtime(name=made["runtime"], path=path, root=self.runtime_root, is_apart=made["is_apart"])

    def _unstarted(self, failure: Failure) -> ExitRecord:
        return ExitRecord(
            code=failure.code,
            is_oom_killed=False,
            at=self.clock.now(),
            message=failure.message,
            kind=failure.kind,
        )


def _groups_of(made: Made, bundle: Bundle) -> list[str]:
    """All that the runtime has put the container into."""
    try:
        table = Path(f"/proc/{made['pid']}/cgroup").read_text()
    except OSError as error:
        raise Unavailable(f"the task that conmon had made was gone at once: {error}") from None
    mountinfo = Path("/proc/self/mountinfo").read_text()
    return groups.joined(table, mountinfo, str(bundle["linux"]["cgroupsPath"]))


def _remove_groups(path: str) -> None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.startswith("cgroup"):
            for below, _, _ in os.walk(left.split()[4] + path, topdown=False):
                with contextlib.suppress(OSError):  # still in use: whoever removes the task tries again
                    os.rmdir(below)
