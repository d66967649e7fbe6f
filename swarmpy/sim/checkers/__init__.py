"""The simulator's checkers: what must hold at every step, and what must hold at quiet.

``Checkers`` is what the world talks to. It feeds each checker what that one is for, and gathers what they
find in ``violations``. No I/O, no clock of its own (``now`` is asked), no chance; memory is bounded.

How the world calls it:

* ``started(name, view)`` when a manager has loaded its store, with the watch opened at that moment; then each
  notice of that watch goes to ``committed``, except ``Resync``: for that one ``resynced`` is called.
  ``ended(name)`` when the manager's life is over.
* ``status(name, status)`` for a raft status: read now, as often as it likes, or a subscriber's, ``is_late``.
* ``persisted(node_id, records)`` from the agent's journal, before the commit returns;
  ``machine_started(node_id, task_id)`` from ``FakeMachine.on_start``.
* ``operation(operation)`` when the outcome of a client's call is known, or never will be.
* ``queues(name, part)`` now and then; ``networks(view, node_id, core)`` when that agent has taken all that
  this manager has to tell it.
* ``quiet_reasons(scene)`` when it should be quiet, and ``final`` at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from agent.core import Core
from agent.events import Record, SaveStatus
from manager.raft.proposer import RaftStatus
from manager.store.events import Event, Notice
from manager.store.view import View
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.objects import Kind, NetworkAttachment, Node, Revision, Service, Task
from swarmpy.model.states import TaskState
from swarmpy.sim.checkers import acknowledged, discovery, linearizable, quiet, replicas
from swarmpy.sim.checkers.demand import NO_DEMAND, Demand, demand_of
from swarmpy.sim.checkers.exclusive import Exclusive
from swarmpy.sim.checkers.history import History, Operation
from swarmpy.sim.checkers.jobs import Jobs
from swarmpy.sim.checkers.linearizable import Result, Verdict
from swarmpy.sim.checkers.queues import HasBacklog, Queues
from swarmpy.sim.checkers.quiet import Scene
from swarmpy.sim.checkers.raft_terms import RaftTerms
from swarmpy.sim.checkers.replicas import Replicas
from swarmpy.sim.checkers.reservations import Reservations
from swarmpy.sim.checkers.slots import Slots
from swarmpy.sim.checkers.starts import Starts
from swarmpy.sim.checkers.task_life import TaskLife
from swarmpy.sim.checkers.violations import Violation, Violations
from swarmpy.sim.limits import SIM_SEARCH_STEPS_MAX

__all__ = ["Checkers", "Operation", "Options", "Scene", "Summary", "Violation", "Violations"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """``has_reports``: ``persisted`` is called, so that states that only agents may set can be traced to one.

    ``may_roll_back``: services of the workload may be rolled back by managers. ``sample``: digests of every
    so-many-th version only.
    """

    has_reports: bool = True
    may_roll_back: bool = False
    sample: int = 1
    search_steps: int = SIM_SEARCH_STEPS_MAX


_DEFAULTS: Final = Options()


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """``undecided``: names for which no verdict was reached within the bounds; "" stands for a history that
    was too long to keep. That is not a pass."""

    violations: int
    operations: int
    undecided: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        return not self.violations and not self.undecided


class Checkers:
    """See the module's docstring."""

    def __init__(
        self,
        now: Callable[[], float],
        *,
        options: Options = _DEFAULTS,
        on_violation: Callable[[Violation], None] = lambda violation: None,
    ) -> None:
        self.violations = Violations(now, on_found=on_violation)
        self.history = History()
        self._options = options
        self._demands: dict[str, Demand] = {}
        self._life = TaskLife(self.violations, has_reports=options.has_reports)
        self._starts = Starts(self.violations)
        self._exclusive = Exclusive(self.violations, self._demands)
        self._slots = Slots(self.violations)
        self._jobs = Jobs(self.violations)
        self._reservations = Reservations(self.violations, self._demands)
        self._raft = RaftTerms(self.violations)
        self._queues = Queues(self.violations)
        self.replicas = Replicas(self.violations, self._take_batch, sample=options.sample)

    # --- managers

    def started(self, name: str, view: View) -> None:
        self._raft.started(name)
        self.replicas.started(name, view)

    def resynced(self, name: str, view: View) -> None:
        self.replicas.resynced(name, view)

    def ended(self, name: str) -> None:
        self.replicas.ended(name)

    def committed(self, name: str, notice: Notice) -> None:
        self.replicas.committed(name, notice)

    def status(self, name: str, status: RaftStatus, *, is_late: bool = False) -> None:
        self._raft.status(name, status, is_late=is_late)

    def _take_batch(self, events: list[Event], is_gap: bool) -> None:
        """The next batch of the one committed history."""
        for event in events:
            if event.kind is Kind.REVISION and isinstance(event.new, Revision):
                demand = demand_of(event.new)
                if demand != NO_DEMAND:
                    self._demands[event.new.id] = demand
        if is_gap:  # differences come in no order: what was given up must not seem to be held twice
            for event in events:
                self._exclusive.event(event.old, None)
        for event in events:
            self._take_event(event, is_gap=is_gap)
        self._slots.batch_end(is_gap=is_gap)
        self._jobs.batch_end()
        for event in events:
            if event.kind is Kind.REVISION and event.new is None and event.old is not None:
                self._demands.pop(event.old.id, None)

    def _take_event(self, event: Event, *, is_gap: bool) -> None:
        kind, old, new = event.kind, event.old, event.new
        if kind is Kind.TASK:  # nearly all of them
            assert old is None or isinstance(old, Task)
            assert new is None or isinstance(new, Task)
            self._life.event(old, new, is_gap=is_gap)
            if not is_gap and old is not None and new is not None and _is_mere_progress(old, new):
                return
            self._exclusive.task_event(old, new)
            self._slots.task_event(old, new)
            self._jobs.task_event(old, new)
            self._reservations.task_event(old, new, is_gap=is_gap)
            return
        match kind:
            case Kind.NODE:
                assert old is None or isinstance(old, Node)
                assert new is None or isinstance(new, Node)
                self._reservations.node_event(old, new)
                if is_gap or _places(old) != _places(new):
                    self._exclusive.event(old, new)
            case Kind.SERVICE:
                assert old is None or isinstance(old, Service)
                assert new is None or isinstance(new, Service)
                self._slots.service_event(old, new)
                self._jobs.service_event(old, new, is_gap=is_gap)
                self._exclusive.event(old, new)
            case Kind.NETWORK:
                self._exclusive.event(old, new)
            case _:
                pass

    # --- nodes

    def persisted(self, node_id: NodeId, records: Iterable[Record]) -> None:
        """What an agent's journal was given to keep: nothing is reported that is not on record before."""
        for record in records:
            if isinstance(record, SaveStatus):
                self._life.reported(node_id, record.task_id, record.status.state)

    def machine_started(self, node_id: NodeId, task_id: TaskId) -> None:
        self._starts.started(node_id, task_id)

    def networks(self, view: View, node_id: NodeId, core: Core) -> None:
        """An agent that has taken every push of this store's manager."""
        for sentence in discovery.differences(view, node_id, core.networks, discovery.reachable(core)):
            self.violations.add(discovery.NAME, sentence)

    def queues(self, name: str, part: HasBacklog) -> None:
        objects = sum(len(rows) for rows in self.replicas.mirror.values())
        self._queues.check(name, part, objects=objects)

    # --- clients

    def operation(self, operation: Operation) -> None:
        self.history.add(operation)

    # --- the end

    def quiet_reasons(self, scene: Scene) -> list[str]:
        return quiet.quiet_reasons(scene)

    def final(self, views: Mapping[str, View], scene: Scene | None = None) -> Summary:
        """Judge what can be judged only now, at quiet: ``views`` are the stores of all live managers.

        ``scene``: what keeps it from being quiet is a violation too.
        """
        for sentence in replicas.compare_stores(views):
            self.violations.add(replicas.NAME, sentence)
        for sentence in quiet.quiet_reasons(scene) if scene is not None else ():
            self.violations.add(quiet.NAME, sentence)
        may_roll_back = self._options.may_roll_back
        if views and self.history.operations and not self.history.is_cut:
            view = next(iter(views.values()))
            operations = self.history.operations
            for sentence in acknowledged.lost_or_made_up(operations, view, may_roll_back=may_roll_back):
                self.violations.add(acknowledged.NAME, sentence)
        results = linearizable.check_history(
            self.history.operations, steps=self._options.search_steps, may_roll_back=may_roll_back
        )
        for result in results:
            if result.verdict is Verdict.VIOLATED:
                self._add_unordered(result)
        undecided = [result.name for result in results if result.verdict is Verdict.UNDECIDED]
        if self.history.is_cut:
            undecided.append("")
        return Summary(
            violations=len(self.violations),
            operations=len(self.history),
            undecided=tuple(undecided),
        )

    def _add_unordered(self, result: Result) -> None:
        self.violations.add(
            linearizable.NAME,
            f"no order explains what clients were told of service {result.name}",
            operations=result.operations,
            stuck_at="; ".join(str(operation) for operation in result.last),
        )


def _places(node: Node | None) -> tuple[NetworkAttachment, ...]:
    return node.attachments if node is not None else ()


def _is_mere_progress(old: Task, new: Task) -> bool:
    """Whether the task only got further on its agent: it holds what it held, and is wished what it was."""
    return (
        old.status.state >= TaskState.ASSIGNED
        and new.status.state <= TaskState.RUNNING
        and old.desired_state is new.desired_state
        and old.node_id == new.node_id
        and old.networks == new.networks
    )
