"""Whatever a Compose file holds, reading it gives a stack or one of our errors, with the file and a line."""

from __future__ import annotations

import string
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmpy.compose import ComposeError, Document, merged, read_stack, runnable
from swarmpy.compose.gather import Gatherer
from swarmpy.compose.interpolate import substitute
from swarmpy.compose.load import load
from swarmpy.compose.merge import merge
from swarmpy.compose.tables import TABLES
from swarmpy.compose.tree import EMPTY_PLACE, Mapping, without_resets

VARIABLES = {"A": "1", "B": "text with $ and }", "EMPTY": ""}

names = st.sampled_from(sorted({name for table in TABLES.values() for name in table}))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.sampled_from(
        [
            "8080:80",
            "1-70000:1-3",
            "a:/b:ro",
            "/x:/y",
            "./r:/r",
            "${A}",
            "${B:-c}",
            "$",
            "1h",
            "99999999999h",
            "5g",
        ]
    ),
    st.text("0123456789.:-/${}ABhsgm", max_size=10),
)
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(names, st.text(string.ascii_lowercase, max_size=3)), inner, max_size=4),
    ),
    max_leaves=12,
)
services = st.dictionaries(st.sampled_from(sorted(TABLES["service"])), trees, max_size=3).map(
    lambda keys: {"image": "host", **keys}
)
documents = st.one_of(
    trees,
    st.fixed_dictionaries(
        {"services": st.dictionaries(st.sampled_from(["a", "b"]), services, min_size=1)},
        optional={
            section: st.dictionaries(st.sampled_from(["a", "b"]), trees)
            for section in ("networks", "volumes", "secrets", "configs")
        },
    ),
)


@settings(max_examples=300, deadline=None)
@given(documents)
def test_any_yaml_gives_a_stack_or_our_error(document: Any) -> None:
    read(yaml.safe_dump(document, allow_unicode=True))


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(max_size=60),
        st.text("abc:-[]{}&*!|>%@`'\"#?, \n\t<$~0123456789", max_size=60),
        st.text("a: \n- &*<", max_size=40).map(lambda text: f"services:\n  a:\n    image: host\n{text}"),
    )
)
def test_any_text_gives_a_stack_or_our_error(text: str) -> None:
    read(text)


def read(text: str) -> None:
    try:
        stack = read_stack([Document("any.yml", text)], name="st", variables=VARIABLES)
    except ComposeError as refused:
        error = refused
    else:
        assert all(service.spec.name == f"st_{service.name}" for service in runnable(stack).services)
        return
    assert str(error).startswith("any.yml:")
    assert error.place.line >= 1


@given(documents)
def test_merging_with_an_empty_document_changes_nothing(document: Any) -> None:
    text = yaml.safe_dump(document, allow_unicode=True)
    try:
        tree, _ = merged([Document("a.yml", text)], variables=VARIABLES)
    except ComposeError:
        return
    empty = Mapping({}, EMPTY_PLACE)
    assert merge([tree, empty]) == tree == merge([empty, tree])


@given(documents)
def test_a_document_over_itself_keeps_its_maps(document: Any) -> None:
    """Lists may double; what is a map or a scalar is said twice and holds once."""
    try:
        tree = load(yaml.safe_dump(document, allow_unicode=True), "a.yml")
    except ComposeError:
        return
    assert list(merge([tree, tree]).items) == list(tree.items)


values = st.sampled_from(["1", "2", '""'])
LINES: dict[str, st.SearchStrategy[str]] = {
    "environment": st.dictionaries(st.sampled_from("AB"), values, max_size=2).map(
        lambda found: f"{{{', '.join(f'{name}: {value}' for name, value in sorted(found.items()))}}}"
    ),
    "cap_add": st.lists(st.sampled_from("XYZ"), max_size=2).map(lambda found: f"[{', '.join(found)}]"),
    "command": st.sampled_from(["[a]", "[b, c]"]),
    "ports": st.lists(st.sampled_from(["1:1", "1:2", "2:2"]), max_size=2, unique=True).map(
        lambda found: f"[{', '.join(repr(port) for port in found)}]"
    ),
    "hostname": values,
    "deploy": st.sampled_from(["{replicas: 1}", "{labels: {a: b}}", "{labels: !reset {}}", "{replicas: }"]),
}
Layer = tuple[tuple[str, str, str], ...]
tags = st.sampled_from(["", "", "!reset ", "!override "])
layers = st.lists(st.sampled_from(sorted(LINES)), unique=True, max_size=4).flatmap(
    lambda keys: st.tuples(*(st.tuples(st.just(key), tags, LINES[key]) for key in keys))
)


@settings(max_examples=60, deadline=None)
@given(layers, layers, layers)
def test_it_does_not_matter_which_documents_are_merged_first(one: Layer, two: Layer, three: Layer) -> None:
    lines = ["".join(f"    {key}: {tag}{text}\n" for key, tag, text in layer) for layer in (one, two, three)]
    gatherer = Gatherer({})
    a, b, c = (
        gatherer.opened(Document("a.yml", f"services:\n  s:\n    image: host\n{text}"), {}) for text in lines
    )
    left, right = merge([merge([a, b]), c]), merge([a, merge([b, c])])
    assert without_resets(left) == without_resets(right)


texts = st.text(st.characters(codec="utf-8"), max_size=30)
variable_names = st.from_regex(r"[_a-zA-Z][_a-zA-Z0-9]{0,5}\Z", fullmatch=True)


@given(texts)
def test_escaped_text_comes_back(text: str) -> None:
    assert substitute(text.replace("$", "$$"), VARIABLES) == text


@given(variable_names, texts, texts, texts)
def test_a_variable_is_replaced_by_its_value_once(name: str, value: str, before: str, after: str) -> None:
    escaped_before, escaped_after = before.replace("$", "$$"), after.replace("$", "$$")
    assert substitute(f"{escaped_before}${{{name}}}{escaped_after}", {name: value}) == before + value + after


@given(
    variable_names,
    st.text(st.characters(codec="utf-8", exclude_characters="}$"), max_size=20),
    st.none() | texts,
)
def test_defaults_and_alternatives(name: str, word: str, value: str | None) -> None:
    variables = {} if value is None else {name: value}
    assert substitute(f"${{{name}-{word}}}", variables) == (word if value is None else value)
    assert substitute(f"${{{name}:-{word}}}", variables) == (value or word)
    assert substitute(f"${{{name}+{word}}}", variables) == ("" if value is None else word)
    assert substitute(f"${{{name}:+{word}}}", variables) == (word if value else "")
    assert substitute(f"${{MISSING{name}:-${{{name}:-{word}}}}}", variables) == (value or word)


plain = st.text("ab :-+?/.", max_size=4)
operators = st.sampled_from([":-", "-", ":+", "+", ":?", "?"])
templates = st.recursive(
    st.one_of(plain, st.just("$$"), st.tuples(st.sampled_from(["A", "EMPTY", "NONE"]))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(st.sampled_from(["A", "EMPTY", "NONE"]), operators, inner),
    ),
    max_leaves=6,
)


class _Missing(Exception):
    """What the template requires is not there."""


def written(part: Any) -> str:
    match part:
        case str():
            return part
        case list():
            return "".join(map(written, part))
        case (name,):
            return f"${{{name}}}"
        case (name, operator, word):
            return f"${{{name}{operator}{written(word)}}}"
    raise AssertionError(part)


def meant(part: Any) -> str:
    """The shell's rules, read from the parts instead of the text."""
    match part:
        case str():
            return part.replace("$$", "$")
        case list():
            return "".join(map(meant, part))
        case (name,):
            return VARIABLES.get(name, "")
        case (name, operator, word):
            value = VARIABLES.get(name)
            is_there = value is not None and (value != "" or not operator.startswith(":"))
            if operator[-1] == "+":
                return meant(word) if is_there else ""
            if is_there:
                return value or ""
            if operator[-1] == "?":
                raise _Missing
            return meant(word)
    raise AssertionError(part)


@settings(max_examples=100, deadline=None)
@given(templates)
def test_nested_variables_mean_what_their_parts_mean(template: Any) -> None:
    try:
        wanted = meant(template)
    except _Missing:
        with pytest.raises(ValueError, match="is missing a value"):
            substitute(written(template), VARIABLES)
        return
    assert substitute(written(template), VARIABLES) == wanted


@given(texts)
def test_any_text_is_interpolated_or_refused(text: str) -> None:
    """A dollar sign that is escaped or starts a variable is all that may be taken away."""
    try:
        filled = substitute(text, {})
    except ValueError:
        assert "$" in text
    else:
        assert "$" in text or filled == text
