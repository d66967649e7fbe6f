"""The port: who gets in, who may call what, what errors look like, and what changes while it is open."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import pkgutil
import signal
import ssl
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import grpc.aio
import msgspec
import pytest
from google.protobuf.descriptor import FileDescriptor
from pki_cluster import DAY, HOUR, PING, ManagerCalls, PkiCluster, forge, greet, ping, pinger

import swarmpy.pb
from swarmpy import errors, limits, pki, rpc
from swarmpy.errors import (
    FailedPrecondition,
    PermissionDenied,
    Retry,
    SwarmError,
    Unauthenticated,
    Unavailable,
)
from swarmpy.model.ids import ClusterId, Duration, Timestamp
from swarmpy.model.objects import RemovedNode
from swarmpy.pb import raft_pb2, raft_pb2_grpc
from swarmpy.pki import Identity, Role

DEADLINE_S = 10.0


@pytest.fixture
def cluster() -> PkiCluster:
    return PkiCluster()


def test_every_method_of_every_service_has_a_row() -> None:
    methods = set()
    for module in pkgutil.iter_modules(swarmpy.pb.__path__):
        if module.name.endswith("_pb2"):
            descriptor = importlib.import_module(f"swarmpy.pb.{module.name}").DESCRIPTOR
            assert isinstance(descriptor, FileDescriptor)
            methods |= {
                f"/{service.full_name}/{method.name}"
                for service in descriptor.services_by_name.values()
                for method in service.methods
            }
    assert methods == set(rpc.METHOD_ROLES)
    assert all(rpc.METHOD_ROLES.values())


def test_joiners_may_only_ask_for_certificates() -> None:
    joiners = {Role.JOIN_WORKER, Role.JOIN_MANAGER}
    assert [method for method, roles in rpc.METHOD_ROLES.items() if roles & joiners] == [
        "/swarmpy.v1.CertificateAuthority/IssueCertificate"
    ]


async def test_nodes_are_known_by_their_certificates(cluster: PkiCluster) -> None:
    worker, manager = cluster.identity(Role.WORKER), cluster.identity(Role.MANAGER)
    async with cluster.serve() as (_, address):
        assert await ping(manager, address) == manager.node_id
        assert await greet(worker, address) == worker.node_id
        with pytest.raises(PermissionDenied, match="for swarm-manager, the caller is swarm-worker"):
            await ping(worker, address)


@pytest.mark.parametrize("role", [Role.WORKER, Role.MANAGER])
async def test_a_joiner_gets_no_further_than_the_authority(cluster: PkiCluster, role: Role) -> None:
    async with cluster.serve() as (_, address):
        with pytest.raises(PermissionDenied, match=f"the caller is swarm-join-{role.node_role}"):
            await ping(cluster.joiner(role), address)
        with pytest.raises(PermissionDenied):
            await greet(cluster.joiner(role), address)


async def test_a_method_without_a_row_is_refused(cluster: PkiCluster) -> None:
    table = {method: roles for method, roles in rpc.METHOD_ROLES.items() if not method.endswith("/Ping")}
    server = rpc.Server(cluster.trust(), clock=cluster.clock, method_roles=table)
    raft_pb2_grpc.add_RaftServicer_to_server(ManagerCalls(), server.grpc)
    port = await server.start("127.0.0.1:0")
    try:
        with pytest.raises(PermissionDenied, match="for nobody"):
            await ping(cluster.manager, f"127.0.0.1:{port}")
    finally:
        await server.stop(0)


def test_outside_a_checked_call_nobody_is_the_caller() -> None:
    class Bare:
        def peer(self) -> str:
            return "ipv4:127.0.0.1:1"

        def auth_context(self) -> dict[str, object]:
            return {}

    with pytest.raises(Unauthenticated):
        rpc.peer_of(Bare())


# --- certificates that must not get in


async def test_strangers_are_turned_away(cluster: PkiCluster) -> None:
    other = PkiCluster()
    roots = cluster.cluster.root_ca.ca_cert
    long_ago = Timestamp(cluster.clock.now() - DAY)
    strangers = {
        "of another cluster": replace(other.identity(Role.MANAGER), roots=roots),
        "a token of another cluster": replace(other.joiner(Role.MANAGER), roots=roots),
        "expired": cluster.identity(Role.MANAGER, now=long_ago, expiry=HOUR),
        "not valid yet": cluster.identity(Role.MANAGER, now=Timestamp(cluster.clock.now() + 8 * DAY)),
    }
    async with cluster.serve() as (_, address):
        for what, stranger in strangers.items():
            with pytest.raises(Retry):
                pytest.fail(f"{what}: {await ping(stranger, address)}")
        assert await ping(cluster.manager, address) == cluster.manager.node_id


@pytest.mark.parametrize("is_chained", [False, True])
async def test_only_the_root_vouches_for_others(cluster: PkiCluster, is_chained: bool) -> None:
    """A join certificate is in the trust bundle, a worker's leads to it; neither is an authority."""
    roots = cluster.cluster.root_ca.ca_cert
    async with cluster.serve() as (server, address):
        for issuer in (cluster.joiner(Role.WORKER), cluster.identity(Role.WORKER)):
            forged = forge(issuer, cluster_id=cluster.id, roots=roots, is_chained=is_chained)
            with pytest.raises(Retry):
                pytest.fail(await ping(forged, address))
            # The second line of defence, were TLS to let it pass.
            interceptor = rpc.AuthorizingInterceptor(
                server.trust, clock=cluster.clock, method_roles=rpc.METHOD_ROLES
            )
            with pytest.raises(PermissionDenied, match="not issued by this cluster"):
                interceptor.authorize(PING, forged.certificate)


async def test_a_client_accepts_only_a_manager_of_its_cluster(cluster: PkiCluster) -> None:
    roots = cluster.cluster.root_ca.ca_cert
    impostors = {
        "a worker": cluster.identity(Role.WORKER),
        "another cluster's manager": PkiCluster().manager,
        "the holder of a join token": cluster.joiner(Role.MANAGER),
        "forged": forge(cluster.joiner(Role.MANAGER), cluster_id=cluster.id, roots=roots),
    }
    client = cluster.identity(Role.MANAGER)
    for what, impostor in impostors.items():
        cluster.manager = replace(impostor, roots=roots)
        async with cluster.serve() as (_, address):
            with pytest.raises(Unavailable, match="cannot be reached"):
                pytest.fail(f"{what}: {await ping(client, address)}")


def test_the_second_check_wants_this_cluster_and_the_present_time(cluster: PkiCluster) -> None:
    interceptor = rpc.AuthorizingInterceptor(
        cluster.trust(), clock=cluster.clock, method_roles=rpc.METHOD_ROLES
    )
    foreign = cluster.identity(Role.MANAGER, cluster_id=ClusterId("b" * 25))
    with pytest.raises(PermissionDenied, match="of another cluster"):
        interceptor.authorize(PING, foreign.certificate)
    short = cluster.identity(Role.MANAGER, expiry=HOUR)
    assert interceptor.authorize(PING, short.certificate).node_id == short.node_id
    cluster.clock.shift = Duration(2 * HOUR)
    with pytest.raises(Unauthenticated, match="has expired"):
        interceptor.authorize(PING, short.certificate)


async def test_garbage_on_the_port_does_no_harm(cluster: PkiCluster) -> None:
    async with cluster.serve() as (_, address):
        host, _, port = address.rpartition(":")
        for garbage in (b"\0" * 4096, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 70_000):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(garbage)
            async with asyncio.timeout(DEADLINE_S):
                with contextlib.suppress(ConnectionError):
                    await reader.read()
            writer.close()
        _, idle = await asyncio.open_connection(host, int(port))
        assert await ping(cluster.manager, address) == cluster.manager.node_id
        idle.close()


# --- what changes while the port is open


async def test_a_rotated_token_is_refused_at_once(cluster: PkiCluster) -> None:
    """Also on a connection that was made with it before."""
    old = cluster.joiner(Role.WORKER)
    async with cluster.serve() as (server, address), rpc.dial(old, address) as channel:
        call = pinger(channel)
        with pytest.raises(PermissionDenied, match="the caller is swarm-join-worker"), rpc.translate_errors():
            await call(b"", timeout=5)
        root = pki.rotate_tokens(cluster.cluster.root_ca, worker=os.urandom(pki.SECRET_BYTES))
        cluster.change(server, msgspec.structs.replace(cluster.cluster, root_ca=root))
        with pytest.raises(PermissionDenied, match="not issued by this cluster"), rpc.translate_errors():
            await call(b"", timeout=5)
        with pytest.raises(Retry):
            await ping(old, address)
        for role in (Role.WORKER, Role.MANAGER):
            with pytest.raises(PermissionDenied, match="the caller is swarm-join"):
                await ping(cluster.joiner(role), address)


async def test_a_removed_node_is_refused_though_its_certificate_holds(cluster: PkiCluster) -> None:
    node = cluster.identity(Role.MANAGER)
    async with cluster.serve() as (server, address):
        assert await ping(node, address) == node.node_id
        removed = (RemovedNode(node_id=node.node_id, expires_at=node.validity.not_after),)
        cluster.change(server, msgspec.structs.replace(cluster.cluster, removed_nodes=removed))
        with pytest.raises(PermissionDenied, match="was removed"):
            await ping(node, address)
        assert await ping(cluster.manager, address) == cluster.manager.node_id


async def test_a_renewed_certificate_is_shown_to_new_connections(cluster: PkiCluster) -> None:
    async def served_certificate(address: str) -> str:
        host, _, port = address.rpartition(":")
        return await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)), timeout=5)

    client = cluster.identity(Role.MANAGER)
    async with cluster.serve() as (server, address), rpc.dial(client, address) as channel:
        call = pinger(channel)
        await call(b"", timeout=5)
        before = await served_certificate(address)
        cluster.manager = cluster.identity(Role.MANAGER, node_id=cluster.manager.node_id)
        server.trust = cluster.trust()
        after = await served_certificate(address)
        assert before != after
        assert after.encode() in cluster.manager.certificate
        await call(b"", timeout=5)
        assert await ping(client, address) == client.node_id


async def test_a_port_in_use_is_named(cluster: PkiCluster) -> None:
    async with cluster.serve() as (_, address):
        with pytest.raises(FailedPrecondition, match=f"{address}: bind: address already in use"):
            await rpc.Server(cluster.trust(), clock=cluster.clock).start(address)


# --- errors


ERRORS = [
    errors.Rejected("a"),
    errors.InvalidArgument("b"),
    errors.FailedPrecondition("c"),
    errors.NotFound("service web not found"),
    errors.AlreadyExists("d"),
    errors.PermissionDenied("e"),
    errors.Unauthenticated("f"),
    errors.Unimplemented("g"),
    errors.Stale(),
    errors.NotInSwarm("h"),
    errors.Retry("i", delay_s=2.5),
    errors.Unavailable("j"),
    errors.NotLeader(leader="abc"),
    errors.NotLeader(),
    errors.NoLeader(),
    errors.OutcomeUnknown("k ä"),
    SwarmError("l"),
]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_errors_survive_the_wire(cluster: PkiCluster, is_stream: bool) -> None:
    raised: list[SwarmError] = []

    class Failing(ManagerCalls):
        async def Ping(
            self, request: raft_pb2.RaftPingRequest, context: rpc.Context
        ) -> raft_pb2.RaftPingResponse:
            raise raised[-1]

        async def Stream(
            self, request_iterator: AsyncIterator[raft_pb2.RaftFrames], context: rpc.Context
        ) -> AsyncIterator[raft_pb2.RaftFrames]:
            yield raft_pb2.RaftFrames()
            raise raised[-1]

    server = rpc.Server(cluster.trust(), clock=cluster.clock)
    raft_pb2_grpc.add_RaftServicer_to_server(Failing(), server.grpc)
    address = f"127.0.0.1:{await server.start('127.0.0.1:0')}"

    async def call() -> None:
        with rpc.translate_errors():
            if is_stream:
                stub: raft_pb2_grpc.RaftAsyncStub = raft_pb2_grpc.RaftStub(channel)
                async for _ in stub.Stream(timeout=5):
                    pass
            else:
                await pinger(channel)(b"", timeout=5)

    async with rpc.dial(cluster.manager, address) as channel:
        for error in ERRORS:
            raised.append(error)
            with pytest.raises(SwarmError) as caught:
                await call()
            assert type(caught.value) is type(error)
            assert str(caught.value) == str(error)
            assert getattr(caught.value, "delay_s", None) == getattr(error, "delay_s", None)
            assert getattr(caught.value, "leader", None) == getattr(error, "leader", None)
        raised.append(errors.Rejected("x" * 1_000_000))
        with pytest.raises(errors.Rejected, match="xxx"):
            await call()
    await server.stop(0)


async def test_streams_that_write_by_themselves_are_guarded_too(cluster: PkiCluster) -> None:
    """gRPC knows two ways to answer with a stream: a generator, and a coroutine with ``context.write``."""

    class Writing(ManagerCalls):
        async def Stream(  # type: ignore[override]
            self,
            request_iterator: AsyncIterator[raft_pb2.RaftFrames],
            context: grpc.aio.ServicerContext[raft_pb2.RaftFrames, raft_pb2.RaftFrames],
        ) -> None:
            rpc.require_role(context, Role.MANAGER)
            await context.write(raft_pb2.RaftFrames())
            raise errors.NotLeader(leader="abc")

    server = rpc.Server(cluster.trust(), clock=cluster.clock)
    raft_pb2_grpc.add_RaftServicer_to_server(Writing(), server.grpc)
    address = f"127.0.0.1:{await server.start('127.0.0.1:0')}"
    worker = cluster.identity(Role.WORKER)

    received = 0

    async def count(identity: Identity) -> None:
        nonlocal received
        with rpc.translate_errors():
            async with rpc.dial(identity, address) as channel:
                stub: raft_pb2_grpc.RaftAsyncStub = raft_pb2_grpc.RaftStub(channel)
                async for _ in stub.Stream(timeout=5):
                    received += 1

    for identity, refusal in ((cluster.manager, errors.NotLeader), (worker, PermissionDenied)):
        with pytest.raises(refusal):
            await count(identity)
    assert received == 1
    await server.stop(0)


async def test_failures_of_the_transport_say_what_they_mean(cluster: PkiCluster) -> None:
    async with cluster.serve() as (_, address):
        pass
    with pytest.raises(Unavailable, match="cannot be reached"):
        await ping(cluster.manager, address)
    channel = rpc.dial(cluster.manager, address)
    await channel.close()
    with pytest.raises(Unavailable, match="was closed"), rpc.translate_errors():
        await pinger(channel)(b"")

    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    async with silent:
        port = silent.sockets[0].getsockname()[1]
        with pytest.raises(Retry), rpc.translate_errors():
            async with rpc.dial(cluster.manager, f"127.0.0.1:{port}") as channel:
                await pinger(channel)(b"", timeout=0.2)


async def test_a_message_that_is_too_long_is_refused(cluster: PkiCluster) -> None:
    async with cluster.serve() as (_, address), rpc.dial(cluster.manager, address) as channel:
        with pytest.raises(errors.Rejected), rpc.translate_errors():
            await pinger(channel)(bytes(limits.RPC_MESSAGE_BYTES_MAX + 1), timeout=10)


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.7:4711", "10.0.0.7"),
        ("ipv6:%5Bfd00::7%5D:4711", "fd00::7"),
        ("ipv6:[fd00::7]:4711", "fd00::7"),
        ("unix:/run/x.sock", ""),
        ("", ""),
    ],
)
def test_the_host_of_a_peer(peer: str, host: str) -> None:
    class Called:
        def peer(self) -> str:
            return peer

        def auth_context(self) -> dict[str, object]:
            return {}

    assert rpc.peer_host(Called()) == host


# --- a peer that stops answering


STREAMING_CLIENT = """
    import asyncio, sys
    from pathlib import Path
    from swarmpy import pki, rpc
    from swarmpy.pb import dispatcher_pb2_grpc

    async def main() -> None:
        folder = Path(sys.argv[1])
        identity = pki.load_identity(
            certificate=(folder / "crt").read_bytes(),
            key=(folder / "key").read_bytes(),
            roots=(folder / "ca").read_bytes(),
        )
        async with rpc.dial(identity, sys.argv[2]) as channel:
            call = dispatcher_pb2_grpc.DispatcherStub(channel).Session()
            async for _ in call:
                pass

    asyncio.run(main())
"""


async def test_a_process_that_is_stopped_is_noticed(cluster: PkiCluster, tmp_path: Path) -> None:
    """Its kernel still acknowledges every byte, so only the pings can tell."""
    worker = cluster.identity(Role.WORKER)
    for name, text in (("crt", worker.certificate), ("key", worker.key), ("ca", worker.roots)):
        (tmp_path / name).write_bytes(text)
    async with cluster.serve() as (_, address):
        script = textwrap.dedent(STREAMING_CLIENT)
        client = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), address])  # noqa: ASYNC220
        try:
            await _until(lambda: worker.node_id in cluster.sessions.open)
            # Longer than two periods: an idle stream with answered pings stays open.
            await asyncio.sleep(2.5)
            assert worker.node_id in cluster.sessions.open
            client.send_signal(signal.SIGSTOP)
            stopped_at = time.monotonic()
            await _until(lambda: worker.node_id not in cluster.sessions.open)
            took_s = time.monotonic() - stopped_at
        finally:
            client.kill()
            client.wait()
    # Generous, since machines that run tests are slow; the default of gRPC would be a minute.
    assert took_s < DEADLINE_S


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


FAILING_HANDSHAKE = """
    import asyncio, sys
    from swarmpy.pb import raft_pb2, raft_pb2_grpc  # loads gRPC first of all
    sys.path.insert(0, sys.argv[1])
    from pki_cluster import PkiCluster, ping
    from swarmpy.errors import Retry

    async def main() -> None:
        cluster = PkiCluster()
        async with cluster.serve() as (_, address):
            try:
                await ping(PkiCluster().manager, address)
            except Retry:
                print("refused")

    asyncio.run(main())
"""


async def test_grpc_writes_no_log_of_its_own() -> None:
    support = Path(__file__).parents[2] / "support"
    script = textwrap.dedent(FAILING_HANDSHAKE)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        str(support),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={key: value for key, value in os.environ.items() if not key.startswith("GRPC_")},
    )
    output, log = await process.communicate()
    assert (output, log) == (b"refused\n", b"")
