"""Small values and a small store for tests of the store itself."""

from __future__ import annotations

from typing import Any

from manager.store.store import Store
from swarmpy.model.changes import Applied, Batch, Change, Create, Group
from swarmpy.model.cluster_specs import ConfigSpec, NetworkSpec, SecretSpec, VolumeSpec
from swarmpy.model.ids import (
    ConfigId,
    NetworkId,
    NodeId,
    RevisionId,
    SecretId,
    ServiceId,
    TaskId,
    Timestamp,
    VolumeId,
)
from swarmpy.model.objects import (
    Config,
    Kind,
    Network,
    Node,
    Revision,
    Secret,
    Service,
    Task,
    TaskStatus,
    Volume,
)
from swarmpy.model.specs import (
    ConfigReference,
    ContainerSpec,
    NetworkAttachmentConfig,
    SecretReference,
    ServiceSpec,
    TaskSpec,
)
from swarmpy.model.states import Owner, TaskState

AT = Timestamp(1_700_000_000_000_000_000)


def node(id_: str = "n1", **fields: Any) -> Node:
    return Node(id=NodeId(id_), **fields)


def secret(id_: str, name: str = "") -> Secret:
    return Secret(id=SecretId(id_), spec=SecretSpec(name=name or id_, data=b"x"))


def config(id_: str, name: str = "") -> Config:
    return Config(id=ConfigId(id_), spec=ConfigSpec(name=name or id_, data=b"x"))


def network(id_: str, name: str = "") -> Network:
    return Network(id=NetworkId(id_), spec=NetworkSpec(name=name or id_))


def volume(id_: str, name: str, *, on: str = "") -> Volume:
    return Volume(id=VolumeId(id_), spec=VolumeSpec(name=name, node_id=on))


def spec(
    name: str, *, networks: tuple[str, ...] = (), secrets: tuple[str, ...] = (), configs: tuple[str, ...] = ()
) -> ServiceSpec:
    """A service's spec that refers to networks, secrets and configs by ids that are their names too."""
    container = ContainerSpec(
        image="host",
        secrets=tuple(SecretReference(secret_id=id_, secret_name=id_) for id_ in secrets),
        configs=tuple(ConfigReference(config_id=id_, config_name=id_) for id_ in configs),
    )
    attachments = tuple(NetworkAttachmentConfig(target=target) for target in networks)
    return ServiceSpec(name=name, task_template=TaskSpec(container_spec=container, networks=attachments))


def service(id_: str, name: str = "", **references: Any) -> Service:
    """Service ``s`` with revision ``s-r``."""
    return Service(
        id=ServiceId(id_), spec=spec(name or id_, **references), revision_id=RevisionId(f"{id_}-r")
    )


def revision(id_: str, service_id: str) -> Revision:
    return Revision(id=RevisionId(id_), service_id=ServiceId(service_id), spec=ServiceSpec(name=service_id))


def task(id_: str, service_id: str = "s1", *, on: str = "", **fields: Any) -> Task:
    """A task of the service's first revision: PENDING, or ASSIGNED if ``on`` names a node."""
    state = TaskState.ASSIGNED if on else TaskState.PENDING
    fields.setdefault("status", TaskStatus(state=state))
    fields.setdefault("revision_id", RevisionId(f"{service_id}-r"))
    return Task(id=TaskId(id_), service_id=ServiceId(service_id), node_id=NodeId(on), **fields)


def group(*changes: Change, owner: Owner = Owner.ORCHESTRATOR) -> Group:
    return Group(owner=owner, changes=changes)


def batch(*groups: Group, **fields: Any) -> Batch:
    fields.setdefault("at", AT)
    return Batch(groups=groups, **fields)


def creates(*objects: Any) -> Group:
    return group(*(Create(object=object_) for object_ in objects))


def store_with(*objects: Any) -> Store:
    """A store into which these objects were created, together."""
    store = Store()
    accept(store, creates(*objects))
    return store


def small_cluster(*more: Any) -> Store:
    """Node ``n1``, service ``s1`` with its revision, and ``more``."""
    return store_with(node(), service("s1"), revision("s1-r", "s1"), *more)


def accept(store: Store, *groups: Group, **fields: Any) -> Applied:
    applied = store.apply_batch(batch(*groups, **fields))
    assert applied.refused == ()
    return applied


def refusal_of(store: Store, group_: Group) -> str:
    """The reason why the store refuses the group; the store must not have changed."""
    before = picture(store)
    applied = store.apply_batch(batch(group_))
    assert picture(store) == before
    (refusal,) = applied.refused
    return refusal.reason


def picture(store: Store) -> tuple[int, dict[Kind, dict[str, Any]]]:
    tables: dict[Kind, dict[str, Any]] = {
        kind: {object_.id: object_ for object_ in store.all(kind)} for kind in Kind
    }
    return store.version, tables
