"""Constraint expressions: what parses, what does not, and what they match."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from world import make_node

from manager.schedule.constraint import Equality, is_match, parse_constraints
from manager.schedule.needs import parsed_or_never
from swarmpy.errors import InvalidArgument
from swarmpy.model.objects import EngineDescription, EnginePlugin, Node
from swarmpy.model.specs import Platform
from swarmpy.model.states import NodeRole

NO_OPERATOR = "constraint expected one operator from ==, !="


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("", NO_OPERATOR),
        (" ", NO_OPERATOR),
        ("node", NO_OPERATOR),
        ("node ~ a", NO_OPERATOR),
        ("==x", "key '' is invalid"),
        ("node==", "value '' is invalid"),
        ("node== ", "value '' is invalid"),
        ("1node==a", "key '1node' is invalid"),
        ("no de==x", "key 'no de' is invalid"),
        ("no*de==x", "key 'no*de' is invalid"),
        ("no$de==x", "key 'no$de' is invalid"),
        ("n==x", "key 'n' is invalid"),
        ("node==a;b", "value 'a;b' is invalid"),
        ("node==ä", "value 'ä' is invalid"),
    ],
)
def test_refuses_what_swarm_mode_refuses(expression: str, text: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        parse_constraints(["node.role==manager", expression])
    assert str(error.value) == text


@pytest.mark.parametrize(
    ("expression", "key", "is_equal", "value"),
    [
        (" node == a ", "node", True, "a"),
        ("NoDe==a", "NoDe", True, "a"),
        ("_n==x", "_n", True, "x"),
        ("nn==[a-b]+c*(n|b)/", "nn", True, "[a-b]+c*(n|b)/"),
        ("nn==two words", "nn", True, "two words"),
        ("node.labels.a!=b", "node.labels.a", False, "b"),
        ("node.bogus==x", "node.bogus", True, "x"),
    ],
)
def test_accepts_and_trims(expression: str, key: str, is_equal: bool, value: str) -> None:
    (parsed,) = parse_constraints([expression])
    assert isinstance(parsed, Equality)
    assert (parsed.key, parsed.is_equal, parsed.value) == (key, is_equal, value)


NODE = replace(
    make_node("node-1", labels={"disk": "SSD", "Case": "x"}),
    role=NodeRole.MANAGER,
    status=replace(make_node("n").status, addr="10.1.2.3"),
)
NODE = replace(
    NODE,
    description=replace(
        NODE.description,
        hostname="Fo*o",
        platform=Platform(architecture="x86_64", os="linux"),
        engine=EngineDescription(
            labels={"zone": "eu"}, plugins=(EnginePlugin(type="Executor", name="podman"),)
        ),
    ),
)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("node.id==NODE-1", True),
        ("node.id!=node-1", False),
        ("node.hostname==f*o", False),  # no globs
        ("node.hostname==fo*o", True),
        ("node.role==Manager", True),
        ("NODE.ROLE!=manager", False),
        ("node.platform.os==Linux", True),
        ("node.platform.arch==amd64", True),
        ("node.platform.arch==x86_64", True),
        ("node.platform.arch!=amd64", False),
        ("node.platform.arch==arm64", False),
        ("node.executor==Podman", True),
        ("node.executor!=podman", False),
        ("node.executor==native", False),
        ("node.executor in (docker, podman)", True),
        ("node.labels.disk==ssd", True),
        ("Node.Labels.disk==ssd", True),
        ("node.labels.Disk==ssd", False),  # a label's name keeps its case
        ("node.labels.Disk!=ssd", True),
        ("node.labels.none==x", False),
        ("node.labels.none!=x", True),
        ("engine.labels.zone==EU", True),
        ("engine.labels.zone!=eu", False),
        ("node.ip==10.1.2.3", True),
        ("node.ip==10.1.2.4", False),
        ("node.ip!=10.1.2.4", True),
        ("node.ip==10.1.0.0/16", True),
        ("node.ip!=10.1.0.0/16", False),
        ("node.ip==2001:db8::/32", False),
        ("node.ip!=2001:db8::/32", True),
        ("node.ip==not-an-ip", False),
        ("node.ip!=not-an-ip", False),  # malformed never matches
        ("node.bogus==x", False),
        ("node.bogus!=x", False),  # an unknown key never matches
        ("node.labels.==x", False),
    ],
)
def test_matches(expression: str, expected: bool) -> None:
    assert is_match(parse_constraints([expression]), NODE) is expected


def test_a_node_that_names_no_executor_has_the_first() -> None:
    assert is_match(parse_constraints(["node.executor==native"]), make_node("node-2"))
    assert is_match(parse_constraints(["node.executor!=oci"]), make_node("node-2"))


def test_all_must_hold() -> None:
    both = parse_constraints(["node.role==manager", "node.labels.disk==hdd"])
    assert not is_match(both, NODE)


def test_node_without_address_matches_only_differing() -> None:
    node: Node = replace(NODE, status=replace(NODE.status, addr=""))
    assert not is_match(parse_constraints(["node.ip==10.1.2.3"]), node)
    assert is_match(parse_constraints(["node.ip!=10.1.2.3"]), node)


def test_what_does_not_parse_matches_no_node() -> None:
    assert not is_match(parsed_or_never(["nonsense"]), NODE)
