"""The whole agent as a machine without I/O: ``handle(event, now)`` returns instructions.

The core holds one ``Run`` per task and, after every event, takes each task that may have changed as far as
``next_step`` goes. The driver carries out what comes back; outcomes return as events.

Invariants (``check``): at most one operation per task is under way; at most TASK_STARTS_PARALLEL_MAX tasks
are being brought up, while stops and removals wait for nobody; a state only grows; ``Start`` is asked for
only after STARTING was persisted; the records of a round are persisted before anything else of it is done.

Not here: which tasks there should be (the manager), which of them this node has (roster), how to run one
(executor), sessions (session), what tasks mean for the node's networks (places).
"""

from __future__ import annotations

from msgspec.structs import replace

from agent import environment, events
from agent.bounds import Images, Ports, Slots
from agent.dataplane.base import NodeState
from agent.environment import NodeContext
from agent.events import Event, Instruction, Now
from agent.files import Files
from agent.operations import (
    make_health_status,
    make_operation,
    make_places_status,
    make_reload_status,
    with_files,
)
from agent.partition import Partition
from agent.places import Places
from agent.probes import Probes
from agent.roster import Roster
from agent.round import Round
from agent.task import START_UP, Do, Move, Run, Trace, failure, next_step
from swarmpy.errors import TaskRejected
from swarmpy.limits import (
    HEALTH_PROBES_PARALLEL_MAX,
    RETRY_DELAY_MAX_S,
    RETRY_DELAY_MIN_S,
    TASK_RETRIES_MAX,
    TASK_STARTS_PARALLEL_MAX,
)
from swarmpy.model.ids import SessionId, TaskId
from swarmpy.model.states import TaskState


class Core:
    """One node's tasks."""

    def __init__(self, node: NodeContext) -> None:
        self._node = node
        self._round = Round()
        self._places = Places(node)
        self._ports = Ports()
        self._roster = Roster(self._round, self._places, self._ports)
        self._runs = self._roster.runs
        self._revisions = self._roster.revisions
        self._attempts = 0
        self._images = Images()
        self._slots = Slots(TASK_STARTS_PARALLEL_MAX)
        self._probes = Probes(HEALTH_PROBES_PARALLEL_MAX)
        self._partition = Partition()

    # --- what others may ask

    @property
    def progress(self) -> tuple[SessionId, int | None] | None:
        """The session and the last assignment message of it that was taken; None: there is none."""
        return self._roster.progress

    @property
    def wake_at(self) -> float | None:
        """When a Tick is wanted, on the monotonic clock."""
        bounds = (self._probes.wake_at, self._partition.wake_at)
        moments = (*self._roster.retries.values(), *self._places.drains.values(), *bounds)
        return min((at for at in moments if at is not None), default=None)

    @property
    def networks(self) -> NodeState:
        """The node's networks as they should be."""
        return self._places.directory.node_state()

    @property
    def files(self) -> Files:
        """What is known of secrets and configs. To be read only."""
        return self._roster.files

    @property
    def runs(self) -> dict[TaskId, Run]:
        """The tasks of this node. To be read only."""
        return self._runs

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way and nothing waits to be tried again."""
        waits = self._images.is_busy or self._roster.retries or self._places.drains or self._slots.waiting
        return not (waits or any(run.attempt for run in self._runs.values()))

    def check(self) -> None:
        """Assert the invariants; the tests and the simulator call this after every event."""
        assert self._round.is_over
        assert len(self._slots.holders) <= self._slots.size
        assert not self._slots.holders & set(self._slots.waiting)
        owners = {*self._slots.holders, *self._slots.waiting, *self._ports.owners.values()}
        owners.update(self._roster.retries, self._places.drains, self.networks.endpoints)
        owners.update(self._probes.check())
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
        self._round.now = now
        match event:
            case events.Restored():
                self._roster.restore(event)
                self._partition.stop_after = event.stop_after
                self._partition.note_loss(now.mono)
            case events.NodeNoticed(stop_after=stop_after):
                if stop_after != self._partition.stop_after:
                    self._partition.stop_after = stop_after
                    self._round.records.append(events.SaveStopAfter(stop_after))
            case events.AssignmentsReceived():
                self._roster.take_assignments(event)
            case events.SessionUp(session_id=session_id):
                self._roster.progress = session_id, None
                self._partition.note_session()
            case events.SessionDown():
                self._roster.progress = None
                self._partition.note_loss(now.mono)
            case events.Tick():
                if self._partition.take_due(now.mono):
                    self._roster.stop_all()
                self._round.mark(task_id for task_id, at in self._roster.retries.items() if at <= now.mono)
                self._round.mark(self._places.take_drained(now))
            case events.TaskExited():
                self._roster.note_exit(event)
            case events.ImageReady():
                self._take_image(event)
            case events.Failed():
                self._take_failure(event)
            case events.Probed():
                self._take_probe(event)
            case _:
                self._take_outcome(event)
        while not self._round.is_over:
            task_id = self._round.take_marked()
            if (run := self._runs.get(task_id)) is not None:
                self._advance(run)
            self._places.follow(task_id, self._runs.get(task_id))
        self._round.out.extend(self._probes.take_due(now.mono))
        return self._finish_round()

    def _finish_round(self) -> list[Instruction]:
        networks = self._places.instructions(is_settled=self._roster.is_settled)
        self._round.records.extend(self._revisions.collect(self._runs.values()))
        self._round.records.extend(self._places.directory.take_records())
        return self._round.finish(self._runs, networks)

    # --- outcomes

    def _take_image(self, event: events.ImageReady) -> None:
        waiting = self._images.settle(event.reference, event.attempt)
        for task_id in waiting:
            if (run := self._runs.get(task_id)) is not None:
                run.image = event.image
        self._round.mark(waiting)

    def _take_probe(self, event: events.Probed) -> None:
        run = self._runs.get(self._probes.settle(event, self._round.now.mono))
        if run is not None:
            self._roster.be_quick(run)

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
                    self._round.tell(run, make_places_status(run))
            case events.Created():
                run.is_created = True
            case events.Started():
                self._roster.note_found(run, replace(event.found, exit=event.found.exit or run.exit))
            case events.Reloaded():
                self._note_reload(run, "")
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
                self._round.mark(self._ports.free(run.task.id))
        self._round.mark([event.task_id])

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
                self._round.tell(run, make_places_status(run, err=event.error))
            if done is Do.RELOAD and event.is_final:
                self._note_reload(run, event.error)
            elif done in (Do.RELOAD, Do.CREATE):
                run.given = ()  # a task that waits for its start is made anew for newer files
            self._fail(run, event, is_start_up=done in START_UP)

    def _fail(self, run: Run, event: events.Failed, *, is_start_up: bool) -> None:
        """Give the task up, or try again later. Taking down is tried for ever."""
        self._round.mark([run.task.id])
        run.failures += 1
        if is_start_up and (run.is_unwanted or run.has_ended or run.exit is not None):
            return
        if is_start_up and (event.is_final or run.failures > TASK_RETRIES_MAX):
            self._give_up(run, event.error, exit_code=event.exit_code)
            return
        delay_s = RETRY_DELAY_MIN_S * 2 ** min(run.failures - 1, 10)
        run.retry_at = self._round.now.mono + min(max(delay_s, event.delay_s), RETRY_DELAY_MAX_S)
        self._roster.retries[run.task.id] = run.retry_at

    def _give_up(self, run: Run, error: str, *, exit_code: int | None = None) -> None:
        self._roster.move(run, failure(run, error), exit_code=exit_code)
        self._round.mark([run.task.id])

    # --- steps

    def _advance(self, run: Run) -> None:
        """Take one task as far as it goes now."""
        task_id = run.task.id
        self._probes.follow(run, self._roster.revision_of(run), self._round.now.mono)
        if (status := make_health_status(run)) is not None:
            self._round.tell(run, status)
        if run.retry_at > self._round.now.mono:
            self._round.mark(self._slots.free(task_id))
            return
        self._roster.retries.pop(task_id, None)
        while True:
            step = self._step(run)
            if step not in START_UP and not run.attempt:
                self._round.mark(self._slots.free(task_id))
            match step:
                case None:
                    return
                case Move():
                    self._roster.move(run, step)
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
        revision = self._roster.revision_of(run)
        run.follows = self._roster.files.followed(revision)
        step = next_step(run)
        self._places.move(run, revision)
        if step in (Do.ATTACH, Do.PLACE) and not self._places.is_known(run):
            return None  # the networks come with the next assignments
        if run.status.state < TaskState.RUNNING and not run.is_unwanted and run.exit is None:
            if revision is None:
                return None  # so does it
            if step is Do.CREATE and (why := self._roster.files.missing(revision)):
                # before the first COMPLETE set nothing is known of files
                return failure(run, why) if self._roster.files.is_settled else None
            if step == Move(TaskState.PREPARING, "preparing") and (why := environment.refusal(revision)):
                return failure(run, why)
        if step is Do.STOP and self._places.is_draining(run, self._round.now):
            return None
        return step

    def _operate(self, run: Run, do: Do) -> None:
        """Ask for an operation, once the bounds allow it."""
        task_id = run.task.id
        if do in START_UP and not self._slots.take(task_id):
            return
        revision = self._roster.revision_of(run)
        try:
            fixed = environment.fixed_ports(revision)
            if do is Do.ATTACH and not self._ports.claim(task_id, self._roster.host_ports(run), fixed=fixed):
                self._round.mark(self._slots.free(task_id))
                return
            if do in (Do.ATTACH, Do.PLACE) and revision is not None:
                self._places.give(run, revision)
            operation = make_operation(run, do, self._attempts + 1, revision=revision, node=self._node)
            if do in (Do.CREATE, Do.RELOAD) and revision is not None:
                run.given = run.follows
                operation = with_files(operation, self._roster.files.make(run.task, revision, self._node))
        except TaskRejected as error:
            if do is Do.RELOAD:
                self._note_reload(run, str(error))
                return
            self._give_up(run, str(error))
            return
        self._attempts += 1
        run.attempt, run.doing, run.version = self._attempts, do, run.task.version
        if do is Do.CREATE:
            self._round.save_task(run)  # with the stop signal
        self._round.out.append(operation)

    def _note_reload(self, run: Run, err: str) -> None:
        """Newer files are in place, or cannot be: the task goes on with those that it has."""
        if run.status.err != err and not run.has_ended:
            self._round.tell(run, make_reload_status(run, err=err))

    def _want_image(self, run: Run) -> None:
        revision = self._roster.revision_of(run)
        container = environment.container_spec(revision)
        reference = container.image
        if self._images.want(reference, run.task.id, self._attempts + 1):
            self._attempts += 1
            image = events.EnsureImage(reference, self._attempts, container.registry_auth)
            self._round.out.append(image)

    def _forget(self, run: Run) -> None:
        task_id = run.task.id
        self._round.mark(self._ports.free(task_id))
        self._probes.drop(task_id)
        del self._runs[task_id]
        self._roster.retries.pop(task_id, None)
        self._round.forget(task_id)
