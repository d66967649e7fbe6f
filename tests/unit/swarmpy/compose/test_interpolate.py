"""Variables in values, with every operator."""

from __future__ import annotations

import pytest

from swarmpy.compose.interpolate import interpolate, substitute
from swarmpy.compose.limits import COMPOSE_DEFAULTS_DEPTH_MAX, COMPOSE_VALUE_CHARS_MAX
from swarmpy.compose.load import load
from swarmpy.compose.tree import ComposeError

VARIABLES = {"V": "1", "E": "", "long_Name2": "x"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("$V", "1"), ("${V}", "1"), ("a${V}b$V.c", "a1b1.c"), ("$long_Name2-", "x-"), ("${U}", "")),
        *(("$$V", "$V"), ("$$$V", "$1"), ("}{", "}{")),
        *(("${V:-d}", "1"), ("${E:-d}", "d"), ("${U:-d}", "d"), ("${E-d}", ""), ("${U-d}", "d")),
        *(("${V:+a}", "a"), ("${E:+a}", ""), ("${U:+a}", ""), ("${E+a}", "a"), ("${U+a}", "")),
        *(("${V:?no}", "1"), ("${E?no}", "")),
        *(("${U:-${V}}", "1"), ("${U:-a${E:-b}c}d", "abcd"), ("${U:-$$}", "$"), ("${U:-a:b-c d}", "a:b-c d")),
        *(("${V:-${U:?never asked}}", "1"), ("${U:-a}b}", "ab}"), ("${U:-{a}", "{a")),
    ],
)
def test_substitution(text: str, value: str) -> None:
    assert substitute(text, VARIABLES) == value


@pytest.mark.parametrize(
    "text", ["$", "a$", "$1", "${", "${}", "${V", "${V!x}", "${V:}", "${U:-", "$-", "${1}", "$é"]
)
def test_malformed(text: str) -> None:
    with pytest.raises(ComposeError) as refused:
        interpolate(load(f"a:\n  b: '{text}'", "a.yml"), VARIABLES)
    assert str(refused.value) == (
        f'a.yml:2: invalid interpolation format for a.b: "{text}"; '
        "you may need to escape any $ with another $"
    )


@pytest.mark.parametrize(("text", "reason"), [("${U:?say it}", "say it"), ("${E:?}", ""), ("${U?${V}}", "1")])
def test_required(text: str, reason: str) -> None:
    name = text[2]
    with pytest.raises(
        ComposeError, match=f"a.yml:1: a: required variable {name} is missing a value: {reason}$"
    ):
        interpolate(load(f"a: '{text}'", "a.yml"), VARIABLES)


def test_keys_extensions_and_the_version_are_left_alone() -> None:
    tree = load("version: $V\nx-a: $V\n$V: $V\n", "a.yml")
    assert interpolate(tree, VARIABLES).tree == load("version: $V\nx-a: $V\n$V: '1'\n", "a.yml")


def test_unset_variables_are_told_once_with_their_place() -> None:
    found = interpolate(load("a: $U\nb: [$U, '${W}', '${X:-}', '${E}']\n", "a.yml"), VARIABLES)
    assert {name: place.line for name, place in found.unset.items()} == {"U": 1, "W": 2}


def test_bounds() -> None:
    depth = COMPOSE_DEFAULTS_DEPTH_MAX
    assert substitute("${U:-" * depth + "x" + "}" * depth, {}) == "x"
    with pytest.raises(ValueError, match="nested more than"):
        substitute("${U:-" * (depth + 1) + "x" + "}" * (depth + 1), {})
    with pytest.raises(ValueError, match="grows longer"):
        substitute("$A" * 3, {"A": "x" * (COMPOSE_VALUE_CHARS_MAX // 2)})
