"""Joining over real connections, the files of an identity, and renewal."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from pki_cluster import DAY, HOUR, PkiCluster, greet, ping

from agent.identity import (
    Admission,
    IdentityFiles,
    JoinRequest,
    Renewal,
    join,
)
from swarmpy import limits, pki
from swarmpy.errors import Corrupt, InvalidArgument, NoLeader, PermissionDenied, Unavailable
from swarmpy.model.ids import Duration, Timestamp
from swarmpy.model.objects import Node
from swarmpy.model.states import NodeRole
from swarmpy.pki import Identity, Role
from swarmpy.runtime import Disk, SystemDisk
from swarmpy.tls_probe import fetch_chain, is_turned_away, split_address

DEADLINE_S = 10.0


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> PkiCluster:
    monkeypatch.setattr(limits, "JOIN_RETRY_MIN_S", 0.01)
    monkeypatch.setattr(limits, "RENEW_RETRY_MIN_S", 0.02)
    return PkiCluster()


def request(cluster: PkiCluster, *addresses: str, role: Role = Role.WORKER) -> JoinRequest:
    tokens = cluster.cluster.root_ca.join_tokens
    return JoinRequest(
        addresses=addresses,
        token=tokens.manager if role is Role.MANAGER else tokens.worker,
        hostname="host-1",
    )


# --- joining


@pytest.mark.parametrize("role", [Role.WORKER, Role.MANAGER])
async def test_a_joiner_becomes_a_node(cluster: PkiCluster, role: Role) -> None:
    async with cluster.serve() as (_, address):
        admission = await join(request(cluster, address, role=role), env=cluster.env)
        identity = admission.identity
        assert (identity.role, identity.cluster_id) == (role, cluster.id)
        assert identity.roots == cluster.cluster.root_ca.ca_cert
        assert cluster.registry.nodes[identity.node_id].description.hostname == "host-1"
        assert admission == Admission(
            identity=identity,
            managers=((cluster.manager.node_id, address),),
            observed_host="127.0.0.1",
        )
        assert await greet(identity, address) == identity.node_id


async def test_the_chain_that_a_manager_presents_ends_in_its_root(cluster: PkiCluster) -> None:
    """Guards the way that ``fetch_chain`` reads it, which differs between versions of Python."""
    async with cluster.serve() as (_, address):
        chain = await fetch_chain(address)
    assert pki.split_pem(chain) == pki.split_pem(cluster.manager.certificate + cluster.manager.roots)


async def test_addresses_are_tried_in_turn(cluster: PkiCluster) -> None:
    async with cluster.serve() as (_, dead):
        pass
    async with cluster.serve() as (_, address):
        admission = await join(request(cluster, dead, address), env=cluster.env)
    assert list(cluster.registry.nodes) == [admission.identity.node_id]


async def test_a_lost_answer_makes_no_second_node(cluster: PkiCluster) -> None:
    register, failures = cluster.registry.register, 2

    async def flaky(node: Node) -> None:
        nonlocal failures
        await register(node)
        if failures:
            failures -= 1
            raise NoLeader()

    cluster.registry.register = flaky  # type: ignore[method-assign]
    async with cluster.serve() as (_, address):
        admission = await join(request(cluster, address), env=cluster.env)
    assert list(cluster.registry.nodes) == [admission.identity.node_id]


async def test_a_cluster_without_a_leader_is_waited_for_but_not_for_ever(
    cluster: PkiCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "JOIN_TIMEOUT_S", 0.5)

    async def refuse(node: Node) -> None:
        raise NoLeader()

    cluster.registry.register = refuse  # type: ignore[method-assign]
    async with cluster.serve() as (_, address):
        with pytest.raises(NoLeader):
            await join(request(cluster, address), env=cluster.env)


# --- tokens that must not work


@pytest.mark.parametrize("text", ["", "SWMTKN-1-abc", "x" * 1_000_000], ids=["empty", "truncated", "1 MB"])
async def test_a_malformed_token_touches_no_network(cluster: PkiCluster, text: str) -> None:
    connections = []
    async with listening(lambda reader, writer: connections.append(writer)) as address:
        with pytest.raises(InvalidArgument, match="invalid join token"):
            await join(replace(request(cluster, address), token=text), env=cluster.env)
    assert not connections


async def test_a_token_of_another_cluster_never_gets_to_the_manager(cluster: PkiCluster) -> None:
    """The digest is compared before anything that was made of the secret is shown."""
    foreign = request(PkiCluster(), "127.0.0.1:1").token
    async with cluster.serve() as (_, address):
        with pytest.raises(
            InvalidArgument, match=r"remote CA does not match fingerprint\. Expected: .*Got: "
        ):
            await join(replace(request(cluster, address), token=foreign), env=cluster.env)
    assert not cluster.registry.nodes


@pytest.mark.parametrize("role", [Role.WORKER, Role.MANAGER])
async def test_a_wrong_secret_is_named_as_such(cluster: PkiCluster, role: Role) -> None:
    wrong = pki.create_token(cluster.cluster.root_ca.ca_cert, os.urandom(pki.SECRET_BYTES))
    async with cluster.serve() as (_, address):
        with pytest.raises(InvalidArgument, match="A valid join token is necessary to join this cluster"):
            await join(replace(request(cluster, address, role=role), token=str(wrong)), env=cluster.env)
    assert not cluster.registry.nodes


async def test_an_old_token_is_refused_and_its_successor_works(cluster: PkiCluster) -> None:
    old = request(cluster, "127.0.0.1:1").token
    async with cluster.serve() as (server, address):
        root = pki.rotate_tokens(cluster.cluster.root_ca, worker=os.urandom(pki.SECRET_BYTES))
        cluster.change(server, msgspec.structs.replace(cluster.cluster, root_ca=root))
        with pytest.raises(InvalidArgument, match="A valid join token is necessary"):
            await join(replace(request(cluster, address), token=old), env=cluster.env)
        assert not cluster.registry.nodes
        admission = await join(request(cluster, address), env=cluster.env)
    assert admission.identity.role is Role.WORKER


async def test_only_a_refused_certificate_counts_as_turned_away(cluster: PkiCluster) -> None:
    async with cluster.serve() as (_, address):
        assert not await is_turned_away(cluster.joiner(Role.WORKER), address)
        assert not await is_turned_away(cluster.identity(Role.WORKER), address)
        wrong = pki.create_token(cluster.cluster.root_ca.ca_cert, os.urandom(pki.SECRET_BYTES))
        assert await is_turned_away(pki.join_identity(wrong, cluster.cluster.root_ca.ca_cert), address)


# --- addresses that are no managers


async def test_nobody_at_the_address(cluster: PkiCluster) -> None:
    """A worker listens on no port; neither does a manager that is down."""
    async with cluster.serve() as (_, address):
        pass
    with pytest.raises(Unavailable, match=f"no manager can be reached at {address}: .*[Cc]onnect"):
        await join(request(cluster, address), env=cluster.env)


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n", b"\0" * 100])
async def test_something_else_at_the_address(cluster: PkiCluster, greeting: bytes) -> None:
    def greet_with(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)

    async with listening(greet_with) as address:
        with pytest.raises(InvalidArgument, match=f"at {address} is not a manager"):
            await join(request(cluster, address), env=cluster.env)


async def test_silence_at_the_address(cluster: PkiCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "JOIN_PROBE_TIMEOUT_S", 0.05)
    async with listening(lambda reader, writer: None) as address:
        with pytest.raises(Unavailable, match=f"no answer from {address}"):
            await join(request(cluster, address), env=cluster.env)


async def test_a_node_with_the_right_root_that_is_no_manager(cluster: PkiCluster) -> None:
    cluster.manager = cluster.identity(Role.WORKER)
    async with cluster.serve() as (_, address):
        with pytest.raises(InvalidArgument, match=f"at {address} is not a manager"):
            await join(request(cluster, address), env=cluster.env)
    assert not cluster.registry.nodes


@pytest.mark.parametrize("text", ["", "host", "host:", ":2377", "host:0", "host:65536", "host:-1", "host:²"])
async def test_an_address_without_host_or_port(cluster: PkiCluster, text: str) -> None:
    with pytest.raises(InvalidArgument, match="give HOST:PORT"):
        await join(request(cluster, text), env=cluster.env)


def test_addresses_of_either_family() -> None:
    assert split_address("10.0.0.1:2377") == ("10.0.0.1", 2377)
    assert split_address("[fd00::1]:2377") == ("fd00::1", 2377)


@asynccontextmanager
async def listening(
    on_connection: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None],
) -> AsyncIterator[str]:
    """Holds its connections until the end: one that nobody holds is closed, which is no silence."""
    writers: list[asyncio.StreamWriter] = []

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        on_connection(reader, writer)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for writer in writers:
            writer.close()


# --- files


class FailingDisk(SystemDisk):
    """Crashes at the n-th change."""

    def __init__(self, changes: int) -> None:
        self.left = changes

    def _count(self) -> None:
        if self.left == 0:
            raise OSError("crash")
        self.left -= 1

    def write_atomic(self, path: Path, data: bytes, *, mode: int = 0o600) -> None:
        self._count()
        super().write_atomic(path, data, mode=mode)

    def replace(self, source: Path, target: Path) -> None:
        if source.suffix != ".tmp":
            self._count()
        super().replace(source, target)


def test_an_identity_is_kept_with_its_key_to_itself(cluster: PkiCluster, tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    files = IdentityFiles(SystemDisk(), folder)
    assert files.load() is None
    for identity in (cluster.identity(Role.WORKER), cluster.identity(Role.MANAGER)):
        files.save(identity)
        assert files.load() == identity
    assert sorted(path.name for path in folder.iterdir()) == [
        "swarm-node.crt",
        "swarm-node.key",
        "swarm-root-ca.crt",
    ]
    assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o600"}
    assert folder.stat().st_mode & 0o777 == 0o700
    files.remove()
    assert files.load() is None


@pytest.mark.parametrize("changes", range(4))
def test_a_crash_while_saving_leaves_a_whole_identity(
    cluster: PkiCluster, tmp_path: Path, changes: int
) -> None:
    old, new = cluster.identity(Role.WORKER), cluster.identity(Role.MANAGER)
    IdentityFiles(SystemDisk(), tmp_path).save(old)
    with pytest.raises(OSError, match="crash"):
        IdentityFiles(FailingDisk(changes), tmp_path).save(new)
    files = IdentityFiles(SystemDisk(), tmp_path)
    assert files.load() == (old if changes < 3 else new)
    files.save(new)
    assert files.load() == new


@pytest.mark.parametrize("changes", range(4))
def test_a_crash_before_the_first_certificate_leaves_none(
    cluster: PkiCluster, tmp_path: Path, changes: int
) -> None:
    identity = cluster.identity(Role.WORKER)
    with pytest.raises(OSError, match="crash"):
        IdentityFiles(FailingDisk(changes), tmp_path).save(identity)
    assert IdentityFiles(SystemDisk(), tmp_path).load() == (None if changes < 3 else identity)


@pytest.mark.parametrize("name", ["swarm-node.crt", "swarm-node.key", "swarm-root-ca.crt"])
@pytest.mark.parametrize("is_missing", [False, True])
def test_a_damaged_identity_is_named(
    cluster: PkiCluster, tmp_path: Path, name: str, is_missing: bool
) -> None:
    files = IdentityFiles(SystemDisk(), tmp_path)
    files.save(cluster.identity(Role.WORKER))
    if is_missing:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(b"\0")
    if is_missing and name == "swarm-node.crt":
        assert files.load() is None
        return
    with pytest.raises(Corrupt, match=str(tmp_path)):
        files.load()


# --- renewal


class Renewing:
    """A node whose identity is kept fresh, and what became of it."""

    def __init__(self, cluster: PkiCluster, folder: Path, identity: Identity, *addresses: str) -> None:
        disk: Disk = SystemDisk()
        self.files = IdentityFiles(disk, folder)
        self.files.save(identity)
        self.renewed: list[Identity] = []
        self.renewal = Renewal(
            identity,
            files=self.files,
            managers=lambda: addresses,
            on_renewed=self.renewed.append,
            env=cluster.env,
        )
        cluster.registry.nodes[identity.node_id] = Node(id=identity.node_id, role=identity.role.node_role)

    async def wait_renewed(self, times: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while len(self.renewed) < times:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running(renewal: Renewal) -> AsyncIterator[None]:
    task = asyncio.create_task(renewal.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_promoted_node_gets_its_new_role_when_told(cluster: PkiCluster, tmp_path: Path) -> None:
    worker = cluster.identity(Role.WORKER)
    async with cluster.serve() as (_, address):
        node = Renewing(cluster, tmp_path, worker, address)
        async with running(node.renewal):
            with pytest.raises(PermissionDenied):
                await ping(worker, address)
            cluster.registry.nodes[worker.node_id] = Node(id=worker.node_id, role=NodeRole.MANAGER)
            node.renewal.ask_now()
            await node.wait_renewed(1)
        (manager,) = node.renewed
        assert (manager.node_id, manager.role) == (worker.node_id, Role.MANAGER)
        assert manager.key != worker.key
        assert node.files.load() == manager
        assert await ping(manager, address) == worker.node_id


async def test_a_certificate_is_renewed_once_its_time_has_come(cluster: PkiCluster, tmp_path: Path) -> None:
    """Not before: what is fresh is left alone."""
    half_gone = cluster.identity(
        Role.WORKER, now=Timestamp(cluster.clock.now() - 81 * DAY), expiry=Duration(100 * DAY)
    )
    async with cluster.serve() as (_, address):
        node = Renewing(cluster, tmp_path, half_gone, address)
        async with running(node.renewal):
            await node.wait_renewed(1)
            await asyncio.sleep(0.1)
    assert len(node.renewed) == 1
    assert node.renewed[0].validity.not_after > cluster.clock.now() + 89 * DAY


async def test_a_clock_that_jumps_is_noticed(
    cluster: PkiCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RENEW_CHECK_PERIOD_S", 0.02)
    async with cluster.serve() as (_, address):
        node = Renewing(cluster, tmp_path, cluster.identity(Role.WORKER, expiry=Duration(10 * HOUR)), address)
        async with running(node.renewal):
            await asyncio.sleep(0.1)
            assert not node.renewed
            cluster.clock.shift = Duration(9 * HOUR)
            await node.wait_renewed(1)


async def test_managers_that_fail_are_passed_over_and_tried_again(
    cluster: PkiCluster, tmp_path: Path
) -> None:
    async with cluster.serve() as (_, dead):
        pass
    cluster.registry.current = None
    async with cluster.serve() as (_, address):
        node = Renewing(cluster, tmp_path, cluster.identity(Role.WORKER), dead, address)
        async with running(node.renewal):
            node.renewal.ask_now()
            await asyncio.sleep(0.2)
            assert not node.renewed
            cluster.registry.current = cluster.cluster
            await node.wait_renewed(1)


async def test_a_removed_node_stops_asking(cluster: PkiCluster, tmp_path: Path) -> None:
    async with cluster.serve() as (_, address):
        node = Renewing(cluster, tmp_path, cluster.identity(Role.WORKER), address)
        cluster.registry.nodes.clear()
        node.renewal.ask_now()
        with pytest.raises(PermissionDenied, match="join anew"):
            async with asyncio.timeout(DEADLINE_S):
                await node.renewal.run()
    assert not node.renewed
