"""``apply`` lets through exactly the steps of the table: every pair of states, every owner, every way."""

from __future__ import annotations

import itertools

import pytest
from msgspec.structs import replace
from store_values import batch, group, node, revision, service, store_with, task

from manager.store.store import Store
from swarmpy.model.changes import Change, Create, Order, Refusal, Report, Update
from swarmpy.model.ids import TaskId
from swarmpy.model.objects import Kind, Task, TaskStatus
from swarmpy.model.states import CREATED_STATES, DESIRED_STATES, TRANSITIONS, Owner, TaskState

STORED = replace(task("t1", on="n1"), version=1, desired_state=TaskState.READY)
EMPTY = store_with(node(), service("s1"), revision("s1-r", "s1"))


def store_in(state: TaskState, *, desired: TaskState = TaskState.READY) -> Store:
    """A store whose task ``t1`` has come to ``state``, however it did."""
    store = Store()
    store.restore(EMPTY.encode(EMPTY.freeze()))
    stored = replace(STORED, status=TaskStatus(state=state, report=1), desired_state=desired)
    store._tables.put(Kind.TASK, stored)
    return store


def task_of(store: Store) -> Task:
    stored = store.task(TaskId("t1"))
    assert stored is not None
    return stored


def outcome(store: Store, change: Change, owner: Owner) -> Refusal | None:
    applied = store.apply_batch(batch(group(change, owner=owner)))
    return applied.refused[0] if applied.refused else None


@pytest.mark.parametrize("source", TaskState)
@pytest.mark.parametrize("is_update", [False, True], ids=["report", "update"])
def test_apply_takes_exactly_the_steps_of_the_table(source: TaskState, *, is_update: bool) -> None:
    for target, owner in itertools.product(TaskState, Owner):
        store = store_in(source)
        status = TaskStatus(state=target, report=7, message="new")
        change: Change = Report(task_id=TaskId("t1"), status=status)
        if is_update:
            change = Update(object=replace(task_of(store), status=status))
        refusal = outcome(store, change, owner)
        step = f"{source.name} to {target.name} by the {owner}"
        is_forward = target > source
        if is_forward and owner not in TRANSITIONS.get((source, target), ()):
            assert refusal is not None, f"{step} was let through"
            assert f"from {source.name.lower()} to {target.name.lower()} by the {owner}" in refusal.reason
            assert task_of(store).status.state == source
        else:
            assert refusal is None, f"{step}: {refusal}"
            # what is behind is passed over; what is ahead, or newer of the same state, holds
            assert task_of(store).status == (
                status if target >= source else TaskStatus(state=source, report=1)
            )


@pytest.mark.parametrize("state", TaskState)
def test_of_one_state_the_later_report_holds(state: TaskState) -> None:
    store = store_in(state)
    for report, message in [(3, "third"), (2, "second"), (3, "again")]:
        status = TaskStatus(state=state, report=report, message=message)
        assert outcome(store, Report(task_id=TaskId("t1"), status=status), Owner.AGENT) is None
    assert task_of(store).status.message == "third"


@pytest.mark.parametrize("state", TaskState)
@pytest.mark.parametrize("owner", Owner)
def test_tasks_are_created_only_as_the_table_says(state: TaskState, owner: Owner) -> None:
    store = Store()
    store.restore(EMPTY.encode(EMPTY.freeze()))
    made = replace(STORED, version=0, status=TaskStatus(state=state))
    refusal = outcome(store, Create(object=made), owner)
    is_allowed = owner in CREATED_STATES.get(state, ())
    assert (refusal is None) == is_allowed, f"created as {state.name} by the {owner}: {refusal}"
    assert (store.task(TaskId("t1")) is not None) == is_allowed


@pytest.mark.parametrize("wished", sorted(DESIRED_STATES))
def test_a_wish_only_grows_and_is_one_of_the_five(wished: TaskState) -> None:
    for new in TaskState:
        store = store_in(TaskState.RUNNING, desired=wished)
        refusal = outcome(store, Order(task_id=TaskId("t1"), desired_state=new), Owner.ORCHESTRATOR)
        assert (refusal is None) == (new in DESIRED_STATES)
        expected = max(wished, new) if new in DESIRED_STATES else wished
        assert task_of(store).desired_state == expected
