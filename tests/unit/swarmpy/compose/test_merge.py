"""Several documents as one, where docker's own answer is no guide (tests/contract compares the rest)."""

from __future__ import annotations

from swarmpy.compose import Document, merged
from swarmpy.compose.tree import Mapping, Node, Sequence


def python_of(node: Node) -> object:
    match node:
        case Mapping(items=items):
            return {key: python_of(item) for key, item in items.items()}
        case Sequence(items=items):
            return [python_of(item) for item in items]
    return node.value


def merge_services(*lines: str) -> object:
    documents = [Document(f"{n}.yml", f"services:\n  a: {line}") for n, line in enumerate(lines)]
    tree, _ = merged(documents, variables={})
    services = tree.items["services"]
    assert isinstance(services, Mapping)
    return python_of(services.items["a"])


def test_a_later_false_or_zero_holds() -> None:
    found = merge_services(
        "{tty: true, hostname: h, deploy: {replicas: 2}}", "{tty: false, deploy: {replicas: 0}}"
    )
    assert found == {"tty": False, "hostname": "h", "deploy": {"replicas": 0}}


def test_a_key_without_a_value_changes_nothing() -> None:
    assert merge_services("{tty: true, deploy: {replicas: 2}}", "{tty: , deploy: }") == {
        "tty": True,
        "deploy": {"replicas": 2},
    }


def test_short_and_long_forms_merge() -> None:
    assert merge_services("{environment: [A=1, B=1]}", "{environment: {B: 2}}") == {
        "environment": {"A": "1", "B": "2"}
    }


def test_ports_without_a_published_port_stand_for_themselves() -> None:
    found = merge_services('{ports: ["80", "1:1"]}', '{ports: ["81", "1:2"]}')
    assert isinstance(found, dict)
    assert [(port.get("published"), port["target"]) for port in found["ports"]] == [
        (None, 80),
        (None, 81),
        (1, 2),
    ]


def test_health_tests_and_commands_are_replaced_and_other_lists_joined() -> None:
    assert merge_services(
        "{command: a b, healthcheck: {test: [CMD, a]}, cap_add: [A]}",
        "{command: c, healthcheck: {test: [CMD, b]}, cap_add: [B]}",
    ) == {"command": ["c"], "healthcheck": {"test": ["CMD", "b"]}, "cap_add": ["A", "B"]}


def test_places_are_those_of_what_holds() -> None:
    tree, _ = merged(
        [
            Document("a.yml", "services:\n  a:\n    tty: true\n    init: true"),
            Document("b.yml", "services: {a: {tty: false}}"),
        ],
        variables={},
        files={},
    )
    services = tree.items["services"]
    assert isinstance(services, Mapping)
    service = services.items["a"]
    assert isinstance(service, Mapping)
    assert (str(service.at("tty")), str(service.at("init"))) == ("b.yml:1", "a.yml:4")
