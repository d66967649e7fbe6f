"""What a message costs on the simulated transport: sessions that echo, and unary calls.

Run: python tests/bench/sim/bench_transport.py [STREAMS] [ROUNDS]
"""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import sys
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2] / "support"), str(Path(__file__).parents[3])]

from transport_rig import SERVER, SimRig  # noqa: E402

from swarmpy.pb import raft_pb2, raft_pb2_grpc  # noqa: E402

FRAMES = raft_pb2.RaftFrames(
    frames=[raft_pb2.RaftFrame(hello=raft_pb2.RaftHello(raft_id="x" * 40, peer_raft_id="y" * 40))]
)


async def sessions(rig: SimRig, streams: int, rounds: int) -> None:
    channels = [rig.transport.channel(rig.cluster.manager, f"{SERVER}:2377") for _ in range(streams)]

    async def one(channel: Any) -> None:
        stream: Any = raft_pb2_grpc.RaftStub(channel).Stream()
        for _ in range(rounds):
            await stream.write(FRAMES)
            await stream.read()

    opened_at = time.perf_counter()
    await asyncio.gather(*(one(channel) for channel in channels))
    took_s = time.perf_counter() - opened_at
    messages = 2 * streams * rounds
    print(
        f"{streams} streams, {messages} messages: {messages / took_s:,.0f} a second, "
        f"{took_s / messages * 1e6:.1f} us each ({rig.network.messages} packets, {rig.loop.steps} steps)"
    )
    channel = channels[0]
    stub: Any = raft_pb2_grpc.RaftStub(channel)
    began, calls = time.perf_counter(), 5_000
    for _ in range(calls):
        await stub.Ping(raft_pb2.RaftPingRequest(), timeout=5)
    took_s = time.perf_counter() - began
    print(f"{calls} unary calls: {calls / took_s:,.0f} a second, {took_s / calls * 1e6:.1f} us each")


def main() -> None:
    streams = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 50
    is_profiled = "--profile" in sys.argv
    rig = SimRig()

    async def scenario(rig: SimRig) -> None:
        await rig.start(f"{SERVER}:2377")
        await sessions(rig, streams, rounds)

    profile = cProfile.Profile()
    if is_profiled:
        profile.enable()
    rig.run(scenario)
    if is_profiled:
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
