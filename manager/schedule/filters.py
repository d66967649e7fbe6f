"""The filters, in swarm mode's order, and the sentence that explains why a task has no node.

Each filter says how many tasks of a group a node has ``room`` for: 0 refuses the node, ``NO_LIMIT`` means
that the filter does not mind. A node is counted for the first filter that refuses it, so the counts of all
clauses add up to all nodes (swarm mode's clause on replicas per node names no count). The last two filters
are ours: where a task's volume is, if the volume is wanted to be kept, and who can run the node's own root.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from manager.schedule.constraint import is_match
from manager.schedule.needs import Needs, generic_counts, volumes_of
from manager.schedule.nodes import ClusterLoad, NodeLoad
from manager.store.view import View
from swarmpy.limits import NODE_FAILURES_MAX
from swarmpy.model.architectures import normal_architecture
from swarmpy.model.defaults import task_history_limit
from swarmpy.model.executors import ENGINES
from swarmpy.model.host_ports import are_clashing
from swarmpy.model.ids import NodeId, RevisionId, ServiceId
from swarmpy.model.objects import Kind, Network, Node
from swarmpy.model.specs import Platform
from swarmpy.model.states import NodeAvailability, NodeState

NO_LIMIT: Final = sys.maxsize
NO_SUITABLE_NODE: Final = "no suitable node"
_NO_LOG: Final = ("", "none")
_BUILT_IN_NETWORKS: Final = frozenset({"", "overlay", "bridge", "host", "null", "none"})


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be placed: tasks of one revision, and what the filters must know beside the spec."""

    service_id: ServiceId
    revision_id: RevisionId
    needs: Needs
    log_driver: str = ""
    network_drivers: tuple[str, ...] = ()
    volumes: frozenset[str] = frozenset()
    """The names of the volumes that it mounts."""
    sticky_nodes: tuple[frozenset[NodeId], ...] = ()
    """Of each sticky volume that is anywhere: where."""
    kept_tasks: int = NODE_FAILURES_MAX
    """How many of a slot's tasks are remembered, at the most as many as matter."""
    opens_volume: bool = False
    """A sticky volume is nowhere yet: the first task that is placed settles where it will be."""


def question_about(
    view: View, load: ClusterLoad, service_id: ServiceId, revision_id: RevisionId, *, slot: int = 0
) -> Question:
    """``slot`` matters where tasks of different slots have different volumes."""
    needs = load.needs(revision_id)
    log_driver = needs.log_driver
    cluster = view.cluster()
    if not log_driver and cluster is not None and cluster.spec.task_defaults.log_driver is not None:
        log_driver = cluster.spec.task_defaults.log_driver.name
    volumes = volumes_of(needs, slot) if needs.volumes and not needs.is_global else ()
    sticky = [load.volume_nodes(volume.name) for volume in volumes if volume.is_sticky]
    return Question(
        service_id=service_id,
        revision_id=revision_id,
        needs=needs,
        log_driver=log_driver,
        network_drivers=_network_drivers(view, needs) if needs.network_targets else (),
        volumes=frozenset(volume.name for volume in volumes),
        sticky_nodes=tuple(nodes for nodes in sticky if nodes),
        kept_tasks=_kept_tasks(task_history_limit(cluster)),
        opens_volume=not all(sticky),
    )


def _kept_tasks(limit: int) -> int:
    return NODE_FAILURES_MAX if limit < 0 else min(max(limit, 1), NODE_FAILURES_MAX)


def _network_drivers(view: View, needs: Needs) -> tuple[str, ...]:
    drivers = []
    for target in needs.network_targets:
        network = view.get(Kind.NETWORK, target) or view.by_name(Kind.NETWORK, target)
        if isinstance(network, Network) and network.spec.driver_configuration is not None:
            name = network.spec.driver_configuration.name
            if name not in _BUILT_IN_NETWORKS:
                drivers.append(name)
    return tuple(drivers)


@dataclass(frozen=True, slots=True, eq=False)
class Filter:
    """``concerns``: whether the filter has any say on these tasks; if not, it is left out of the loop."""

    concerns: Callable[[Question], bool]
    room: Callable[[Question, Node, NodeLoad], int]
    clause_one: str
    clause_many: str

    def clause(self, count: int) -> str:
        return self.clause_one if count == 1 else self.clause_many.format(count)


# --- each filter's question


def _ready_room(question: Question, node: Node, load: NodeLoad) -> int:
    availability = node.spec.availability
    is_active = availability in (NodeAvailability.ACTIVE, NodeAvailability.UNSPECIFIED)
    may_take = is_active or question.needs.is_by_hand
    return NO_LIMIT if may_take and node.status.state == NodeState.READY else 0


def _resource_room(question: Question, node: Node, load: NodeLoad) -> int:
    needs = question.needs
    has = node.description.resources
    room = NO_LIMIT
    if needs.nano_cpus:
        room = (has.nano_cpus - load.nano_cpus) // needs.nano_cpus
    if needs.memory_bytes:
        room = min(room, (has.memory_bytes - load.memory_bytes) // needs.memory_bytes)
    if needs.generic:
        available = generic_counts(has.generic_resources)
        for kind, amount in needs.generic:
            room = min(room, (available.get(kind, 0) - load.generic.get(kind, 0)) // amount)
    return max(room, 0)


def _plugin_room(question: Question, node: Node, load: NodeLoad) -> int:
    plugins = {(plugin.type, plugin.name) for plugin in node.description.engine.plugins}

    def has(type_: str, name: str) -> bool:
        return (type_, name) in plugins or (type_, f"{name}:latest") in plugins

    if any(not has("Volume", name) for name in question.needs.volume_drivers):
        return 0
    if any(not has("Network", name) for name in question.network_drivers):
        return 0
    # an agent that names no log plug-ins at all is taken at its word only where it names some
    if question.log_driver not in _NO_LOG and any(type_ == "Log" for type_, _ in plugins):
        return NO_LIMIT if has("Log", question.log_driver) else 0
    return NO_LIMIT


def _has_plugin_question(question: Question) -> bool:
    has_log_driver = question.log_driver not in _NO_LOG
    return bool(question.needs.volume_drivers or question.network_drivers or has_log_driver)


def _constraint_room(question: Question, node: Node, load: NodeLoad) -> int:
    return NO_LIMIT if is_match(question.needs.constraints, node) else 0


def _platform_room(question: Question, node: Node, load: NodeLoad) -> int:
    return NO_LIMIT if is_platform(question.needs.platforms, node.description.platform) else 0


def is_platform(wanted: Iterable[Platform], actual: Platform) -> bool:
    """Whether one of ``wanted`` is the actual platform; a platform that is not known is none of them."""
    is_known = bool(actual.os or actual.architecture)
    return is_known and any(_is_same_platform(each, actual) for each in wanted)


def _is_same_platform(wanted: Platform, actual: Platform) -> bool:
    if wanted.os and wanted.os.lower() != actual.os.lower():
        return False
    if not wanted.architecture:
        return True
    return normal_architecture(wanted.architecture) == normal_architecture(actual.architecture)


def _host_port_room(question: Question, node: Node, load: NodeLoad) -> int:
    return 0 if are_clashing(question.needs.host_ports, load.host_ports) else 1


def _replicas_room(question: Question, node: Node, load: NodeLoad) -> int:
    return max(question.needs.max_replicas - load.active_by_service.get(question.service_id, 0), 0)


def _volume_room(question: Question, node: Node, load: NodeLoad) -> int:
    return NO_LIMIT if all(node.id in nodes for nodes in question.sticky_nodes) else 0


def _host_image_room(question: Question, node: Node, load: NodeLoad) -> int:
    return 0 if node.description.engine.executor in ENGINES else NO_LIMIT


FILTERS: Final[tuple[Filter, ...]] = (
    Filter(
        concerns=lambda question: True,
        room=_ready_room,
        clause_one="1 node not available for new tasks",
        clause_many="{} nodes not available for new tasks",
    ),
    Filter(
        concerns=lambda question: question.needs.has_reservations,
        room=_resource_room,
        clause_one="insufficient resources on 1 node",
        clause_many="insufficient resources on {} nodes",
    ),
    Filter(
        concerns=_has_plugin_question,
        room=_plugin_room,
        clause_one="missing plugin on 1 node",
        clause_many="missing plugin on {} nodes",
    ),
    Filter(
        concerns=lambda question: bool(question.needs.constraints),
        room=_constraint_room,
        clause_one="scheduling constraints not satisfied on 1 node",
        clause_many="scheduling constraints not satisfied on {} nodes",
    ),
    Filter(
        concerns=lambda question: bool(question.needs.platforms),
        room=_platform_room,
        clause_one="unsupported platform on 1 node",
        clause_many="unsupported platform on {} nodes",
    ),
    Filter(
        concerns=lambda question: bool(question.needs.host_ports),
        room=_host_port_room,
        clause_one="host-mode port already in use on 1 node",
        clause_many="host-mode port already in use on {} nodes",
    ),
    Filter(
        concerns=lambda question: question.needs.max_replicas > 0,
        room=_replicas_room,
        clause_one="max replicas per node limit exceed",
        clause_many="max replicas per node limit exceed",
    ),
    Filter(
        concerns=lambda question: bool(question.sticky_nodes),
        room=_volume_room,
        clause_one="volume not on 1 node",
        clause_many="volume not on {} nodes",
    ),
    Filter(
        # who started a container by hand chose its node: the engine's own sentence says more than to wait
        concerns=lambda question: question.needs.is_host_image and not question.needs.is_by_hand,
        room=_host_image_room,
        clause_one='image "host" not run by the engine of 1 node',
        clause_many='image "host" not run by the engines of {} nodes',
    ),
)


def filters_for(question: Question) -> tuple[Filter, ...]:
    return tuple(each for each in FILTERS if each.concerns(question))


def refusing_filter(
    filters: Iterable[Filter], question: Question, node: Node, load: NodeLoad
) -> Filter | None:
    """The first filter that refuses the node, or None if it would take one more task."""
    for each in filters:
        if each.room(question, node, load) <= 0:
            return each
    return None


def explain(refusals: Mapping[Filter, int]) -> str:
    """The clauses, largest count first; equal counts in the order of the filters."""
    order = {each: position for position, each in enumerate(FILTERS)}
    ranked = sorted(refusals.items(), key=lambda item: (-item[1], order[item[0]]))
    return "; ".join(each.clause(count) for each, count in ranked)


def no_suitable_node(refusals: Mapping[Filter, int]) -> str:
    clauses = explain(refusals)
    return f"{NO_SUITABLE_NODE} ({clauses})" if clauses else NO_SUITABLE_NODE
