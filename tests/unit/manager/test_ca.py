"""Certificates over the wire: who gets which, and what is stored for it."""

from __future__ import annotations

import os

import msgspec
import pytest
from pki_cluster import DAY, PkiCluster

from swarmpy import limits, pki, rpc
from swarmpy.errors import AlreadyExists, InvalidArgument, NoLeader, PermissionDenied, Unavailable
from swarmpy.model.cluster_specs import CAConfig, ClusterSpec
from swarmpy.model.ids import Duration, NodeId
from swarmpy.model.objects import Node, RemovedNode
from swarmpy.model.states import NodeAvailability, NodeRole
from swarmpy.pb import ca_pb2, ca_pb2_grpc, types_pb2
from swarmpy.pki import Identity, Role


@pytest.fixture
def cluster() -> PkiCluster:
    return PkiCluster()


def new_request(**fields: object) -> ca_pb2.IssueRequest:
    _, csr = pki.create_csr(os.urandom(pki.KEY_BYTES))
    request = ca_pb2.IssueRequest(csr=csr)
    for name, value in fields.items():
        setattr(request, name, value)
    return request


async def ask(identity: Identity, address: str, request: ca_pb2.IssueRequest) -> ca_pb2.IssueResponse:
    with rpc.translate_errors():
        async with rpc.dial(identity, address) as channel:
            stub: ca_pb2_grpc.CertificateAuthorityAsyncStub = ca_pb2_grpc.CertificateAuthorityStub(channel)
            return await stub.IssueCertificate(request, timeout=5)


@pytest.mark.parametrize("role", [Role.WORKER, Role.MANAGER])
async def test_the_token_decides_the_role(cluster: PkiCluster, role: Role) -> None:
    async with cluster.serve() as (_, address):
        request = new_request(
            availability=types_pb2.NODE_AVAILABILITY_DRAIN, hostname="host-1", advertise_addr="10.1.2.3:2377"
        )
        response = await ask(cluster.joiner(role), address, request)
        subject, validity = pki.verify_certificate(
            response.certificate, cluster.cluster.root_ca.ca_cert, cluster.clock.now()
        )
        assert subject == pki.Subject(node_id=NodeId(response.node_id), role=role, cluster_id=cluster.id)
        assert validity.not_after - cluster.clock.now() == pytest.approx(90 * DAY, rel=0.001)
        node = cluster.registry.nodes[subject.node_id]
        assert node.role is node.spec.role is role.node_role
        assert node.spec.availability is NodeAvailability.DRAIN
        assert (node.status.addr, node.description.hostname) == ("10.1.2.3", "host-1")
        assert response.root_ca == cluster.cluster.root_ca.ca_cert
        assert [(peer.node_id, peer.addr) for peer in response.managers] == [
            (cluster.manager.node_id, address)
        ]
        assert response.observed_host == "127.0.0.1"


@pytest.mark.parametrize("advertised", ["", ":2377"])
async def test_the_address_may_be_left_to_the_manager(cluster: PkiCluster, advertised: str) -> None:
    async with cluster.serve() as (_, address):
        response = await ask(cluster.joiner(Role.WORKER), address, new_request(advertise_addr=advertised))
    node = cluster.registry.nodes[NodeId(response.node_id)]
    assert node.status.addr == "127.0.0.1"
    assert node.spec.availability is NodeAvailability.ACTIVE


async def test_the_cluster_says_how_long_certificates_live(cluster: PkiCluster) -> None:
    spec = ClusterSpec(ca_config=CAConfig(node_cert_expiry=Duration(2 * DAY)))
    cluster.registry.current = msgspec.structs.replace(cluster.cluster, spec=spec)
    async with cluster.serve() as (_, address):
        response = await ask(cluster.joiner(Role.WORKER), address, new_request())
    _, validity = pki.read_certificate(response.certificate)
    assert validity.not_after - cluster.clock.now() == pytest.approx(2 * DAY, rel=0.001)


async def test_asking_again_with_the_same_key_makes_no_second_node(cluster: PkiCluster) -> None:
    request = new_request()
    async with cluster.serve() as (_, address):
        first = await ask(cluster.joiner(Role.WORKER), address, request)
        second = await ask(cluster.joiner(Role.WORKER), address, request)
        other = await ask(cluster.joiner(Role.WORKER), address, new_request())
    assert first.node_id == second.node_id != other.node_id
    assert len(cluster.registry.nodes) == 2


async def test_two_managers_asked_at_once_make_one_node(cluster: PkiCluster) -> None:
    """The other manager's commit arrives between our look at the store and our own."""
    registry = cluster.registry
    register = registry.register

    async def raced(node: Node) -> None:
        await register(node)
        raise AlreadyExists(f"node {node.id} exists")

    registry.register = raced  # type: ignore[method-assign]
    async with cluster.serve() as (_, address):
        response = await ask(cluster.joiner(Role.WORKER), address, new_request())
    assert list(registry.nodes) == [response.node_id]


async def test_a_token_does_not_change_the_role_of_a_known_node(cluster: PkiCluster) -> None:
    request = new_request()
    async with cluster.serve() as (_, address):
        await ask(cluster.joiner(Role.WORKER), address, request)
        with pytest.raises(PermissionDenied, match="does not change the role"):
            await ask(cluster.joiner(Role.MANAGER), address, request)
    assert [node.role for node in cluster.registry.nodes.values()] == [NodeRole.WORKER]


@pytest.mark.parametrize("role", [Role.WORKER, Role.MANAGER])
async def test_a_renewal_follows_the_record(cluster: PkiCluster, role: Role) -> None:
    """Promoted or demoted: the certificate that asks has the other role still."""
    before = Role.WORKER if role is Role.MANAGER else Role.MANAGER
    node = cluster.identity(before)
    cluster.registry.nodes[node.node_id] = Node(id=node.node_id, role=role.node_role)
    async with cluster.serve() as (_, address):
        response = await ask(node, address, new_request(hostname="ignored", advertise_addr="junk"))
    subject, _ = pki.read_certificate(response.certificate)
    assert subject == pki.Subject(node_id=node.node_id, role=role, cluster_id=cluster.id)
    assert cluster.registry.registrations == 0


async def test_a_node_without_a_record_is_refused(cluster: PkiCluster) -> None:
    async with cluster.serve() as (_, address):
        with pytest.raises(PermissionDenied, match="is not part of the swarm"):
            await ask(cluster.identity(Role.MANAGER), address, new_request())
    assert not cluster.registry.nodes


async def test_a_manager_that_lags_behind_does_not_call_a_new_node_removed(cluster: PkiCluster) -> None:
    worker = cluster.identity(Role.WORKER)
    node = Node(id=worker.node_id, role=NodeRole.WORKER)

    async def catch_up() -> None:
        cluster.registry.nodes[node.id] = node

    async def no_quorum() -> None:
        raise NoLeader()

    async with cluster.serve() as (_, address):
        cluster.registry.catch_up = no_quorum  # type: ignore[method-assign]
        with pytest.raises(NoLeader):
            await ask(worker, address, new_request())
        cluster.registry.catch_up = catch_up  # type: ignore[method-assign]
        assert (await ask(worker, address, new_request())).node_id == worker.node_id


async def test_a_removed_node_comes_back_only_as_another(cluster: PkiCluster) -> None:
    request = new_request()
    async with cluster.serve() as (server, address):
        joined = await ask(cluster.joiner(Role.WORKER), address, request)
        node_id = NodeId(joined.node_id)
        del cluster.registry.nodes[node_id]
        removed = (RemovedNode(node_id=node_id),)
        cluster.change(server, msgspec.structs.replace(cluster.cluster, removed_nodes=removed))
        with pytest.raises(PermissionDenied, match="was removed"):
            await ask(cluster.joiner(Role.WORKER), address, request)
        assert not cluster.registry.nodes
        again = await ask(cluster.joiner(Role.WORKER), address, new_request())
    assert again.node_id != node_id


@pytest.mark.parametrize(
    "request_",
    [
        ca_pb2.IssueRequest(),
        ca_pb2.IssueRequest(csr=b"junk"),
        ca_pb2.IssueRequest(csr=b"x" * 10_000_000),
        new_request(hostname="h" * (limits.HOSTNAME_CHARS_MAX + 1)),
        new_request(advertise_addr="example.org:2377"),
        new_request(advertise_addr="10.0.0.1"),
        new_request(availability=99),
    ],
    ids=["none", "junk", "10 MB", "hostname", "name as address", "no port", "availability"],
)
async def test_a_bad_request_leaves_no_node(cluster: PkiCluster, request_: ca_pb2.IssueRequest) -> None:
    async with cluster.serve() as (_, address):
        with pytest.raises(InvalidArgument):
            await ask(cluster.joiner(Role.MANAGER), address, request_)
    assert not cluster.registry.nodes
    assert cluster.registry.registrations == 0


async def test_without_a_quorum_the_joiner_is_told_to_come_again(cluster: PkiCluster) -> None:
    async def refuse(node: Node) -> None:
        raise NoLeader()

    cluster.registry.register = refuse  # type: ignore[method-assign]
    async with cluster.serve() as (_, address):
        with pytest.raises(NoLeader, match="does not have a leader"):
            await ask(cluster.joiner(Role.WORKER), address, new_request())
        cluster.registry.current = None
        with pytest.raises(Unavailable, match="catching up"):
            await ask(cluster.joiner(Role.WORKER), address, new_request())
