"""Constraints beyond swarm mode's: what they match, what is refused and with which advice."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace
from world import GIB, make_node

from manager.schedule.constraint import Equality, is_match, parse_constraints
from swarmpy.errors import InvalidArgument
from swarmpy.model.objects import EngineDescription, Node
from swarmpy.model.specs import Platform


def node() -> Node:
    made = make_node("node-1", labels={"zone": "B", "cores": "12", "part": "2.5", "odd": "many", "empty": ""})
    description = replace(
        made.description,
        hostname="web-1",
        platform=Platform(architecture="x86_64", os="linux"),
        engine=EngineDescription(labels={"gpu": "2"}),
    )
    return replace(made, description=description, status=replace(made.status, addr="10.1.2.3"))


NODE = node()


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("node.labels.zone in (a, b)", True),
        ("node.labels.zone IN (A,B)", True),
        ("  node.labels.zone   in(b)  ", True),
        ("node.labels.zone in (a, c)", False),
        ("node.labels.zone not in (a, c)", True),
        ("node.labels.zone Not  In (a, b)", False),
        ("node.labels.zone in (two words, b)", True),
        ("node.labels.Zone in (b)", False),  # a label's name keeps its case
        ("node.labels.none in (b)", False),
        ("node.labels.none not in (b)", True),  # a missing label is "", as for !=
        ("engine.labels.gpu in (1, 2)", True),
        ("node.hostname in (WEB-1, web-2)", True),
        ("Node.Id in (node-1)", True),
        ("node.role in (manager)", False),
        ("node.role not in (manager)", True),
        ("node.platform.os in (windows, linux)", True),
        ("node.platform.arch in (arm64, amd64)", True),
        ("node.platform.arch in (aarch64)", False),
        ("node.ip in (10.1.0.0/16, 192.168.0.1)", True),
        ("node.ip not in (10.1.2.3)", False),
        ("node.ip in (2001:db8::/32)", False),
        ("node.labels.cores > 4", True),
        ("node.labels.cores>12", False),
        ("node.labels.cores >= 12", True),
        ("node.labels.cores < 100", True),  # by number, not by text
        ("node.labels.cores <= 11.5", False),
        ("node.labels.part > 2", True),
        ("node.labels.part < 2.6", True),
        ("node.labels.cores > -1", True),
        ("node.labels.odd > 0", False),
        ("node.labels.odd <= 0", False),  # no number: nothing holds
        ("node.labels.none < 1", False),
        ("node.labels.empty < 1", False),
        ("engine.labels.gpu >= 2", True),
        ("node.cpus >= 8", True),
        ("node.cpus > 8", False),
        ("Node.CPUs < 8.5", True),
        ("node.memory >= 32g", True),
        ("node.memory > 32g", False),
        (f"node.memory >= {32 * GIB}", True),
        ("node.memory < 33GiB", True),
        ("exists(node.labels.zone)", True),
        ("exists( node.labels.empty )", True),  # empty, but there
        ("exists(node.labels.none)", False),
        ("!exists(node.labels.none)", True),
        ("! EXISTS (engine.labels.gpu)", False),
        ("exists(Engine.Labels.gpu)", True),
        ("exists(node.labels.Zone)", False),
    ],
)
def test_matches(expression: str, expected: bool) -> None:
    assert is_match(parse_constraints([expression]), NODE) is expected


@pytest.mark.parametrize(
    ("expression", "advice"),
    [
        ("node.labels.zone in a, b", "write KEY in (a, b)"),
        ("node.labels.zone in (a, b", "write KEY in (a, b)"),
        ("node.labels.zone in (a) or so", "write KEY in (a, b)"),
        ("node.labels.zone is in (a)", "write KEY in (a, b)"),
        ("node.labels.zone in ()", "write values of letters"),
        ("node.labels.zone in (a,,b)", "write values of letters"),
        ("node.labels.zone in (a;b)", "write values of letters"),
        ("node.bogus in (a)", "node.platform.arch, node.ip, node.labels.NAME or engine.labels.NAME"),
        ("node.labels. in (a)", "node.labels.NAME or engine.labels.NAME"),
        ("node.la*bels.x in (a)", "node.labels.NAME or engine.labels.NAME"),
        ("node.cpus in (4, 8)", "node.labels.NAME or engine.labels.NAME"),
        ("node.ip in (10.1.0.0/16, here)", "'here' is no address"),
        ("node.labels.cores > ", "write KEY in (a, b)"),
        ("> 4", "write KEY in (a, b)"),
        ("1 < node.labels.cores < 4", "write KEY in (a, b)"),
        ("node.labels.cores > four", "write a number such as 4"),
        ("node.labels.cores > 4g", "write a number such as 4"),
        ("node.labels.cores > 1e9", "write a number such as 4"),
        ("node.memory > lots", "a size such as 8g"),
        ("node.hostname > 4", "use node.cpus, node.memory, node.labels.NAME or engine.labels.NAME"),
        ("exists(node.hostname)", "write exists(node.labels.NAME)"),
        ("exists()", "write exists(node.labels.NAME)"),
        ("exists(node.labels.a", "write KEY in (a, b)"),
        ("exists node.labels.a", "write KEY in (a, b)"),
        ("not exists(node.labels.a)", "write KEY in (a, b)"),
    ],
)
def test_refusals_say_what_to_write(expression: str, advice: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        parse_constraints([expression])
    assert advice in str(error.value)
    assert f"'{expression.strip()}'" in str(error.value)


def test_a_refusal_of_something_long_is_short() -> None:
    with pytest.raises(InvalidArgument) as error:
        parse_constraints(["node.labels.x in (" + " " * 1_000_000])
    assert len(str(error.value)) < 500


SWARM_MODES = st.tuples(
    st.sampled_from(["node", "n<n", "exists(n", "node.labels.a in (b", "a > "]) | st.text(max_size=10),
    st.sampled_from(["==", "!="]),
    st.sampled_from(["[a-b]+c*(n|b)/", "two words", "x in (a)", "b)"]) | st.text(max_size=10),
)


@given(parts=SWARM_MODES)
@example(parts=("nn", "==", "[a-b]+c*(n|b)/"))
@example(parts=("node.labels.in", "!=", "a in (b)"))
def test_what_swarm_mode_can_read_is_never_read_as_ours(parts: tuple[str, str, str]) -> None:
    try:
        (parsed,) = parse_constraints(["".join(parts)])
    except InvalidArgument as error:
        refusal = str(error)
    else:
        assert isinstance(parsed, Equality)
        return
    assert refusal.startswith(("key '", "value '"))


@given(text=st.text(alphabet="node.labels x in()<>=!,exists 4g", max_size=40))
def test_any_text_is_read_or_refused_and_what_is_read_can_be_asked(text: str) -> None:
    try:
        parsed = parse_constraints([text])
    except InvalidArgument:
        return
    assert is_match(parsed, NODE) in (True, False)
