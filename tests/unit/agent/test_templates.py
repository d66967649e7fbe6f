"""Templates: Go's language as far as swarm mode's users need it, and what rejects."""

from __future__ import annotations

import pytest

from agent.templates import Labels, expand
from swarmpy.errors import TaskRejected

FIELDS = {
    "Task": {"Slot": "3", "Name": "web.3.x"},
    "Service": {"Name": "web", "Labels": Labels({"tier": "front", "a.b": "dotted"})},
    "Peers": ["one", "two"],
    "None": [],
}
FUNCTIONS = {"env": {"A": "1", "Q": 'x"y'}.__getitem__, "secret": lambda name: f"<{name}>"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain }} text", "plain }} text"),
        ("{{.Task.Slot}}", "3"),
        ("{{/* nothing */}}x", "x"),
        ("a {{- .Task.Slot -}} b", "a3b"),
        ('{{index .Service.Labels "a.b"}}|{{.Service.Labels.none}}|', "dotted||"),
        ('{{if eq .Task.Slot "3"}}yes{{else}}no{{end}}', "yes"),
        ('{{if eq .Task.Slot "1"}}a{{else if ne .Task.Slot "3"}}b{{else}}c{{end}}', "c"),
        ("{{with .Service}}{{.Name}}{{end}}{{with .None}}x{{else}}none{{end}}", "webnone"),
        ("{{range .Peers}}<{{.}}>{{end}}{{range .None}}x{{else}}-{{end}}", "<one><two>-"),
        ("{{range .Service.Labels}}{{.}},{{end}}", "dotted,front,"),
        ('{{env "A"}}{{secret "db" | printf "%s!"}}', "1<db>!"),
        ('{{printf "%q" (env "Q")}}', '"x\\"y"'),
        ('{{"{{"}}x{{"}}"}}', "{{x}}"),
        ("{{`a\\n`}}", "a\\n"),
        ('{{print "a" 1 true}}{{len .Peers}}', "a1true2"),
        ('{{if and .Peers (not .None)}}both{{end}}{{or "" "b"}}', "bothb"),
        ("{{.Peers}}", "[one two]"),
    ],
)
def test_what_templates_say(text: str, expected: str) -> None:
    assert expand(text, FIELDS, FUNCTIONS) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{{.Task.Owner}}", "field .Task.Owner is not known: at Owner there is .Slot, .Name"),
        ("{{.Task.Slot.Deep}}", "is not known"),
        ('{{secrets "db"}}', "'secrets' is not known as function"),
        ("{{nothing}}", "nothing is not known"),
        ("{{$x}}", "is not known"),
        ("{{ }}", "empty template"),
        ("{{.Task.Slot", "does not close it"),
        ('{{print "a}}', "does not close it"),
        ("{{if .Task}}x", "no {{end}}"),
        ("x{{end}}", "ends nothing"),
        ("{{print (.Task.Slot}}", "not closed"),
        ("{{print .Task.Slot)}}", "too many"),
        ("{{.Task.Slot |}}", "lacks a command"),
        ('{{env "missing"}}', "env: 'missing'"),
        ('{{printf "%s"}}', "with a value"),
        ("{{index .Peers 7}}", "out of range"),
        ("{{range .Task.Slot}}x{{end}}", "cannot range"),
    ],
)
def test_what_rejects_the_task(text: str, reason: str) -> None:
    with pytest.raises(TaskRejected) as caught:
        expand(text, FIELDS, FUNCTIONS)
    assert reason in str(caught.value)


def test_growth_is_bounded() -> None:
    with pytest.raises(TaskRejected, match="grows over"):
        expand("{{range .Peers}}" + "{{range .}}" * 15 + "x" * 99 + "{{end}}" * 16, {"Peers": Same()})


class Same(list["Same"]):
    """A list that holds itself, so that ranges nest as deep as a template likes."""

    def __init__(self) -> None:
        super().__init__([self, self])
