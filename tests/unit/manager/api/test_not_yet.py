"""What swarm mode has and this version has not: refused, or accepted with a warning, never ignored."""

from __future__ import annotations

from typing import Any

from api_http import Http
from api_node import FakeCluster


def _spec(name: str, container: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"Name": name, "TaskTemplate": {"ContainerSpec": {"Image": "host"} | (container or {})}}


async def test_health_checks_need_no_warning(http: Http, cluster: FakeCluster) -> None:
    checked = _spec("checked", {"Healthcheck": {"Test": ["CMD-SHELL", "true"]}})
    answer = await http.post("/services/create", checked)
    assert answer.status == 201
    assert answer.json["Warnings"] is None
