"""At most one task is wanted in each slot of a service.

*Wanted*: wished to run, or to be prepared (READY), and not ended. A slot is a number, or a node for global
services. The rule, judged at the end of each batch for every slot that got a new task in it:

* one wanted task; every plan that ends a task and creates its successor does both in one atomic group, so a
  replacement never overlaps what it replaces: the one is wished to stop when the other is created;
* two while a start-first update (or rollback) overlaps them: the update keeps one old task, creates one new
  one, and ends all others. If the service changes again meanwhile, it again keeps one. A start-first drain
  and a rebalance overlap an old and a new task likewise;
* three never.

A task is created by a decision that was made on the service some moments before, so a service counts as
one that may overlap until no proposal can be under way any more that was planned while it was.

This is about wishes. That a replacement is told to *run* only after its predecessor has stopped (or took too
long) is a matter of time and of nodes that are heard; it is not judged here.
"""

from __future__ import annotations

import math
from typing import Final

from swarmpy.limits import PROPOSE_TIMEOUT_S
from swarmpy.model.ids import ServiceId, TaskId
from swarmpy.model.objects import Service, Task
from swarmpy.model.states import TaskState, UpdateOrder
from swarmpy.sim.checkers.violations import Violations

NAME: Final = "slots"

_Slot = tuple[ServiceId, int | str, int]
"""The last is the iteration, of a job."""


class Slots:
    def __init__(self, violations: Violations) -> None:
        self._violations = violations
        self._wanted: dict[_Slot, dict[TaskId, None]] = {}
        self._start_first_until: dict[ServiceId, float] = {}
        self._created: dict[_Slot, None] = {}
        self._from_0: dict[ServiceId, None] = {}
        """Services whose slots are numbered from 0; elsewhere 0 says that a node is the slot."""

    def service_event(self, old: Service | None, new: Service | None) -> None:
        if new is not None and (new.spec.mode.replicated_job or new.spec.mode.cron_job) is not None:
            self._from_0[new.id] = None
        if new is None:
            if old is not None:
                self._start_first_until.pop(old.id, None)
                self._from_0.pop(old.id, None)
        elif _may_overlap(new):
            self._start_first_until[new.id] = math.inf
        elif self._start_first_until.get(new.id) == math.inf:
            self._start_first_until[new.id] = self._violations.now() + PROPOSE_TIMEOUT_S

    def task_event(self, old: Task | None, new: Task | None) -> None:
        was_wanted = old is not None and _is_wanted(old)
        is_now = new is not None and _is_wanted(new)
        if was_wanted is is_now:
            return
        if is_now:
            assert new is not None
            slot = self._slot_of(new)
            self._wanted.setdefault(slot, {})[new.id] = None
            self._created[slot] = None
        elif old is not None:
            slot = self._slot_of(old)
            wanted = self._wanted.get(slot, {})
            wanted.pop(old.id, None)
            if not wanted:
                self._wanted.pop(slot, None)

    def _slot_of(self, task: Task) -> _Slot:
        is_numbered = task.slot or task.service_id in self._from_0
        return task.service_id, task.slot if is_numbered else task.node_id, task.job_iteration

    def batch_end(self, *, is_gap: bool = False) -> None:
        """All events of a batch were told; of a gap only what is never right is judged."""
        for slot in self._created:
            wanted = self._wanted.get(slot, {})
            if len(wanted) < 2:
                continue
            service_id, name, _ = slot
            may_overlap = self._start_first_until.get(service_id, -1.0) >= self._violations.now()
            if len(wanted) > 2 or not (may_overlap or is_gap):
                self._violations.add(
                    NAME,
                    f"slot {name} of service {service_id} has {len(wanted)} tasks that are wanted",
                    tasks=", ".join(wanted),
                )
        self._created.clear()


def _is_wanted(task: Task) -> bool:
    return task.desired_state <= TaskState.COMPLETE and task.status.state <= TaskState.RUNNING


def _may_overlap(service: Service) -> bool:
    if service.spec.rebalance or service.rebalance_asked_at:
        return True
    configs = (service.spec.update_config, service.spec.rollback_config)
    return any(config is not None and config.order == UpdateOrder.START_FIRST for config in configs)
