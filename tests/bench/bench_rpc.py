"""Medians of what the port costs: handshake, unary call, stream round trip, issuance, a whole join.

Run: python tests/bench/bench_rpc.py
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from pki_cluster import DAY, ManagerCalls, PkiCluster, ping, pinger  # noqa: E402

from agent.identity import JoinRequest, join  # noqa: E402
from swarmpy import pki, rpc  # noqa: E402
from swarmpy.model.ids import NodeId  # noqa: E402
from swarmpy.pb import raft_pb2, raft_pb2_grpc  # noqa: E402
from swarmpy.pki import Role  # noqa: E402
from swarmpy.tls_probe import fetch_chain  # noqa: E402

FRAMES = 2_000


class Echo(ManagerCalls):
    async def Stream(
        self, request_iterator: AsyncIterator[raft_pb2.RaftFrames], context: rpc.Context
    ) -> AsyncIterator[raft_pb2.RaftFrames]:
        async for frames in request_iterator:
            yield frames


def report(what: str, samples: list[float]) -> None:
    ordered = sorted(samples)
    print(
        f"{what:42} median {statistics.median(ordered) * 1e3:8.3f} ms   "
        f"p99 {ordered[int(len(ordered) * 0.99)] * 1e3:8.3f} ms   n={len(ordered)}"
    )


async def measure(what: str, times: int, act: Callable[[], Awaitable[object]]) -> None:
    samples = []
    for _ in range(times):
        started_at = time.perf_counter()
        await act()
        samples.append(time.perf_counter() - started_at)
    report(what, samples)


def measure_sync(what: str, times: int, act: Callable[[], object]) -> None:
    samples = []
    for _ in range(times):
        started_at = time.perf_counter()
        act()
        samples.append(time.perf_counter() - started_at)
    report(what, samples)


def measure_computation(cluster: PkiCluster) -> None:
    root = cluster.cluster.root_ca
    _, csr = pki.create_csr(os.urandom(pki.KEY_BYTES))
    subject = pki.Subject(node_id=NodeId("n" * 25), role=Role.WORKER, cluster_id=cluster.id)
    validity = pki.validity_from(cluster.clock.now(), DAY)
    token = pki.parse_token(root.join_tokens.worker)
    measure_sync("derive a join certificate", 200, lambda: pki.join_identity(token))
    measure_sync("make a key and request", 200, lambda: pki.create_csr(os.urandom(pki.KEY_BYTES)))
    measure_sync(
        "issue a certificate",
        200,
        lambda: pki.issue_certificate(
            root, csr, subject, validity=validity, serial=os.urandom(pki.SERIAL_BYTES)
        ),
    )
    interceptor = rpc.AuthorizingInterceptor(
        cluster.trust(), clock=cluster.clock, method_roles=rpc.METHOD_ROLES
    )
    method, certificate = "/swarmpy.v1.Raft/Ping", cluster.manager.certificate
    measure_sync("check a new peer", 200, lambda: interceptor._verify(certificate))
    measure_sync("check a known peer", 1_000, lambda: interceptor.authorize(method, certificate))


async def main() -> None:
    cluster = PkiCluster()
    measure_computation(cluster)
    async with cluster.serve() as (_, address):
        await measure("connect, handshake, one call, close", 100, lambda: ping(cluster.manager, address))
        await measure("read a manager's chain", 100, lambda: fetch_chain(address))
        request = JoinRequest(addresses=(address,), token=cluster.cluster.root_ca.join_tokens.worker)
        await measure("join (two handshakes, issuance)", 50, lambda: join(request, env=cluster.env))
        async with rpc.dial(cluster.manager, address) as channel:
            await measure("unary call", 2_000, lambda: pinger(channel)(b"", timeout=5))

    server = rpc.Server(cluster.trust(), clock=cluster.clock)
    raft_pb2_grpc.add_RaftServicer_to_server(Echo(), server.grpc)
    address = f"127.0.0.1:{await server.start('127.0.0.1:0')}"
    async with rpc.dial(cluster.manager, address) as channel:
        stub: raft_pb2_grpc.RaftAsyncStub = raft_pb2_grpc.RaftStub(channel)
        call = stub.Stream()

        async def round_trip() -> None:
            await call.write(raft_pb2.RaftFrames())
            await call.read()

        await measure("stream round trip", FRAMES, round_trip)
        call.cancel()
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(main())
