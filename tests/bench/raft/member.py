"""One raft member as a process, told what to do by JSON lines on stdin; used by ``bench_commits``."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import structlog

from manager.raft.grpc_wire import GrpcWire, RaftServicer
from manager.raft.log import RaftConfig, SyncObjLog
from manager.raft.proposer import StateMachine
from manager.raft.sealing import AesGcmSealer
from swarmpy import pki, rpc
from swarmpy.errors import Retry
from swarmpy.model.root_ca import JoinTokens
from swarmpy.pb import raft_pb2_grpc
from swarmpy.runtime import Env, SystemEntropy

SEALING_KEY = bytes(32)


class Counter:
    """The smallest state machine that still has something to snapshot."""

    def __init__(self) -> None:
        self.last: dict[int, bytes] = {}
        self.count = 0

    def apply(self, entry: bytes, index: int) -> object:
        self.count += 1
        self.last[index % 1000] = entry
        return self.count

    def freeze(self) -> object:
        return self.count, dict(self.last)

    def encode(self, frozen: Any) -> Iterator[bytes]:
        count, last = frozen
        yield b"%d" % count
        yield from (b"%d %b" % item for item in last.items())

    def load(self, chunks: Iterable[bytes]) -> object:
        first, *rest = chunks
        last = {int(key): value for key, _, value in (chunk.partition(b" ") for chunk in rest)}
        return int(first), last

    def adopt(self, loaded: Any) -> None:
        self.count, self.last = loaded


class Member:
    def __init__(self, folder: Path, machine: StateMachine | None = None) -> None:
        identity = pki.load_identity(
            certificate=(folder / "cert.pem").read_bytes(),
            key=(folder / "key.pem").read_bytes(),
            roots=(folder / "root.pem").read_bytes(),
        )
        env = Env()
        self._address = (folder / "address").read_text()

        def identify(context: rpc.Context) -> str:
            return rpc.peer_of(context).node_id

        self._server = rpc.Server(rpc.Trust(identity=identity, join_tokens=JoinTokens()), clock=env.clock)
        wire = GrpcWire(identify=identify, dial=lambda address: rpc.dial(identity, address))
        config = RaftConfig(folder=folder / "raft", sealer=AesGcmSealer(SEALING_KEY, SystemEntropy()))
        self.log = SyncObjLog.open(config, machine or Counter(), wire, env)
        servicer = RaftServicer(wire, self.log, identify=identify)
        raft_pb2_grpc.add_RaftServicer_to_server(servicer, self._server.grpc)

    async def start(self) -> None:
        await self._server.start(self._address)
        await self.log.start()

    async def run(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["op"]:
            case "status":
                status = self.log.status()
                return {"leader": status.leader, "is_ready": status.is_ready_leader, "id": status.raft_id}
            case "write":
                return await self._load(request, lambda: self.log.propose(b"x" * request["size"]))
            case "read":
                return await self._load(request, self.log.read_barrier)
            case "first_write":
                return {"at": await self._first_write()}
        raise ValueError(request["op"])

    async def _load(self, request: dict[str, Any], call: Any) -> dict[str, Any]:
        """Run ``count`` calls, ``callers`` at a time."""
        delays: list[float] = []
        left = iter(range(request["count"]))

        async def caller() -> None:
            for _ in left:
                began = time.perf_counter()
                await call()
                delays.append(time.perf_counter() - began)

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(request["callers"]):
                group.create_task(caller())
        took = time.perf_counter() - began
        delays.sort()
        return {
            "per_s": len(delays) / took,
            "p50_ms": delays[len(delays) // 2] * 1000,
            "p99_ms": delays[int(len(delays) * 0.99)] * 1000,
        }

    async def _first_write(self) -> float:
        while True:
            try:
                await self.log.propose(b"after the fall")
            except Retry:
                await asyncio.sleep(0.01)
            else:
                return time.monotonic()


async def main() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    member = Member(Path(sys.argv[1]))
    await member.start()
    print(json.dumps({"up": True}), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await member.run(json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
