"""The same requests to a real dockerd 20.10 and to SwarmPy, one manager each, in one run: medians and ratios.

PYTHONPATH=tests/support python tests/bench/api/bench_beside_docker.py [--rounds N]

Both are asked by the same client over a unix socket, one after the other. Services have no task, or tasks
that no node can take, so that no container is in the figures. Memory is the proportional set size of dockerd
with its containerd, and of SwarmPy's daemon with its launcher.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api_http import Http
from docker_engine import docker_engine
from lab_services import lab_of

SERVICES = 1_000
TASKS = 10_000
CALLERS = 16
ROUNDS = 9
CLI_ROUNDS = 7
TASKS_TIMEOUT_S = 120.0
POLL_S = 0.05
NOWHERE = {"Constraints": ["node.labels.there-is-none==1"]}
KIB = 1024


@dataclass(frozen=True)
class System:
    """One of the two. ``pids`` are the processes whose memory counts."""

    name: str
    socket: Path
    pids: Callable[[], list[int]]


def spec(name: str, replicas: int, **template: Any) -> dict[str, Any]:
    container = {"Image": "box", "Args": ["sleep", "1000"]}
    return {
        "Name": name,
        "Labels": {"com.docker.stack.namespace": "bench"},
        "TaskTemplate": {"ContainerSpec": container, **template},
        "Mode": {"Replicated": {"Replicas": replicas}},
    }


async def create_all(http: Http, prefix: str) -> float:
    """Services created per second, by so many callers at a time."""
    names = iter([f"{prefix}{number}" for number in range(SERVICES)])

    async def call() -> None:
        for name in names:
            answer = await http.post("/services/create", spec(name, 0))
            assert answer.status == 201, answer.body

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as callers:
        for _ in range(CALLERS):
            callers.create_task(call())
    return SERVICES / (time.perf_counter() - begun)


async def remove_all(http: Http) -> None:
    for service in (await http.get("/services")).json:
        await http.delete(f"/services/{service['ID']}")
    await until(http, lambda tasks: not tasks)


async def until(http: Http, is_so: Callable[[list[Any]], bool]) -> None:
    async with asyncio.timeout(TASKS_TIMEOUT_S):
        while not is_so((await http.get("/tasks")).json):
            await asyncio.sleep(POLL_S)


async def median_ms(act: Callable[[], Awaitable[object]], rounds: int) -> float:
    walls = []
    for _ in range(rounds):
        begun = time.perf_counter()
        await act()
        walls.append((time.perf_counter() - begun) * 1000)
    return statistics.median(walls)


async def store_tasks(http: Http) -> tuple[float, float, float]:
    """Seconds until so many tasks are pending; of a small read meanwhile the median and worst time (ms)."""
    begun = time.perf_counter()
    made = await http.post("/services/create", spec("many", TASKS, Placement=NOWHERE))
    assert made.status == 201, made.body
    asked = f"/services/{made.json['ID']}"
    waits: list[float] = []
    is_over = asyncio.Event()

    async def read() -> None:
        while not is_over.is_set():
            at = time.perf_counter()
            assert (await http.get(asked)).status == 200
            waits.append((time.perf_counter() - at) * 1000)
            await asyncio.sleep(POLL_S / 5)

    async with asyncio.TaskGroup() as group:
        group.create_task(read())
        async with asyncio.timeout(TASKS_TIMEOUT_S):
            while not await _are_pending(http):
                await asyncio.sleep(POLL_S)
        took = time.perf_counter() - begun
        is_over.set()
    return took, statistics.median(waits), max(waits)


async def _are_pending(http: Http) -> bool:
    """Asked of the cheap counter, so that the asking is not what is measured."""
    [service] = (await http.get("/services", filters={"name": ["many"]}, status="true")).json
    if service["ServiceStatus"]["DesiredTasks"] < TASKS:
        return False
    tasks = (await http.get("/tasks")).json
    return len(tasks) >= TASKS and all(task["Status"]["State"] == "pending" for task in tasks)


def cli_ms(socket: Path) -> float:
    walls = []
    for _ in range(CLI_ROUNDS):
        begun = time.perf_counter()
        subprocess.run(
            ["docker", "--host", f"unix://{socket}", "service", "ls"],
            check=True,
            stdout=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        )
        walls.append((time.perf_counter() - begun) * 1000)
    return statistics.median(walls)


def resident_mib(pids: list[int]) -> float:
    """Proportional set size: pages that several processes share count once."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / KIB


def descendants(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += descendants(int(child))
    return found


@contextmanager
def both() -> Iterator[list[System]]:
    with docker_engine() as engine, lab_of(managers=1, workers=0) as lab:
        [daemon] = [host.pid for host in lab.status() if host.pid]
        yield [
            System("docker", engine.socket, lambda: descendants(engine.pid)),
            System(
                "swarmpy",
                Path(lab.docker_host("node-1").removeprefix("unix://")),
                lambda: descendants(daemon),
            ),
        ]


async def measure(system: System, rounds: int, figures: dict[str, dict[str, list[float]]]) -> None:
    def note(what: str, value: float) -> None:
        figures.setdefault(what, {}).setdefault(system.name, []).append(value)

    async with Http(system.socket) as http:
        note("memory, fresh (MiB)", resident_mib(system.pids()))
        note(f"services created/s, {CALLERS} callers", await create_all(http, "a"))
        note(f"memory, {SERVICES} services (MiB)", resident_mib(system.pids()))
        note(f"list {SERVICES} services (ms)", await median_ms(lambda: http.get("/services"), rounds))
        with_status = await median_ms(lambda: http.get("/services", status="true"), rounds)
        note(f"list {SERVICES} services with status (ms)", with_status)
        note(f"docker service ls, {SERVICES} services (ms)", cli_ms(system.socket))
        await remove_all(http)
        took, read, worst = await store_tasks(http)
        note(f"{TASKS} tasks until pending (s)", took)
        note("a read meanwhile, median (ms)", read)
        note("a read meanwhile, worst (ms)", worst)
        note(f"GET /tasks, {TASKS} tasks (ms)", await median_ms(lambda: http.get("/tasks"), rounds))
        note(f"memory, {TASKS} tasks (MiB)", resident_mib(system.pids()))
        await remove_all(http)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    figures: dict[str, dict[str, list[float]]] = {}
    with both() as systems:
        for system in systems:
            asyncio.run(measure(system, rounds, figures))
    load = " ".join(Path("/proc/loadavg").read_text().split()[:3])
    print(f"{'':<44}{'docker':>10}{'swarmpy':>10}{'ratio':>8}   (load at the end: {load})")
    for what, values in figures.items():
        docker, own = (statistics.median(values[name]) for name in ("docker", "swarmpy"))
        print(f"{what:<44}{docker:>10.1f}{own:>10.1f}{own / docker:>8.2f}")


if __name__ == "__main__":
    main()
