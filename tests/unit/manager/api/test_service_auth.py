"""Who asks the registry for a service's image: taken from a header, kept, told to nodes, shown to nobody."""

from __future__ import annotations

import pytest
from api_http import Http, spec
from api_node import FakeCluster

from swarmpy.model.ids import ServiceId


@pytest.fixture
def cluster(node: object) -> FakeCluster:
    return node.become_manager()  # type: ignore[attr-defined, no-any-return]


def kept(cluster: FakeCluster, id_: str) -> str:
    service = cluster.store.service(ServiceId(id_))
    assert service is not None
    container = service.spec.task_template.container_spec
    assert container is not None
    return container.registry_auth


async def update(http: Http, id_: str, query: str, auth: str = "") -> None:
    version = (await http.get(f"/services/{id_}")).json["Version"]["Index"]
    answer = await http.call(
        "POST",
        f"/services/{id_}/update?version={version}{query}",
        body=spec(container={"RegistryAuth": "of the body"}),
        headers={"X-Registry-Auth": auth} if auth else None,
    )
    assert answer.status == 200, answer.body


async def test_what_is_kept(http: Http, cluster: FakeCluster) -> None:
    answer = await http.call("POST", "/services/create", body=spec(), headers={"X-Registry-Auth": "first"})
    id_ = answer.json["ID"]
    assert kept(cluster, id_) == "first"
    await update(http, id_, "", "second")
    assert kept(cluster, id_) == "second"
    await update(http, id_, "&registryAuthFrom=spec")
    assert kept(cluster, id_) == "second"
    await update(http, id_, "&registryAuthFrom=previous-spec")
    assert kept(cluster, id_) == "first"
    shown = (await http.get(f"/services/{id_}")).body
    assert b"first" not in shown
    assert b"second" not in shown
