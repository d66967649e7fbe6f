"""A cluster's authority, its nodes' identities and its port on loopback, for tests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from manager.ca import CertificateAuthority
from swarmpy import pki, rpc
from swarmpy.errors import AlreadyExists
from swarmpy.model.ids import SECOND_NS, ClusterId, Duration, NodeId, Timestamp, make_id
from swarmpy.model.objects import Cluster, Node
from swarmpy.pb import ca_pb2_grpc, dispatcher_pb2, dispatcher_pb2_grpc, raft_pb2, raft_pb2_grpc
from swarmpy.pki import Identity, Role
from swarmpy.runtime import Env, SystemClock

if TYPE_CHECKING:
    # Loaded here it would be loaded before SwarmPy has set its log.
    import grpc.aio

PING = "/swarmpy.v1.Raft/Ping"
HOUR = Duration(3600 * SECOND_NS)
DAY = Duration(24 * HOUR)


class ShiftedClock(SystemClock):
    """The real time, and as much later as a test says."""

    def __init__(self) -> None:
        self.shift = Duration(0)

    def now(self) -> Timestamp:
        return Timestamp(super().now() + self.shift)


class MemoryRegistry:
    """The authority's view of store and raft, without either."""

    def __init__(self, cluster: Cluster) -> None:
        self.current: Cluster | None = cluster
        self.nodes: dict[NodeId, Node] = {}
        self.registrations = 0
        self.addresses: list[tuple[NodeId, str]] = []

    def cluster(self) -> Cluster | None:
        return self.current

    def node(self, node_id: NodeId) -> Node | None:
        return self.nodes.get(node_id)

    def managers(self) -> Sequence[tuple[NodeId, str]]:
        return self.addresses

    async def catch_up(self) -> None:
        pass

    async def register(self, node: Node) -> None:
        self.registrations += 1
        if node.id in self.nodes:
            raise AlreadyExists(f"node {node.id} exists")
        self.nodes[node.id] = node


class ManagerCalls(raft_pb2_grpc.RaftServicer):
    """``Ping`` stands for every call that only managers may make; tests override what they need."""

    async def Ping(
        self, request: raft_pb2.RaftPingRequest, context: rpc.Context
    ) -> raft_pb2.RaftPingResponse:
        return raft_pb2.RaftPingResponse(raft_id=rpc.peer_of(context).node_id)

    async def Stream(
        self, request_iterator: AsyncIterator[raft_pb2.RaftFrames], context: rpc.Context
    ) -> AsyncIterator[raft_pb2.RaftFrames]:
        yield raft_pb2.RaftFrames()

    async def Members(
        self, request: raft_pb2.RaftMembersRequest, context: rpc.Context
    ) -> raft_pb2.RaftMembersResponse:
        return raft_pb2.RaftMembersResponse()

    async def Join(
        self, request: raft_pb2.RaftJoinRequest, context: rpc.Context
    ) -> raft_pb2.RaftJoinResponse:
        return raft_pb2.RaftJoinResponse()

    async def Leave(
        self, request: raft_pb2.RaftLeaveRequest, context: rpc.Context
    ) -> raft_pb2.RaftLeaveResponse:
        return raft_pb2.RaftLeaveResponse()


class Sessions(dispatcher_pb2_grpc.DispatcherServicer):
    """Greets, then tells when the stream's end is noticed."""

    def __init__(self) -> None:
        self.open: set[NodeId] = set()

    async def Session(
        self, request_iterator: AsyncIterator[dispatcher_pb2.AgentMessage], context: rpc.Context
    ) -> AsyncIterator[dispatcher_pb2.ManagerMessage]:
        node_id = rpc.peer_of(context).node_id
        self.open.add(node_id)
        try:
            yield dispatcher_pb2.ManagerMessage(welcome=dispatcher_pb2.Welcome(session_id=node_id))
            async for _ in request_iterator:
                pass
        finally:
            self.open.discard(node_id)


class PkiCluster:
    def __init__(self) -> None:
        self.clock = ShiftedClock()
        self.env = Env(clock=self.clock)
        self.id = ClusterId(make_id(os.urandom(17)))
        root = pki.create_root_ca(
            self.clock.now(),
            key=os.urandom(pki.KEY_BYTES),
            serial=os.urandom(pki.SERIAL_BYTES),
            secrets=(os.urandom(pki.SECRET_BYTES), os.urandom(pki.SECRET_BYTES)),
        )
        self.cluster = Cluster(id=self.id, root_ca=root)
        self.registry = MemoryRegistry(self.cluster)
        self.sessions = Sessions()
        self.manager = self.identity(Role.MANAGER)

    def identity(
        self,
        role: Role,
        *,
        node_id: NodeId | None = None,
        cluster_id: ClusterId | None = None,
        now: Timestamp | None = None,
        expiry: Duration = DAY,
    ) -> Identity:
        """A node certificate as the authority would issue it, if need be with a lie in it."""
        key, csr = pki.create_csr(os.urandom(pki.KEY_BYTES))
        certificate = pki.issue_certificate(
            self.cluster.root_ca,
            csr,
            pki.Subject(
                node_id=node_id or NodeId(make_id(os.urandom(17))),
                role=role,
                cluster_id=cluster_id or self.id,
            ),
            validity=pki.validity_from(self.clock.now() if now is None else now, expiry),
            serial=os.urandom(pki.SERIAL_BYTES),
        )
        roots = pki.trust_bundle(self.cluster.root_ca)
        return pki.load_identity(certificate=certificate, key=key, roots=roots)

    def joiner(self, role: Role) -> Identity:
        """What the holder of the present token for the role presents."""
        tokens = self.cluster.root_ca.join_tokens
        text = tokens.manager if role is Role.MANAGER else tokens.worker
        return pki.join_identity(pki.parse_token(text), self.cluster.root_ca.ca_cert)

    def trust(self) -> rpc.Trust:
        return rpc.Trust.of_cluster(self.manager, self.cluster)

    def change(self, server: rpc.Server, cluster: Cluster) -> None:
        """The cluster object changes, and the server hears of it."""
        self.cluster = cluster
        self.registry.current = cluster
        server.trust = self.trust()

    @asynccontextmanager
    async def serve(self, address: str = "127.0.0.1:0") -> AsyncIterator[tuple[rpc.Server, str]]:
        """The port, open on loopback; its address."""
        server = rpc.Server(self.trust(), clock=self.clock)
        ca_pb2_grpc.add_CertificateAuthorityServicer_to_server(
            CertificateAuthority(self.registry, env=self.env), server.grpc
        )
        raft_pb2_grpc.add_RaftServicer_to_server(ManagerCalls(), server.grpc)
        dispatcher_pb2_grpc.add_DispatcherServicer_to_server(self.sessions, server.grpc)
        port = await server.start(address)
        listening = f"127.0.0.1:{port}"
        self.registry.addresses = [(self.manager.node_id, listening)]
        try:
            yield server, listening
        finally:
            await server.stop(0)


def pinger(channel: grpc.aio.Channel) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
    """The call of ``ping`` in bytes, on a channel that the test keeps."""
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PING)
    return call


async def ping(identity: Identity, address: str) -> str:
    """A call that only managers may make; the node id that the server saw."""
    with rpc.translate_errors():
        async with rpc.dial(identity, address) as channel:
            stub: raft_pb2_grpc.RaftAsyncStub = raft_pb2_grpc.RaftStub(channel)
            answer = await stub.Ping(raft_pb2.RaftPingRequest(), timeout=5)
            return answer.raft_id


async def greet(identity: Identity, address: str) -> str:
    """A stream that any node may open; the node id that the server saw."""
    with rpc.translate_errors():
        async with rpc.dial(identity, address) as channel:
            stub: dispatcher_pb2_grpc.DispatcherAsyncStub = dispatcher_pb2_grpc.DispatcherStub(channel)
            call = stub.Session(timeout=5)
            async for message in call:
                return message.welcome.session_id
    return ""


def forge(issuer: Identity, *, cluster_id: ClusterId, roots: bytes, is_chained: bool = False) -> Identity:
    """A manager's certificate signed by somebody who is no authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    signer = x509.load_pem_x509_certificate(issuer.certificate)
    signing_key = serialization.load_pem_private_key(issuer.key, password=None)
    assert isinstance(signing_key, ec.EllipticCurvePrivateKey)
    node_id = NodeId(make_id(os.urandom(17)))
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster_id),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, Role.MANAGER.value),
            x509.NameAttribute(NameOID.COMMON_NAME, node_id),
        ]
    )
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject_name=name, issuer_name=signer.subject, public_key=key.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(Role.MANAGER.value)]), critical=False)
        .sign(signing_key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    return replace(
        issuer,
        certificate=certificate + (issuer.certificate if is_chained else b""),
        key=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        roots=roots,
        node_id=node_id,
        role=Role.MANAGER,
        cluster_id=cluster_id,
    )
