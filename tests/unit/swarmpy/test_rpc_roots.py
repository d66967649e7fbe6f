"""The port while the cluster's root changes: who is believed, and whose calls end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import grpc.aio
import msgspec
import pytest
from pki_cluster import PING, PkiCluster

from swarmpy import pki, rpc
from swarmpy.errors import CertificateRetired
from swarmpy.model.ids import NodeId
from swarmpy.model.root_ca import RootCA
from swarmpy.pb import dispatcher_pb2, dispatcher_pb2_grpc
from swarmpy.pki import Role

DEADLINE_S = 10.0


@pytest.fixture
def cluster() -> PkiCluster:
    return PkiCluster()


def test_a_root_that_the_cluster_comes_back_to_is_no_retired_one(cluster: PkiCluster) -> None:
    """A, B, and A again, while a node is down: who has a certificate of A is a node like any other."""
    first = cluster.cluster.root_ca

    def changed(root: RootCA, successor: tuple[bytes, bytes], serial: bytes) -> RootCA:
        secrets = (serial * pki.SECRET_BYTES, b"s" * pki.SECRET_BYTES)
        begun = pki.begin_rotation(root, successor, serial=serial * pki.SERIAL_BYTES, secrets=secrets)
        return pki.finish_rotation(begun, [NodeId("away")], cluster.clock.now())

    other = pki.make_root(cluster.clock.now(), key=b"o" * pki.KEY_BYTES, serial=b"1" * pki.SERIAL_BYTES)
    again = changed(changed(first, other, b"2"), (first.ca_cert, first.ca_key), b"3")
    trust = rpc.Trust.of_cluster(cluster.manager, msgspec.structs.replace(cluster.cluster, root_ca=again))
    assert pki.split_pem(trust.roots) == pki.split_pem(first.ca_cert)
    guard = rpc.AuthorizingInterceptor(trust, clock=cluster.clock, method_roles=rpc.METHOD_ROLES)
    assert guard.authorize(PING, cluster.manager.certificate).must_renew is False


async def test_lasting_calls_end_with_the_root_behind_their_certificates(cluster: PkiCluster) -> None:
    old = cluster.cluster.root_ca
    successor = pki.make_root(cluster.clock.now(), key=b"o" * pki.KEY_BYTES, serial=b"1" * pki.SERIAL_BYTES)
    secrets = (b"w" * pki.SECRET_BYTES, b"m" * pki.SECRET_BYTES)
    begun = pki.begin_rotation(old, successor, serial=b"2" * pki.SERIAL_BYTES, secrets=secrets)
    before = cluster.identity(Role.WORKER)
    cluster.cluster = msgspec.structs.replace(cluster.cluster, root_ca=begun)
    after, manager = cluster.identity(Role.WORKER), cluster.identity(Role.MANAGER)

    class Lasting(dispatcher_pb2_grpc.DispatcherServicer):
        async def Session(  # type: ignore[override]
            self,
            request_iterator: AsyncIterator[dispatcher_pb2.AgentMessage],
            context: grpc.aio.ServicerContext[dispatcher_pb2.AgentMessage, dispatcher_pb2.ManagerMessage],
        ) -> None:
            await context.write(dispatcher_pb2.ManagerMessage())
            async for _ in request_iterator:
                await context.write(dispatcher_pb2.ManagerMessage())

    server = rpc.Server(rpc.Trust.of_cluster(manager, cluster.cluster), clock=cluster.clock)
    dispatcher_pb2_grpc.add_DispatcherServicer_to_server(Lasting(), server.grpc)
    address = f"127.0.0.1:{await server.start('127.0.0.1:0')}"
    async with rpc.dial(before, address) as one, rpc.dial(after, address) as other:
        left, kept = (dispatcher_pb2_grpc.DispatcherStub(each).Session() for each in (one, other))
        async with asyncio.timeout(DEADLINE_S):
            await left.read()
            await kept.read()
            done = pki.finish_rotation(begun, [before.node_id], cluster.clock.now())
            renewed = replace(manager, roots=done.ca_cert)
            server.trust = rpc.Trust.of_cluster(
                renewed, msgspec.structs.replace(cluster.cluster, root_ca=done)
            )
            with pytest.raises(CertificateRetired), rpc.translate_errors():
                await left.read()
            await kept.write(dispatcher_pb2.AgentMessage())
            await kept.read()
    await server.stop(0)
