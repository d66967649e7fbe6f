"""YAML to trees: what scalars mean, merge keys, and how files that are no good are refused."""

from __future__ import annotations

import pytest

from swarmpy.compose.limits import COMPOSE_BYTES_MAX, COMPOSE_DEPTH_MAX
from swarmpy.compose.load import load, resolve
from swarmpy.compose.tree import ComposeError, Mapping, Node, Scalar, Sequence, text_of


def python_of(node: Node) -> object:
    match node:
        case Mapping(items=items):
            return {key: python_of(item) for key, item in items.items()}
        case Sequence(items=items):
            return [python_of(item) for item in items]
    return node.value


def read(text: str) -> object:
    return python_of(load(text, "a.yml"))


def refusal(text: str) -> str:
    with pytest.raises(ComposeError) as refused:
        load(text, "a.yml")
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("", None), ("~", None), ("null", None), ("NULL", None)),
        *(("true", True), ("False", False), ("yes", "yes"), ("on", "on"), ("y", "y")),
        *(
            ("0", 0),
            ("-3", -3),
            ("+3", 3),
            ("0x10", 16),
            ("0o17", 15),
            ("0440", 288),
            ("0b11", 3),
            ("1_000", 1000),
        ),
        *(("08", 8.0), ("1.50", 1.5), (".5", 0.5), ("1.", 1.0), ("1e3", 1000.0), ("-.5", -0.5)),
        *(("22:22", "22:22"), ("1.2.3", "1.2.3"), ("2001-01-01", "2001-01-01"), (".inf", ".inf"), ("-", "-")),
        *(("9" * 30, float("9" * 30)), ("9" * 400, "9" * 400), ("1e999", "1e999")),
    ],
)
def test_scalars(text: str, value: object) -> None:
    assert resolve(text) == value
    assert type(resolve(text)) is type(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((1.5, "1.5"), (1000.0, "1000"), (1e30, "1e+30"), (1e-05, "1e-05"), (0.0001, "0.0001")),
        *(
            (12345678.0, "1.2345678e+07"),
            (100000.0, "100000"),
            (-1e6, "-1e+06"),
            (0.0, "0"),
            (1e100, "1e+100"),
        ),
        *((True, "true"), (None, ""), (7, "7")),
    ],
)
def test_scalars_as_text(value: float | bool | None, text: str) -> None:
    assert text_of(value) == text


def test_quoted_and_tagged_scalars_are_text() -> None:
    assert read("a: '1'\nb: \"true\"\nc: !!str 1\nd: !!float 1\ne: |\n  x\n") == {
        "a": "1",
        "b": "true",
        "c": "1",
        "d": 1.0,
        "e": "x\n",
    }


def test_every_value_knows_its_line() -> None:
    tree = load("a:\n  b:\n    - x\n    - y: 1\n", "a.yml")
    assert str(tree.at("a")) == "a.yml:1"
    inner = tree.items["a"]
    assert isinstance(inner, Mapping)
    assert inner.at("b").line == 2
    items = inner.items["b"]
    assert isinstance(items, Sequence)
    assert [item.place.line for item in items.items] == [3, 4]


def test_merge_keys() -> None:
    text = "x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\nz: {<<: [*x, *y], a: 9}\n"
    assert read(text) == {"x": {"a": 1, "b": 2}, "y": {"b": 3, "c": 4}, "z": {"a": 9, "b": 2, "c": 4}}
    assert read("x: &x {a: 1}\nz:\n  a: 2\n  <<: *x\n") == {"x": {"a": 1}, "z": {"a": 2}}


def test_an_anchor_may_be_defined_again() -> None:
    assert read("a: &x 1\nb: *x\nc: &x 2\nd: *x\n") == {"a": 1, "b": 1, "c": 2, "d": 2}


@pytest.mark.parametrize("text", ["", "\n# nothing\n", "---\n", "null"])
def test_an_empty_document_is_an_empty_map(text: str) -> None:
    assert read(text) == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", 'a.yml:3: mapping key "a" already defined at line 1'),
        ("a: *x\n", "a.yml:1: *x refers to nothing"),
        ("a: &x\n  b: *x\n", "a.yml:2: *x refers to nothing"),
        ("a: 1\n---\nb: 1\n", "a.yml:2: a second document begins here"),
        ("- a\n", "a.yml:1: Top-level object must be a mapping"),
        ("a:\n  1: x\n", 'a.yml:2: Non-string key 1: put it in quotes, "1"'),
        ("? [a]\n: b\n", "a.yml:1: a list or map cannot be a key"),
        ("a: !secret x\n", "a.yml:1: the tag !secret does not suit"),
        ("a: !secret [x]\n", "a.yml:1: the tag !secret is not understood"),
        ("a: !!int x\n", "a.yml:1: the tag tag:yaml.org,2002:int does not suit 'x'"),
        ("a: 1\nb: [\n", "a.yml:3: this is no YAML: while parsing a flow"),
        ("a: {<<: 1}\n", "a.yml:1: map merge requires map or sequence of maps"),
        ("a: \x00\n", "a.yml:1: this is no YAML"),
        ("a: \ud800\n", "a.yml:1: this is no text"),
        (
            f"a: {'[' * COMPOSE_DEPTH_MAX}{']' * COMPOSE_DEPTH_MAX}\n",
            "a.yml:1: lists and maps are nested more",
        ),
        ("#" * (COMPOSE_BYTES_MAX + 1), "a.yml:1: the file is larger than 4 MiB"),
    ],
)
def test_refusals(text: str, says: str) -> None:
    assert refusal(text).startswith(says)


def test_a_bomb_of_aliases_is_refused_before_it_is_written_out() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    assert "values, aliases written out" in refusal("\n".join(lines))


def test_aliases_may_not_hide_depth() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, COMPOSE_DEPTH_MAX + 2)]
    assert f"a.yml:{COMPOSE_DEPTH_MAX}: lists and maps are nested" in refusal("\n".join(lines))


def test_trees_compare_by_content() -> None:
    assert load("a: [1]", "a.yml") == load("\n\na:\n- 1", "b.yml")
    assert Scalar(1, load("", "x").place) != Scalar(2, load("", "x").place)
