"""The whole agent as a machine without I/O: ``handle(event, now)`` returns instructions.

The core holds one ``Run`` per task and, after every event, takes each task that may have changed as far as
``next_step`` goes. The driver carries out what comes back; outcomes return as events.

Invariants (``check``): at most one operation per task is under way; at most TASK_STARTS_PARALLEL_MAX tasks
are being brought up, while stops and removals wait for nobody; a state only grows; ``Start`` is asked for
only after STARTING was persisted; the records of a round are persisted before anything else of it is done.

Not here: which tasks there should be (the manager), how to run one (executor), sessions (session), what
tasks mean for the node's networks (places).
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from agent import environment, events
from agent.bounds import Images, Ports, Slots
from agent.dataplane.base import HostPort, NodeState
from agent.environment import NodeContext
from agent.events import Event, Instruction, Now, Record, StoredTask
from agent.executor.base import Found
from agent.operations import adopt, make_operation, make_places_status, make_status
from agent.places import Places
from agent.revisions import Revisions
from agent.task import START_UP, Do, Move, Run, Trace, failure, next_step
from swarmpy.errors import TaskRejected
from swarmpy.limits import (
    RETRY_DELAY_MAX_S,
    RETRY_DELAY_MIN_S,
    TASK_RETRIES_MAX,
    TASK_STARTS_PARALLEL_MAX,
)
from swarmpy.model.ids import RevisionId, SessionId, TaskId, Timestamp
from swarmpy.model.objects import Config, Kind, Network, Revision, Secret, Task, TaskStatus
from swarmpy.model.states import TaskState, is_terminal

_LOST = "task: lost: this node has no record of its process any more"


class Core:
    """One node's tasks."""

    def __init__(self, node: NodeContext) -> None:
        self._node = node
        self._runs: dict[TaskId, Run] = {}
        self._revisions = Revisions()
        self._places = Places(node)
        self._strangers: dict[TaskId, tuple[Found | None, bool]] = {}
        self.progress: tuple[SessionId, int | None] | None = None
        """The session and the last assignment message of it that was taken; None: there is none."""
        self._attempts = 0
        self._images = Images()
        self._slots = Slots(TASK_STARTS_PARALLEL_MAX)
        self._ports = Ports()
        self._retries: dict[TaskId, float] = {}
        # What one round gathers.
        self._now = Now(Timestamp(0), 0.0)
        self._dirty: dict[TaskId, None] = {}
        self._saved_tasks: dict[TaskId, None] = {}
        self._saved_statuses: dict[TaskId, None] = {}
        self._reported: dict[TaskId, None] = {}
        self._records: list[Record] = []
        self._out: list[Instruction] = []

    # --- what others may ask

    @property
    def wake_at(self) -> float | None:
        """When a Tick is wanted, on the monotonic clock."""
        return min((*self._retries.values(), *self._places.drains.values()), default=None)

    @property
    def networks(self) -> NodeState:
        """The node's networks as they should be."""
        return self._places.directory.node_state()

    @property
    def runs(self) -> dict[TaskId, Run]:
        """The tasks of this node. To be read only."""
        return self._runs

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way and nothing waits to be tried again."""
        waits = self._images.is_busy or self._retries or self._places.drains or self._slots.waiting
        return not (waits or any(run.attempt for run in self._runs.values()))

    def check(self) -> None:
        """Assert the invariants; the tests and the simulator call this after every event."""
        assert not self._dirty
        assert len(self._slots.holders) <= self._slots.size
        assert not self._slots.holders & set(self._slots.waiting)
        owners = {*self._slots.holders, *self._slots.waiting, *self._ports.owners.values()}
        owners.update(self._retries, self._places.drains, self.networks.endpoints)
        assert owners <= set(self._runs), f"claims of unknown tasks: {owners - set(self._runs)}"
        attempts = [run.attempt for run in self._runs.values() if run.attempt]
        assert len(attempts) == len(set(attempts))
        for task_id, run in self._runs.items():
            assert run.task.id == task_id
            assert (run.attempt == 0) == (run.doing is None)
            if run.doing in START_UP:
                assert task_id in self._slots.holders, f"{task_id} is being started outside the bound"
            if run.doing is Do.START:
                assert run.status.state >= TaskState.STARTING, f"{task_id} starts in {run.status.state}"
            if run.is_live:
                assert run.trace is Trace.ALL, f"{task_id} may run but would not be removed"

    # --- events

    def handle(self, event: Event, now: Now) -> list[Instruction]:
        """Take in one event; return what is to be done, records to persist first."""
        self._now = now
        match event:
            case events.Restored():
                self._restore(event)
            case events.AssignmentsReceived():
                self._take_assignments(event)
            case events.SessionUp(session_id=session_id):
                self.progress = session_id, None
            case events.SessionDown():
                self.progress = None
            case events.Tick():
                self._mark(task_id for task_id, at in self._retries.items() if at <= now.mono)
                self._mark(self._places.take_drained(now))
            case events.TaskExited():
                self._note_exit(event)
            case events.ImageReady():
                self._take_image(event)
            case events.Failed():
                self._take_failure(event)
            case _:
                self._take_outcome(event)
        while self._dirty:
            task_id = next(iter(self._dirty))
            del self._dirty[task_id]
            if (run := self._runs.get(task_id)) is not None:
                self._advance(run)
            self._places.follow(task_id, self._runs.get(task_id))
        return self._finish_round()

    def _finish_round(self) -> list[Instruction]:
        self._records.extend(self._revisions.collect(self._runs.values()))
        for task_id in self._saved_tasks:
            run = self._runs[task_id]
            self._records.append(events.SaveTask(run.task, run.is_released, run.stop_signal))
        for task_id in self._saved_statuses:
            self._records.append(events.SaveStatus(task_id, self._runs[task_id].status))
        reports = [
            events.ReportStatus(task_id, self._runs[task_id].status)
            for task_id in self._reported
            if not self._runs[task_id].is_released
        ]
        networks = self._places.instructions(is_settled=not self._strangers)
        self._records.extend(self._places.directory.take_records())
        first: list[Instruction] = [events.Persist(tuple(self._records))] if self._records else []
        result = [*first, *networks, *self._out, *reports]
        for gathered in (self._saved_tasks, self._saved_statuses, self._reported):
            gathered.clear()
        self._records, self._out = [], []
        return result

    def _mark(self, task_ids: Iterable[TaskId]) -> None:
        self._dirty.update(dict.fromkeys(task_ids))

    # --- coming back

    def _restore(self, event: events.Restored) -> None:
        assert not self._runs, "Restored is the first event"
        self._revisions.restore(event.revisions)
        self._places.directory.restore(event.networks, event.discovery)
        found = {item.task_id: item for item in event.found}
        attached = set(event.attached)
        for stored in event.tasks:
            task_id = stored.task.id
            self._adopt(stored, found.pop(task_id, None), is_attached=task_id in attached)
            attached.discard(task_id)
        for task_id in sorted({*found, *attached}):
            self._strangers[task_id] = (found.get(task_id), task_id in attached)

    def _adopt(self, stored: StoredTask, found: Found | None, *, is_attached: bool) -> None:
        """Take up a task where the world has left it."""
        state = stored.status.state
        run = adopt(stored, is_found=found is not None, is_attached=is_attached)
        self._runs[run.task.id] = run
        self._mark([run.task.id])
        if run.is_attached:
            self._ports.claim(run.task.id, self._host_ports(run))
            self._places.adopt(run, self._revisions.get(run.task.revision_id))
        is_there = found is not None and (found.pid != 0 or found.exit is not None)
        if found is not None and is_there:
            self._note_found(run, found)
        elif TaskState.STARTING < state <= TaskState.RUNNING or (
            state is TaskState.STARTING and found is None
        ):
            self._move(run, failure(run, _LOST))

    def _note_found(self, run: Run, found: Found) -> None:
        """A process of the task exists or has existed."""
        run.is_started = True
        run.is_created = True
        run.pid = found.pid
        run.exit = found.exit
        if run.exit is None and run.status.state < TaskState.RUNNING and not run.is_unwanted:
            self._move(run, Move(TaskState.RUNNING, "started"))

    # --- assignments

    def _take_assignments(self, event: events.AssignmentsReceived) -> None:
        if self.progress is None:
            return
        session_id, chain = self.progress
        self.progress = session_id, event.results_in
        if event.is_complete:
            self._take_complete(event)
            return
        if event.applies_to != chain:
            self.progress = None
            reason = f"an assignment message was lost: expected {chain}, got {event.applies_to}"
            self._out.append(events.EndSession(reason))
            return
        for change in event.changes:
            match change:
                case events.Removal(kind=Kind.TASK):
                    self._release(TaskId(change.id))
                case events.Removal(kind=Kind.REVISION):
                    self._revisions.release(RevisionId(change.id))
                case Revision():
                    self._save_revision(change)
                case Task():
                    self._assign(change)
                case Secret() | Config():
                    pass  # no task of this version can use them
                case _:
                    self._places.directory.take(change)
                    self._mark_unattached(change)

    def _take_complete(self, event: events.AssignmentsReceived) -> None:
        tasks = {change.id: change for change in event.changes if isinstance(change, Task)}
        revisions = [change for change in event.changes if isinstance(change, Revision)]
        for revision in revisions:
            self._save_revision(revision)
        self._revisions.keep_only(revision.id for revision in revisions)
        self._places.take_complete(event.changes)
        for change in event.changes:
            self._mark_unattached(change)
        for task in tasks.values():
            self._assign(task)
            run = self._runs[task.id]
            if (run.status.state, run.status.report) > (task.status.state, task.status.report):
                self._reported[task.id] = None
        for task_id in [task_id for task_id in self._runs if task_id not in tasks]:
            self._release(task_id)
        for task_id, (found, is_attached) in self._strangers.items():
            self._evict(task_id, found, is_attached=is_attached)
        self._strangers.clear()

    def _assign(self, task: Task) -> None:
        reported = task.status
        task = replace(task, status=TaskStatus())
        run = self._runs.get(task.id)
        if run is None:
            found, is_attached = self._strangers.pop(task.id, (None, False))
            self._adopt(StoredTask(task=task, status=reported), found, is_attached=is_attached)
            self._save(self._runs[task.id])
            return
        desired = max(run.task.desired_state, task.desired_state)
        if run.is_released:
            # Its end has begun and cannot be undone: let it end as a task, and be replaced.
            run.is_released = False
            desired = max(desired, TaskState.SHUTDOWN)
        changed = replace(task, desired_state=desired)
        if is_terminal(reported.state) and reported.state > run.status.state:
            # Given up by the manager (orphaned, or turned down by its constraints).
            run.status = replace(reported, report=max(reported.report, run.status.report))
            self._save(run)
            self._be_quick(run)
        if changed != run.task:
            run.task = changed
            self._save(run)
            self._be_quick(run)

    def _release(self, task_id: TaskId) -> None:
        run = self._runs.get(task_id)
        if run is not None and not run.is_released:
            run.is_released = True
            self._out.append(events.DropStatus(task_id))
            self._save(run)
            self._be_quick(run)

    def _evict(self, task_id: TaskId, found: Found | None, *, is_attached: bool) -> None:
        """Take down what nobody knows of."""
        run = Run(task=Task(id=task_id), status=TaskStatus(), is_released=True, trace=Trace.ALL)
        run.is_attached = is_attached
        if found is not None:
            self._note_found(run, found)
        self._runs[task_id] = run
        self._save(run)
        self._mark([task_id])

    def _be_quick(self, run: Run) -> None:
        """New orders: what waited to be tried again is looked at now."""
        run.retry_at = 0.0
        run.failures = 0
        self._retries.pop(run.task.id, None)
        self._mark([run.task.id])

    def _save(self, run: Run) -> None:
        self._saved_tasks[run.task.id] = None
        self._saved_statuses[run.task.id] = None

    def _save_revision(self, revision: Revision) -> None:
        record = self._revisions.save(revision)
        if record is not None:
            self._records.append(record)
            self._mark(run.task.id for run in self._runs.values() if run.task.revision_id == revision.id)

    def _mark_unattached(self, change: events.AssignmentChange) -> None:
        """Tasks may have waited for this network."""
        if isinstance(change, Network):
            self._mark(id_ for id_, run in self._runs.items() if run.may_wait_for_networks)

    # --- outcomes

    def _take_image(self, event: events.ImageReady) -> None:
        waiting = self._images.settle(event.reference, event.attempt)
        for task_id in waiting:
            if (run := self._runs.get(task_id)) is not None:
                run.image = event.image
        self._mark(waiting)

    def _take_outcome(self, event: events.TaskOutcome) -> None:
        run = self._runs.get(event.task_id)
        if run is None or run.attempt != event.attempt:
            return
        done, run.doing = run.doing, None
        run.attempt = 0
        run.failures = 0
        match event:
            case events.Attached():
                run.sandbox = event.sandbox
                if done is Do.PLACE and not run.has_ended:
                    self._tell(run, make_places_status(run))
            case events.Created():
                run.is_created = True
            case events.Started():
                self._note_found(run, replace(event.found, exit=event.found.exit or run.exit))
            case events.Stopped():
                run.exit = run.exit or event.exit
                run.is_started = run.exit is not None
            case events.Removed(keep_log=keep_log):
                # As it was asked for, which may have been before the task was released.
                run.trace = Trace.LOG if keep_log else Trace.NOTHING
                run.is_created = False
            case events.Detached():
                run.is_attached = False
                run.sandbox = None
                self._mark(self._ports.free(run.task.id))
        self._mark([event.task_id])

    def _note_exit(self, event: events.TaskExited) -> None:
        run = self._runs.get(event.task_id)
        if run is None:
            if (known := self._strangers.get(event.task_id)) is not None:
                self._strangers[event.task_id] = (Found(task_id=event.task_id, exit=event.exit), known[1])
            return
        if run.exit is None and (run.is_started or not run.has_ended):
            run.is_started = True
            run.trace = Trace.ALL
            run.exit = event.exit
            self._be_quick(run)

    def _take_failure(self, event: events.Failed) -> None:
        if event.task_id is None:
            for task_id in self._images.settle(event.reference, event.attempt):
                if (run := self._runs.get(task_id)) is not None and run.image is None:
                    self._fail(run, event, is_start_up=True)
            return
        run = self._runs.get(event.task_id)
        if run is not None and run.attempt == event.attempt:
            done, run.doing = run.doing, None
            run.attempt = 0
            if done is Do.PLACE and event.is_final and not run.has_ended:
                self._tell(run, make_places_status(run, err=event.error))
            self._fail(run, event, is_start_up=done in START_UP)

    def _fail(self, run: Run, event: events.Failed, *, is_start_up: bool) -> None:
        """Give the task up, or try again later. Taking down is tried for ever."""
        self._mark([run.task.id])
        run.failures += 1
        if is_start_up and (run.is_unwanted or run.has_ended or run.exit is not None):
            return
        if is_start_up and (event.is_final or run.failures > TASK_RETRIES_MAX):
            self._give_up(run, event.error, exit_code=event.exit_code)
            return
        delay_s = RETRY_DELAY_MIN_S * 2 ** min(run.failures - 1, 10)
        run.retry_at = self._now.mono + min(max(delay_s, event.delay_s), RETRY_DELAY_MAX_S)
        self._retries[run.task.id] = run.retry_at

    def _give_up(self, run: Run, error: str, *, exit_code: int | None = None) -> None:
        self._move(run, failure(run, error), exit_code=exit_code)
        self._mark([run.task.id])

    # --- steps

    def _advance(self, run: Run) -> None:
        """Take one task as far as it goes now."""
        task_id = run.task.id
        if run.retry_at > self._now.mono:
            self._mark(self._slots.free(task_id))
            return
        self._retries.pop(task_id, None)
        while True:
            step = self._step(run)
            if step not in START_UP and not run.attempt:
                self._mark(self._slots.free(task_id))
            match step:
                case None:
                    return
                case Move():
                    self._move(run, step)
                case Do.FORGET:
                    self._forget(run)
                    return
                case Do.ENSURE_IMAGE:
                    self._want_image(run)
                    return
                case _:
                    self._operate(run, step)
                    return

    def _step(self, run: Run) -> Move | Do | None:
        step = next_step(run)
        revision = self._revisions.get(run.task.revision_id)
        self._places.move(run, revision)
        if step in (Do.ATTACH, Do.PLACE) and not self._places.is_known(run):
            return None  # the networks come with the next assignments
        if run.status.state < TaskState.RUNNING and not run.is_unwanted and run.exit is None:
            if revision is None:
                return None  # so does it
            if step == Move(TaskState.PREPARING, "preparing") and (why := environment.refusal(revision)):
                return failure(run, why)
        if step is Do.STOP and self._places.is_draining(run, self._now):
            return None
        return step

    def _operate(self, run: Run, do: Do) -> None:
        """Ask for an operation, once the bounds allow it."""
        task_id = run.task.id
        if do in START_UP and not self._slots.take(task_id):
            return
        revision = self._revisions.get(run.task.revision_id)
        try:
            fixed = environment.fixed_ports(revision)
            if do is Do.ATTACH and not self._ports.claim(task_id, self._host_ports(run), fixed=fixed):
                self._mark(self._slots.free(task_id))
                return
            if do in (Do.ATTACH, Do.PLACE) and revision is not None:
                self._places.give(run, revision)
            operation = make_operation(run, do, self._attempts + 1, revision=revision, node=self._node)
        except TaskRejected as error:
            self._give_up(run, str(error))
            return
        self._attempts += 1
        run.attempt, run.doing, run.version = self._attempts, do, run.task.version
        if do is Do.CREATE:
            self._saved_tasks[task_id] = None  # with the stop signal
        self._out.append(operation)

    def _host_ports(self, run: Run) -> tuple[HostPort, ...]:
        revision = self._revisions.get(run.task.revision_id)
        return environment.host_ports(revision, run.task.id) if revision is not None else ()

    def _want_image(self, run: Run) -> None:
        revision = self._revisions.get(run.task.revision_id)
        reference = environment.container_spec(revision).image
        if self._images.want(reference, run.task.id, self._attempts + 1):
            self._attempts += 1
            self._out.append(events.EnsureImage(reference, self._attempts))

    def _move(self, run: Run, move: Move, *, exit_code: int | None = None) -> None:
        revision = self._revisions.get(run.task.revision_id)
        self._tell(run, make_status(run, move, revision=revision, now=self._now, exit_code=exit_code))

    def _tell(self, run: Run, status: TaskStatus) -> None:
        run.status = status
        self._saved_statuses[run.task.id] = None
        self._reported[run.task.id] = None

    def _forget(self, run: Run) -> None:
        task_id = run.task.id
        self._mark(self._ports.free(task_id))
        del self._runs[task_id]
        for gathered in (self._retries, self._saved_tasks, self._saved_statuses, self._reported):
            gathered.pop(task_id, None)
        self._records.append(events.DropTask(task_id))
