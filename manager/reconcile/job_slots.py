"""What goes on in the slots of one run of a job: an *iteration* of it, whatever a slot is there.

A slot is *done* when a task in it has completed, for good: nothing that happens to nodes makes it run again.
It has *failed* when its last task has ended and the restart policy lets none follow. Otherwise one task of
it should run, and is replaced when it fails (a policy of ``any`` acts as ``on-failure``) or loses its node,
which counts no attempt. What ends a task and the task that follows it are one atomic group.

A task of a job is wished to get to COMPLETE. Which slots there should be is decided in ``jobs``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import Final

from msgspec.structs import replace

from manager.reconcile.builder import PlanBuilder
from manager.reconcile.restart import Restart, after_displacement, after_end, is_delayed, is_displaced
from manager.reconcile.slots import NodeFitness, age, is_wished
from swarmpy.limits import RESTART_STOP_WAIT_S
from swarmpy.model.changes import Order
from swarmpy.model.defaults import EffectiveRestart, is_per_node, restart_policy
from swarmpy.model.ids import SECOND_NS, NodeId, TaskId
from swarmpy.model.job_rules import job_size
from swarmpy.model.objects import Service, Task
from swarmpy.model.specs import ServiceSpec, TaskSpec
from swarmpy.model.states import RestartCondition, RunState, TaskState, is_terminal

STOP_WAIT_NS: Final = int(RESTART_STOP_WAIT_S * SECOND_NS)

Slot = int | NodeId


class Standing(Enum):
    """How a slot that has tasks stands."""

    ACTIVE = auto()
    DONE = auto()
    FAILED = auto()


def job_policy(template: TaskSpec) -> EffectiveRestart:
    """A job that has done its work is not begun again, whatever the policy says."""
    policy = restart_policy(template)
    if policy.condition is not RestartCondition.ANY:
        return policy
    return EffectiveRestart(
        condition=RestartCondition.ON_FAILURE,
        delay=policy.delay,
        max_attempts=policy.max_attempts,
        window=policy.window,
    )


def tasks_of_run(tasks: Iterable[Task], iteration: int) -> list[Task]:
    return [task for task in tasks if task.job_iteration == iteration]


def standing_of(tasks: Iterable[Task]) -> Standing:
    """Of one slot, from its tasks in one run."""
    standing = Standing.FAILED
    for task in tasks:
        if task.status.state is TaskState.COMPLETE:
            return Standing.DONE
        if is_wished(task):
            standing = Standing.ACTIVE
    return standing


def standing_of_run(tasks: Iterable[Task], spec: ServiceSpec) -> RunState:
    """Of one run, from its tasks: COMPLETE, or FAILED once nothing of it goes on, or still RUNNING."""
    slots: dict[Slot, list[Task]] = {}
    is_by_node = is_per_node(spec)
    total = 0 if is_by_node else job_size(spec).total
    for task in tasks:
        if is_by_node or task.slot < total:
            slots.setdefault(task.node_id if is_by_node else task.slot, []).append(task)
    standings = [standing_of(in_slot) for in_slot in slots.values()]
    if Standing.ACTIVE in standings or len(slots) < max(total, 1 if is_by_node else 0):
        return RunState.RUNNING
    return RunState.FAILED if Standing.FAILED in standings else RunState.COMPLETE


class SlotsOfRun:
    """Tends the slots of one iteration of one service."""

    def __init__(
        self, service: Service, builder: PlanBuilder, *, fitness: NodeFitness, iteration: int
    ) -> None:
        self._service = service
        self._builder = builder
        self._fitness = fitness
        self._iteration = iteration
        self._policy = job_policy(service.spec.task_template)

    def begin(self, slot: Slot) -> None:
        """The slot's first task."""
        self._builder.create(self._task(slot))

    def tend(self, slot: Slot, tasks: Sequence[Task]) -> Standing:
        """How the slot stands, after what is done about it. ``tasks``: those of this run, oldest first."""
        standing = standing_of(tasks)
        if standing is Standing.DONE:
            self.stop(tasks)
        if standing is not Standing.ACTIVE:
            return standing
        wished = [task for task in tasks if is_wished(task)]
        fine = [task for task in wished if self._is_fine(task)]
        if not fine:
            return self._replace(slot, tasks, wished)
        self.stop([task for task in wished if task is not fine[0]])
        if fine[0].desired_state is TaskState.READY and self._builder.has_room():
            self._let_run(fine[0], tasks)
        return standing

    def stop(self, tasks: Iterable[Task], desired: TaskState = TaskState.SHUTDOWN) -> None:
        """Whatever of these goes on is to end."""
        ending = [task for task in tasks if is_wished(task) and not is_terminal(task.status.state)]
        if ending and self._builder.has_room():
            self._builder.add(*(change for task in ending for change in self._builder.stop(task, desired)))

    def restart_of(self, task: Task, history: Sequence[Task]) -> Restart | None:
        """What follows a task that lost its node or ended without completing; None: nothing."""
        template_id = self._service.template_id
        state = task.status.state
        if not is_terminal(state) or is_displaced(task) or state is TaskState.SHUTDOWN:
            return after_displacement(task, self._policy, template_id=template_id, now=self._builder.now)
        return after_end(task, self._policy, history=history, template_id=template_id, now=self._builder.now)

    def begin_again(self, slot: Slot, restart: Restart, *, after: Sequence[Task]) -> None:
        """A task in place of these, which are told to stop; it waits for those that are still alive."""
        is_waiting = any(self.is_alive(task) for task in after) or restart.not_before > self._builder.now
        stops = [change for task in after if is_wished(task) for change in self._builder.stop(task)]
        task = replace(
            self._task(slot),
            desired_state=TaskState.READY if is_waiting else TaskState.COMPLETE,
            not_before=restart.not_before,
            restarts=restart.restarts,
        )
        if restart.not_before:
            self._builder.wake(restart.not_before)
        self._builder.create(task, *stops)

    def is_alive(self, task: Task) -> bool:
        """Whether the task may be running, on a node that will say when it has stopped."""
        is_on_agent = TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING
        return is_on_agent and not self._fitness.is_gone(task.node_id)

    # --- inside

    def _is_fine(self, task: Task) -> bool:
        return not is_terminal(task.status.state) and self._fitness.may_keep(task.node_id)

    def _replace(self, slot: Slot, tasks: Sequence[Task], lost: Sequence[Task]) -> Standing:
        newest = lost[-1]
        if not self._builder.has_room():
            return Standing.ACTIVE
        has_failed = is_terminal(newest.status.state) and not is_displaced(newest)
        if has_failed and is_delayed(newest, self._builder.now):
            # it failed while it was being prepared, before its own delay was over (as in slot_work)
            self._builder.wake(newest.not_before)
            return Standing.ACTIVE
        restart = self.restart_of(newest, tasks)
        if restart is None:
            self._builder.add(*(change for task in lost for change in self._builder.stop(task)))
            self._builder.note("restart_declined", service_id=self._service.id, task_id=newest.id)
            return Standing.FAILED
        self.begin_again(slot, restart, after=lost)
        return Standing.ACTIVE

    def _let_run(self, task: Task, tasks: Sequence[Task]) -> None:
        """When its delay is over, and what it replaces has stopped or took too long."""
        if is_delayed(task, self._builder.now):
            self._builder.wake(task.not_before)
            return
        waits_until = task.created_at + STOP_WAIT_NS
        is_blocked = any(self.is_alive(older) for older in tasks if age(older) < age(task))
        if is_blocked and self._builder.now < waits_until:
            self._builder.wake(waits_until)
            return
        self._builder.add(Order(task_id=task.id, desired_state=TaskState.COMPLETE))

    def _task(self, slot: Slot) -> Task:
        return Task(
            id=TaskId(""),
            service_id=self._service.id,
            slot=slot if isinstance(slot, int) else 0,
            node_id=NodeId("") if isinstance(slot, int) else slot,
            revision_id=self._service.template_id,
            desired_state=TaskState.COMPLETE,
            job_iteration=self._iteration,
        )
