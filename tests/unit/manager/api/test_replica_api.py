"""``/swarmpy/store`` over HTTP: equal state, equal digest; nothing is waited for."""

from __future__ import annotations

from typing import Any

from api_http import Http, spec
from api_node import FakeCluster

from manager.store.store import Store
from swarmpy.errors import NoLeader


async def shown(http: Http) -> dict[str, Any]:
    answer = await http.get("/swarmpy/store")
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json
    return found


async def test_a_digest_is_of_the_whole_state(http: Http, cluster: FakeCluster) -> None:
    before = await shown(http)
    await http.post("/services/create", spec())
    after = await shown(http)
    assert after["Digest"] != before["Digest"]
    assert after["Version"] == cluster.store.version > before["Version"]
    assert after["Objects"] == before["Objects"] + 2, "a service and its revision"
    assert await shown(http) == after


async def test_a_copy_has_the_same_digest(http: Http, cluster: FakeCluster) -> None:
    await http.post("/services/create", spec())
    before = await shown(http)
    copy = Store()
    copy.restore(list(cluster.slices()))
    cluster.store = copy
    assert await shown(http) == before


async def test_it_is_answered_without_a_leader(http: Http, cluster: FakeCluster) -> None:
    cluster.barrier_error = NoLeader()
    assert (await shown(http))["Applied"] == 1
