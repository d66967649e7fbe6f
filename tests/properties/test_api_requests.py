"""Whatever arrives as a spec: it is refused with a sentence, or stored and read back. Never an accident."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manager.allocate.pools import ingress_spec
from manager.api import requests, service_plan
from manager.api.docker_json import encode, shape
from manager.store.store import Store
from swarmpy import codec
from swarmpy.errors import InvalidArgument, Rejected
from swarmpy.model.changes import Batch, Create, Group
from swarmpy.model.ids import NetworkId, Timestamp
from swarmpy.model.objects import Network
from swarmpy.model.specs import ServiceSpec
from swarmpy.model.states import Owner

NAMES = (
    "Name Labels TaskTemplate ContainerSpec Image Args Env Mounts Type Target Source Resources Limits "
    "MemoryBytes NanoCPUs Mode Replicated Replicas Global Placement Constraints Preferences Spread "
    "EndpointSpec Ports TargetPort PublishedPort UpdateConfig Parallelism MaxFailureRatio Healthcheck "
    "Test Retries RestartPolicy Condition Delay Networks Secrets File Privileges ForceUpdate "
    "StopGracePeriod Init -"
)
WORDS = [*NAMES.split(), ""]

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["host", "any", "tcp", "bind", "/a", "node.role==worker"])
)
values: st.SearchStrategy[Any] = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=30,
)


def base() -> dict[str, Any]:
    return {
        "Name": "web",
        "Labels": {},
        "TaskTemplate": {
            "ContainerSpec": {"Image": "host", "Args": ["x"], "Env": ["A=b"], "Mounts": []},
            "Resources": {"Limits": {}, "Reservations": {}},
            "Placement": {"Constraints": []},
            "RestartPolicy": {},
        },
        "Mode": {"Replicated": {"Replicas": 1}},
        "UpdateConfig": {},
        "EndpointSpec": {"Ports": []},
    }


@st.composite
def mutants(draw: st.DrawFn) -> dict[str, Any]:
    """A good spec with some places replaced by anything."""
    spec = base()
    for _ in range(draw(st.integers(1, 3))):
        place: Any = spec
        while True:
            keys = sorted(key for key, part in place.items() if isinstance(part, dict))
            if not keys or draw(st.booleans()):
                break
            place = place[draw(st.sampled_from(keys))]
        place[draw(st.sampled_from(sorted({*place, *WORDS})))] = draw(values)
    return spec


@given(st.binary(max_size=200) | values.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_a_spec_or_is_refused(data: bytes) -> None:
    try:
        spec = requests.parse(data, ServiceSpec)
    except InvalidArgument:
        return
    assert isinstance(spec, ServiceSpec)


@settings(max_examples=400)
@given(mutants())
def test_what_is_accepted_is_stored_and_read_back(body: dict[str, Any]) -> None:
    store = Store()
    ingress = Network(id=NetworkId("ingress"), spec=ingress_spec())
    store.apply_batch(Batch(groups=(Group(owner=Owner.API, changes=(Create(object=ingress),)),)))
    try:
        spec = requests.parse(json.dumps(body).encode(), ServiceSpec)
        accepted = service_plan.accept(store, spec)
        changes = service_plan.create(
            store, accepted, service_id="s" * 25, revision_id="r" * 25, now=Timestamp(1)
        )
        entry = codec.encode(Batch(groups=(Group(owner=Owner.API, changes=changes),)))
    except Rejected:
        return
    applied = store.apply(entry, 1)
    assert not applied.refused
    (service,) = store.services()
    assert service.spec == accepted
    text = encode(shape(service.spec))
    assert requests.parse(text, ServiceSpec) == accepted, "what is read back is what was written"


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_lacks_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        requests.parse(b'{"UpdateConfig": {"MaxFailureRatio": ' + text.encode() + b"}}", ServiceSpec)
