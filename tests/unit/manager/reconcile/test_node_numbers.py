"""Every node gets a number that no other has."""

from __future__ import annotations

from clusters import apply, make_node
from msgspec.structs import replace

from manager.reconcile.node_numbers import NodeNumbers
from manager.store.store import Store
from swarmpy.limits import NODE_NUMBER_MAX
from swarmpy.model.changes import Create, Delete
from swarmpy.model.ids import NodeId, Timestamp
from swarmpy.model.objects import Kind


def numbered(store: Store) -> dict[str, int]:
    """Reconcile, and the numbers there are then."""
    numbers = NodeNumbers()
    for key in numbers.keys(store):
        for group in numbers.reconcile(store, key, Timestamp(1)).groups:
            apply(store, *group.changes)
    return {node.id: node.number for node in store.nodes()}


def test_they_are_given_in_order_and_stay() -> None:
    store = Store()
    apply(store, Create(object=make_node("a")), Create(object=make_node("b")))
    assert sorted(numbered(store).values()) == [1, 2]
    before = numbered(store)
    apply(store, Create(object=make_node("c")))
    assert numbered(store) == {**before, "c": 3}


def test_one_that_was_just_given_up_is_not_given_again() -> None:
    store = Store()
    apply(store, *(Create(object=make_node(name)) for name in "abc"))
    numbers = numbered(store)
    apply(store, Delete(kind=Kind.NODE, id=NodeId("b")), Create(object=make_node("d")))
    assert numbered(store) == {"a": numbers["a"], "c": numbers["c"], "d": 4}


def test_when_the_range_is_used_up_the_lowest_free_one_is_given() -> None:
    store = Store()
    apply(store, Create(object=replace(make_node("last"), number=NODE_NUMBER_MAX)))
    apply(store, *(Create(object=make_node(name)) for name in "ab"))
    assert numbered(store) == {"last": NODE_NUMBER_MAX, "a": 1, "b": 2}


def test_only_a_node_without_a_number_makes_work() -> None:
    numbers, store = NodeNumbers(), Store()
    node = make_node("a")
    assert numbers.dirty(store, None, node)
    assert not numbers.dirty(store, node, replace(node, number=1))
    assert not numbers.dirty(store, node, None)
