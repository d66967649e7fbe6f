"""What clients of older versions of the API cannot have meant."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from api_http import Http, spec
from api_node import FakeCluster

from manager.api import versions
from manager.api.control import InitRequest
from swarmpy.model.specs import ServiceSpec
from swarmpy.version import API_VERSION

GIVEN = spec(
    container={
        "Sysctls": {"net.core.somaxconn": "1"},
        "CapabilityAdd": ["CAP_CHOWN"],
        "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}],
        "Healthcheck": {"Test": ["CMD", "true"], "StartInterval": 2_000_000},
        "Mounts": [
            {
                "Type": "bind",
                "Source": "/tmp",
                "Target": "/t",
                "BindOptions": {"NonRecursive": True, "CreateMountpoint": True},
            }
        ],
        "OomScoreAdj": 5,
    },
    template={"Placement": {"MaxReplicas": 3}, "Resources": {"Limits": {"Pids": 7, "NanoCPUs": 10**9}}},
)


@pytest.mark.parametrize(
    ("version", "shown"),
    [
        ("1.24", set()),
        ("1.39", set()),
        ("1.40", {"Sysctls", "MaxReplicas"}),
        ("1.41", {"Sysctls", "MaxReplicas", "CapabilityAdd", "Ulimits", "Pids"}),
        ("1.43", {"Sysctls", "MaxReplicas", "CapabilityAdd", "Ulimits", "Pids", "CreateMountpoint"}),
        (
            "1.44",
            {
                *("Sysctls", "MaxReplicas", "CapabilityAdd", "Ulimits", "Pids", "CreateMountpoint"),
                "StartInterval",
            },
        ),
        (
            "1.47",
            {
                *("Sysctls", "MaxReplicas", "CapabilityAdd", "Ulimits", "Pids", "CreateMountpoint"),
                *("StartInterval", "OomScoreAdj"),
            },
        ),
    ],
)
async def test_younger_fields_are_left_out(
    http: Http, cluster: FakeCluster, version: str, shown: set[str]
) -> None:
    answer = await http.post(f"/v{version}/services/create", GIVEN)
    assert answer.status == 201, answer.body
    template = (await http.get("/services/web")).json["Spec"]["TaskTemplate"]
    container = template["ContainerSpec"]
    places: list[dict[str, Any]] = [
        container,
        template["Placement"],
        template["Resources"]["Limits"],
        container["Healthcheck"],
        container["Mounts"][0]["BindOptions"],
    ]
    assert container["Mounts"][0]["BindOptions"]["NonRecursive"] is True
    assert template["Resources"]["Limits"]["NanoCPUs"] == 10**9
    every = {"Sysctls", "MaxReplicas", "CapabilityAdd", "Ulimits", "Pids"}
    every |= {"CreateMountpoint", "StartInterval", "OomScoreAdj"}
    assert {name for name in every if any(name in place for place in places)} == shown


async def test_jobs_are_none_for_a_client_that_knows_none(http: Http, cluster: FakeCluster) -> None:
    """As in dockerd: without its mode the service is a replicated one."""
    body = spec() | {"Mode": {"ReplicatedJob": {"MaxConcurrent": 1}}}
    assert (await http.post("/v1.40/services/create", body)).status == 201
    assert (await http.get("/services/web")).json["Spec"]["Mode"] == {"Replicated": {"Replicas": 1}}


async def test_the_status_of_services_came_with_1_41(http: Http, cluster: FakeCluster) -> None:
    await http.post("/services/create", spec())
    assert "ServiceStatus" not in (await http.get("/v1.40/services", status="true")).json[0]
    assert (await http.get("/v1.40/services", status="foo")).status == 200
    assert "ServiceStatus" in (await http.get("/v1.41/services", status="true")).json[0]


def struct_in(hint: Any) -> Any:
    """The struct that an annotation is about, be it optional or in a tuple."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint
    return next((found for found in map(struct_in, get_args(hint)) if found is not None), None)


@pytest.mark.parametrize(
    ("type_", "fields"), [(ServiceSpec, versions.SPEC_FIELDS), (InitRequest, versions.INIT_FIELDS)]
)
def test_the_tables_name_fields_that_are_there(
    type_: type[msgspec.Struct], fields: dict[str, tuple[str, ...]]
) -> None:
    for version, paths in fields.items():
        assert versions.number(version) <= versions.number(API_VERSION)
        for path in paths:
            at: Any = type_
            for name in path.split("."):
                at = struct_in(get_type_hints(at)[name])


def test_versions_compare_by_their_numbers() -> None:
    texts = ["1", "1.9", "1.24", "1.41", "1.41.1", "1.47", "2.0"]
    assert sorted(texts, key=versions.number) == texts
    assert versions.number("1.041") == versions.number("1.41") == versions.number("1.41.0")
