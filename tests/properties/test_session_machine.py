"""A manager's session and an agent, joined by a stream that breaks: at quiet both know the same.

The manager's side is the real store, ``Dispatcher``'s bookkeeping and ``Session``; the agent's side the real
core, outbox and journal over a machine of dictionaries. Messages are protobuf bytes. A stream loses messages
only as its end does, but sessions end at any time, the daemon is killed at any time, leaders change. Beyond
what a transport may do, INCREMENTAL messages are dropped, doubled and swapped: the next one shows it.
"""

from __future__ import annotations

import itertools
from collections import deque

from budget import machine_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from store_values import AT, batch, creates, group, node, service

from agent import events
from agent.assembly import Assembly
from agent.core import Core
from agent.environment import NodeContext
from agent.events import Instruction, Now
from agent.executor.base import Exit, Found, ImageConfig, Sandbox
from agent.journal import IN_MEMORY, Journal
from agent.outbox import Outbox
from manager.dispatcher import Dispatcher, _Update
from manager.reports import report_groups
from manager.session import Session
from manager.store.events import Event, Resync
from manager.store.store import Store
from swarmpy import codec
from swarmpy.model.changes import Change, Create, Delete, Order, Report
from swarmpy.model.ids import NodeId, RevisionId, ServiceId, SessionId, TaskId, Timestamp
from swarmpy.model.objects import Kind, NodeDescription, Revision, Task, TaskStatus
from swarmpy.model.specs import ContainerSpec, ServiceSpec, TaskSpec
from swarmpy.model.states import Owner, TaskState, is_terminal
from swarmpy.pb import dispatcher_pb2 as pb

NODE = NodeId("n1")
CONTEXT = NodeContext(node_id=NODE, description=NodeDescription(hostname="n1"))
ROUNDS_MAX = 200
WATCH_EVENTS_MAX = 4
"""So small a queue that a leader which does not look for a while has to resync."""


class Machine:
    """What stands on the node, whatever becomes of the daemon: processes (None: it runs) and sandboxes."""

    def __init__(self) -> None:
        self.processes: dict[TaskId, Exit | None] = {}
        self.created: set[TaskId] = set()
        self.sandboxes: set[TaskId] = set()
        self.starts: dict[TaskId, int] = {}

    def found(self) -> tuple[Found, ...]:
        listed = sorted(self.created | set(self.processes))
        return tuple(
            Found(task_id=id_, pid=0 if id_ not in self.processes else 7, exit=self.processes.get(id_))
            for id_ in listed
        )

    def carry_out(self, operation: events.Operation) -> events.Outcome:
        match operation:
            case events.EnsureImage(reference=reference, attempt=attempt):
                return events.ImageReady(reference, attempt, ImageConfig(reference=reference))
            case events.Attach(task_id=id_, attempt=attempt):
                self.sandboxes.add(id_)
                return events.Attached(id_, attempt, Sandbox(netns=f"ns-{id_}"))
            case events.Create(task_id=id_, attempt=attempt):
                self.created.add(id_)
                return events.Created(id_, attempt)
            case events.Start(task_id=id_, attempt=attempt):
                if id_ not in self.processes:
                    self.processes[id_] = None
                    self.starts[id_] = self.starts.get(id_, 0) + 1
                return events.Started(id_, attempt, Found(task_id=id_, pid=7, exit=self.processes[id_]))
            case events.Reload(task_id=id_, attempt=attempt):
                return events.Reloaded(id_, attempt)
            case events.Stop(task_id=id_, attempt=attempt):
                self.processes[id_] = self.processes.get(id_) or Exit(code=143)
                return events.Stopped(id_, attempt, self.processes[id_])
            case events.Remove(task_id=id_, attempt=attempt, keep_log=keep_log):
                self.processes.pop(id_, None)
                self.created.discard(id_)
                return events.Removed(id_, attempt, keep_log)
            case events.Detach(task_id=id_, attempt=attempt):
                self.sandboxes.discard(id_)
                return events.Detached(id_, attempt)


class Daemon:
    """One life of the agent's daemon: core, outbox, and operations under way."""

    def __init__(self, machine: Machine, journal: Journal) -> None:
        self.machine, self.journal = machine, journal
        self.core, self.outbox = Core(CONTEXT), Outbox()
        self.operations: deque[events.Operation] = deque()
        self.has_session = False
        self.wants_new_session = False
        self.now = Now(Timestamp(AT), 1000.0)
        content = journal.load()
        restored = events.Restored(
            tasks=content.tasks,
            revisions=content.revisions,
            found=machine.found(),
            attached=tuple(sorted(machine.sandboxes)),
        )
        self.post(restored)

    def post(self, event: events.Event) -> None:
        for instruction in self.core.handle(event, self.now):
            self._take(instruction)
        self.core.check()

    def _take(self, instruction: Instruction) -> None:
        match instruction:
            case events.Persist(records=records):
                self.journal.commit(records)
            case events.ReportStatus(task_id=task_id, status=status):
                if self.has_session:
                    self.outbox.put(task_id, status, self.now.mono)
            case events.DropStatus(task_id=task_id):
                self.outbox.drop(task_id)
            case events.EndSession():
                self.wants_new_session = self.has_session
            case events.ApplyNetworks() | events.CutConnections():
                pass  # the discovery machine's
            case events.Probe():
                raise AssertionError("no task here has a check")
            case _:
                self.operations.append(instruction)

    def pass_time(self, seconds: float) -> None:
        self.now = Now(Timestamp(self.now.wall + int(seconds * 10**9)), self.now.mono + seconds)
        if self.core.wake_at is not None and self.core.wake_at <= self.now.mono:
            self.post(events.Tick())


class Joined(RuleBasedStateMachine):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.numbers = itertools.count(1)
        spec = ServiceSpec(name="s1", task_template=TaskSpec(container_spec=ContainerSpec(image="host")))
        made: list[Revision] = [
            Revision(id=RevisionId(id_), service_id=ServiceId("s1"), spec=spec) for id_ in ("s1-r", "s1-r2")
        ]
        self.store.apply_batch(batch(creates(node("n1"), node("n2"), service("s1"), *made)))
        self.machine, self.journal = Machine(), Journal(IN_MEMORY)
        self.daemon: Daemon | None = Daemon(self.machine, self.journal)
        self.history: dict[TaskId, TaskState] = {}
        self.late: list[bytes] = []
        """Statuses that once were sent: they may come again at any time."""
        self.lead()

    # --- the manager

    def lead(self) -> None:
        """A new leader: it knows the store, and no session."""
        self.dispatcher = Dispatcher(self.store, None, None, epoch=1)  # type: ignore[arg-type]
        self.watch = self.store.watch(limit=WATCH_EVENTS_MAX)
        self.session: Session | None = None
        self.down: deque[bytes] = deque()
        self.up: deque[bytes] = deque()

    def commit(self, *changes: Change, owner: Owner = Owner.ORCHESTRATOR) -> None:
        assert not self.store.apply_batch(batch(group(*changes, owner=owner))).refused

    @rule(is_waiting=st.booleans(), second=st.booleans(), elsewhere=st.sampled_from([False] * 4 + [True]))
    def create(self, *, is_waiting: bool = False, second: bool = False, elsewhere: bool = False) -> None:
        task = Task(
            id=TaskId(f"t{next(self.numbers):03}"),
            service_id=ServiceId("s1"),
            revision_id=RevisionId("s1-r2" if second else "s1-r"),
            node_id=NodeId("n2") if elsewhere else NODE,
            desired_state=TaskState.READY if is_waiting else TaskState.RUNNING,
            status=TaskStatus(state=TaskState.ASSIGNED),
        )
        self.commit(Create(object=task))

    @precondition(lambda self: self.store.tasks_of_node(NODE))
    @rule(
        pick=st.integers(0, 99),
        wish=st.sampled_from([TaskState.RUNNING, TaskState.SHUTDOWN, TaskState.REMOVE]),
    )
    def order(self, pick: int, wish: TaskState) -> None:
        self.commit(Order(task_id=self.pick(pick).id, desired_state=wish))

    @precondition(lambda self: self.store.tasks_of_node(NODE))
    @rule(pick=st.integers(0, 99), is_kept=st.booleans())
    def give_up(self, pick: int, *, is_kept: bool) -> None:
        """As for a node that was thought dead: orphaned, and then deleted."""
        task = self.pick(pick)
        if not is_terminal(task.status.state):
            self.commit(Report(task_id=task.id, status=TaskStatus(state=TaskState.ORPHANED)))
        if not is_kept:
            self.commit(Delete(kind=Kind.TASK, id=task.id), owner=Owner.REAPER)

    def pick(self, pick: int) -> Task:
        tasks = sorted(self.store.tasks_of_node(NODE), key=lambda task: task.id)
        return tasks[pick % len(tasks)]

    @rule()
    def look_at_the_store(self) -> None:
        """What the dispatcher's watch does, and the session's writer."""
        for notice in self.watch.take():
            match notice:
                case Event(old=old, new=new):
                    self.dispatcher._spread(old, new)
                case Resync() if self.session is not None:
                    self.session.resync()
                case _:
                    pass
        if self.session is not None:
            messages = self.session.next_messages(self.store)
            self.down.extend(message.SerializeToString() for message in messages)

    @rule()
    def change_leader(self) -> None:
        self.watch.close()
        self.end_session()
        self.lead()

    @rule()
    def restore_the_store(self) -> None:
        """A manager that fell behind gets a snapshot; what leads goes on with it."""
        self.store.restore([b"".join(self.store.encode(self.store.freeze()))])

    # --- the stream

    @precondition(lambda self: self.daemon is not None and not self.daemon.has_session)
    @rule()
    def open_session(self) -> None:
        assert self.daemon is not None
        self.session = self.dispatcher.make_session(NODE, "s")
        self.assembly = Assembly()
        self.dispatcher._sessions[NODE] = self.session
        self.down.clear()
        self.up.clear()
        self.daemon.outbox.clear()
        self.daemon.has_session = True
        self.daemon.wants_new_session = False
        self.daemon.post(events.SessionUp(SessionId("s")))

    @rule()
    def end_session(self) -> None:
        """Both ends learn of it; what was under way is lost."""
        if self.session is not None:
            self.dispatcher._sessions.pop(NODE, None)
            self.session = None
        self.down.clear()
        self.up.clear()
        if self.daemon is not None and self.daemon.has_session:
            self.daemon.has_session = False
            self.daemon.post(events.SessionDown())

    @precondition(lambda self: self.down and self.daemon is not None)
    @rule(count=st.integers(1, 9))
    def deliver_down(self, count: int = 1) -> None:
        assert self.daemon is not None
        while self.down and count:
            count -= 1
            message = pb.ManagerMessage.FromString(self.down.popleft())
            match message.WhichOneof("message"):
                case "assignments":
                    if (received := self.assembly.take(message.assignments)) is not None:
                        self.daemon.post(received)
                case "status_ack":
                    self.daemon.outbox.acknowledge(message.status_ack.sequence)
            if self.daemon.wants_new_session:
                self.end_session()

    @precondition(lambda self: self.daemon is not None and self.daemon.has_session)
    @rule()
    def send_statuses(self) -> None:
        assert self.daemon is not None
        if self.daemon.outbox.due_at is None:
            return
        sequence, statuses = self.daemon.outbox.take(self.daemon.now.mono)
        update = pb.StatusUpdate(sequence=sequence)
        for task_id, status in statuses:
            codec.write_pb(status, update.statuses.add(task_id=task_id).status)
        self.up.append(update.SerializeToString())
        self.late.append(self.up[-1])

    @precondition(lambda self: self.up)
    @rule(count=st.integers(1, 9))
    def deliver_up(self, count: int = 9) -> None:
        while self.up and count:
            count -= 1
            assert self.session is not None
            self.take_statuses(self.up.popleft(), self.session)

    @precondition(lambda self: self.late)
    @rule(pick=st.integers(0, 99))
    def repeat_old_statuses(self, pick: int) -> None:
        """Doubled, or very late: of a session that has long ended."""
        self.take_statuses(self.late[pick % len(self.late)], Session(NODE, SessionId("old")))

    def take_statuses(self, data: bytes, session: Session) -> None:
        update = self.dispatcher._checked(session, pb.StatusUpdate.FromString(data))
        assert isinstance(update, _Update)
        # one group for each task; the store refuses what came too late for its task
        self.store.apply_batch(batch(*report_groups(self.store, update.statuses, Timestamp(AT))))
        session.notify(pb.ManagerMessage(status_ack=pb.StatusAck(sequence=update.sequence)))

    # --- stronger than any transport

    def incrementals(self) -> list[int]:
        """Those that nothing makes up for: a COMPLETE set heals whatever went wrong before it."""
        found: list[int] = []
        for position, data in enumerate(self.down):
            message = pb.ManagerMessage.FromString(data)
            if not message.HasField("assignments"):
                continue
            if message.assignments.type == pb.AssignmentUpdate.COMPLETE:
                found.clear()
            else:
                found.append(position)
        return found

    @rule(how=st.sampled_from(["drop", "double", "swap"]), pick=st.integers(0, 9))
    def tamper(self, how: str, pick: int) -> None:
        """The agent notices with the next message, ends the session, and gets a COMPLETE set."""
        self.create()
        self.look_at_the_store()
        self.create()
        self.look_at_the_store()
        found = self.incrementals()
        if len(found) < 2 or self.daemon is None:
            return
        first = found[pick % (len(found) - 1)]
        if how == "drop":
            del self.down[first]
        elif how == "double":
            self.down.insert(first, self.down[first])
        else:
            later = found[found.index(first) + 1]
            self.down[first], self.down[later] = self.down[later], self.down[first]
        self.deliver_down(len(self.down))
        assert self.session is None, f"{how} went unnoticed"
        self.open_session()
        self.look_at_the_store()
        (update,) = [
            message.assignments
            for message in map(pb.ManagerMessage.FromString, self.down)
            if message.HasField("assignments")
        ]
        assert update.type == pb.AssignmentUpdate.COMPLETE

    # --- the node

    @precondition(lambda self: self.daemon is not None and self.daemon.operations)
    @rule(count=st.integers(1, 9))
    def work(self, count: int = 1) -> None:
        assert self.daemon is not None
        while self.daemon.operations and count:
            count -= 1
            self.daemon.post(self.machine.carry_out(self.daemon.operations.popleft()))

    @precondition(lambda self: None in self.machine.processes.values())
    @rule(pick=st.integers(0, 99), code=st.sampled_from([0, 1]))
    def exit_process(self, pick: int, code: int) -> None:
        running = sorted(id_ for id_, exit in self.machine.processes.items() if exit is None)
        task_id = running[pick % len(running)]
        self.machine.processes[task_id] = Exit(code=code)
        if self.daemon is not None:
            self.daemon.post(events.TaskExited(task_id, Exit(code=code)))

    @precondition(lambda self: self.daemon is not None)
    @rule(is_done=st.booleans())
    def kill_daemon(self, *, is_done: bool) -> None:
        """Operations under way come to their end or not; nobody hears of it."""
        assert self.daemon is not None
        for operation in list(self.daemon.operations) if is_done else []:
            self.machine.carry_out(operation)
        self.daemon.has_session = False
        self.end_session()
        self.daemon = None

    @precondition(lambda self: self.daemon is None)
    @rule()
    def start_daemon(self) -> None:
        self.daemon = Daemon(self.machine, self.journal)

    @rule(seconds=st.sampled_from([0.05, 1.0, 20.0]))
    def pass_time(self, seconds: float) -> None:
        if self.daemon is not None:
            self.daemon.pass_time(seconds)

    # --- what must hold

    @invariant()
    def states_only_grow(self) -> None:
        for task in self.store.tasks():
            assert task.status.state >= self.history.get(task.id, TaskState.NEW)
            self.history[task.id] = task.status.state

    @invariant()
    def nothing_is_started_twice(self) -> None:
        assert all(count == 1 for count in self.machine.starts.values()), self.machine.starts

    def teardown(self) -> None:
        self.quieten()
        self.journal.close()

    @rule()
    def quieten(self) -> None:
        """Nothing happens any more: what is under way comes to its end."""
        if self.daemon is None:
            self.start_daemon()
        for _ in range(ROUNDS_MAX):
            before = self.picture()
            assert self.daemon is not None
            if not self.daemon.has_session:
                self.open_session()
            self.look_at_the_store()
            self.deliver_down(len(self.down))
            self.work(ROUNDS_MAX)
            self.pass_time(20.0)
            if self.daemon.has_session:
                self.send_statuses()
                self.deliver_up(ROUNDS_MAX)
            if self.picture() == before and not self.down and not self.daemon.operations:
                break
        else:
            raise AssertionError("not quiet")
        self.check_quiet()

    def picture(self) -> object:
        assert self.daemon is not None
        runs = {id_: (run.status, run.doing) for id_, run in self.daemon.core.runs.items()}
        return self.store.version, runs, dict(self.machine.processes)

    def check_quiet(self) -> None:
        assert self.daemon is not None
        assigned = {task.id: task for task in self.store.tasks_of_node(NODE)}
        runs = self.daemon.core.runs
        assert set(runs) == set(assigned)
        for id_, task in assigned.items():
            run = runs[id_]
            assert run.task.desired_state >= task.desired_state
            assert run.status.state == task.status.state
            if task.status.state != TaskState.ORPHANED:  # that was the managers' word
                assert run.status.report == task.status.report
            is_live = id_ in self.machine.processes and self.machine.processes[id_] is None
            assert is_live == (task.status.state == TaskState.RUNNING)
            if not is_terminal(task.status.state):
                assert task.status.state == task.desired_state
        unended = {id_ for id_, task in assigned.items() if not is_terminal(task.status.state)}
        assert set(self.machine.processes) <= unended
        assert self.machine.sandboxes <= unended
        stored = {each.task.id: each.status for each in self.journal.load().tasks}
        assert stored == {id_: run.status for id_, run in runs.items()}


TestJoined = Joined.TestCase
TestJoined.settings = machine_settings(examples=60, steps=40)


def test_an_agent_with_a_session_hears_that_a_task_was_given_up() -> None:
    """Found by the machine: a status was never sent to its own agent, not even one that others had set."""
    machine = Joined()
    machine.create()
    machine.quieten()
    machine.give_up(pick=0, is_kept=True)
    machine.teardown()


def test_a_complete_set_makes_up_for_what_was_dropped_before_it() -> None:
    """Found by the machine, in itself: a snapshot makes the leader send all anew, so no gap is left."""
    machine = Joined()
    machine.open_session()
    machine.create()
    machine.look_at_the_store()
    machine.create()
    machine.look_at_the_store()
    del machine.down[machine.incrementals()[0]]
    machine.restore_the_store()
    machine.look_at_the_store()
    machine.deliver_down(len(machine.down))
    assert machine.session is not None
    machine.teardown()
