"""Which sessions a change of the store may concern: it marks what each of them has to look at again.

Marks only; what is sent follows from the store when the session's writer looks. A change in a network marks
the sessions of nodes that hold it, and only if it can change a record: the steps of a task on its way up are
of no interest to others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from manager.audience import Audience
from manager.discovery import (
    SETTINGS,
    RecordKey,
    endpoint_key,
    is_lost,
    peer_key,
    peer_of,
    service_key,
    service_networks,
    task_facts,
)
from manager.session import Session
from manager.store.view import View
from swarmpy.model.ids import NetworkId, NodeId
from swarmpy.model.objects import Cluster, Config, Kind, Network, Node, Secret, Service, Task

_O = TypeVar("_O")


class FanOut:
    """``sessions`` and ``audience`` are the dispatcher's, and are only read."""

    def __init__(self, view: View, sessions: Mapping[NodeId, Session], audience: Audience[Session]) -> None:
        self._view = view
        self._sessions = sessions
        self._audience = audience

    def spread(self, old: object | None, new: object | None) -> None:
        """One object was made, changed or deleted."""
        match new if new is not None else old:
            case Task():
                self._task_changed(_as(Task, old), _as(Task, new))
            case Service():
                self._service_changed(_as(Service, old), _as(Service, new))
            case Secret(id=id_):
                self._shared_changed(Kind.SECRET, id_)
            case Config(id=id_):
                self._shared_changed(Kind.CONFIG, id_)
            case Network() as network:
                self._network_changed(network)
            case Node():
                self._node_changed(_as(Node, old), _as(Node, new))
            case Cluster():
                self._cluster_changed(_as(Cluster, old), _as(Cluster, new))
            case _:
                pass

    def _task_changed(self, old: Task | None, new: Task | None) -> None:
        for task in (old, new):
            if task is not None and (session := self._sessions.get(task.node_id)):
                session.task_changed(task.id)
        if task_facts(old) == task_facts(new):
            return
        networks = {
            place.network_id: None for task in (old, new) if task is not None for place in task.networks
        }
        task_id = (new or old).id  # type: ignore[union-attr]
        for network_id in networks:
            self._record_changed(network_id, endpoint_key(network_id, task_id))

    def _service_changed(self, old: Service | None, new: Service | None) -> None:
        for service in (old, new):
            if service is not None:
                for network_id in service_networks(self._view, service):
                    self._record_changed(network_id, service_key(network_id, service.id))
        if is_measured(old) != is_measured(new):
            for session in self._sessions.values():
                session.usage_wanted()

    def _record_changed(self, network_id: NetworkId, key: RecordKey) -> None:
        for session in self._audience.members(network_id):
            session.record_changed(key)

    def _shared_changed(self, kind: Kind, id_: str) -> None:
        for session in self._sessions.values():
            session.shared_changed(kind, id_)

    def _network_changed(self, network: Network) -> None:
        is_for_all = network.spec.ingress
        for session in self._sessions.values() if is_for_all else self._audience.members(network.id):
            session.shared_changed(Kind.NETWORK, network.id)

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        node_id = (new or old).id  # type: ignore[union-attr]
        before = peer_of(self._view, old) if old is not None else None
        after = peer_of(self._view, new) if new is not None else None
        if before != after:
            for session in self._sessions.values():
                session.record_changed(peer_key(node_id))
        if is_lost(old) != is_lost(new):
            for task in self._view.tasks_of_node(node_id):
                for place in task.networks:
                    self._record_changed(place.network_id, endpoint_key(place.network_id, task.id))

    def _cluster_changed(self, old: Cluster | None, new: Cluster | None) -> None:
        before = (old.data_path_port, old.network_keys) if old is not None else None
        after = (new.data_path_port, new.network_keys) if new is not None else None
        if before != after:
            for session in self._sessions.values():
                session.record_changed(SETTINGS)


def is_measured(service: Service | None) -> bool:
    """Whether the leader wants to know what the service's tasks use."""
    return service is not None and service.spec.autoscale is not None


def _as(kind: type[_O], value: object | None) -> _O | None:
    assert value is None or isinstance(value, kind)
    return value
