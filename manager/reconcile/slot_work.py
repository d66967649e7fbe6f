"""What goes on in the slots of one service, whatever a slot is: a number, or a node for global services.

Replace what ended or lost its node, as the restart policy says; tell waiting replacements to run; end what a
start-first update or a move overlapped; take the update a step further. Where updates start the new task
first, so does a drain: what runs on the drained node stays until its successor is up.

A task is *up* when it runs and is ready. One that runs and is not ready takes over all the same once the
progress deadline has passed, so nothing overlaps for ever; but it takes nothing from the revision that an
update is on its way from: that such an update goes on, pauses or is rolled back is decided first.

A task that an order ends and the task that follows it are one atomic group, so no slot is ever lost or
doubled by a crash between the two.

It does not decide which slots there should be: ``replicated`` and ``global_services`` do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Generic

from msgspec.structs import replace

from manager.allocate.ports import endpoint_of
from manager.reconcile.builder import PlanBuilder
from manager.reconcile.outdated import Outdated, concerns_tasks
from manager.reconcile.restart import (
    Restart,
    after_displacement,
    after_end,
    declined_reason,
    is_delayed,
    is_displaced,
)
from manager.reconcile.return_to import obstacle
from manager.reconcile.slots import K, NodeFitness, Slots, age, is_wished
from manager.reconcile.update import (
    Step,
    advance,
    config_of,
    is_going,
    is_held,
    is_paused,
    rollback_blocked,
)
from manager.reconcile.update_progress import Progress, progress_of
from swarmpy.limits import RESTART_STOP_WAIT_S
from swarmpy.model.changes import Order, Update
from swarmpy.model.defaults import EffectiveRestart, restart_policy
from swarmpy.model.ids import SECOND_NS, RevisionId, Timestamp
from swarmpy.model.objects import Service, Task
from swarmpy.model.states import FailureAction, TaskState, UpdateOrder, is_terminal

_STOP_WAIT_NS: Final = int(RESTART_STOP_WAIT_S * SECOND_NS)


class SlotWork(Generic[K]):
    """One reconcile of one service. ``first_task`` makes the task that a slot begins with."""

    def __init__(
        self,
        service: Service,
        builder: PlanBuilder,
        *,
        slots: Slots[K],
        fitness: NodeFitness,
        first_task: Callable[[K], Task],
    ) -> None:
        self._service = service
        self._builder = builder
        self._view = builder.view
        self._now = builder.now
        self._slots: Slots[K] = slots
        self._fitness = fitness
        self._first_task: Callable[[K], Task] = first_task
        self._outdated = Outdated(builder.view, service)
        self._is_held = is_held(service)
        self._is_start_first = config_of(service).order == UpdateOrder.START_FIRST
        self._fresh_id = self._held_id() if self._is_held else service.template_id
        self._replaced: set[K] = set()
        """Slots that this plan gives a task: what the update makes of them is seen once it is stored."""

    def _held_id(self) -> RevisionId:
        """What runs in a slot that had nothing yet, before the update is let go on: the former revision."""
        service, view = self._service, self._view
        template, former = view.revision(service.template_id), view.revision(service.previous_id)
        if template is None or former is None or not concerns_tasks(former.spec, template.spec):
            return service.template_id
        return former.id

    def new_task(
        self,
        key: K,
        *,
        revision_id: RevisionId | None = None,
        restart: Restart | None = None,
        is_waiting: bool = False,
    ) -> Task:
        """Of a slot that had nothing yet, unless ``revision_id`` says what it runs."""
        task = replace(self._first_task(key), revision_id=revision_id or self._fresh_id)
        if restart is None and not is_waiting:
            return task
        restart = restart or Restart()
        is_waiting = is_waiting or restart.not_before > self._now
        return replace(
            task,
            desired_state=TaskState.READY if is_waiting else TaskState.RUNNING,
            not_before=restart.not_before,
            restarts=restart.restarts,
        )

    # --- what runs in a slot

    def _is_fine(self, task: Task) -> bool:
        return task.status.state <= TaskState.RUNNING and self._fitness.may_keep(task.node_id)

    def tend(self, key: K, tasks: Sequence[Task]) -> None:
        wished = [task for task in tasks if is_wished(task)]
        if not wished:
            return
        fine = [task for task in wished if self._is_fine(task)]
        lost = [task for task in wished if not self._is_fine(task)]
        if not lost:
            pass
        elif wished[-1] is not lost[-1] or any(self._stands_in(task) for task in fine):
            # a newer task stands in for them already, or the one that they were to take over from
            self._stop(self._without_leaving(lost, fine))
        else:
            fine = self._replace_lost(key, tasks, lost, fine)
        if len(fine) > 1 and self._builder.has_room():
            fine = self._end_overlap(fine)
        for task in fine:
            if task.desired_state == TaskState.READY and self._builder.has_room():
                self._let_run(task, tasks)

    def _stands_in(self, task: Task) -> bool:
        """Unless updates start first, what runs of a revision before is all that a slot may have."""
        return self._is_keeper(task) or (not self._is_start_first and self._is_up(task))

    def _stop(self, tasks: Sequence[Task]) -> None:
        if tasks:
            self._builder.add(*(change for task in tasks for change in self._builder.stop(task)))

    def _without_leaving(self, lost: Sequence[Task], fine: Sequence[Task]) -> Sequence[Task]:
        """Those to stop now: the newest that leaves a drained node stays until another of the slot is up."""
        if any(self._is_up(task) for task in fine):
            return lost
        leaving = [task for task in lost if self._is_leaving(task)][-1:]
        return [task for task in lost if task not in leaving]

    def _is_leaving(self, task: Task) -> bool:
        return (
            self._is_start_first
            and task.status.state == TaskState.RUNNING
            and self._fitness.is_draining(task.node_id)
        )

    def _replace_lost(
        self, key: K, tasks: Sequence[Task], lost: Sequence[Task], fine: list[Task]
    ) -> list[Task]:
        """``fine``: what is older, of a revision before. Returns what stays of it: nothing beside one that is
        to leave when another is up, or the slot had three."""
        newest = lost[-1]
        if is_terminal(newest.status.state) and not is_displaced(newest) and is_delayed(newest, self._now):
            # it failed while it was being prepared, before its own delay was over: the next one is prepared
            # at once too, so to replace it now would turn the pace of the delays into that of failing
            self._builder.wake(newest.not_before)
            return fine
        restart = self.restart_of(newest, tasks)
        if restart is None:
            self._stop(lost)
            reason = declined_reason(newest, self._policy_of(self.follows(newest)))
            self._builder.note(
                "restart_declined", service_id=self._service.id, task_id=newest.id, reason=reason
            )
            return fine
        ending: Sequence[Task] = self._without_leaving(lost, fine)
        waits_for = [task for task in ending if self.is_alive(task)]
        superseded: Sequence[Task] = fine if len(ending) < len(lost) else ()
        stops = [change for task in (*ending, *superseded) for change in self._builder.stop(task)]
        revision_id = self.follows(newest)
        task = self.new_task(key, revision_id=revision_id, restart=restart, is_waiting=bool(waits_for))
        if restart.not_before:
            self._builder.wake(restart.not_before)
        self._builder.create(task, *stops)
        self._replaced.add(key)
        return [] if superseded else fine

    def follows(self, task: Task) -> RevisionId:
        """The revision of the task that follows."""
        return self._outdated.follows(task, is_held=self._is_held)

    def _policy_of(self, revision_id: RevisionId) -> EffectiveRestart:
        revision = None if revision_id == self._service.template_id else self._view.revision(revision_id)
        # the service's own spec is newer than the template where a change restarted nothing
        spec = self._service.spec if revision is None else revision.spec
        return restart_policy(spec.task_template)

    def restart_of(self, task: Task, history: Sequence[Task]) -> Restart | None:
        """What follows a task that lost its node or has ended, as the policy says; None: nothing."""
        template_id = self.follows(task)
        policy = self._policy_of(template_id)
        if not is_terminal(task.status.state) or is_displaced(task):
            return after_displacement(task, policy, template_id=template_id, now=self._now)
        return after_end(task, policy, history=history, template_id=template_id, now=self._now)

    def _is_keeper(self, task: Task) -> bool:
        return task.status.state == TaskState.RUNNING and not self._outdated.is_outdated(task)

    def _is_up(self, task: Task) -> bool:
        """Whether it can stand in for another; if it is not ready yet, it is asked again in time."""
        if task.status.state != TaskState.RUNNING:
            return False
        if not task.status.is_unready:
            return True
        patience_ends_at = task.status.running_since + config_of(self._service).progress_deadline
        if patience_ends_at > self._now:
            self._builder.wake(Timestamp(patience_ends_at))
            return False
        return True

    def _end_overlap(self, fine: list[Task]) -> list[Task]:
        """Of several tasks in a slot, the newest that is up in the wanted revision ends the others.

        A newer one of that revision, which has a node and is not up yet, is to take over, and stays.
        """
        keeper = next((task for task in reversed(fine) if self._is_keeper(task) and self._is_up(task)), None)
        if keeper is None:
            return self._end_former_overlap(fine) if self._is_held else fine
        if keeper.status.is_unready and self._may_still_return():
            # what may be returned to is kept, as it is the one that serves
            fine_to_end = [task for task in fine if not self._outdated.is_outdated(task)]
        else:
            fine_to_end = fine
        others = [
            task
            for task in fine_to_end
            if task is not keeper
            and (age(task) < age(keeper) or not task.node_id or self._outdated.is_outdated(task))
        ]
        self._stop(others)
        return [task for task in fine if task not in others]

    def _end_former_overlap(self, fine: list[Task]) -> list[Task]:
        """What an update before has overlapped, in a slot that this one does not reach for the time being."""
        if not all(self._outdated.is_outdated(task) for task in fine):
            return fine
        keeper = next((task for task in reversed(fine) if self._is_up(task)), None)
        if keeper is None:
            return fine
        self._stop([task for task in fine if age(task) < age(keeper)])
        return [task for task in fine if age(task) >= age(keeper)]

    def _may_still_return(self) -> bool:
        """Whether the update may yet pause or be rolled back, or has paused."""
        is_undecided = config_of(self._service).failure_action != FailureAction.CONTINUE
        return is_paused(self._service) or (is_undecided and is_going(self._service))

    def is_alive(self, task: Task) -> bool:
        """Whether the task may be running, on a node that will say when it has stopped."""
        is_on_agent = TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING
        return is_on_agent and not self._fitness.is_gone(task.node_id)

    def _let_run(self, task: Task, tasks: Sequence[Task]) -> None:
        """A replacement runs when its delay is over and its predecessor has stopped, or took too long."""
        if is_delayed(task, self._now):
            self._builder.wake(task.not_before)
            return
        waits_until = task.created_at + _STOP_WAIT_NS
        is_blocked = any(
            self.is_alive(older) and not is_wished(older) for older in tasks if age(older) < age(task)
        )
        if is_blocked and self._now < waits_until:
            self._builder.wake(waits_until)
            return
        self._builder.add(Order(task_id=task.id, desired_state=TaskState.RUNNING))

    # --- the update

    def update(self) -> bool:
        """Whether there is room left in the plan after the update's step."""
        service = self._service
        outdated = [
            key
            for key in self._slots.attention
            if key in self._slots and self._is_slot_outdated(self._slots.tasks(key))
        ]
        if not outdated and not is_going(service):
            return True
        waits_for_plan = self._replaced.intersection(outdated)
        if waits_for_plan:
            outdated = [key for key in outdated if key not in waits_for_plan]
            if not outdated:
                return True
        # what is down is replaced first: that takes nothing away
        outdated.sort(key=lambda key: _is_running(self._slots.tasks(key)))
        config = config_of(service)
        step = advance(service, outdated=outdated, progress=self._progress(), now=self._now)
        if step.wake_at is not None:
            self._builder.wake(step.wake_at)
        if step.status is not None:
            if not self._builder.has_room():
                return False
            self._store_status(step)
        is_start_first = config.order == UpdateOrder.START_FIRST
        for key in step.slots:
            if not self._builder.has_room():
                return False
            self._replace_outdated(key, self._slots.tasks(key), is_start_first=is_start_first)
        return True

    def _progress(self) -> Progress:
        service, status = self._service, self._service.update_status
        if status is None or not is_going(service):
            return Progress()
        return progress_of(
            self._slots.all_tasks(),
            template_id=service.template_id,
            status=status,
            config=config_of(service),
            now=self._now,
        )

    def _is_slot_outdated(self, tasks: Sequence[Task]) -> bool:
        if not self._outdated.is_outdated(tasks[-1]):
            return False
        return all(self._outdated.is_outdated(task) for task in tasks if is_wished(task))

    def _store_status(self, step: Step[K]) -> None:
        assert step.status is not None
        changed = replace(self._service, update_status=step.status)
        if step.is_rollback:
            changed = self._rolled_back(changed)
        self._builder.add(Update(object=changed))
        status = changed.update_status
        assert status is not None
        self._builder.note(
            "update_status_changed", service_id=self._service.id, state=status.state, message=status.message
        )

    def _rolled_back(self, service: Service) -> Service:
        """The service as it was before the update; paused if that cannot be any more."""
        previous = self._view.revision(service.previous_id)
        assert previous is not None, "the revision to return to is kept"
        reason = obstacle(self._view, service, previous.spec)
        if reason:
            status = self._service.update_status
            assert status is not None
            return replace(service, update_status=rollback_blocked(status, reason))
        return replace(
            service,
            spec=previous.spec,
            revision_id=previous.id,
            template_id=previous.id,
            previous_id="",
            endpoint=endpoint_of(previous.spec, service.endpoint),
        )

    def _replace_outdated(self, key: K, tasks: Sequence[Task], *, is_start_first: bool) -> None:
        running = [task for task in tasks if is_wished(task)]
        keeps = [task for task in running if self.is_alive(task)][:1] if is_start_first else []
        stops = [change for task in running if task not in keeps for change in self._builder.stop(task)]
        is_waiting = not keeps and any(self.is_alive(task) for task in running)
        task = self.new_task(key, revision_id=self._service.template_id, is_waiting=is_waiting)
        self._builder.create(task, *stops)


def _is_running(tasks: Sequence[Task]) -> bool:
    return any(is_wished(task) and task.status.state == TaskState.RUNNING for task in tasks)
