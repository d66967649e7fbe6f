"""Tables: prefix search as ids come and go, and numbers that tell caches of changed tasks."""

from __future__ import annotations

from msgspec.structs import replace
from store_values import node, task

from manager.store.tables import Tables
from swarmpy.model.cluster_specs import NodeSpec
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Kind


def ids(tables: Tables, prefix: str, limit: int = 100) -> list[str]:
    return [each.id for each in tables.by_prefix(Kind.NODE, prefix, limit=limit)]


def test_prefix_search_follows_ids_that_come_and_go() -> None:
    tables = Tables()
    assert ids(tables, "") == []
    for id_ in ("b1", "a2", "a1"):
        tables.put(Kind.NODE, node(id_))
    assert ids(tables, "a") == ["a1", "a2"]
    tables.put(Kind.NODE, node("a15"))
    tables.put(Kind.NODE, node("c"))
    assert ids(tables, "a1") == ["a1", "a15"]
    tables.remove(Kind.NODE, "a1")
    assert ids(tables, "a1") == ["a15"]
    tables.put(Kind.NODE, node("a1"))
    assert ids(tables, "a1") == ["a1", "a15"]
    assert ids(tables, "", limit=2) == ["a1", "a15"]
    assert ids(tables, "a1", limit=1) == ["a1"]
    assert ids(tables, "zz") == []


def test_prefix_search_survives_large_changes() -> None:
    tables = Tables()
    tables.put(Kind.NODE, node("x"))
    assert ids(tables, "x") == ["x"]
    for number in range(3_000):
        tables.put(Kind.NODE, node(f"n{number:04d}"))
    assert ids(tables, "n0012") == ["n0012"]
    for number in range(2_990):
        tables.remove(Kind.NODE, f"n{number:04d}")
    assert ids(tables, "n") == [f"n{number}" for number in range(2_990, 3_000)]
    assert ids(tables, "x") == ["x"]


def test_names_are_found_exactly_or_but_for_case() -> None:
    tables = Tables()
    assert tables.by_name(Kind.SERVICE, "web") is None
    assert list(tables.names_like(Kind.SERVICE, "web")) == []


def test_the_number_of_a_nodes_tasks_changes_with_every_task() -> None:
    tables = Tables()
    seen = set()

    def number_is_new() -> bool:
        number = tables.node_tasks_version(NodeId("n1"))
        is_new = number not in seen
        seen.add(number)
        return is_new

    assert number_is_new()
    tables.put(Kind.TASK, task("t1", on="n1"))
    assert number_is_new()
    tables.put(Kind.TASK, task("t2", on="n1"))
    assert number_is_new()
    tables.put(Kind.TASK, replace(task("t2", on="n1"), restarts=1))
    assert number_is_new()
    tables.remove(Kind.TASK, "t2")
    assert number_is_new()
    tables.put(Kind.TASK, task("t3", on="n2"))
    tables.put(Kind.NODE, replace(node(), spec=NodeSpec(name="x")))
    assert not number_is_new()
    tables.remove(Kind.TASK, "t1")
    assert tables.node_tasks_version(NodeId("n1")) == 0
    tables.put(Kind.TASK, task("t1", on="n1"))
    assert number_is_new()
