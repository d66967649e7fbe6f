"""Replicas that follow load: how many tasks an autoscaled service should have now.

The wanted number is what brings the average use back to the target; the larger one if CPU and memory are both
looked at. It is damped on purpose:

* Within ``AUTOSCALE_TOLERANCE`` of the target nothing changes.
* Up: at most a doubling, and not again before ``AUTOSCALE_UP_GAP_S`` has passed, in which the new tasks take
  over their part of the load.
* Down: only after fewer would have done for the service's whole delay, and at most a halving.
* A task without figures counts as idle when there is too much load and as busy when there is too little, so
  what is not known moves nothing in either direction. Without any figures nothing is decided.

What was decided is on the service (``autoscale_status``), so a new leader goes on from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from msgspec.structs import replace

from manager.reconcile.plan import NOTHING, Note, Plan
from manager.reconcile.slots import is_wished
from manager.store.view import View
from manager.usage import UsageBook
from swarmpy.limits import (
    AUTOSCALE_DOWN_DELAY_S,
    AUTOSCALE_PERIOD_S,
    AUTOSCALE_TOLERANCE,
    AUTOSCALE_UP_GAP_S,
    AUTOSCALE_UP_STEP_MIN,
)
from swarmpy.model.changes import Group, Update
from swarmpy.model.defaults import is_replicated, replicas_of
from swarmpy.model.ids import SECOND_NS, ServiceId, Timestamp
from swarmpy.model.objects import AutoscaleStatus, Service, Task
from swarmpy.model.specs import Autoscale, ResourceRequirements
from swarmpy.model.states import Owner, TaskState

_PERIOD_NS: Final = int(AUTOSCALE_PERIOD_S * SECOND_NS)
_UP_GAP_NS: Final = int(AUTOSCALE_UP_GAP_S * SECOND_NS)
_NEVER: Final = Timestamp(0)


class Load(NamedTuple):
    """What the tasks use of what they were meant to use: 1.0 is exactly on target. None: not known."""

    name: str
    ratios: tuple[float | None, ...]


class Autoscaler:
    """The reconciler of autoscaled services; its keys are service ids."""

    name = "autoscale"

    def __init__(self, usage: UsageBook) -> None:
        self._usage = usage

    def keys(self, view: View) -> Iterable[str]:
        return sorted(service.id for service in view.services() if service.spec.autoscale is not None)

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        match new:
            case Service(id=id_, spec=spec) if spec.autoscale is not None:
                return (id_,)
        return ()

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        service = view.service(ServiceId(key))
        if service is None or service.spec.autoscale is None or not is_replicated(service.spec):
            return NOTHING
        tasks = [task for task in view.tasks_of_service(service.id) if is_wished(task)]
        before = service.autoscale_status or AutoscaleStatus(replicas=replicas_of(service))
        status = decide(service.spec.autoscale, before, loads_of(service, tasks, self._usage, now), now=now)
        wake_at = Timestamp(now + _PERIOD_NS)
        if status == service.autoscale_status:
            return Plan(wake_at=wake_at)
        changed = replace(service, autoscale_status=status)
        notes: tuple[Note, ...] = ()
        if status.replicas != before.replicas:
            facts = {"service_id": service.id, "replicas": str(status.replicas), "why": status.message}
            notes = (Note(event="service_autoscaled", facts=facts),)
        group = Group(owner=Owner.ORCHESTRATOR, changes=(Update(object=changed),))
        return Plan(groups=(group,), wake_at=wake_at, notes=notes)


def loads_of(service: Service, tasks: Iterable[Task], usage: UsageBook, now: Timestamp) -> tuple[Load, ...]:
    """CPU and memory of the tasks against their targets, as far as the service sets any."""
    autoscale = service.spec.autoscale or Autoscale()
    cpus, memory = _allotted(service.spec.task_template.resources)
    uses = [usage.of(task.id, now) if task.status.state == TaskState.RUNNING else None for task in tasks]
    loads = []
    if autoscale.cpu_percent:
        target = cpus * autoscale.cpu_percent / 100
        loads.append(Load("cpu", tuple(None if use is None else use.nano_cpus / target for use in uses)))
    if autoscale.memory_percent and memory:
        target = memory * autoscale.memory_percent / 100
        loads.append(
            Load("memory", tuple(None if use is None else use.memory_bytes / target for use in uses))
        )
    return tuple(loads)


def _allotted(resources: ResourceRequirements | None) -> tuple[int, int]:
    """Billionths of CPUs (one CPU if nothing is said) and bytes that a task is meant to have."""
    resources = resources or ResourceRequirements()
    limits, reserved = resources.limits, resources.reservations
    cpus = (reserved.nano_cpus if reserved else 0) or (limits.nano_cpus if limits else 0) or SECOND_NS
    memory = (reserved.memory_bytes if reserved else 0) or (limits.memory_bytes if limits else 0)
    return cpus, memory


def decide(
    autoscale: Autoscale, status: AutoscaleStatus, loads: Sequence[Load], *, now: Timestamp
) -> AutoscaleStatus:
    """What the status becomes; the same if nothing changes."""
    current = max(autoscale.min, min(autoscale.max, status.replicas))
    status = status if current == status.replicas else replace(status, replicas=current)
    wishes = [(wanted(current, load), load) for load in loads if any(r is not None for r in load.ratios)]
    if not wishes:
        return status
    wish, cause = max(wishes, key=lambda each: each[0])
    wish = max(autoscale.min, min(autoscale.max, wish))
    if wish > current:
        return _up(status, wish, cause, now)
    if wish < current:
        return _down(autoscale, status, wish, cause, now)
    return status if status.low_since == _NEVER else replace(status, low_since=_NEVER)


def wanted(current: int, load: Load) -> int:
    """Tasks that would bring the average to the target. What is not known speaks against any change."""
    known = [ratio for ratio in load.ratios if ratio is not None]
    unknown = len(load.ratios) - len(known)
    total = sum(known)
    if total > len(known):
        ratio = total / (len(known) + unknown)
        if ratio <= 1 + AUTOSCALE_TOLERANCE:
            return current
        return max(math.ceil(current * ratio), current)
    ratio = (total + unknown) / (len(known) + unknown)
    if ratio >= 1 - AUTOSCALE_TOLERANCE:
        return current
    # as many as keep the average within the target afterwards, or it would go up again at once
    return min(math.ceil(current * ratio), current)


def _up(status: AutoscaleStatus, wish: int, cause: Load, now: Timestamp) -> AutoscaleStatus:
    # one that is yet to come was written by a leader whose clock was ahead
    if status.scaled_at <= now < status.scaled_at + _UP_GAP_NS and status.scaled_at:
        return status if status.low_since == _NEVER else replace(status, low_since=_NEVER)
    step = min(wish, max(status.replicas * 2, status.replicas + AUTOSCALE_UP_STEP_MIN))
    return _scaled(status, step, cause, now)


def _down(
    autoscale: Autoscale, status: AutoscaleStatus, wish: int, cause: Load, now: Timestamp
) -> AutoscaleStatus:
    delay = autoscale.scale_down_delay or int(AUTOSCALE_DOWN_DELAY_S * SECOND_NS)
    if status.low_since == _NEVER or status.low_since > now:
        return replace(status, low_since=now)
    if now < status.low_since + delay:
        return status
    return _scaled(status, max(wish, (status.replicas + 1) // 2), cause, now)


def _scaled(status: AutoscaleStatus, count: int, cause: Load, now: Timestamp) -> AutoscaleStatus:
    known = [ratio for ratio in cause.ratios if ratio is not None]
    percent = round(100 * sum(known) / len(known))
    return AutoscaleStatus(
        replicas=count,
        scaled_at=now,
        message=f"{cause.name} at {percent}% of its target: {status.replicas} to {count} replicas",
    )
