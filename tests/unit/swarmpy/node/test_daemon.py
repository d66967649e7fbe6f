"""A node's way into a swarm, through it and out of it, with a pretended machine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from manager_rig import until
from node_rig import FailingDisk, Host, hosts_in

from manager.api import nodes as api_nodes
from manager.api.control import InitRequest, JoinRequest, LocalState
from swarmpy.errors import Corrupt, FailedPrecondition, InvalidArgument, NotInSwarm, SwarmError, Unavailable
from swarmpy.model.ids import NodeId
from swarmpy.model.states import NodeRole, NodeState, TaskState
from swarmpy.node import daemon as daemon_module
from swarmpy.node import part as part_module
from swarmpy.pki import Role


def id_of(host: Host) -> NodeId:
    return host.running.local().node_id


def running_tasks(host: Host) -> int:
    return sum(task.exit is None and task.pid != 0 for task in host.machine.tasks.values())


def assert_outside(host: Host) -> None:
    """The node is in no swarm, and nothing of one is left."""
    local = host.running.local()
    assert (local.state, local.node_id, local.error) == (LocalState.INACTIVE, "", "")
    left = {path.name for path in host.folder.iterdir()} - {"images", "run", "tasks", "logs", "volumes"}
    assert left == set()
    assert host.running.cluster() is None


# --- the way in


async def test_init_makes_a_manager_that_runs_tasks(tmp_path: Path) -> None:
    async with hosts_in(tmp_path, 1) as (host,):
        node_id = await host.init()
        assert (host.state, id_of(host)) == (LocalState.ACTIVE, node_id)
        assert host.running.local().is_manager
        await host.run_service(2)
        await until(lambda: running_tasks(host) == 2)
        with pytest.raises(NotInSwarm, match="already part of a swarm"):
            await host.init()


async def test_a_new_cluster_has_an_ingress_network_and_each_node_a_place_in_it(tmp_path: Path) -> None:
    async with hosts_in(tmp_path, 1) as (host,):
        request = InitRequest(default_addr_pool=("10.44.0.0/16",), subnet_size=26)
        node_id = await host.running.init(request)
        ingress = host.view.ingress_network()
        assert ingress is not None
        assert ingress.ipam_options is not None
        assert ingress.ipam_options.configs[0].subnet == "10.44.0.0/26"
        await until(lambda: bool(host.node(node_id).attachments))
        (place,) = host.node(node_id).attachments
        assert (place.network_id, place.addresses) == (ingress.id, ("10.44.0.2/26",))


@pytest.mark.parametrize("pool", ["10.44.0.0/28", "ten"])
async def test_pools_that_make_no_sense_are_refused(tmp_path: Path, pool: str) -> None:
    async with hosts_in(tmp_path, 1) as (host,):
        with pytest.raises(InvalidArgument, match="invalid subnet"):
            await host.running.init(InitRequest(default_addr_pool=(pool,)))
        assert_outside(host)


async def test_nodes_say_where_they_take_overlay_traffic_also_after_a_restart(tmp_path: Path) -> None:
    async with hosts_in(tmp_path, 2) as (manager, worker):
        node_id = await manager.running.init(InitRequest(data_path_addr="lo"))
        cluster = manager.view.cluster()
        assert cluster is not None
        request = JoinRequest(
            remote_addrs=(manager.address,),
            join_token=cluster.root_ca.join_tokens.worker,
            data_path_addr="10.1.2.3",
        )
        await worker.running.join(request)
        worker_id = id_of(worker)

        def told(id_: NodeId) -> str:
            return manager.node(id_).description.data_path_addr

        await until(lambda: (told(node_id), told(worker_id)) == ("127.0.0.1", "10.1.2.3"))
        assert manager.node(node_id).description.boot_id
        await worker.stop()
        await until(lambda: manager.node(worker_id).status.state is not NodeState.READY)
        await worker.start()
        await until(lambda: manager.node(worker_id).status.state is NodeState.READY)
        assert told(worker_id) == "10.1.2.3"


async def test_a_data_path_that_is_none_is_refused_before_anything_happens(tmp_path: Path) -> None:
    async with hosts_in(tmp_path, 1) as (host,):
        with pytest.raises(InvalidArgument, match="data path address must be"):
            await host.running.init(InitRequest(data_path_addr="nowhere0"))
        assert_outside(host)


async def test_a_worker_joins_and_leaves_and_its_tasks_go_elsewhere(tmp_path: Path) -> None:
    async with hosts_in(tmp_path, 2) as (manager, worker):
        await manager.init()
        await worker.join(manager)
        worker_id = id_of(worker)
        assert not worker.running.local().is_manager
        assert worker.running.cluster() is None
        await manager.run_service(4)
        await until(lambda: (running_tasks(manager), running_tasks(worker)) == (2, 2))

        await worker.running.leave(force=False)
        assert_outside(worker)
        assert worker.machine.tasks == {}
        await until(lambda: manager.node(worker_id).status.state is NodeState.DOWN)
        await until(lambda: running_tasks(manager) == 4)
        await worker.join(manager)
        assert id_of(worker) != worker_id


async def test_a_joining_manager_serves_the_cluster_when_join_returns(tmp_path: Path) -> None:
    async with hosts_in(tmp_path, 2) as (first, second):
        await first.init()
        await first.run_service(1)
        await second.join(first, NodeRole.MANAGER)
        assert [service.spec.name for service in second.view.services()] == ["web"]
        await second.running.leave(force=True)
        assert_outside(second)
        await first.propose()  # one manager is a quorum again


async def test_an_init_whose_port_is_taken_leaves_the_node_as_it_was(tmp_path: Path) -> None:
    async with hosts_in(tmp_path, 1) as (host,):
        name, _, port = host.address.rpartition(":")
        other = await asyncio.start_server(lambda reader, writer: None, name, int(port))
        with pytest.raises(FailedPrecondition, match="address already in use"):
            await host.init()
        assert_outside(host)
        other.close()
        await other.wait_closed()
        await host.init()


@pytest.mark.parametrize("nth", [1, 2, 3, 4, 5, 6])
async def test_an_init_whose_disk_refuses_a_write_leaves_the_node_as_it_was(tmp_path: Path, nth: int) -> None:
    host = Host(tmp_path / "host")
    host.folder.mkdir()
    host.disk = disk = FailingDisk(nth)
    await host.start()
    with pytest.raises((SwarmError, OSError), match=r"No space left|disk"):
        await host.init()
    assert disk.has_failed
    assert_outside(host)
    await host.init()
    await host.stop()


async def test_an_init_without_a_leader_says_what_it_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_leader(self: object, changes: object) -> None:
        raise Unavailable("there is no leader")

    monkeypatch.setattr("swarmpy.node.founding.JOIN_TIMEOUT_S", 0.3)
    monkeypatch.setattr("manager.manager.Manager.propose", no_leader)
    async with hosts_in(tmp_path, 1) as (host,):
        with pytest.raises(FailedPrecondition, match="there is no leader"):
            await host.init()
        assert_outside(host)


async def test_a_join_with_a_wrong_token_or_to_nobody_leaves_the_node_as_it_was(tmp_path: Path) -> None:
    async with hosts_in(tmp_path, 2) as (manager, joiner):
        await manager.init()
        cluster = manager.view.cluster()
        assert cluster is not None
        good = cluster.root_ca.join_tokens.worker
        wrong = good[:-1] + ("0" if good[-1] != "0" else "1")
        with pytest.raises(InvalidArgument, match="A valid join token is necessary"):
            await joiner.running.join(JoinRequest(remote_addrs=(manager.address,), join_token=wrong))
        assert_outside(joiner)
        nobody = Host(tmp_path).address
        with pytest.raises(Unavailable, match="no manager can be reached"):
            await joiner.running.join(JoinRequest(remote_addrs=(nobody,), join_token=good))
        assert_outside(joiner)


async def test_a_manager_that_cannot_be_reached_back_does_not_join(tmp_path: Path) -> None:
    async with hosts_in(tmp_path, 2) as (first, second):
        await first.init()
        cluster = first.view.cluster()
        assert cluster is not None
        request = JoinRequest(
            remote_addrs=(first.address,),
            join_token=cluster.root_ca.join_tokens.manager,
            advertise_addr=Host(tmp_path).address,
        )
        with pytest.raises(FailedPrecondition, match="advertised address"):
            await second.running.join(request)
        assert_outside(second)
        await first.propose()


async def test_a_join_that_takes_too_long_is_undone_also_in_raft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(self: object) -> None:
        await asyncio.Event().wait()

    async with hosts_in(tmp_path, 2) as (first, second):
        await first.init()
        monkeypatch.setattr(daemon_module, "JOIN_TIMEOUT_S", 1.0)
        monkeypatch.setattr("manager.manager.Manager.wait_current", never)
        with pytest.raises(FailedPrecondition, match="Timeout was reached before node joined"):
            await second.join(first, NodeRole.MANAGER)
        assert_outside(second)
        access = first.running.cluster()
        assert access is not None
        await until(lambda: len(access.raft_status().members) == 1)
        await first.propose()


# --- restarts


async def test_a_restart_takes_up_the_same_place_and_the_same_tasks(tmp_path: Path) -> None:
    async with hosts_in(tmp_path, 2) as (manager, worker):
        await manager.init()
        await worker.join(manager)
        await manager.run_service(4)
        await until(lambda: (running_tasks(manager), running_tasks(worker)) == (2, 2))
        before = {host: (id_of(host), set(host.machine.tasks)) for host in (manager, worker)}
        for host in (manager, worker):
            await host.stop()
            assert running_tasks(host) == 2
            await host.start()
        await until(lambda: manager.state is LocalState.ACTIVE and worker.state is LocalState.ACTIVE)
        assert {host: (id_of(host), set(host.machine.tasks)) for host in before} == before
        assert all(count == 1 for host in before for count in host.machine.starts.values())


async def test_a_port_in_use_at_start_is_waited_for_while_tasks_are_looked_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_module, "START_RETRY_MIN_S", 0.05)
    async with hosts_in(tmp_path, 1) as (host,):
        await host.init()
        await host.run_service(1)
        await until(lambda: running_tasks(host) == 1)
        await host.stop()
        name, _, port = host.address.rpartition(":")
        other = await asyncio.start_server(lambda reader, writer: None, name, int(port))
        await host.start()
        local = host.running.local()
        assert local.state is LocalState.PENDING
        assert "address already in use" in local.error
        assert not host.running.fatal.done()
        await until(lambda: host.running.system().tasks_running == 1)
        other.close()
        await other.wait_closed()
        await until(lambda: host.state is LocalState.ACTIVE)
        assert host.running.local().error == ""


async def test_managers_that_start_one_by_one_wait_for_each_other(tmp_path: Path) -> None:
    async with hosts_in(tmp_path, 3) as hosts:
        await hosts[0].init()
        for host in hosts[1:]:
            await host.join(hosts[0], NodeRole.MANAGER)
        for host in hosts:
            await host.stop()
        for host in reversed(hosts):
            await host.start()
        await until(lambda: all(host.state is LocalState.ACTIVE for host in hosts))
        await hosts[0].propose()


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("state.json", r"state\.json is damaged"),
        ("certificates/swarm-node.key", r"identity .* is damaged"),
        ("raft/raft.wal", r"raft\.wal"),
    ],
)
async def test_damage_ends_the_daemon_with_a_sentence_and_tasks_run_on(
    tmp_path: Path, file: str, words: str
) -> None:
    async with hosts_in(tmp_path, 1) as (host,):
        await host.init()
        await host.run_service(1)
        await until(lambda: running_tasks(host) == 1)
        await host.stop()
        path = host.folder / file
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :])
        with pytest.raises(Corrupt, match=words):
            await host.start()
        await host.stop()
        assert running_tasks(host) == 1
        path.write_bytes(content)
        await host.start()
        assert host.state is LocalState.ACTIVE


async def test_an_identity_without_its_addresses_is_not_guessed_at(tmp_path: Path) -> None:
    async with hosts_in(tmp_path, 1) as (host,):
        await host.init()
        await host.stop()
        (host.folder / "state.json").unlink()
        with pytest.raises(Corrupt, match=r"no state\.json"):
            await host.start()


# --- roles, and the way out against one's will


async def test_a_node_is_promoted_and_demoted_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_module, "RENEW_RETRY_MIN_S", 0.2)
    async with hosts_in(tmp_path, 2) as (manager, worker):
        await manager.init()
        await worker.join(manager)
        node_id = id_of(worker)
        for _ in range(2):
            await manager.wish_role(node_id, NodeRole.MANAGER)
            await until(lambda: worker.running.cluster() is not None)
            await until(lambda: manager.node(node_id).manager_status is not None)
            assert worker.running.local().is_manager
            await manager.wish_role(node_id, NodeRole.WORKER)
            await until(lambda: not worker.running.local().is_manager)
            await until(lambda: not (worker.folder / "raft").exists())
        assert id_of(worker) == node_id
        assert not worker.running.fatal.done()


async def test_a_manager_that_was_demoted_and_promoted_while_away_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raft has removed the member that its log is of: it has to enter as another one."""
    monkeypatch.setattr(part_module, "RENEW_RETRY_MIN_S", 0.2)
    async with hosts_in(tmp_path, 3) as hosts:
        await hosts[0].init()
        for host in hosts[1:]:
            await host.join(hosts[0], NodeRole.MANAGER)
        third, node_id = hosts[2], id_of(hosts[2])
        await third.stop()
        await hosts[0].wish_role(node_id, NodeRole.WORKER)
        await until(lambda: hosts[0].node(node_id).role is NodeRole.WORKER)
        await hosts[0].wish_role(node_id, NodeRole.MANAGER)
        await until(lambda: hosts[0].node(node_id).role is NodeRole.MANAGER)
        await third.start()
        await until(lambda: hosts[0].node(node_id).manager_status is not None)
        await until(lambda: third.state is LocalState.ACTIVE and third.running.cluster() is not None)
        await third.propose()


async def test_what_a_crash_left_of_a_managers_log_does_not_stop_a_worker(tmp_path: Path) -> None:
    """Demoted, its certificate stored, then gone before the log was removed."""
    async with hosts_in(tmp_path, 2) as (manager, worker):
        await manager.init()
        await worker.join(manager)
        node_id = id_of(worker)
        await worker.stop()
        (worker.folder / "raft").mkdir()
        (worker.folder / "raft" / "raft.snapshot").write_bytes(b"half a former life")
        await worker.start()
        assert not (worker.folder / "raft").exists()
        await manager.wish_role(node_id, NodeRole.MANAGER)
        await until(lambda: worker.running.cluster() is not None)


async def test_a_removed_node_stops_its_tasks_says_so_and_can_join_anew(tmp_path: Path) -> None:
    async with hosts_in(tmp_path, 2) as (manager, worker):
        await manager.init()
        await worker.join(manager)
        await manager.run_service(4)
        await until(lambda: running_tasks(worker) == 2)
        access = manager.running.cluster()
        assert access is not None
        changes = api_nodes.remove(
            manager.view,
            manager.node(id_of(worker)),
            raft=access.raft_status(),
            now=manager.node(id_of(worker)).updated_at,
            is_forced=True,
        )
        await manager.propose(*changes)
        await until(lambda: worker.state is LocalState.ERROR)
        assert "was removed from the swarm" in worker.running.local().error
        await until(lambda: running_tasks(worker) == 0)
        await until(lambda: running_tasks(manager) == 4)
        states = {
            task.status.state for task in manager.view.tasks() if task.desired_state > TaskState.RUNNING
        }
        assert TaskState.RUNNING not in states
        await worker.stop()
        await worker.start()
        await until(lambda: worker.state is LocalState.ERROR)
        await worker.running.leave(force=False)
        assert_outside(worker)
        await worker.join(manager)


async def test_a_leave_whose_tasks_cannot_be_taken_down_can_be_repeated(tmp_path: Path) -> None:
    async with hosts_in(tmp_path, 1) as (host,):
        await host.init()
        await host.run_service(1)
        await until(lambda: running_tasks(host) == 1)

        def fails(verb: str, subject: str) -> float:
            if verb == "remove":
                raise Unavailable("the machine says no")
            return 0.0

        host.machine.script = fails
        with pytest.raises(Unavailable, match="could not be taken down: the machine says no"):
            await host.running.leave(force=True)
        local = host.running.local()
        assert local.state is LocalState.ERROR
        assert "the machine says no" in local.error
        host.machine.script = lambda verb, subject: 0.0
        await host.running.leave(force=True)
        assert_outside(host)
        assert host.machine.tasks == {}


async def test_a_defect_in_the_agent_ends_the_daemon_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks(self: object) -> None:
        raise ValueError("a defect")

    async with hosts_in(tmp_path, 1) as (host,):
        await host.init()
        await host.stop()
        monkeypatch.setattr("agent.driver.Driver.run", breaks)
        await host.start()
        async with asyncio.timeout(10):
            assert "ValueError: a defect" in await host.running.fatal


async def test_a_renewed_certificate_is_used_at_once(tmp_path: Path) -> None:
    async with hosts_in(tmp_path, 2) as (manager, worker):
        await manager.init()
        await worker.join(manager)
        for host in (manager, worker):
            part = host.running._part
            assert part is not None
            before = part.identity.certificate
            session = manager.node(id_of(host)).status.session_id
            part._renewal.ask_now()
            await until(lambda part=part, before=before: part.identity.certificate != before)  # type: ignore[misc]
            await until(
                lambda host=host, session=session: manager.node(id_of(host)).status.session_id != session  # type: ignore[misc]
            )
            assert part.identity.role is (Role.MANAGER if host is manager else Role.WORKER)
        part = manager.running._part
        assert part is not None
        assert part.manager is not None
        assert part.manager._server.trust.identity == part.identity
