"""Changes whose outcome is open, and changes without a leader: what is said, and what is stored."""

from __future__ import annotations

import pytest
from api_http import Http, spec
from api_node import FakeCluster

from swarmpy.errors import NoLeader, NotInSwarm, Unavailable
from swarmpy.model.changes import Delete
from swarmpy.model.ids import ServiceId
from swarmpy.model.objects import Kind


async def created(http: Http, name: str = "web") -> ServiceId:
    answer = await http.post("/services/create", spec(name))
    assert answer.status == 201, answer.body
    return ServiceId(answer.json["ID"])


async def test_a_lost_answer_is_repeated_and_takes_effect_once(http: Http, cluster: FakeCluster) -> None:
    cluster.is_lost_after_commit = True
    id_ = await created(http)
    assert [service.id for service in cluster.store.services()] == [id_]


async def test_a_full_queue_is_waited_for(http: Http, cluster: FakeCluster) -> None:
    cluster.fail_next = [Unavailable("full", delay_s=0.001), Unavailable("full", delay_s=0.001)]
    await created(http)


async def test_no_leader_is_said_at_once(http: Http, cluster: FakeCluster) -> None:
    cluster.fail_next = [NoLeader()]
    answer = await http.post("/services/create", spec())
    assert answer.status == 503
    assert "The swarm does not have a leader" in answer.message
    assert not cluster.store.services()


async def test_what_may_have_been_made_is_found_out_once_there_is_a_leader(
    http: Http, cluster: FakeCluster
) -> None:
    cluster.is_lost_after_commit = True
    cluster.fail_next = [NoLeader(), NoLeader()]
    id_ = await created(http)
    assert [service.id for service in cluster.store.services()] == [id_]


async def test_no_leader_is_not_said_of_what_may_have_been_made(
    http: Http, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manager.api.context.PROPOSE_TIMEOUT_S", 0.2)
    cluster.is_lost_after_commit = True
    cluster.fail_next = [NoLeader() for _ in range(100)]
    answer = await http.post("/services/create", spec())
    assert answer.status == 503
    assert answer.message.startswith("The change may or may not have been made")
    assert [service.spec.name for service in cluster.store.services()] == ["web"]


async def test_a_manager_that_is_demoted_meanwhile_does_not_deny_what_it_may_have_made(
    http: Http, cluster: FakeCluster
) -> None:
    cluster.is_lost_after_commit = True
    cluster.fail_next = [NotInSwarm("This node is not a swarm manager.")]
    answer = await http.post("/services/create", spec())
    assert answer.status == 503
    assert answer.message.startswith("The change may or may not have been made")
    assert [service.spec.name for service in cluster.store.services()] == ["web"]


async def test_a_manager_that_lags_takes_back_no_word(http: Http, cluster: FakeCluster) -> None:
    """A name that this manager still knows as taken is free for who waited for the removal elsewhere."""
    id_ = await created(http)

    def catch_up() -> None:
        cluster.before_barrier = lambda: None
        cluster.change(Delete(kind=Kind.SERVICE, id=id_))

    cluster.before_barrier = catch_up
    assert await created(http) != id_


async def test_what_the_store_checks_needs_no_word_of_the_leader(http: Http, cluster: FakeCluster) -> None:
    cluster.barrier_error = NoLeader()
    await created(http)
    ports = {"Ports": [{"TargetPort": 80, "PublishedPort": 8080}]}
    answer = await http.post("/services/create", spec("ports", EndpointSpec=ports))
    assert answer.status == 201, answer.body
    # a refusal, though, may be a lagging manager's: before it is given the leader is asked
    answer = await http.post("/services/create", spec("other", EndpointSpec=ports))
    assert answer.status == 503, answer.body
