"""What a node is told to hold: the smallest change, dependencies first, never an echo."""

from __future__ import annotations

from clusters import apply, make_service, store_with
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from manager.assignments import Assignable, Item, NodeAssignments, Removed
from manager.store.store import Store
from swarmpy.model.changes import Create, Delete, Order, Report
from swarmpy.model.cluster_specs import SecretSpec
from swarmpy.model.ids import NodeId, RevisionId, SecretId, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import Kind, Revision, Secret, Task, TaskStatus
from swarmpy.model.specs import ContainerSpec, SecretReference, TaskSpec
from swarmpy.model.states import Owner, TaskState

NODE = NodeId("node-1")


def make_task(name: str, *, node: str = NODE, service: str = "web") -> Task:
    return Task(
        id=TaskId(name),
        service_id=ServiceId(f"{service}-s"),
        slot=1,
        node_id=NodeId(node),
        revision_id=RevisionId(f"{service}-r1"),
        status=TaskStatus(state=TaskState.ASSIGNED),
    )


def names(items: list[Item]) -> list[str]:
    """Of the objects; records of networks have tests of their own."""
    return [
        f"-{item.id}" if isinstance(item, Removed) else item.id
        for item in items
        if isinstance(item, Removed | Assignable)
    ]


def add(store: Store, *tasks: Task) -> None:
    for task in tasks:
        apply(store, Create(object=task), owner=Owner.ORCHESTRATOR)


def test_a_revision_goes_once_and_before_its_tasks() -> None:
    store = store_with(services=(make_service("web"),))
    add(store, make_task("a"), make_task("b"), make_task("elsewhere", node="node-2"))
    assignments = NodeAssignments(NODE)

    assert names(assignments.complete(store)) == ["web-r1", "a", "b"]
    add(store, make_task("c"))
    assert names(assignments.changes(store, [TaskId("c")])) == ["c"]


def test_an_agent_never_hears_its_own_report() -> None:
    store = store_with(services=(make_service("web"),))
    add(store, make_task("a"))
    assignments = NodeAssignments(NODE)
    assignments.complete(store)

    apply(store, Report(task_id=TaskId("a"), status=TaskStatus(state=TaskState.RUNNING)), owner=Owner.AGENT)
    assert assignments.changes(store, [TaskId("a")]) == []
    apply(store, Order(task_id=TaskId("a"), desired_state=TaskState.SHUTDOWN), owner=Owner.ORCHESTRATOR)
    assert names(assignments.changes(store, [TaskId("a")])) == ["a"]


def test_the_last_task_takes_its_revision_along() -> None:
    store = store_with(services=(make_service("web"),))
    add(store, make_task("a"), make_task("b"))
    assignments = NodeAssignments(NODE)
    assignments.complete(store)

    for name in ("a", "b"):
        status = TaskStatus(state=TaskState.SHUTDOWN)
        apply(store, Report(task_id=TaskId(name), status=status), owner=Owner.AGENT)
        apply(store, Delete(kind=Kind.TASK, id=name), owner=Owner.REAPER)
    assert names(assignments.changes(store, [TaskId("a")])) == ["-a"]
    assert names(assignments.changes(store, [TaskId("b")])) == ["-b", "-web-r1"]


def test_secrets_leave_with_the_last_task_that_may_run() -> None:
    reference = SecretReference(secret_id="s1", secret_name="password")
    template = TaskSpec(container_spec=ContainerSpec(image="host", secrets=(reference,)))
    store = store_with()
    apply(store, Create(object=Secret(id=SecretId("s1"), spec=SecretSpec(name="password", data=b"x"))))
    service, revision = make_service("web", template=template)
    apply(store, Create(object=service), Create(object=revision))
    add(store, make_task("a"))
    assignments = NodeAssignments(NODE)

    assert names(assignments.complete(store)) == ["web-r1", "s1", "a"]
    apply(store, Order(task_id=TaskId("a"), desired_state=TaskState.SHUTDOWN), owner=Owner.ORCHESTRATOR)
    assert names(assignments.changes(store, [TaskId("a")])) == ["a", "-s1"]


@given(
    st.lists(
        st.tuples(st.sampled_from(["create", "order", "report", "delete"]), st.integers(0, 5)), max_size=30
    )
)
@settings(deadline=None)
def test_changes_add_up_to_the_complete_set(steps: list[tuple[str, int]]) -> None:
    """A node that took every change holds what a fresh session would be given."""
    store = store_with(services=(make_service("web"), make_service("db")))
    assignments = NodeAssignments(NODE)
    held: dict[tuple[type, str], Assignable] = {}
    take(held, assignments.complete(store))
    for verb, number in steps:
        task_id = TaskId(f"t{number}")
        known = store.task(task_id)
        if verb == "create" and known is None:
            service = "web" if number % 2 else "db"
            add(store, make_task(task_id, node=f"node-{1 + number % 3}", service=service))
        elif verb == "order" and known is not None:
            order = Order(task_id=task_id, desired_state=TaskState.SHUTDOWN)
            apply(store, order, owner=Owner.ORCHESTRATOR)
        elif verb == "report" and known is not None:
            report = Report(task_id=task_id, status=TaskStatus(state=TaskState.RUNNING))
            apply(store, report, owner=Owner.AGENT)
        elif verb == "delete" and known is not None:
            report = Report(task_id=task_id, status=TaskStatus(state=TaskState.SHUTDOWN))
            apply(store, report, owner=Owner.AGENT)
            apply(store, Delete(kind=Kind.TASK, id=task_id), owner=Owner.REAPER)
        take(held, assignments.changes(store, [task_id]))

    expected: dict[tuple[type, str], Assignable] = {}
    take(expected, NodeAssignments(NODE).complete(store))
    assert {key: without_status(value) for key, value in held.items()} == {
        key: without_status(value) for key, value in expected.items()
    }


def take(held: dict[tuple[type, str], Assignable], items: list[Item]) -> None:
    types = {Kind.TASK: Task, Kind.REVISION: Revision, Kind.SECRET: Secret}
    for item in items:
        if isinstance(item, Removed):
            del held[(types[item.kind], item.id)]
        elif isinstance(item, Assignable):
            held[(type(item), item.id)] = item


def without_status(value: Assignable) -> Assignable:
    """Statuses are the agent's own: it is not told of them."""
    if isinstance(value, Task):
        return replace(value, status=TaskStatus(), updated_at=Timestamp(0))
    return value
