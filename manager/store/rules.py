"""What a change must fulfil, whoever proposes it: the invariants that ``apply`` keeps.

* ids and names are unique; an object's name, a task's service and slot, and a revision never change;
* a task's state moves only as ``model/states.py`` allows its owner; desired states only as the orchestrator
  may wish them; a task that an agent may still run can't be deleted;
* no published port has two holders that can't share it (see ``publishing``), no address and no VNI has two
  (see ``addressing``), and there is one ingress network at most;
* a version of a secret's or config's data is never other data, and stays as long as a revision pins it;
* nothing refers to what is not there: a service's networks, secrets, configs and revisions, a task's service,
  revision and (when it is placed) node. A node may go while tasks name it; the orchestrator orphans those. A
  service may go while its tasks and revisions stay.

References and ports are checked at the end of a group, so the order of changes within it does not matter.
Texts are Docker's where Docker has one. They must not depend on an index's order: outcomes are replicated.

**These rules are part of the wire contract.** Managers of different versions apply the same log: a rule may
change only together with a feature that all of them have to know.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from manager.store.addressing import address_clash, network_clash
from manager.store.events import Event
from manager.store.file_data import data_clash, lost_pin, pin_clash
from manager.store.indexes import NAMED_KINDS, network_targets, revision_ids
from manager.store.networking import PREDEFINED_NETWORKS
from manager.store.publishing import clash_of
from manager.store.view import View
from swarmpy.model.defaults import is_standalone
from swarmpy.model.objects import Config, Kind, Network, Node, Object, Revision, Secret, Service, Task
from swarmpy.model.states import (
    CREATED_STATES,
    DESIRED_STATES,
    TRANSITIONS,
    Owner,
    TaskState,
    is_terminal,
)


class Refused(Exception):
    """A change breaks a rule, so its group is not applied. ``code`` is a gRPC code's name.

    ``is_stale``: whoever decides again, on the present state, will come to something else.
    """

    def __init__(self, reason: str, code: str = "FAILED_PRECONDITION", *, is_stale: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code
        self.is_stale = is_stale


class Editable(View, Protocol):
    """A View that ``apply`` may change: the store's tables, or a draft."""

    version: int

    def put(self, kind: Kind, new: Object) -> None: ...

    def remove(self, kind: Kind, id_: str) -> None: ...


def not_found(kind: Kind, id_: str) -> Refused:
    return Refused(f"{kind} {id_} not found", "NOT_FOUND")


def stale() -> Refused:
    return Refused("update out of sequence", "UNKNOWN", is_stale=True)


# --- single changes


def check_create(view: Editable, owner: Owner, kind: Kind, new: Object) -> None:
    if not new.id:
        raise Refused(f"a {kind} can't be created without an id", "INVALID_ARGUMENT")
    if view.get(kind, new.id) is not None:
        raise Refused(f"{kind} {new.id} already exists", "ALREADY_EXISTS")
    if kind is Kind.CLUSTER and view.cluster() is not None:
        raise Refused("there is a cluster object already, and only one is possible", "ALREADY_EXISTS")
    if kind in NAMED_KINDS:
        _check_name(view, kind, new)
    if isinstance(new, Task):
        _check_created_task(new, owner)


def check_update(view: Editable, kind: Kind, old: Object, new: Object) -> None:
    if old.version != new.version:
        raise stale()
    if kind is Kind.REVISION:
        raise Refused("a revision is never changed: create another one")
    if kind in NAMED_KINDS and _name(old) != _name(new):
        if kind is Kind.SERVICE and not _is_by_hand(old, new):
            raise Refused("renaming services is not supported", "UNIMPLEMENTED")
        if kind is not Kind.SERVICE:
            raise Refused("only updates to Labels are allowed", "INVALID_ARGUMENT")
        _check_name(view, kind, new)
    if isinstance(new, Task) and isinstance(old, Task):
        is_same = (old.service_id, old.slot) == (new.service_id, new.slot)
        if not is_same or (old.node_id and old.node_id != new.node_id):
            raise Refused(f"task {new.id} can't change its service, slot or node: replace it by another task")


def _is_by_hand(old: Object, new: Object) -> bool:
    """Containers can be renamed. They are in no store whose format (``version.STORE_FORMAT``) is below 2, so
    no manager applies this that would not know it."""
    return all(isinstance(each, Service) and is_standalone(each.spec) for each in (old, new))


def check_delete(kind: Kind, old: Object) -> None:
    if isinstance(old, Task) and not is_terminal(old.status.state) and old.status.state >= TaskState.ASSIGNED:
        state = old.status.state.name.lower()
        raise Refused(f"task {old.id} is {state}: only what ended, or was never assigned, can be deleted")


def check_transition(task: Task, target: TaskState, owner: Owner) -> None:
    source = task.status.state
    if target != source and owner not in TRANSITIONS.get((source, target), ()):
        step = f"from {source.name.lower()} to {target.name.lower()}"
        raise Refused(f"task {task.id} can't go {step} by the {owner}")


def check_desired(task_id: str, desired: TaskState) -> None:
    if desired not in DESIRED_STATES:
        raise Refused(f"task {task_id} can't be wished to be {desired.name.lower()}", "INVALID_ARGUMENT")


def _check_name(view: Editable, kind: Kind, new: Any) -> None:
    for other in view.names_like(kind, new.spec.name):
        if other.id == new.id:
            continue  # renamed, in case only
        # volumes of one name may exist on many nodes
        if kind is Kind.VOLUME and other.spec.node_id != new.spec.node_id:  # type: ignore[union-attr]
            continue
        name = new.spec.name
        raise Refused(
            f"name conflicts with an existing object: {kind} {name} already exists", "ALREADY_EXISTS"
        )


def _check_created_task(task: Task, owner: Owner) -> None:
    state = task.status.state
    if owner not in CREATED_STATES.get(state, ()):
        raise Refused(f"task {task.id} can't be created as {state.name.lower()} by the {owner}")
    check_desired(task.id, task.desired_state)


# --- references and ports, at the end of a group


def check_references(view: Editable, events: Iterable[Event]) -> None:
    for event in events:
        if event.new is None:
            if event.old is not None and view.get(event.kind, event.old.id) is None:
                _check_unused(view, event.kind, event.old)
        elif isinstance(event.new, Task):
            _check_task(view, event.old, event.new)
        elif view.get(event.kind, event.new.id) is not event.new:
            continue  # a later change of this group is checked instead
        elif isinstance(event.new, Service):
            _check_service(view, event.new)
            _check_addresses(view, event.old, event.new)
        elif isinstance(event.new, Node):
            _check_addresses(view, event.old, event.new)
        elif isinstance(event.new, Network):
            _check_network(view, event.old, event.new)
        elif isinstance(event.new, Secret | Config) and isinstance(event.old, Secret | Config):
            _check_data(view, event.old, event.new)
        elif isinstance(event.new, Revision):
            if view.service(event.new.service_id) is None:
                raise not_found(Kind.SERVICE, event.new.service_id)
            if why := pin_clash(view, event.new.spec):
                raise Refused(why, "INVALID_ARGUMENT", is_stale=True)


def _check_task(view: Editable, old: Object | None, new: Task) -> None:
    revision_id = old.revision_id if isinstance(old, Task) else ""
    node_id = old.node_id if isinstance(old, Task) else ""
    if old is None and view.service(new.service_id) is None:
        raise not_found(Kind.SERVICE, new.service_id)
    if new.revision_id != revision_id and view.revision(new.revision_id) is None:
        raise not_found(Kind.REVISION, new.revision_id)
    if new.node_id != node_id and view.node(new.node_id) is None:
        raise not_found(Kind.NODE, new.node_id)
    if not new.node_id and TaskState.ASSIGNED <= new.status.state <= TaskState.RUNNING:
        raise Refused(f"task {new.id} can't be {new.status.state.name.lower()} without a node")
    _check_addresses(view, old, new)


def _check_addresses(view: Editable, old: Object | None, new: Task | Service | Node) -> None:
    match new:
        case Task():
            is_same = isinstance(old, Task) and old.networks is new.networks
        case Service():
            is_same = isinstance(old, Service) and old.endpoint is new.endpoint
        case Node():
            is_same = isinstance(old, Node) and old.attachments is new.attachments
    clash = address_clash(view, old, new) if not is_same else None
    if clash is not None:
        raise Refused(clash, is_stale=True)


def _check_network(view: Editable, old: Object | None, new: Network) -> None:
    is_same = isinstance(old, Network) and old.driver_state == new.driver_state
    clash = network_clash(view, new) if not is_same else None
    if clash is not None:
        raise Refused(clash, "ALREADY_EXISTS", is_stale=True)


def _check_data(view: Editable, old: Secret | Config, new: Secret | Config) -> None:
    if why := data_clash(old, new):
        raise Refused(why)
    if why := lost_pin(view, old, new):
        raise Refused(why, "UNKNOWN", is_stale=True)


def _check_service(view: Editable, service: Service) -> None:
    for target in network_targets(service.spec):
        is_known = view.get(Kind.NETWORK, target) or view.by_name(Kind.NETWORK, target)
        if not is_known and target not in PREDEFINED_NETWORKS:
            raise Refused(f"network {target} not found", "NOT_FOUND")
    container = service.spec.task_template.container_spec
    if container is not None:
        secrets = [(reference.secret_id, reference.secret_name) for reference in container.secrets]
        configs = [(reference.config_id, reference.config_name) for reference in container.configs]
        _check_files(view, Kind.SECRET, secrets)
        _check_files(view, Kind.CONFIG, configs)
    for revision_id in revision_ids(service):
        if view.get(Kind.REVISION, revision_id) is None:
            raise not_found(Kind.REVISION, revision_id)
    clash = clash_of(view, service.id, service.endpoint.ports)
    if clash is not None:
        raise Refused(clash, "INVALID_ARGUMENT", is_stale=True)


def _check_files(view: Editable, kind: Kind, references: Iterable[tuple[str, str]]) -> None:
    missing = []
    for id_, name in references:
        found = view.get(kind, id_)
        if not isinstance(found, (Secret, Config)) or (name and found.spec.name != name):
            missing.append(name or id_)
    if missing:
        noun = kind if len(missing) == 1 else f"{kind}s"
        raise Refused(f"{noun} not found: {', '.join(missing)}", "INVALID_ARGUMENT")


def _check_unused(view: Editable, kind: Kind, gone: Object) -> None:
    """``gone`` was deleted: nothing may refer to it any more."""
    services = sorted(view.services_using(kind, gone.id), key=lambda service: service.id)
    match kind:
        case Kind.SECRET | Kind.CONFIG:
            if services:
                noun = "service" if len(services) == 1 else "services"
                names = ", ".join(sorted(service.spec.name for service in services))
                reason = f"{kind} '{_name(gone)}' is in use by the following {noun}: {names}"
                raise Refused(reason, "INVALID_ARGUMENT")
        case Kind.NETWORK:
            _check_unused_network(view, gone, services)
        case Kind.REVISION:
            if services:
                raise Refused(f"revision {gone.id} is in use by service {services[0].id}")
            tasks = [task.id for task in view.tasks_of_revision(gone.id)]  # type: ignore[arg-type]
            if tasks:
                raise Refused(f"revision {gone.id} is in use by task {min(tasks)}")
        case _:
            pass


def _check_unused_network(view: Editable, gone: Object, services: list[Service]) -> None:
    name = gone.spec.name if isinstance(gone, Network) else ""
    services += sorted(view.services_using(Kind.NETWORK, name), key=lambda service: service.id)
    if isinstance(gone, Network) and gone.spec.ingress:
        published = sorted(view.services_in_ingress(), key=lambda service: service.id)
        if published:
            service = published[0]
            reason = f"ingress network cannot be removed because service {service.id} depends on it"
            raise Refused(reason)
    if services:
        raise Refused(f"network {gone.id} is in use by service {services[0].id}")
    tasks = [
        task.id
        for task in view.tasks_of_network(gone.id)  # type: ignore[arg-type]
        if task.desired_state <= TaskState.RUNNING
    ]
    if tasks:
        raise Refused(f"network {gone.id} is in use by task {min(tasks)}")


def _name(named: Any) -> str:
    name: str = named.spec.name
    return name
