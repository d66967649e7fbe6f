"""How long the API takes, against the real store and without raft: medians.

PYTHONPATH=tests/support python tests/bench/api/bench_api.py
"""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from api_http import Http, spec
from api_node import FakeCluster, FakeNode, serving

from manager.api.server import ApiServer
from swarmpy.client import Client
from swarmpy.runtime import Env

SERVICES = 1_000
TASKS = 10_000
ROUNDS = 15
CALLERS = 32
CLI_SERVICES = 100


def row(what: str, value: float, unit: str) -> None:
    print(f"{what:<44}{value:9.2f} {unit}")


async def timed(what: str, act: Callable[[], Awaitable[object]]) -> None:
    """Wall and CPU; the client is in the same process and counts in both."""
    walls, cpus = [], []
    for _ in range(ROUNDS):
        wall, cpu = time.perf_counter(), time.process_time()
        await act()
        walls.append((time.perf_counter() - wall) * 1000)
        cpus.append((time.process_time() - cpu) * 1000)
    row(what, statistics.median(walls), f"ms wall, {statistics.median(cpus):.2f} ms CPU")


async def create_services(http: Http) -> list[str]:
    ids = []
    for first in range(0, SERVICES, CALLERS):
        names = [f"s{number}" for number in range(first, min(first + CALLERS, SERVICES))]
        answers = await asyncio.gather(*(http.post("/services/create", spec(name)) for name in names))
        ids += [answer.json["ID"] for answer in answers]
    return ids


def add_tasks(cluster: FakeCluster, services: list[str]) -> None:
    for number in range(TASKS):
        cluster.add_task(f"t{number:05d}", services[number % len(services)], slot=number)


async def measure(socket: Path) -> None:
    node = FakeNode()
    cluster = node.become_manager()
    server = ApiServer(node, Env())
    await server.start(socket)
    async with Http(socket) as http:
        wall, cpu = time.perf_counter(), time.process_time()
        ids = await create_services(http)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        row(
            f"services created, {CALLERS} callers",
            SERVICES / wall,
            f"/s, {cpu / SERVICES * 1000:.2f} ms CPU each",
        )
        await timed(f"list {SERVICES} services", lambda: http.get("/services"))
        await timed("  with their status", lambda: http.get("/services", status="1"))
        await timed("inspect one service", lambda: http.get("/services/s7"))
        await timed("list one node", lambda: http.get("/nodes"))
        add_tasks(cluster, ids)
        await timed(f"list {TASKS} tasks", lambda: http.get("/tasks"))
        wanted = {"service": [ids[0]], "_up-to-date": ["true"]}
        await timed("list the tasks of one service", lambda: http.get("/tasks", filters=wanted))
    await server.stop()


def measure_cli(socket: Path) -> None:
    node = FakeNode()
    node.become_manager()
    environment = {**os.environ, "SWARMPY_HOST": str(socket)}
    with serving(node, socket):
        for number in range(CLI_SERVICES):
            Client(str(socket)).post("/services/create", spec(f"s{number}"))
        times = []
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            command = [sys.executable, "-m", "swarmpy", "service", "ls"]
            subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
            times.append((time.perf_counter() - begin) * 1000)
    row(f"swarmpy service ls, {CLI_SERVICES} services", statistics.median(times), "ms wall")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder) / "api.sock"))
        measure_cli(Path(folder) / "cli.sock")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    row("peak memory of this process", peak, "MiB")


if __name__ == "__main__":
    main()
