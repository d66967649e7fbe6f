"""Files of variables: Compose's reading and the engine's, and where each holds."""

from __future__ import annotations

import pytest

from swarmpy.compose import ComposeError, Document, Stack, read_stack
from swarmpy.compose.dotenv import entries, variables_of

VARIABLES = {"OUT": "side", "TAKEN": "mine"}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        ("A = b ", "b"),
        ("export A=b", "b"),
        ("A=", ""),
        ("A=b # note", "b"),
        ("A=b#c", "b#c"),
        ("A=# all", ""),
        ("A='$OUT # #'", "$OUT # #"),
        ('A="x y" # note', "x y"),
        (r'A="a\n\"b\" \$OUT"', 'a\n"b" $OUT'),
        ("A=${OUT}-$NONE.", "side-."),
        ('A="${NONE:-d}"', "d"),
        ("A='two\nlines'", "two\nlines"),
        ("B=1\nA=$B$B", "11"),
        ("A=a=b", "a=b"),
        ("# A=1\n\n  A=2", "2"),
        ("A=1\r\n", "1"),
    ],
)
def test_values(line: str, value: str) -> None:
    assert variables_of(line, "x.env", VARIABLES)["A"] == value


def test_what_is_set_outside_goes_first_in_other_values() -> None:
    assert variables_of("TAKEN=file\nA=$TAKEN", "x.env", VARIABLES)["A"] == "mine"


def test_lines_are_known_and_a_name_alone_has_no_value() -> None:
    found = list(entries("A='1\n2'\n\nB\n", "x.env", {}))
    assert [(entry.name, entry.value, str(entry.place)) for entry in found] == [
        ("A", "1\n2", "x.env:1"),
        ("B", None, "x.env:4"),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("A=1\n=2", "x.env:2: this line sets no variable: write NAME=value"),
        ("A='1", "x.env:1: the value has no closing '"),
        ('A="1" 2', 'x.env:1: "2" stands behind the value'),
        ("A=${B", "x.env:1: the value cannot be read: you may need to escape any $"),
        ("A=${B:?gone}", "x.env:1: the value cannot be read: required variable B is missing a value: gone"),
        ("two words=1", 'x.env:1: "words=1" stands behind'),
    ],
)
def test_bad_lines_are_named(text: str, says: str) -> None:
    with pytest.raises(ComposeError) as refused:
        list(entries(text, "x.env", {}))
    assert str(refused.value).startswith(says)


def read(lines: str, **files: str) -> Stack:
    document = Document("a.yml", f"services:\n  a:\n    image: host\n    {lines}\n", "/in")
    texts = {f"/in/{name}": text for name, text in files.items()}
    return read_stack([document], name="st", variables=VARIABLES, files=texts)


def env(lines: str, **files: str) -> tuple[str, ...]:
    spec = read(lines, **files).services[0].spec.task_template.container_spec
    assert spec is not None
    return spec.env


FILE = 'Q="x y" # n\nOUT\nABSENT\n'


def test_short_forms_are_read_as_the_engine_does_and_long_ones_as_compose_does() -> None:
    assert env("env_file: e", e=FILE) == ("OUT=side", 'Q="x y" # n')
    assert env("env_file: [{path: e}]", e=FILE) == ("OUT=side", "Q=x y")
    assert env("env_file: [{path: e, format: raw}]", e=FILE) == ("OUT=side", 'Q="x y" # n')


def test_quotes_that_stay_are_warned_of() -> None:
    (warning,) = read("env_file: e", e="A=1\nQ='x'").warnings
    assert str(warning).startswith("/in/e:2: the quotes around the value of Q are part of it")


def test_later_files_and_the_environment_go_first() -> None:
    lines = "env_file: [e, {path: f}]\n    environment: {C: 3}"
    assert env(lines, e="A=1\nB=1\nC=1", f="B=2\nC=2") == ("A=1", "B=2", "C=3")


def test_files_that_are_absent() -> None:
    assert env("env_file: [{path: nowhere, required: false}]") == ()
    for lines in ("env_file: nowhere", "env_file: [{path: nowhere}]", "label_file: nowhere"):
        with pytest.raises(ComposeError, match=r"^a\.yml:4: services\.a\..* names /in/nowhere, which cannot"):
            read(lines)


def test_labels_of_files() -> None:
    stack = read("label_file: [l]\n    labels: {b: own}", l="a='1'\nb=2")
    spec = stack.services[0].spec.task_template.container_spec
    assert spec is not None
    assert {key: spec.labels[key] for key in "ab"} == {"a": "1", "b": "own"}
