"""One survivor, or one backup, becomes a cluster of one manager; the others cannot come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest
from manager_rig import until
from node_rig import Host, hosts_in

from manager.api.control import LocalState, RecoverRequest, RestoreRequest
from manager.store.view import View
from swarmpy.errors import NoLeader
from swarmpy.model.changes import Create
from swarmpy.model.ids import NodeId, SecretId
from swarmpy.model.objects import Kind, Secret
from swarmpy.model.specs import SecretSpec
from swarmpy.model.states import NodeRole, NodeState
from swarmpy.node import part as part_module
from swarmpy.runtime import Env


def id_of(host: Host) -> NodeId:
    return host.running.local().node_id


def pids(host: Host) -> dict[str, int]:
    """Live tasks and their processes."""
    return {str(id_): task.pid for id_, task in host.machine.tasks.items() if task.exit is None and task.pid}


def backup_of(host: Host) -> bytes:
    access = host.running.cluster()
    assert access is not None
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
