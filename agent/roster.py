"""Which tasks a node has: those that its journal remembers, that managers assign, that stand on it.

``Roster`` takes each up where the world has left it, notes what managers wish for it, and lets it go. Until
the first COMPLETE set has come, what stands on this node and is in no record is a stranger: only then is it
known to be nobody's, and taken down.

Invariants: ``Restored`` comes first and once; a message that was lost ends the session; a wish only grows; a
task that was released is never run again.

Not here: how a task gets on from there (task, core).
"""

from __future__ import annotations

from msgspec.structs import replace

from agent import environment, events
from agent.bounds import Ports
from agent.dataplane.base import HostPort
from agent.events import StoredTask
from agent.executor.base import Found
from agent.files import Files, uses_files
from agent.operations import adopt, make_status
from agent.places import Places
from agent.revisions import Revisions
from agent.round import Round
from agent.task import Move, Run, Trace, failure
from swarmpy.model.ids import SECOND_NS, RevisionId, SessionId, TaskId
from swarmpy.model.objects import Config, Kind, Network, Revision, Secret, Task, TaskStatus
from swarmpy.model.states import TaskState, is_terminal

_LOST = "task: lost: this node has no record of its process any more"


class Roster:
    """Owned by the core. ``retries``: when tasks that met with trouble are looked at again."""

    def __init__(self, round_: Round, places: Places, ports: Ports) -> None:
        self.runs: dict[TaskId, Run] = {}
        self.revisions = Revisions()
        self.files = Files()
        self.retries: dict[TaskId, float] = {}
        self.progress: tuple[SessionId, int | None] | None = None
        """The session and the last assignment message of it that was taken; None: there is none."""
        self._round = round_
        self._places = places
        self._ports = ports
        self._strangers: dict[TaskId, tuple[Found | None, bool]] = {}

    @property
    def is_settled(self) -> bool:
        """Whether all that stands on this node has an owner."""
        return not self._strangers

    def revision_of(self, run: Run) -> Revision | None:
        return self.revisions.get(run.task.revision_id)

    def host_ports(self, run: Run) -> tuple[HostPort, ...]:
        revision = self.revision_of(run)
        return environment.host_ports(revision, run.task.id) if revision is not None else ()

    def move(self, run: Run, move: Move, *, exit_code: int | None = None) -> None:
        """Report a new state."""
        revision = self.revision_of(run)
        now = self._round.now
        self._round.tell(run, make_status(run, move, revision=revision, now=now, exit_code=exit_code))

    def be_quick(self, run: Run) -> None:
        """New orders: what waited to be tried again is looked at now."""
        run.retry_at = 0.0
        run.failures = 0
        self.retries.pop(run.task.id, None)
        self._round.mark([run.task.id])

    def stop_all(self) -> None:
        """Nobody is there to wish it: the node itself ends what it runs."""
        for run in self.runs.values():
            if not run.has_ended and not run.is_unwanted:
                run.task = replace(run.task, desired_state=TaskState.SHUTDOWN)
                self._round.save_task(run)
                self.be_quick(run)

    # --- coming back

    def restore(self, event: events.Restored) -> None:
        assert not self.runs, "Restored is the first event"
        self.revisions.restore(event.revisions)
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
        self.runs[run.task.id] = run
        self._round.mark([run.task.id])
        if run.is_attached:
            self._ports.claim(run.task.id, self.host_ports(run))
            self._places.adopt(run, self.revision_of(run))
        is_there = found is not None and (found.pid != 0 or found.exit is not None)
        if found is not None and is_there:
            self.note_found(run, found)
        elif TaskState.STARTING < state <= TaskState.RUNNING or (
            state is TaskState.STARTING and found is None
        ):
            self.move(run, failure(run, _LOST))

    def note_found(self, run: Run, found: Found) -> None:
        """A process of the task exists or has existed."""
        run.is_started = True
        run.is_created = True
        run.pid = found.pid
        run.exit = found.exit
        now = self._round.now
        ran_s = max(0, now.wall - found.started_at) / SECOND_NS if found.started_at else 0.0
        run.started_at = now.mono - ran_s

    def note_exit(self, event: events.TaskExited) -> None:
        """Its process has ended, whether or not that was wished for."""
        run = self.runs.get(event.task_id)
        if run is None:
            if (known := self._strangers.get(event.task_id)) is not None:
                self._strangers[event.task_id] = (Found(task_id=event.task_id, exit=event.exit), known[1])
            return
        if run.exit is None and (run.is_started or not run.has_ended):
            run.is_started = True
            run.trace = Trace.ALL
            run.exit = event.exit
            self.be_quick(run)

    # --- assignments

    def take_assignments(self, event: events.AssignmentsReceived) -> None:
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
            self._round.out.append(events.EndSession(reason))
            return
        for change in event.changes:
            match change:
                case events.Removal(kind=Kind.TASK):
                    self._release(TaskId(change.id))
                case events.Removal(kind=Kind.REVISION):
                    self.revisions.release(RevisionId(change.id))
                case Revision():
                    self._save_revision(change)
                case Task():
                    self._assign(change)
                case events.Removal(kind=Kind.SECRET | Kind.CONFIG as kind):
                    self.files.drop(kind, change.id)
                case Secret() | Config():
                    self.files.take(change)
                    self._mark_users()
                case _:
                    self._places.directory.take(change)
                    self._mark_unattached(change)

    def _take_complete(self, event: events.AssignmentsReceived) -> None:
        tasks = {change.id: change for change in event.changes if isinstance(change, Task)}
        revisions = [change for change in event.changes if isinstance(change, Revision)]
        for revision in revisions:
            self._save_revision(revision)
        self.revisions.keep_only(revision.id for revision in revisions)
        self.files.take_complete(event.changes)
        self._mark_users()
        self._places.take_complete(event.changes)
        for change in event.changes:
            self._mark_unattached(change)
        for task in tasks.values():
            self._assign(task)
            run = self.runs[task.id]
            if (run.status.state, run.status.report) > (task.status.state, task.status.report):
                self._round.report(run)
        for task_id in [task_id for task_id in self.runs if task_id not in tasks]:
            self._release(task_id)
        for task_id, (found, is_attached) in self._strangers.items():
            self._evict(task_id, found, is_attached=is_attached)
        self._strangers.clear()

    def _assign(self, task: Task) -> None:
        reported = task.status
        task = replace(task, status=TaskStatus())
        run = self.runs.get(task.id)
        if run is None:
            found, is_attached = self._strangers.pop(task.id, (None, False))
            self._adopt(StoredTask(task=task, status=reported), found, is_attached=is_attached)
            self._round.save(self.runs[task.id])
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
            self._round.save(run)
            self.be_quick(run)
        if changed != run.task:
            run.task = changed
            self._round.save(run)
            self.be_quick(run)

    def _release(self, task_id: TaskId) -> None:
        run = self.runs.get(task_id)
        if run is not None and not run.is_released:
            run.is_released = True
            self._round.out.append(events.DropStatus(task_id))
            self._round.save(run)
            self.be_quick(run)

    def _evict(self, task_id: TaskId, found: Found | None, *, is_attached: bool) -> None:
        """Take down what nobody knows of."""
        run = Run(task=Task(id=task_id), status=TaskStatus(), is_released=True, trace=Trace.ALL)
        run.is_attached = is_attached
        if found is not None:
            self.note_found(run, found)
        self.runs[task_id] = run
        self._round.save(run)
        self._round.mark([task_id])

    def _save_revision(self, revision: Revision) -> None:
        record = self.revisions.save(revision)
        if record is not None:
            self._round.records.append(record)
            self._round.mark(run.task.id for run in self.runs.values() if run.task.revision_id == revision.id)

    def _mark_users(self) -> None:
        """Tasks may have waited for their secrets and configs, or have older ones."""
        self._round.mark(id_ for id_, run in self.runs.items() if uses_files(self.revision_of(run)))

    def _mark_unattached(self, change: events.AssignmentChange) -> None:
        """Tasks may have waited for this network."""
        if isinstance(change, Network):
            self._round.mark(id_ for id_, run in self.runs.items() if run.may_wait_for_networks)
