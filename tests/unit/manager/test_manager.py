"""Managers put together: founding, entering, leaving, faults of the port and of loops; on loopback."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest
from clusters import make_node, make_service
from manager_rig import DEADLINE_S, Managers, managers_in, until
from msgspec.structs import replace
from pki_cluster import ping

from manager import manager as manager_module
from manager.manager import has_log, prepare_entry, withdraw
from swarmpy.errors import AlreadyExists, FailedPrecondition, PermissionDenied, Rejected, Unavailable
from swarmpy.model.changes import Create, Update
from swarmpy.model.ids import NodeId, ServiceId
from swarmpy.model.objects import Node
from swarmpy.model.states import NodeRole
from swarmpy.pki import Role


def stored(cluster: Managers, node_id: str) -> Node:
    node = cluster.hosts[0].running.access.view.node(NodeId(node_id))
    assert node is not None
    return node


async def demote(cluster: Managers, node_id: NodeId) -> None:
    node = stored(cluster, node_id)
    await cluster.propose(
        cluster.hosts[0], Update(object=replace(node, spec=replace(node.spec, role=NodeRole.WORKER)))
    )


async def test_one_manager_founds_a_cluster_and_takes_it_up_again(tmp_path: Path) -> None:
    async with managers_in(tmp_path) as cluster:
        host = await cluster.found()
        service, revision = make_service("web")
        await cluster.propose(host, Create(object=service), Create(object=revision))
        await host.stop()
        assert has_log(host.config, host.env)
        manager = await host.start()
        async with asyncio.timeout(DEADLINE_S):
            await manager.wait_current()
        assert manager.access.view.service(ServiceId("web-s")) is not None
        assert not manager.must_enter


async def test_what_was_committed_before_a_restart_is_no_news_after_it(tmp_path: Path) -> None:
    async with managers_in(tmp_path) as cluster:
        host = await cluster.found()
        await cluster.propose(host, *(Create(object=each) for each in make_service("before")))
        await host.stop()
        manager = await host.start()
        history = manager.access.history
        async with asyncio.timeout(DEADLINE_S):
            await manager.wait_current()
            for number in itertools.count():
                if history.changes.next:
                    break
                # until it has begun, which nobody is told of
                made = make_service(f"later-{number}")
                await cluster.propose(host, *(Create(object=each) for each in made))
        told = {getattr(change.new, "id", "") for change in history.changes.beginning_with(0)}
        assert "before-s" not in told


async def test_three_managers_share_what_any_of_them_commits(tmp_path: Path) -> None:
    async with managers_in(tmp_path) as cluster:
        first = await cluster.found()
        others = [await cluster.join(), await cluster.join()]
        service, revision = make_service("web")
        await cluster.propose(others[1], Create(object=service), Create(object=revision))
        for host in cluster.hosts:
            await host.running.access.read_barrier()
            assert host.running.access.view.service(ServiceId("web-s")) is not None
        registry = others[0].running._registry
        assert registry.managers()[0][1] == first.address, "the leader is named first"
        assert {address for _, address in registry.managers()} == {host.address for host in cluster.hosts}


async def test_a_demoted_manager_leaves_raft_and_then_becomes_a_worker(tmp_path: Path) -> None:
    async with managers_in(tmp_path) as cluster:
        await cluster.found()
        second, third = await cluster.join(), await cluster.join()
        node_id = third.identity.node_id
        await demote(cluster, node_id)
        async with asyncio.timeout(DEADLINE_S):
            await third.removed.wait()
        assert third.running.is_removed
        await until(lambda: stored(cluster, node_id).role is NodeRole.WORKER)
        assert stored(cluster, node_id).manager_status is None

        # its certificate still says manager, and no longer opens a manager's calls
        await until(lambda: second.running._store.node(node_id).role is NodeRole.WORKER)  # type: ignore[union-attr]
        with pytest.raises(PermissionDenied, match="is a worker"):
            await ping(third.identity, second.address)
        await ping(second.identity, cluster.hosts[0].address)


async def test_a_demoted_leader_hands_over_first(tmp_path: Path) -> None:
    async with managers_in(tmp_path) as cluster:
        first = await cluster.found()
        await cluster.join()
        await cluster.join()
        await demote(cluster, first.identity.node_id)
        async with asyncio.timeout(15):
            await first.removed.wait()
        await until(lambda: cluster.leader() is not first)
        leader = cluster.leader()
        await until(lambda: leader.running._store.node(first.identity.node_id).role is NodeRole.WORKER)  # type: ignore[union-attr]


async def test_a_manager_that_resigns_hears_that_raft_goes_on_without_it(tmp_path: Path) -> None:
    async with managers_in(tmp_path) as cluster:
        first = await cluster.found()
        second = await cluster.join()
        async with asyncio.timeout(DEADLINE_S):
            await second.running.resign(second.identity.node_id)
        await second.stop()
        service, revision = make_service("web")
        await cluster.propose(first, Create(object=service), Create(object=revision))


async def test_an_entry_that_came_to_nothing_can_be_taken_back(tmp_path: Path) -> None:
    """Else the dead member would count for the quorum: here it would be one of two."""
    async with managers_in(tmp_path) as cluster:
        first = await cluster.found()
        second = await cluster.join()
        await second.stop()
        async with asyncio.timeout(DEADLINE_S):
            await withdraw(second.config, second.identity, second.env, [first.address])
        assert len(first.running.access.raft_status().members) == 1
        service, revision = make_service("web")
        await cluster.propose(first, Create(object=service), Create(object=revision))


async def test_a_manager_that_lost_its_log_comes_back_as_another_member(tmp_path: Path) -> None:
    async with managers_in(tmp_path) as cluster:
        await cluster.found()
        await cluster.join()
        third = await cluster.join()
        lost = third.running.raft_id
        await third.stop()
        for file in third.config.folder.iterdir():
            file.unlink()
        others = cluster.addresses(but=third)
        await prepare_entry(third.config, third.identity, third.env, others)
        manager = await third.start()
        await manager.enter(others)
        assert manager.raft_id != lost

        def members() -> set[str]:
            return {member.raft_id for member in cluster.hosts[0].running.access.raft_status().members}

        await until(lambda: lost not in members())
        await until(
            lambda: (
                (status := stored(cluster, third.identity.node_id).manager_status) is not None
                and status.raft_id == manager.raft_id
            )
        )
        assert len(members()) == 3


async def test_entering_is_refused_to_whom_the_cluster_does_not_want(tmp_path: Path) -> None:
    async with managers_in(tmp_path) as cluster:
        first = await cluster.found()
        stranger = await cluster.admit()
        await demote(cluster, stranger.identity.node_id)
        await until(lambda: stored(cluster, stranger.identity.node_id).role is NodeRole.WORKER)
        with pytest.raises(PermissionDenied):
            await prepare_entry(stranger.config, stranger.identity, stranger.env, [first.address])
        assert not has_log(stranger.config, stranger.env)


async def test_entering_with_nobody_to_ask_ends_at_once(tmp_path: Path) -> None:
    async with managers_in(tmp_path) as cluster:
        host = await cluster.found()
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable, match="no manager"):
                await host.running.enter([])
            with pytest.raises(Unavailable, match="no manager"):
                await host.running.enter([host.address])


async def test_a_port_in_use_is_said_and_the_manager_can_be_started_later(tmp_path: Path) -> None:
    async with managers_in(tmp_path) as cluster:
        host = await cluster.found()
        await host.stop()
        host_part, _, port = host.address.rpartition(":")
        other = await asyncio.start_server(lambda reader, writer: None, host_part, int(port))
        with pytest.raises(FailedPrecondition, match="address already in use"):
            await host.start()
        await host.stop()
        other.close()
        await other.wait_closed()
        manager = await host.start()
        async with asyncio.timeout(DEADLINE_S):
            await manager.wait_current()


async def test_a_loop_that_ends_by_itself_ends_the_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks(self: object) -> None:
        raise ValueError("a defect")

    async with managers_in(tmp_path) as cluster:
        host = await cluster.found()
        await host.stop()
        monkeypatch.setattr(manager_module.Manager, "_keep_trust", breaks)
        await host.start()
        await until(lambda: bool(host.fatal))
        assert "ValueError: a defect" in host.fatal.pop()


async def test_nodes_are_registered_once(tmp_path: Path) -> None:
    async with managers_in(tmp_path) as cluster:
        host = await cluster.found()
        registry = host.running._registry
        await registry.catch_up()
        await registry.register(make_node("n9"))
        with pytest.raises(AlreadyExists):
            await registry.register(make_node("n9"))
        node = registry.node(NodeId("n9"))
        assert node is not None
        assert registry.node(NodeId("n8")) is None


async def test_a_worker_that_joins_is_no_manager(tmp_path: Path) -> None:
    async with managers_in(tmp_path) as cluster:
        first = await cluster.found()
        worker = await cluster.admit(role=Role.WORKER)
        with pytest.raises(Rejected, match="this call is for"):
            await prepare_entry(worker.config, worker.identity, worker.env, [first.address])
