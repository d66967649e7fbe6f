"""The part of Go's templates that --format is used with."""

from __future__ import annotations

import pytest

from swarmpy.cli.gotemplate import TemplateError, compile_template, fields

VALUE = {
    "ID": "abc",
    "Count": 3,
    "Ready": True,
    "Spec": {"Name": "web", "Labels": {"a b": "c", "z": "1"}},
    "Items": [{"N": 1}, {"N": 2}],
    "Names": ["x", "y"],
    "None": [],
}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("plain", "plain"),
        ("{{.ID}}", "abc"),
        ("{{ .ID }}-{{.Spec.Name}}", "abc-web"),
        ("{{.Missing.Deep}}", "<no value>"),
        ("{{.Ready}} {{.Count}}", "true 3"),
        ("{{json .Names}}", '["x","y"]'),
        ("{{json .Spec.Labels}}", '{"a b":"c","z":"1"}'),
        ('{{index .Spec.Labels "a b"}}', "c"),
        ("{{index .Names 1}}", "y"),
        ("{{index .Names 9}}", "<no value>"),
        ("{{len .Items}}", "2"),
        ('{{join .Names ", "}}', "x, y"),
        ("{{.ID | upper}}", "ABC"),
        ("{{.ID | upper | lower}}", "abc"),
        ("{{.Names}}", "[x y]"),
        ("{{.Spec.Labels}}", "map[a b:c z:1]"),
        ("{{range .Items}}<{{.N}}>{{end}}", "<1><2>"),
        ("{{range .None}}x{{else}}nothing{{end}}", "nothing"),
        ("{{if .Ready}}yes{{else}}no{{end}}", "yes"),
        ("{{if .None}}yes{{else}}no{{end}}", "no"),
        ('{{if eq .ID "abc"}}same{{end}}', "same"),
        ("{{range .Names}}{{.}}={{$.ID}} {{end}}", "x=abc y=abc "),
        (r"{{.ID}}\t{{.Count}}\n", "abc\t3\n"),
        ("{{`raw`}}", "raw"),
    ],
)
def test_templates(source: str, expected: str) -> None:
    assert compile_template(source)(VALUE) == expected


@pytest.mark.parametrize(
    "source", ["{{}}", "{{if .A}}", "{{end}}", "{{bogus .A}}", "{{range}}x{{end}}", "{{.A | bogus}}"]
)
def test_what_does_not_parse_is_refused(source: str) -> None:
    with pytest.raises(TemplateError):
        compile_template(source)(VALUE)


def test_header_fields() -> None:
    assert fields("{{.ID}}\t{{.Name}}\t{{upper .Image}}") == ["ID", "Name", "Image"]
