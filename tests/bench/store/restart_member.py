"""One manager's raft and store as a process, told what to do by JSON lines on stdin; for ``bench_restart``.

A probe asks for its turn every few milliseconds; the longest wait is the longest stall of the loop. How much
CPU time the loop's own thread took meanwhile (``held``) tells what of it was ours, on a machine that does
other work too.
"""

from __future__ import annotations

import time

BORN = time.monotonic()

import asyncio  # noqa: E402 - the imports are part of the start that is measured
import gc  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import structlog  # noqa: E402

from manager.raft.proposer import Member as RaftMember  # noqa: E402
from manager.store.store import Store  # noqa: E402
from swarmpy import codec  # noqa: E402
from swarmpy.errors import Retry  # noqa: E402
from swarmpy.limits import BATCH_GROUPS_MAX  # noqa: E402
from swarmpy.model.changes import Batch  # noqa: E402
from tests.bench.raft.member import Member  # noqa: E402
from tests.bench.store.bench_store import AT, creations, order, service_batch  # noqa: E402

PROBE_S = 0.002


class Probe:
    """Samples of how long the loop made a timer wait."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.held: list[float] = []
        self.collections: list[float] = []
        self._began = 0.0
        gc.callbacks.append(self._collected)

    async def run(self) -> None:
        while True:
            due, cpu = time.perf_counter() + PROBE_S, time.thread_time()
            await asyncio.sleep(PROBE_S)
            self.held.append(time.thread_time() - cpu)
            self.waits.append(time.perf_counter() - due)

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self.collections.append(time.perf_counter() - self._began)

    def take(self) -> dict[str, float]:
        waits, self.waits = sorted(self.waits) or [0.0], []
        held, self.held = self.held or [0.0], []
        collections, self.collections = self.collections or [0.0], []
        return {
            "stall_ms": waits[-1] * 1e3,
            "held_ms": max(held) * 1e3,
            "p99_ms": waits[int(len(waits) * 0.99)] * 1e3,
            "collection_ms": max(collections) * 1e3,
        }


class Manager(Member):
    def __init__(self, folder: Path) -> None:
        self.store = Store()
        began = time.monotonic()
        super().__init__(folder, self.store)
        self.load_s = time.monotonic() - began
        self.probe = Probe()

    async def run(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["op"]:
            case "fill":
                return await self._fill(request["tasks"])
            case "snapshot":
                return await self._snapshot()
            case "born":
                await self._write()
                return {"serving_s": time.monotonic() - BORN, "load_s": self.load_s, **self._state()}
            case "join":
                await self.log.add_member(RaftMember(raft_id=request["raft_id"], address=request["address"]))
                return {}
            case "leave":
                await self.log.remove_member(request["raft_id"])
                return {}
            case "state":
                return self._state()
            case "under load":
                return await self._load_until(request["seconds"])
            case "stall":
                return self.probe.take()
        return await super().run(request)

    def _state(self) -> dict[str, Any]:
        return {"tasks": len(self.store.tasks()), "applied": self.log.status().applied}

    async def _write(self) -> None:
        entry = codec.encode(Batch(groups=(), at=AT, epoch=1))
        while True:
            try:
                await self.log.propose(entry)
            except Retry:
                await asyncio.sleep(0.005)
            else:
                return

    async def _fill(self, tasks: int) -> dict[str, Any]:
        await self._write()
        await self.log.propose(codec.encode(service_batch()))
        for first in range(0, tasks, BATCH_GROUPS_MAX):
            await self.log.propose(creations(first, BATCH_GROUPS_MAX))
        return self._state()

    async def _load_until(self, seconds: float) -> dict[str, Any]:
        """Small writes one after the other, as while a cluster lives."""
        until = time.monotonic() + seconds
        number = 0
        while time.monotonic() < until:
            await self.log.propose(codec.encode(Batch(groups=(order(number),), at=AT, epoch=1)))
            number += 1
        return {"writes": number}

    async def _snapshot(self) -> dict[str, Any]:
        """Have the log folded into a snapshot, with writes going on meanwhile."""
        core = self.log._core
        self.probe.take()
        began = time.monotonic()
        core.forceLogCompaction()
        await self._load_until(0.05)
        writes = 0
        while core.snapshotter._taking is not None:
            writes += (await self._load_until(0.02))["writes"]
        took = time.monotonic() - began
        await self._load_until(0.2)
        path = core.snapshotter.path
        return {
            "took_s": took,
            "writes": writes,
            "bytes": path.stat().st_size,
            "first": core.journal.first,
            **self.probe.take(),
        }


async def main() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    manager = Manager(Path(sys.argv[1]))
    probing = asyncio.create_task(manager.probe.run())
    await manager.start()
    print(json.dumps({"up": True}), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await manager.run(json.loads(line))), flush=True)
    probing.cancel()


if __name__ == "__main__":
    asyncio.run(main())
