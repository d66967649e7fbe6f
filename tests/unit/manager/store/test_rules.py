"""The store's rules: names, what never changes, what may be deleted, and that no reference dangles."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from store_values import (
    accept,
    config,
    creates,
    group,
    network,
    node,
    refusal_of,
    revision,
    secret,
    service,
    small_cluster,
    store_with,
    task,
    volume,
)

from manager.store.store import Store
from swarmpy.model.changes import Change, Create, Delete, Order, Report, Update
from swarmpy.model.ids import NetworkId, NodeId, RevisionId, ServiceId, TaskId
from swarmpy.model.objects import Kind, NetworkAttachment, Service, Task, TaskStatus
from swarmpy.model.specs import ContainerSpec, SecretReference, ServiceSpec, TaskSpec
from swarmpy.model.states import Owner, TaskState


def delete(kind: Kind, id_: str) -> Delete:
    return Delete(kind=kind, id=id_)


def stored_service(store: Store, id_: str) -> Service:
    found = store.service(ServiceId(id_))
    assert found is not None
    return found


def make_service(id_: str, **references: Any) -> tuple[Change, ...]:
    return tuple(Create(object=each) for each in (service(id_, **references), revision(f"{id_}-r", id_)))


# --- names


@pytest.mark.parametrize("make", [secret, config, network], ids=lambda make: str(make.__name__))
def test_names_are_unique_but_for_case(make: Any) -> None:
    store = store_with(make("x1", "web"))
    for name in ("web", "WEB"):
        kind = make.__name__
        expected = f"name conflicts with an existing object: {kind} {name} already exists"
        assert refusal_of(store, creates(make("x2", name))) == expected
    accept(store, creates(make("x2", "web2")))
    accept(store, group(delete(Kind(make.__name__), "x1"), Create(object=make("x3", "Web"))))
    assert store.by_name(Kind(make.__name__), "web") is None
    assert store.by_name(Kind(make.__name__), "Web") is not None


def test_service_names_are_unique() -> None:
    reason = refusal_of(small_cluster(), group(Create(object=service("s2", "s1"))))
    assert reason == "name conflicts with an existing object: service s1 already exists"


def test_volumes_of_one_name_may_exist_on_many_nodes() -> None:
    store = store_with(volume("v1", "data", on="n1"))
    accept(store, creates(volume("v2", "data", on="n2")))
    assert "already exists" in refusal_of(store, creates(volume("v3", "data", on="n2")))


@pytest.mark.parametrize("kind", [Kind.SECRET, Kind.CONFIG, Kind.NETWORK])
def test_names_never_change(kind: Kind) -> None:
    make = {Kind.SECRET: secret, Kind.CONFIG: config, Kind.NETWORK: network}[kind]
    store = store_with(make("x1", "old"))
    renamed: Any = replace(make("x1", "new"), version=1)
    assert refusal_of(store, group(Update(object=renamed))) == "only updates to Labels are allowed"


# --- a task's fixed fields, and what may be deleted


@pytest.mark.parametrize(
    "changed",
    [{"service_id": ServiceId("s2")}, {"slot": 9}, {"node_id": NodeId("n2")}, {"node_id": NodeId("")}],
    ids=lambda changed: next(iter(changed)),
)
def test_a_task_keeps_its_service_slot_and_node(changed: dict[str, Any]) -> None:
    store = small_cluster(node("n2"), task("t1", on="n1"))
    moved = replace(task("t1", on="n1", version=1), **changed)
    assert refusal_of(store, group(Update(object=moved))).endswith("replace it by another task")


@pytest.mark.parametrize("state", list(TaskState))
def test_only_tasks_that_no_agent_runs_can_be_deleted(state: TaskState) -> None:
    store = small_cluster(task("t1", on="n1"))
    if state in {TaskState.NEW, TaskState.PENDING}:
        accept(store, creates(task("t2", status=TaskStatus(state=state))))
        accept(store, group(delete(Kind.TASK, "t2"), owner=Owner.REAPER))
        return
    store._tables.put(Kind.TASK, replace(task("t1", on="n1"), status=TaskStatus(state=state)))
    deletion = group(delete(Kind.TASK, "t1"), owner=Owner.REAPER)
    if state <= TaskState.RUNNING:
        assert refusal_of(store, deletion).startswith(f"task t1 is {state.name.lower()}: only what ended")
    else:
        accept(store, deletion)


# --- references


@pytest.mark.parametrize(
    ("references", "reason"),
    [
        ({"secrets": ("x",)}, "secret not found: x"),
        ({"secrets": ("x", "have", "y")}, "secrets not found: x, y"),
        ({"configs": ("x",)}, "config not found: x"),
        ({"networks": ("x",)}, "network x not found"),
    ],
    ids=["secret", "secrets", "config", "network"],
)
def test_a_service_may_not_refer_to_what_is_missing(references: dict[str, Any], reason: str) -> None:
    store = small_cluster(secret("have"))
    assert refusal_of(store, group(*make_service("s2", **references))) == reason
    changed = replace(service("s1", **references), version=1)
    assert refusal_of(store, group(Update(object=changed))) == reason


def test_a_secret_must_have_the_name_that_the_reference_says() -> None:
    store = store_with(secret("x1", "password"))
    container = ContainerSpec(secrets=(SecretReference(secret_id="x1", secret_name="other"),))
    bad = Service(
        id=ServiceId("s1"), spec=ServiceSpec(name="s1", task_template=TaskSpec(container_spec=container))
    )
    assert refusal_of(store, creates(bad)) == "secret not found: other"


def test_networks_are_referred_to_by_id_by_name_or_are_predefined() -> None:
    store = store_with(network("net1", "back"))
    accept(store, group(*make_service("s1", networks=("net1", "host"))))
    accept(store, group(*make_service("s2", networks=("back",))))
    assert [each.id for each in store.services_using(Kind.NETWORK, "net1")] == ["s1"]
    assert refusal_of(store, group(delete(Kind.NETWORK, "net1"))) == "network net1 is in use by service s1"
    accept(store, group(delete(Kind.SERVICE, "s1")))
    assert refusal_of(store, group(delete(Kind.NETWORK, "net1"))) == "network net1 is in use by service s2"
    accept(store, group(delete(Kind.SERVICE, "s2"), delete(Kind.NETWORK, "net1")))


@pytest.mark.parametrize(("kind", "make"), [(Kind.SECRET, secret), (Kind.CONFIG, config)])
def test_what_services_use_can_not_be_removed(kind: Kind, make: Any) -> None:
    store = store_with(make("x"), service("s2"), revision("s2-r", "s2"))
    accept(store, group(*make_service("s1", **{f"{kind}s": ("x",)})))
    removal = group(delete(kind, "x"))
    assert refusal_of(store, removal) == f"{kind} 'x' is in use by the following service: s1"
    accept(store, group(*make_service("s0", **{f"{kind}s": ("x",)})))
    assert refusal_of(store, removal) == f"{kind} 'x' is in use by the following services: s0, s1"
    for id_ in ("s0", "s1"):
        free = replace(service(id_), version=stored_service(store, id_).version)
        # in one group, in either order
        accept(
            store, group(Update(object=free)) if id_ == "s0" else group(*removal.changes, Update(object=free))
        )
    assert store.get(kind, "x") is None


def test_a_network_of_living_tasks_can_not_be_removed() -> None:
    attachment = (NetworkAttachment(network_id=NetworkId("net1")),)
    store = small_cluster(network("net1"), task("t2", networks=attachment), task("t1", networks=attachment))
    removal = group(delete(Kind.NETWORK, "net1"))
    assert refusal_of(store, removal) == "network net1 is in use by task t1"
    for id_ in ("t1", "t2"):
        accept(store, group(Order(task_id=TaskId(id_), desired_state=TaskState.REMOVE)))
    accept(store, removal)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (task("t1", "s9"), "service s9 not found"),
        (task("t1", revision_id=RevisionId("r9")), "revision r9 not found"),
        (task("t1", on="n9"), "node n9 not found"),
        (task("t1", status=TaskStatus(state=TaskState.ASSIGNED)), "task t1 can't be assigned without a node"),
        (revision("r9", "s9"), "service s9 not found"),
        (replace(service("s2"), revision_id=RevisionId("r9")), "revision r9 not found"),
        (
            replace(service("s2"), revision_id=RevisionId(""), previous_id=RevisionId("r9")),
            "revision r9 not found",
        ),
    ],
    ids=["service", "revision", "node", "no node", "revision's service", "service's revision", "previous"],
)
def test_nothing_is_created_that_refers_to_what_is_missing(made: Any, reason: str) -> None:
    assert refusal_of(small_cluster(), creates(made)) == reason


def test_a_task_can_not_be_placed_on_a_missing_node() -> None:
    store = small_cluster(task("t1"))
    placed = replace(task("t1", on="n9"), version=1)
    assert refusal_of(store, group(Update(object=placed), owner=Owner.SCHEDULER)) == "node n9 not found"


def test_used_revisions_stay() -> None:
    store = small_cluster(revision("old", "s1"), task("t1", revision_id=RevisionId("old")))
    assert refusal_of(store, group(delete(Kind.REVISION, "s1-r"))) == "revision s1-r is in use by service s1"
    assert refusal_of(store, group(delete(Kind.REVISION, "old"))) == "revision old is in use by task t1"
    accept(store, group(delete(Kind.TASK, "t1"), delete(Kind.REVISION, "old")))


def test_a_service_goes_before_its_tasks_and_revisions() -> None:
    store = small_cluster(task("t1", on="n1"))
    accept(store, group(delete(Kind.SERVICE, "s1"), owner=Owner.API))
    assert list(store.service_ids_with_tasks()) == ["s1"]
    assert [each.id for each in store.revisions_of(ServiceId("s1"))] == ["s1-r"]
    ended = TaskStatus(state=TaskState.SHUTDOWN)
    accept(store, group(Report(task_id=TaskId("t1"), status=ended), owner=Owner.AGENT))
    accept(store, group(delete(Kind.REVISION, "s1-r"), delete(Kind.TASK, "t1"), owner=Owner.REAPER))
    assert list(store.service_ids_with_tasks()) == []


def test_a_node_may_go_while_tasks_name_it() -> None:
    store = small_cluster(task("t1", on="n1"))
    accept(store, group(delete(Kind.NODE, "n1")))
    orphaned = TaskStatus(state=TaskState.ORPHANED)
    accept(store, group(Report(task_id=TaskId("t1"), status=orphaned)))
    (left,) = store.tasks_of_node(NodeId("n1"))
    assert isinstance(left, Task)
    assert left.status == orphaned


def test_text_of_refusals_does_not_depend_on_an_index_order() -> None:
    """A manager that was restored iterates other indexes in another order; outcomes are compared."""
    store = store_with(secret("x"))
    for id_ in ("s3", "s1", "s2"):
        accept(store, group(*make_service(id_, secrets=("x",))))
    restored = Store()
    free = replace(service("s3"), version=stored_service(store, "s3").version)
    accept(store, group(Update(object=free)))
    back = replace(service("s3", secrets=("x",)), version=stored_service(store, "s3").version)
    accept(store, group(Update(object=back)))
    restored.restore(store.encode(store.freeze()))
    reasons = {refusal_of(each, group(delete(Kind.SECRET, "x"))) for each in (store, restored)}
    assert reasons == {"secret 'x' is in use by the following services: s1, s2, s3"}
