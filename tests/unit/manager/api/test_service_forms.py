"""A service's spec as it is read back: what swarm mode fills in, and that writing it back changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from api_http import Http, spec
from api_node import FakeCluster
from msgspec.structs import replace

from swarmpy.model.changes import Update
from swarmpy.model.ids import ServiceId
from swarmpy.model.specs import ContainerSpec, ServiceSpec, TaskSpec


async def created(http: Http, body: dict[str, Any]) -> str:
    answer = await http.post("/services/create", body)
    assert answer.status == 201, answer.body
    return str(answer.json["ID"])


async def inspect(http: Http, name: str) -> dict[str, Any]:
    found: dict[str, Any] = (await http.get(f"/services/{name}")).json
    return found


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({}, {"Mode": {"Replicated": {"Replicas": 1}}}),
        ({"Mode": {"Replicated": {}}}, {"Mode": {"Replicated": {"Replicas": 1}}}),
        ({"Mode": {"Global": {}}}, {"Mode": {"Global": {}}}),
        ({"EndpointSpec": {}}, {"EndpointSpec": {"Mode": "vip"}}),
        (
            {"EndpointSpec": {"Ports": [{"TargetPort": 80}]}},
            {
                "EndpointSpec": {
                    "Mode": "vip",
                    "Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishMode": "ingress"}],
                }
            },
        ),
        (
            {"UpdateConfig": {"MaxFailureRatio": 1.0}},
            {
                "UpdateConfig": {
                    "Parallelism": 0,
                    "FailureAction": "pause",
                    "MaxFailureRatio": 1,
                    "Order": "stop-first",
                }
            },
        ),
    ],
)
async def test_what_swarm_mode_fills_in_is_filled_in(
    http: Http, cluster: FakeCluster, given: dict[str, Any], shown: dict[str, Any]
) -> None:
    """And reading a spec and writing it back changes nothing."""
    await created(http, {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "host"}}, **given})
    found = await inspect(http, "web")
    assert found["Spec"]["TaskTemplate"]["Runtime"] == "container"
    assert {name: found["Spec"][name] for name in shown} == shown
    version = found["Version"]["Index"]
    answer = await http.post("/services/web/update", found["Spec"], version=version)
    assert answer.status == 200, answer.body
    assert (await inspect(http, "web"))["Version"]["Index"] == version


async def test_a_spec_that_was_stored_without_them_is_filled_in_too(http: Http, cluster: FakeCluster) -> None:
    """As daemons before this one stored it; an update that fills them in moves no task."""
    id_ = ServiceId(await created(http, spec()))
    service = cluster.store.service(id_)
    assert service is not None
    (revision,) = cluster.store.revisions_of(id_)
    bare = ServiceSpec(
        name="web",
        task_template=TaskSpec(container_spec=ContainerSpec(image="host", args=("sleep", "100"))),
    )
    cluster.change(Update(object=replace(service, spec=bare)))
    found = await inspect(http, "web")
    assert found["Spec"]["TaskTemplate"]["ContainerSpec"]["Isolation"] == "default"
    body = found["Spec"] | {"Labels": {"a": "b"}}
    answer = await http.post("/services/web/update", body, version=found["Version"]["Index"])
    assert answer.status == 200, answer.body
    after = cluster.store.service(id_)
    assert after is not None
    assert after.template_id == revision.id
