"""What swarm mode has and this version has not: refused, or accepted with a warning, never ignored."""

from __future__ import annotations

from typing import Any

import pytest
from api_http import Http
from api_node import FakeCluster, FakeNode

from manager.api.control import LocalState


def _spec(name: str, container: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"Name": name, "TaskTemplate": {"ContainerSpec": {"Image": "host"} | (container or {})}}


@pytest.mark.parametrize(
    "body", [{"AutoLockManagers": True}, {"Spec": {"EncryptionConfig": {"AutoLockManagers": True}}}]
)
async def test_autolock_is_refused_rather_than_ignored(
    http: Http, node: FakeNode, body: dict[str, Any]
) -> None:
    answer = await http.post("/swarm/init", body)
    assert answer.status == 501
    assert answer.message.startswith("autolock is not supported yet")
    assert node.state.state is LocalState.INACTIVE


async def test_autolock_cannot_be_turned_on_later(http: Http, cluster: FakeCluster) -> None:
    swarm = (await http.get("/swarm")).json
    spec = swarm["Spec"] | {"EncryptionConfig": {"AutoLockManagers": True}}
    answer = await http.post(f"/swarm/update?version={swarm['Version']['Index']}", spec)
    assert answer.status == 501


async def test_health_checks_need_no_warning(http: Http, cluster: FakeCluster) -> None:
    checked = _spec("checked", {"Healthcheck": {"Test": ["CMD-SHELL", "true"]}})
    answer = await http.post("/services/create", checked)
    assert answer.status == 201
    assert answer.json["Warnings"] is None
