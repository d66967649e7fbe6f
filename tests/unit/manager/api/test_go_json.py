"""Bodies are read as Go's decoder reads them; every text here is one that dockerd 20.10 gave."""

from __future__ import annotations

import json
import sys

import pytest

from manager.api.go_json import parse
from swarmpy.errors import InvalidArgument
from swarmpy.model.cluster_specs import NodeSpec
from swarmpy.model.specs import ServiceSpec
from swarmpy.model.states import MountType, NodeRole

FIELD = "json: cannot unmarshal {} into Go struct field {} of type {}"


def refusal(text: str | bytes) -> str:
    with pytest.raises(InvalidArgument) as caught:
        parse(text if isinstance(text, bytes) else text.encode(), ServiceSpec)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "got EOF while reading request body"),
        (" \n ", "got EOF while reading request body"),
        ("foo", "invalid character 'o' in literal false (expecting 'a')"),
        ("tru", "unexpected EOF"),
        ("x", "invalid character 'x' looking for beginning of value"),
        ("[]", "json: cannot unmarshal array into Go value of type swarm.ServiceSpec"),
        ('"x"', "json: cannot unmarshal string into Go value of type swarm.ServiceSpec"),
        ("1", "json: cannot unmarshal number into Go value of type swarm.ServiceSpec"),
        ('{"Name":"k"', "unexpected EOF"),
        ('{"Name":"k', "unexpected EOF"),
        ('{"Name":"k",}', "invalid character '}' looking for beginning of object key string"),
        ('{"Name" 1}', "invalid character '1' after object key"),
        ('{"Name":"k" 1}', "invalid character '1' after object key:value pair"),
        ('{"Networks":[1 2]}', "invalid character '2' after array element"),
        ('{"Name":"a\nb"}', "invalid character '\\n' in string literal"),
        ('{"Name":"\\q"}', "invalid character 'q' in string escape code"),
        ("NaN", "invalid character 'N' looking for beginning of value"),
        ("[" * 20_000, "invalid character '[' exceeded max depth"),
    ],
)
def test_what_is_no_json(text: str, said: str) -> None:
    assert refusal(text) == said


@pytest.mark.parametrize(
    ("body", "found", "field", "type_"),
    [
        ({"Name": 1}, "number", "ServiceSpec.Name", "string"),
        ({"TaskTemplate": []}, "array", "ServiceSpec.TaskTemplate", "swarm.TaskSpec"),
        ({"Labels": {"a": 1}}, "number", "ServiceSpec.Labels", "string"),
        ({"Labels": ["a"]}, "array", "ServiceSpec.Labels", "map[string]string"),
        ({"Mode": "x"}, "string", "ServiceSpec.Mode", "swarm.ServiceMode"),
        (
            {"Mode": {"Replicated": {"Replicas": -1}}},
            "number -1",
            "ReplicatedService.Mode.Replicated.Replicas",
            "uint64",
        ),
        ({"TaskTemplate": {"ForceUpdate": 1.5}}, "number 1.5", "TaskSpec.TaskTemplate.ForceUpdate", "uint64"),
        (
            {"TaskTemplate": {"ForceUpdate": 10**20}},
            f"number {10**20}",
            "TaskSpec.TaskTemplate.ForceUpdate",
            "uint64",
        ),
        (
            {"TaskTemplate": {"ContainerSpec": {"Args": "x"}}},
            "string",
            "ContainerSpec.TaskTemplate.ContainerSpec.Args",
            "[]string",
        ),
        (
            {"TaskTemplate": {"ContainerSpec": {"Env": [1]}}},
            "number",
            "ContainerSpec.TaskTemplate.ContainerSpec.Env",
            "string",
        ),
        (
            {"TaskTemplate": {"ContainerSpec": {"StopGracePeriod": "10s"}}},
            "string",
            "ContainerSpec.TaskTemplate.ContainerSpec.StopGracePeriod",
            "time.Duration",
        ),
        (
            {"TaskTemplate": {"ContainerSpec": {"Mounts": [{"Type": 1}]}}},
            "number",
            "Mount.TaskTemplate.ContainerSpec.Mounts.Type",
            "mount.Type",
        ),
        ({"EndpointSpec": {"Ports": {}}}, "object", "EndpointSpec.EndpointSpec.Ports", "[]swarm.PortConfig"),
        ({"EndpointSpec": {"Ports": [1]}}, "number", "EndpointSpec.EndpointSpec.Ports", "swarm.PortConfig"),
        (
            {"EndpointSpec": {"Ports": [{"TargetPort": -1}]}},
            "number -1",
            "PortConfig.EndpointSpec.Ports.TargetPort",
            "uint32",
        ),
        (
            {"UpdateConfig": {"MaxFailureRatio": "x"}},
            "string",
            "UpdateConfig.UpdateConfig.MaxFailureRatio",
            "float32",
        ),
    ],
)
def test_another_type(body: object, found: str, field: str, type_: str) -> None:
    assert refusal(json.dumps(body)) == FIELD.format(found, field, type_)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"TaskTemplate": {"RestartPolicy": {"Condition": "often"}}}, 'invalid RestartCondition: "often"'),
        ({"UpdateConfig": {"FailureAction": "foo"}}, "unrecognized update failure action foo"),
        ({"RollbackConfig": {"Order": "foo"}}, "unrecognized update order foo"),
        ({"EndpointSpec": {"Mode": "foo"}}, 'invalid resolution mode: "foo"'),
        (
            {"TaskTemplate": {"ContainerSpec": {"Mounts": [{"Type": "foo"}]}}},
            'invalid MountType: "foo"',
        ),
    ],
)
def test_a_word_that_is_no_choice(body: object, said: str) -> None:
    assert refusal(json.dumps(body)) == said


def test_keys_in_any_case_and_unknown_ones() -> None:
    body = {
        "name": "web",
        "LABELS": {"Case": "Stays"},
        "taskTemplate": {"containerspec": {"image": "box", "Tty": True, "foo": 1}},
        "Foo": {"Bar": 1},
    }
    spec = parse(json.dumps(body).encode(), ServiceSpec)
    assert (spec.name, spec.labels) == ("web", {"Case": "Stays"})
    assert spec.task_template.container_spec is not None
    assert (spec.task_template.container_spec.image, spec.task_template.container_spec.tty) == ("box", True)


def test_of_two_spellings_the_last_one_counts() -> None:
    assert parse(b'{"Name": "a", "name": "b"}', ServiceSpec).name == "b"
    assert parse(b'{"Name": "a", "Name": "b"}', ServiceSpec).name == "b"


def test_null_is_nothing_and_in_lists_and_maps_the_empty_value() -> None:
    assert parse(b"null", ServiceSpec) == ServiceSpec()
    assert parse(b'{"Labels": null, "TaskTemplate": null}', ServiceSpec) == ServiceSpec()
    spec = parse(b'{"Labels":{"a":null},"TaskTemplate":{"ContainerSpec":{"Args":["a",null]}}}', ServiceSpec)
    assert spec.labels == {"a": ""}
    assert spec.task_template.container_spec is not None
    assert spec.task_template.container_spec.args == ("a", "")


def test_what_follows_the_first_value_is_not_looked_at() -> None:
    assert parse(b'{"Name":"a"} xx', ServiceSpec).name == "a"
    assert parse(b'  {"Name":"a"}{}', ServiceSpec).name == "a"


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert parse(b'{"Name":"a\xff"}', ServiceSpec).name == "a\N{REPLACEMENT CHARACTER}"


def test_choices_in_any_case() -> None:
    assert parse(b'{"Role":"Manager"}', NodeSpec).role is NodeRole.MANAGER
    body = b'{"TaskTemplate":{"ContainerSpec":{"Mounts":[{"Type":"VOLUME"}]}}}'
    container = parse(body, ServiceSpec).task_template.container_spec
    assert container is not None
    assert container.mounts[0].type is MountType.VOLUME


def test_deep_values_of_fields_that_nobody_knows() -> None:
    depth = sys.getrecursionlimit() // 4
    assert parse(b'{"Foo":' + b"[" * depth + b"]" * depth + b"}", ServiceSpec) == ServiceSpec()
