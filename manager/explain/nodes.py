"""Which nodes would take a task now, and for what reason each other would not.

Asked of the scheduler's own filters, over the present load without the task itself: so a task that runs is
judged as if it were to be placed again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from manager.explain.words import NodeVerdict, many
from manager.schedule.constraint import is_match
from manager.schedule.filters import Filter, Question, filters_for, question_about, refusing_filter
from manager.schedule.needs import generic_counts, parsed_or_never
from manager.schedule.nodes import ClusterLoad, LoadCache, NodeLoad
from manager.store.view import View
from swarmpy.model.objects import Node, Task
from swarmpy.model.specs import Placement
from swarmpy.model.states import NodeAvailability, NodeState, TaskState

_GIGA: Final = 10**9
_MIB: Final = 1 << 20
_Detail = Callable[[View, Task, Question, Node, NodeLoad], str]


def node_verdicts(view: View, task: Task) -> tuple[NodeVerdict, ...]:
    """One for each node: first those that would take the task, the least loaded of them before others."""
    load = LoadCache().picture(view)
    question = question_about(view, load, task.service_id, task.revision_id, slot=task.slot)
    if TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING:
        _take_off(load, task, question)
    filters = filters_for(question)
    found = []
    for node in load.nodes:
        node_load = load.of(node.id)
        refusing = refusing_filter(filters, question, node, node_load)
        copies = node_load.active_by_service.get(task.service_id, 0)
        verdict = NodeVerdict(
            node_id=node.id,
            node=node.description.hostname or node.id,
            refusal="" if refusing is None else _refusal(view, task, refusing, question, node, node_load),
            load=f"{many(copies, 'task')} of this service, {node_load.active} in all",
            is_chosen=node.id == task.node_id,
        )
        found.append(((bool(verdict.refusal), copies, node_load.active, node.id), verdict))
    return tuple(verdict for _, verdict in sorted(found, key=lambda each: each[0]))


def _take_off(load: ClusterLoad, task: Task, question: Question) -> None:
    if load.node(task.node_id) is not None:
        load.settle(task, -1)
        if task.desired_state <= TaskState.COMPLETE:
            load.add(task.node_id, task.service_id, question.needs, -1)


def _refusal(view: View, task: Task, refusing: Filter, question: Question, node: Node, load: NodeLoad) -> str:
    for beginning, detail in _DETAILS.items():
        if refusing.clause_one.startswith(beginning):
            return detail(view, task, question, node, load)
    return refusing.clause_one.replace(" on 1 node", "")


def _unavailable(view: View, task: Task, question: Question, node: Node, load: NodeLoad) -> str:
    if node.status.state is not NodeState.READY:
        why = f": {node.status.message}" if node.status.message else ""
        return f"the node is {node.status.state}{why}"
    word = {NodeAvailability.DRAIN: "drained", NodeAvailability.PAUSE: "paused"}
    return f"the node is {word.get(node.spec.availability, 'not active')}"


def _short_of(view: View, task: Task, question: Question, node: Node, load: NodeLoad) -> str:
    needs, has = question.needs, node.description.resources
    found = []
    if needs.nano_cpus > (free := has.nano_cpus - load.nano_cpus):
        wants = f"{needs.nano_cpus / _GIGA:g} CPUs reserved"
        found.append(f"{wants}, {max(free, 0) / _GIGA:g} of {has.nano_cpus / _GIGA:g} free")
    if needs.memory_bytes > (free := has.memory_bytes - load.memory_bytes):
        wants = f"{needs.memory_bytes / _MIB:.0f} MiB reserved"
        found.append(f"{wants}, {max(free, 0) / _MIB:.0f} of {has.memory_bytes / _MIB:.0f} MiB free")
    available = generic_counts(has.generic_resources)
    for kind, amount in needs.generic:
        total = available.get(kind, 0)
        if amount > (free := total - load.generic.get(kind, 0)):
            found.append(f"{amount} {kind} reserved, {max(free, 0)} of {total} free")
    return "; ".join(found) or "insufficient resources"


def _unmet(view: View, task: Task, question: Question, node: Node, load: NodeLoad) -> str:
    revision = view.revision(task.revision_id)
    placement = (revision.spec.task_template.placement if revision is not None else None) or Placement()
    unmet = [each for each in placement.constraints if not is_match(parsed_or_never((each,)), node)]
    return f"does not meet {', '.join(unmet)}"


def _other_platform(view: View, task: Task, question: Question, node: Node, load: NodeLoad) -> str:
    platform = node.description.platform
    platforms = question.needs.platforms
    wanted = ", ".join(f"{each.os or 'any'}/{each.architecture or 'any'}" for each in platforms)
    return f"the node is {platform.os}/{platform.architecture}, the image is for {wanted}"


def _too_many(view: View, task: Task, question: Question, node: Node, load: NodeLoad) -> str:
    return f"has {question.needs.max_replicas} of this service, as many as may be on one node"


_DETAILS: Final[dict[str, _Detail]] = {
    "1 node not available": _unavailable,
    "insufficient resources": _short_of,
    "scheduling constraints": _unmet,
    "unsupported platform": _other_platform,
    "max replicas": _too_many,
}
"""By the beginning of the filter's clause; what is not here is told by the clause alone."""
