"""``apply``: groups, versions, merged fields, the owner table, epochs and repeated requests."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from store_values import (
    AT,
    accept,
    batch,
    creates,
    group,
    node,
    picture,
    refusal_of,
    secret,
    service,
    small_cluster,
    store_with,
    task,
)

from manager.store.refusals import error_of
from manager.store.store import Store
from swarmpy import codec
from swarmpy.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Stale, Unimplemented
from swarmpy.limits import REQUEST_IDS_MAX
from swarmpy.model.changes import Batch, Create, Delete, NodeReport, Order, Report, Update
from swarmpy.model.cluster_specs import NodeSpec
from swarmpy.model.ids import NodeId, RaftId, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import (
    Cluster,
    Kind,
    ManagerStatus,
    Node,
    NodeDescription,
    NodeStatus,
    Service,
    Task,
    TaskStatus,
)
from swarmpy.model.states import (
    CREATED_STATES,
    DESIRED_STATES,
    TRANSITIONS,
    NodeRole,
    NodeState,
    Owner,
    TaskState,
)


def stored_task(store: Store, id_: str = "t1") -> Task:
    found = store.task(TaskId(id_))
    assert found is not None
    return found


def stored_node(store: Store, id_: str = "n1") -> Node:
    found = store.node(NodeId(id_))
    assert found is not None
    return found


def status(state: TaskState, report: int = 0, **fields: Any) -> TaskStatus:
    return TaskStatus(state=state, report=report, **fields)


def report(id_: str, observed: TaskStatus) -> Report:
    return Report(task_id=TaskId(id_), status=observed)


# --- groups and versions


def test_a_group_stamps_what_it_creates_and_updates() -> None:
    store = store_with(node())
    made = stored_node(store)
    assert (made.version, made.created_at, made.updated_at) == (1, AT, AT)
    accept(store, group(Update(object=replace(made, spec=NodeSpec(name="x")))), at=Timestamp(AT + 5))
    changed = stored_node(store)
    assert (changed.version, changed.created_at, changed.updated_at) == (2, AT, AT + 5)
    assert (store.version, changed.spec.name) == (2, "x")


def test_a_refused_group_changes_nothing_and_the_others_stand() -> None:
    store = small_cluster()
    groups = (creates(task("t1")), creates(task("t2"), task("t1")), creates(task("t3")))
    applied = store.apply_batch(batch(*groups))
    assert [refusal.index for refusal in applied.refused] == [1]
    assert {each.id for each in store.tasks()} == {"t1", "t3"}
    assert applied.version == store.version == 3


def test_undoing_restores_changed_and_deleted_objects() -> None:
    store = small_cluster(task("t1"), secret("x"))
    changed = replace(stored_task(store), not_before=Timestamp(1))
    changes = (Update(object=changed), Delete(kind=Kind.SECRET, id="x"), Create(object=task("t1")))
    assert refusal_of(store, group(*changes)) == "task t1 already exists"


def test_undoing_goes_backwards() -> None:
    """An object that a refused group changed twice gets its first value back."""
    store = small_cluster(task("t1"))
    orders = [
        Order(task_id=TaskId("t1"), desired_state=wished) for wished in (TaskState.SHUTDOWN, TaskState.REMOVE)
    ]
    assert refusal_of(store, group(*orders, Create(object=task("t1")))) == "task t1 already exists"
    assert stored_task(store).desired_state is TaskState.RUNNING


def test_later_changes_see_earlier_ones() -> None:
    store = small_cluster()
    order = Order(task_id=TaskId("t1"), desired_state=TaskState.SHUTDOWN)
    accept(store, group(Create(object=task("t1")), order))
    assert stored_task(store).desired_state is TaskState.SHUTDOWN


def test_a_stale_base_version_is_refused_as_such() -> None:
    store = small_cluster()
    old = stored_node(store)
    accept(store, group(Update(object=old)))
    for change in (Update(object=old), Delete(kind=Kind.NODE, id="n1", version=old.version)):
        (refusal,) = store.apply_batch(batch(group(change))).refused
        assert refusal.is_stale
        assert "update out of sequence" in refusal.reason
        assert isinstance(error_of(refusal), Stale)
    accept(store, group(Delete(kind=Kind.NODE, id="n1", version=stored_node(store).version)))
    assert store.node(NodeId("n1")) is None


@pytest.mark.parametrize(
    "change",
    [
        Update(object=node("n9")),
        Delete(kind=Kind.TASK, id="t9"),
        Order(task_id=TaskId("t9"), desired_state=TaskState.SHUTDOWN),
        report("t9", status(TaskState.RUNNING)),
        NodeReport(node_id=NodeId("n9")),
    ],
    ids=lambda change: type(change).__name__,
)
def test_a_change_of_what_is_not_there_is_refused(
    change: Update | Delete | Order | Report | NodeReport,
) -> None:
    (refusal,) = small_cluster().apply_batch(batch(group(change))).refused
    assert refusal.reason in {"node n9 not found", "task t9 not found"}
    assert isinstance(error_of(refusal), NotFound)


def test_an_entry_that_does_not_parse_changes_nothing() -> None:
    store = small_cluster()
    before = picture(store)
    for entry in (b"\xff\xff", codec.encode(Batch(groups=(group(),))) + b"\x0a\x02\x12\x00"):
        applied = store.apply(entry, 17)
        assert applied.refused[0].reason.startswith("entry 17 is no batch: ")
        assert isinstance(error_of(applied.refused[0]), InvalidArgument)
    assert picture(store) == before


def test_a_defect_in_a_rule_refuses_the_group_and_stops_no_manager() -> None:
    store = small_cluster()
    broken = Service(id=ServiceId("s2"), spec=None)  # type: ignore[arg-type]
    reason = refusal_of(store, creates(node("n2"), broken))
    assert reason.startswith("applying the group failed: AttributeError")


# --- merged fields and the owner table


def test_statuses_merge_by_state_and_report() -> None:
    store = small_cluster(task("t1", on="n1"))
    version = stored_task(store).version
    for observed, expected in (
        (status(TaskState.RUNNING, 5, message="new"), "new"),
        (status(TaskState.RUNNING, 5, message="same report"), "new"),
        (status(TaskState.STARTING, 9, message="late"), "new"),
        (status(TaskState.RUNNING, 6, message="newer"), "newer"),
    ):
        accept(store, group(report("t1", observed), owner=Owner.AGENT))
        assert stored_task(store).status.message == expected
    assert stored_task(store).version == version


def test_desired_states_only_grow() -> None:
    store = small_cluster(task("t1"))
    for wished, expected in (
        (TaskState.SHUTDOWN, TaskState.SHUTDOWN),
        (TaskState.RUNNING, TaskState.SHUTDOWN),
        (TaskState.REMOVE, TaskState.REMOVE),
    ):
        accept(store, group(Order(task_id=TaskId("t1"), desired_state=wished)))
        assert stored_task(store).desired_state is expected


@pytest.mark.parametrize("wished", sorted(set(TaskState) - DESIRED_STATES))
def test_only_some_states_can_be_wished_for(wished: TaskState) -> None:
    store = small_cluster(task("t1"))
    reason = f"task t1 can't be wished to be {wished.name.lower()}"
    assert refusal_of(store, group(Order(task_id=TaskId("t1"), desired_state=wished))) == reason
    raised = replace(stored_task(store), desired_state=wished)
    if wished > TaskState.RUNNING:
        assert refusal_of(store, group(Update(object=raised))) == reason
    assert refusal_of(store, creates(task("t2", desired_state=wished))).startswith("task t2 can't be wished")


@pytest.mark.parametrize("owner", list(Owner))
def test_the_owner_table_is_enforced(owner: Owner) -> None:
    """Every pair of states, by report and by update; a lower state is ignored and not refused."""
    for source in TaskState:
        for target in TaskState:
            if target == source:
                continue
            for by_update in (False, True):
                store = small_cluster(task("t1", on="n1"))
                moved = replace(stored_task(store), status=status(source))
                store._tables.put(Kind.TASK, moved)
                change: Report | Update = report("t1", status(target))
                if by_update:
                    change = Update(object=replace(moved, status=status(target)))
                refused = store.apply_batch(batch(group(change, owner=owner))).refused
                is_allowed = target < source or owner in TRANSITIONS.get((source, target), ())
                assert (not refused) == is_allowed, (source, target, refused)
                expected = target if is_allowed and target > source else source
                assert stored_task(store).status.state is expected


@pytest.mark.parametrize("owner", list(Owner))
@pytest.mark.parametrize("state", list(TaskState))
def test_tasks_are_created_in_few_states(owner: Owner, state: TaskState) -> None:
    store = small_cluster()
    made = task("t1", on="n1", status=status(state))
    refused = store.apply_batch(batch(group(Create(object=made), owner=owner))).refused
    assert (not refused) == (owner in CREATED_STATES.get(state, ()))


def test_an_update_takes_merged_fields_from_the_store() -> None:
    store = small_cluster(task("t1", on="n1"))
    seen = stored_task(store)
    running = status(TaskState.RUNNING, 3)
    order = Order(task_id=TaskId("t1"), desired_state=TaskState.SHUTDOWN)
    accept(store, group(order), group(report("t1", running), owner=Owner.AGENT))
    accept(store, group(Update(object=replace(seen, restarts=2))))
    after = stored_task(store)
    assert (after.status, after.desired_state, after.restarts) == (running, TaskState.SHUTDOWN, 2)


def test_an_update_places_a_task() -> None:
    store = small_cluster(task("t1"))
    placed = replace(stored_task(store), node_id=NodeId("n1"), status=status(TaskState.ASSIGNED))
    accept(store, group(Update(object=placed), owner=Owner.SCHEDULER))
    assert [each.id for each in store.tasks_of_node(NodeId("n1"))] == ["t1"]
    assert list(store.unplaced_tasks()) == []


# --- nodes


def test_node_reports_merge_and_leave_the_version_alone() -> None:
    store = store_with(node())
    version = stored_node(store).version
    ready = NodeStatus(state=NodeState.READY, epoch=3)
    manager = ManagerStatus(raft_id=RaftId("r"), addr="1.2.3.4:2377")
    described = NodeDescription(hostname="h")
    accept(store, group(NodeReport(node_id=NodeId("n1"), status=ready, description=described)))
    accept(store, group(NodeReport(node_id=NodeId("n1"), manager_status=manager)))
    seen = stored_node(store)
    assert (seen.status, seen.description, seen.manager_status, seen.version) == (
        ready,
        described,
        manager,
        version,
    )
    accept(store, group(Update(object=replace(node(), version=version, spec=NodeSpec(name="x")))))
    assert stored_node(store).status == ready
    accept(store, group(NodeReport(node_id=NodeId("n1"), is_manager_removed=True)))
    assert stored_node(store).manager_status is None


def test_a_node_report_of_a_deposed_leader_is_refused() -> None:
    store = store_with(node())
    accept(store, group(NodeReport(node_id=NodeId("n1"), status=NodeStatus(epoch=4))))
    late = NodeReport(node_id=NodeId("n1"), status=NodeStatus(epoch=3, state=NodeState.DOWN))
    assert refusal_of(store, group(late)) == "node n1 was seen by a leader of epoch 4 already"
    accept(store, group(NodeReport(node_id=NodeId("n1"), status=NodeStatus(epoch=4, state=NodeState.DOWN))))


# --- epochs and repeated requests


def test_a_batch_of_a_deposed_leader_is_refused_whole() -> None:
    store = Store()
    accept(store, creates(node("n1")), epoch=5)
    applied = store.apply_batch(batch(creates(node("n2")), creates(node("n3")), epoch=4))
    assert [refusal.index for refusal in applied.refused] == [0, 1]
    assert [each.id for each in store.nodes()] == ["n1"]
    accept(store, creates(node("n4")))
    accept(store, epoch=9)
    assert store.epoch == 9


def test_a_repeated_request_is_applied_once() -> None:
    store = Store()
    first = store.apply_batch(batch(creates(node("n1")), creates(node("n1")), request_id="a"))
    accept(store, creates(node("n2")), epoch=7)
    again = store.apply_batch(batch(creates(node("n3")), request_id="a", epoch=1))
    assert again == first
    assert [each.id for each in store.nodes()] == ["n1", "n2"]


def test_remembered_requests_are_bounded() -> None:
    store = Store()
    for number in range(REQUEST_IDS_MAX + 1):
        accept(store, request_id=str(number))
    assert len(store._tables.requests) == REQUEST_IDS_MAX
    accept(store, creates(node("n1")), request_id="0")  # forgotten: applied as if new
    assert store.node(NodeId("n1")) is not None


# --- refusals as errors


@pytest.mark.parametrize(
    ("objects", "error", "text"),
    [
        ([node("n1")], AlreadyExists, "rpc error: code = AlreadyExists desc = node n1 already exists"),
        ([replace(node("n2"), id=NodeId(""))], InvalidArgument, "without an id"),
        ([Cluster(id="c1"), Cluster(id="c2")], AlreadyExists, "only one"),  # type: ignore[arg-type]
        ([task("t1", on="")], NotFound, "rpc error: code = NotFound desc = service s1 not found"),
    ],
    ids=["id", "no id", "clusters", "service"],
)
def test_refusals_become_errors(objects: list[object], error: type[Exception], text: str) -> None:
    (refusal,) = store_with(node("n1")).apply_batch(batch(creates(*objects))).refused
    with pytest.raises(error, match=text):
        raise error_of(refusal)


def test_a_revision_is_never_changed_and_a_service_never_renamed() -> None:
    store = small_cluster()
    old = store.get(Kind.REVISION, "s1-r")
    assert old is not None
    (refusal,) = store.apply_batch(batch(group(Update(object=old)))).refused
    assert isinstance(error_of(refusal), FailedPrecondition)
    renamed = replace(service("s1", "other"), version=1)
    (refusal,) = store.apply_batch(batch(group(Update(object=renamed)))).refused
    assert isinstance(error_of(refusal), Unimplemented)
    assert refusal.reason == "renaming services is not supported"


def numbered_twice(known: Node, base: int) -> Batch:
    """As two reconcilers plan it over one draft: the second knows the node as the first leaves it."""
    first = replace(known, number=2)
    second = replace(first, spec=replace(first.spec, labels={"a": "b"}), version=base + 1)
    return replace(batch(group(Update(object=first)), group(Update(object=second))), base=base)


def test_what_was_planned_on_a_change_of_the_same_batch_follows_it() -> None:
    store = store_with(node("n1"))
    assert not store.apply_batch(numbered_twice(stored_node(store), store.version)).refused
    assert (stored_node(store).number, stored_node(store).spec.labels) == (2, {"a": "b"})


def test_somebody_elses_change_never_passes_for_a_predicted_one() -> None:
    """The user's write came in between, with just the version that the first group was to come out with."""
    store = store_with(node("n1"))
    planned = numbered_twice(stored_node(store), store.version)
    wish = replace(stored_node(store), spec=NodeSpec(role=NodeRole.MANAGER))
    assert not store.apply_batch(batch(group(Update(object=wish)))).refused
    assert stored_node(store).version == planned.groups[1].changes[0].object.version  # type: ignore[union-attr]

    refused = store.apply_batch(planned).refused

    assert [(each.index, each.is_stale) for each in refused] == [(0, True), (1, True)]
    assert stored_node(store).spec == NodeSpec(role=NodeRole.MANAGER)
