"""Shapes: every stored type becomes the Engine's JSON, with what clients rely on and without what is ours."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.api.docker_json import SpecCache, encode, rfc3339, shape
from swarmpy.model import cluster_specs, objects, specs
from swarmpy.model.ids import NodeId, SecretId, ServiceId, TaskId, Timestamp
from swarmpy.model.states import TaskState
from swarmpy.model.value import Value


@given(st.integers(min_value=1, max_value=253402300799 * 10**9))
def test_times_end_with_no_zero_and_mean_the_same(at: int) -> None:
    text = rfc3339(Timestamp(at))
    head, _, digits = text.removesuffix("Z").partition(".")
    assert not digits.endswith("0")
    seconds = int(datetime.fromisoformat(head).replace(tzinfo=UTC).timestamp())
    assert seconds * 10**9 + int(digits.ljust(9, "0")) == at


def test_never_is_gos_zero_time() -> None:
    assert rfc3339(Timestamp(0)) == "0001-01-01T00:00:00Z"


SPECS = [
    specs.ServiceSpec,
    cluster_specs.NodeSpec,
    cluster_specs.ClusterSpec,
    cluster_specs.NetworkSpec,
    cluster_specs.SecretSpec,
    cluster_specs.ConfigSpec,
    cluster_specs.VolumeSpec,
]


@pytest.mark.parametrize("type_", SPECS)
def test_labels_are_always_there(type_: type[Value]) -> None:
    assert shape(type_())["Labels"] == {}


def test_empty_fields_are_left_out() -> None:
    assert shape(specs.ContainerSpec(image="x")) == {"Image": "x"}


def test_tri_state_false_is_kept() -> None:
    assert shape(specs.ContainerSpec(init=False)) == {"Init": False}
    assert shape(specs.Replicated(replicas=0)) == {"Replicas": 0}


def test_what_is_secret_or_ours_is_hidden() -> None:
    assert "Data" not in shape(cluster_specs.SecretSpec(name="s", data=b"x"))
    assert shape(cluster_specs.CAConfig(signing_ca_key="k", signing_ca_cert="c")) == {}
    spec = specs.ServiceSpec(task_template=specs.TaskSpec(unknown_fields=b"x"), unknown_fields=b"y")
    assert b'"-"' not in encode(shape(spec))


@pytest.mark.parametrize(
    "value",
    [
        objects.Node(id=NodeId("n"), description=objects.NodeDescription(hostname="h")),
        objects.Service(id=ServiceId("s"), update_status=objects.UpdateStatus(started_at=Timestamp(1))),
        objects.Task(id=TaskId("t"), status=objects.TaskStatus(state=TaskState.RUNNING)),
        objects.Secret(id=SecretId("x")),
    ],
)
def test_objects_encode(value: Value) -> None:
    assert json.loads(encode(shape(value)))


def test_enumerations_and_states_are_words() -> None:
    assert shape(objects.TaskStatus(state=TaskState.SHUTDOWN))["State"] == "shutdown"


def test_the_cache_keeps_its_bound_and_its_identity() -> None:
    cache = SpecCache(limit=3)
    first = specs.ServiceSpec(name="first")
    raw = cache.raw(first)
    assert json.loads(bytes(raw))["Name"] == "first"
    assert cache.raw(first) is raw
    for number in range(10):
        found = json.loads(bytes(cache.raw(specs.ServiceSpec(name=f"s{number}"))))
        assert found["Name"] == f"s{number}"
    assert len(cache._entries) == 3


def test_a_raw_spec_fits_into_an_answer() -> None:
    raw = SpecCache().raw(specs.ServiceSpec(name="web"))
    assert msgspec.json.decode(encode({"Spec": raw}))["Spec"]["Name"] == "web"
