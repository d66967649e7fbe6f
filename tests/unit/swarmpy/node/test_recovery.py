"""One survivor, or one backup, becomes a cluster of one manager; the others cannot come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest
from manager_rig import until
from msgspec.structs import replace
from node_rig import Camera, Host, hosts_in

from manager.api.control import InitRequest, LocalState, RecoverRequest, RestoreRequest
from manager.store.view import View
from swarmpy.errors import FailedPrecondition, InvalidArgument, NoLeader, NotInSwarm
from swarmpy.model.changes import Create, Update
from swarmpy.model.cluster_specs import SecretSpec
from swarmpy.model.ids import NodeId, SecretId
from swarmpy.model.objects import Kind, Secret
from swarmpy.model.states import NodeRole, NodeState
from swarmpy.node import part as part_module
from swarmpy.runtime import Env


def id_of(host: Host) -> NodeId:
    return host.running.local().node_id


def pids(host: Host) -> dict[str, int]:
    """Live tasks and their processes."""
    return {str(id_): task.pid for id_, task in host.machine.tasks.items() if task.exit is None and task.pid}


async def backup_of(host: Host) -> bytes:
    access = host.running.cluster()
    assert access is not None
    await access.read_barrier()  # as the API does: a follower may lag behind
    return b"".join(access.backup(Env().clock.now()))


async def pieces(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def restore(host: Host, data: bytes) -> NodeId:
    return await host.running.restore(RestoreRequest(), pieces(data))


def summary(view: View) -> dict[str, object]:
    """What recovery keeps."""
    cluster = view.cluster()
    assert cluster is not None
    return {
        "cluster": cluster.id,
        "root": cluster.root_ca,
        "services": sorted(service.id for service in view.services()),
        "secret": [secret.spec.data for secret in view.all(Kind.SECRET) if isinstance(secret, Secret)],
    }


async def make_swarm(managers: Iterable[Host], workers: Iterable[Host] = ()) -> None:
    first, *others = managers
    await first.init()
    for host in others:
        await host.join(first, NodeRole.MANAGER)
    for host in workers:
        await host.join(first)
    secret = Secret(id=SecretId("s1"), spec=SecretSpec(name="key", data=b"hush"))
    await first.propose(Create(object=secret))


async def wait_ready(manager: Host, host: Host) -> None:
    node_id = id_of(host)
    await until(lambda: manager.node(node_id).status.state is NodeState.READY)


# --- the survivor


async def test_a_survivor_goes_on_alone_and_the_others_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_module, "RENEW_RETRY_MIN_S", 0.2)
    async with hosts_in(tmp_path, 4) as (first, second, third, worker):
        await make_swarm((first, second, third), (worker,))
        await first.run_service(8)
        await until(lambda: all(len(pids(host)) == 2 for host in (first, second, third, worker)))
        before = summary(first.view)
        tasks = {host: pids(host) for host in (first, worker)}
        lost = [id_of(second), id_of(third)]
        await second.stop()
        await third.stop()
        access = first.running.cluster()
        assert access is not None
        with pytest.raises(NoLeader):
            await access.read_barrier()

        await first.running.recover(RecoverRequest())
        await first.propose()
        assert summary(first.view) == before
        assert sorted(node.id for node in first.view.nodes()) == sorted([id_of(first), id_of(worker)])
        cluster = first.view.cluster()
        assert cluster is not None
        assert sorted(removed.node_id for removed in cluster.removed_nodes) == sorted(lost)
        await wait_ready(first, first)
        await wait_ready(first, worker)
        await until(lambda: len(pids(first)) + len(pids(worker)) == 8)
        for host, ran in tasks.items():
            assert ran.items() <= pids(host).items(), "its tasks were started again"

        # together they would be a quorum of what the swarm was
        await asyncio.gather(second.start(), third.start())
        await until(lambda: all(host.state is LocalState.ERROR for host in (second, third)))
        for host in (second, third):
            assert "was removed from the swarm" in host.running.local().error
            await until(lambda host=host: not pids(host))  # type: ignore[misc]
            await host.running.leave(force=True)
            await host.join(first, NodeRole.MANAGER)
        await first.propose()
        assert summary(second.view) == before


async def test_a_manager_with_a_quorum_a_worker_and_one_without_a_log_are_not_recovered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manager.raft.log.limits.READ_BARRIER_TIMEOUT_S", 1.0)
    async with hosts_in(tmp_path, 3) as (first, second, worker):
        with pytest.raises(NotInSwarm, match="not part of a swarm"):
            await first.running.recover(RecoverRequest(force=True))
        await make_swarm((first, second), (worker,))
        with pytest.raises(FailedPrecondition, match="have a quorum"):
            await first.running.recover(RecoverRequest())
        for request in (RecoverRequest(force=True), RecoverRequest()):
            with pytest.raises(NotInSwarm, match="not a swarm manager"):
                await worker.running.recover(request)
        with pytest.raises(NotInSwarm, match="not a swarm manager"):
            await worker.running.init(InitRequest(force_new_cluster=True))
        await second.stop()
        (second.folder / "raft" / "raft.wal").unlink()
        await first.stop()
        await second.start()
        assert second.state is LocalState.PENDING
        with pytest.raises(FailedPrecondition, match="has lost its copy"):
            await second.running.recover(RecoverRequest(force=True))
        assert second.state is LocalState.PENDING


async def test_a_forced_recovery_by_dockers_path_and_under_a_new_address(tmp_path: Path) -> None:
    async with hosts_in(tmp_path, 2) as (first, second):
        await make_swarm((first, second))
        before, lost = summary(first.view), id_of(second)
        address = Host(tmp_path).address
        request = InitRequest(force_new_cluster=True, listen_addr=address, advertise_addr=address)
        assert await first.running.init(request) == id_of(first)
        await first.propose()
        assert summary(first.view) == before
        assert first.running.local().remote_managers[0].addr == address
        assert first.view.node(lost) is None
        first.address = address
        await first.stop()
        await first.start()
        await until(lambda: first.state is LocalState.ACTIVE)
        await first.propose()


async def test_a_recovery_cut_short_anywhere_leaves_the_manager_as_it_was_or_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manager.raft.log.limits.RAFT_SNAPSHOT_ENTRIES", 20)
    async with hosts_in(tmp_path, 1) as (second,):
        (tmp_path / "album").mkdir()
        host = Host(tmp_path / "host")
        host.folder.mkdir()
        host.disk = camera = Camera(host.folder, tmp_path / "album")
        await host.start()
        await make_swarm((host, second))
        before, own = summary(host.view), id_of(host)
        await second.stop()
        camera.is_on = True
        await host.running.recover(RecoverRequest(force=True))
        camera.is_on = False
        await host.stop()
        assert camera.photos
        outcomes = set()
        for photo in camera.photos:
            again = host.moved_to(photo)
            await again.start()
            assert id_of(again) == own
            access = again.running.cluster()
            assert access is not None
            outcomes.add(len(access.raft_status().members))
            await again.running.recover(RecoverRequest(force=True))
            await again.propose()
            assert summary(again.view) == before
            assert [node.id for node in again.view.nodes()] == [own]
            await again.stop()
        assert outcomes == {1, 2}


# --- the backup


async def test_a_backup_becomes_the_swarm_again_and_workers_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_module, "RENEW_RETRY_MIN_S", 0.2)
    async with hosts_in(tmp_path, 3) as (first, second, worker):
        await make_swarm((first, second), (worker,))
        await first.run_service(6)
        await until(lambda: all(len(pids(host)) == 2 for host in (first, second, worker)))
        data, before = await backup_of(second), summary(first.view)
        former = {id_of(first), id_of(second)}
        ran = pids(worker)
        await first.stop()
        await second.stop()

        new = Host(tmp_path / "new", first.address)  # another machine, at an address that workers know
        new.folder.mkdir()
        await new.start()
        node_id = await restore(new, data)
        assert node_id not in former
        assert (new.state, id_of(new)) == (LocalState.ACTIVE, node_id)
        assert summary(new.view) == before
        await new.propose()
        await wait_ready(new, worker)
        await until(lambda: len(pids(new)) + len(pids(worker)) == 6)
        assert ran.items() <= pids(worker).items()

        await second.start()  # with the state and the certificate that it had
        await until(lambda: second.state is LocalState.ERROR)
        assert "was removed" in second.running.local().error
        await new.stop()
        await new.start()
        await until(lambda: new.state is LocalState.ACTIVE)
        assert summary(new.view) == before
        await new.stop()


async def test_a_restored_node_of_the_same_name_keeps_the_labels(tmp_path: Path) -> None:
    async with hosts_in(tmp_path, 1) as (host,):
        await host.init()
        node = host.node(id_of(host))
        await host.propose(Update(object=replace(node, spec=replace(node.spec, labels={"rack": "r1"}))))
        data = await backup_of(host)
        await host.running.leave(force=True)
        await restore(host, data)
        assert host.node(id_of(host)).spec.labels == {"rack": "r1"}
        with pytest.raises(NotInSwarm, match="already part of a swarm"):
            await restore(host, data)


async def test_a_bad_backup_leaves_the_node_as_it_was(tmp_path: Path) -> None:
    async with hosts_in(tmp_path, 1) as (host,):
        await host.init()
        data = await backup_of(host)
        await host.running.leave(force=True)
        clean = sorted(path.name for path in host.folder.iterdir())
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]
        for bad in (b"", b"#!/bin/sh\n" * 20, data[:-1], data[:middle], flipped, data + b"more"):
            with pytest.raises(InvalidArgument, match="backup"):
                await restore(host, bad)
            assert host.state is LocalState.INACTIVE
            assert sorted(path.name for path in host.folder.iterdir()) == clean
        name, _, port = host.address.rpartition(":")
        other = await asyncio.start_server(lambda reader, writer: None, name, int(port))
        with pytest.raises(FailedPrecondition, match="address already in use"):
            await restore(host, data)
        assert host.state is LocalState.INACTIVE
        other.close()
        await other.wait_closed()
        await restore(host, data)


async def test_a_restore_cut_short_anywhere_leaves_the_node_outside_or_restored(tmp_path: Path) -> None:
    async with hosts_in(tmp_path, 1) as (source,):
        await make_swarm((source,))
        before, data = summary(source.view), await backup_of(source)
    (tmp_path / "album").mkdir()
    host = Host(tmp_path / "host")
    host.folder.mkdir()
    host.disk = camera = Camera(host.folder, tmp_path / "album")
    await host.start()
    camera.is_on = True
    await restore(host, data)
    camera.is_on = False
    await host.stop()
    assert len(camera.photos) > 8
    outcomes = []
    for photo in camera.photos:
        again = host.moved_to(photo)
        await again.start()
        outcomes.append(again.state)
        if again.state is LocalState.INACTIVE:
            assert not (photo / "raft").exists()
            await restore(again, data)
        await until(lambda again=again: again.state is LocalState.ACTIVE)  # type: ignore[misc]
        await again.propose()
        assert summary(again.view) == before
        await again.stop()
    assert set(outcomes) == {LocalState.INACTIVE, LocalState.ACTIVE}
    assert outcomes == sorted(outcomes, key=lambda state: state is LocalState.ACTIVE)
