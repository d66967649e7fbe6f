"""Services of 1, 20 and 100 containers by each executor, and by dockerd 20.10: from the order to all running.

PYTHONPATH=tests/support python tests/bench/executor/bench_executors.py [--rounds N] [--only NAME ...]

Each is a swarm of one node with an image of busybox, asked by the same client over its socket, one system
after the other. Time: from sending ``POST /services/create`` until ``GET /tasks`` shows all tasks running.
Memory per task: what 100 tasks added to the proportional set sizes of all processes of the system, the
containers' own left out. An image of 200 MB: ``swarmpy image load``, unpacking included, beside ``podman
load``, each into an empty store.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import random
import statistics
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api_http import Http
from docker_engine import box_tar, docker_engine
from lab_services import new_name

from swarmpy.lab.cluster import Lab

DOCKERD = "dockerd"
EXECUTORS = ("native", "oci", "podman", "docker")
SIZES = (1, 20, 100)
ROUNDS = 3
TIMEOUT_S = 300.0
POLL_S = 0.01
SLEEP = "100000"
KIB = 1024
IMAGE_FILES = 4_000
IMAGE_SMALL_BYTES = 8 * KIB
IMAGE_LARGE_BYTES = 168 * KIB * KIB
"""Of one large file; with the small ones 200 MB in all."""


@dataclass(frozen=True)
class System:
    name: str
    socket: Path
    pids: Callable[[], set[int]]
    """All of its processes that are no container's."""


@contextmanager
def dockerd() -> Iterator[System]:
    with docker_engine() as engine:
        yield System(DOCKERD, engine.socket, lambda: without_payload(descendants(engine.pid)))


@contextmanager
def swarmpy(executor: str) -> Iterator[System]:
    before = every_pid()
    with Lab.up(managers=1, workers=0, name=new_name(), executors={"": executor}) as lab:
        socket = Path(lab.docker_host("node-1").removeprefix("unix://"))
        load = ["docker", "--host", f"unix://{socket}", "import", "-", "box"]
        subprocess.run(load, input=box_tar(), check=True, stdout=subprocess.DEVNULL)
        # shims and conmons are nobody's children, so they are known by having come since
        yield System(executor, socket, lambda: without_payload(every_pid() - before))


# --- processes


def every_pid() -> set[int]:
    return {int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()}


def descendants(pid: int) -> set[int]:
    found = {pid}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found |= descendants(int(child))
    return found


def without_payload(pids: set[int]) -> set[int]:
    kept = set()
    for pid in pids:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended meanwhile
        if words[0] and words[:2] != [b"sleep", SLEEP.encode()]:
            kept.add(pid)
    return kept


def memory_kib(pids: set[int]) -> int:
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


# --- services


def spec(name: str, replicas: int) -> dict[str, Any]:
    container = {"Image": "box", "Command": ["sleep", SLEEP], "StopGracePeriod": 1_000_000}
    return {
        "Name": name,
        "TaskTemplate": {"ContainerSpec": container},
        "Mode": {"Replicated": {"Replicas": replicas}},
    }


async def run_service(http: Http, replicas: int, at_full: Callable[[], None]) -> float:
    begun = time.perf_counter()
    answer = await http.post("/services/create", spec(f"s{replicas}", replicas))
    assert answer.status == 201, answer.body
    await until(http, lambda tasks: sum(is_running(task) for task in tasks) == replicas)
    took = time.perf_counter() - begun
    at_full()
    await http.delete(f"/services/{answer.json['ID']}")
    await until(http, lambda tasks: not tasks)
    return took


def is_running(task: dict[str, Any]) -> bool:
    return bool(task["Status"]["State"] == "running")


async def until(http: Http, is_so: Callable[[list[Any]], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not is_so((await http.get("/tasks")).json):
            await asyncio.sleep(POLL_S)


async def measure(system: System, rounds: int) -> dict[str, float]:
    figures = {}
    async with Http(system.socket) as http:
        await run_service(http, 1, lambda: None)  # what a first task alone has to do
        empty = memory_kib(system.pids())
        full: list[int] = []
        for size in SIZES:
            walls = [
                await run_service(http, size, lambda: full.append(memory_kib(system.pids())))
                for _ in range(rounds)
            ]
            figures[f"{size} until running (s)"] = statistics.median(walls)
        largest = statistics.median(full[-rounds:])
        figures["memory per task (KiB)"] = (largest - empty) / SIZES[-1]
    return figures


# --- a large image


def large_image(folder: Path) -> Path:
    """As ``docker save`` writes it: one layer of a large file and many small ones, hard to compress."""
    chance = random.Random(7)
    root = folder / "root.tar"
    with tarfile.open(root, "w") as tar:
        for number in range(IMAGE_FILES):
            _add(tar, f"usr/lib/d{number % 100}/f{number}", chance.randbytes(IMAGE_SMALL_BYTES))
        _add(tar, "usr/lib/large", chance.randbytes(IMAGE_LARGE_BYTES))
    saved = folder / "large.tar"
    with docker_engine(is_swarm=False) as engine:
        with root.open("rb") as file:
            engine.good("import", "-", "large:1", data=file.read())
        saved.write_bytes(engine.cli("save", "large:1").stdout)
    return saved


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))


def load_image(rounds: int) -> dict[str, float]:
    """Seconds, each time into an empty store; and per executor as its nodes do it."""
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="swarmpy-bench-") as name:
        folder = Path(name)
        archive = large_image(folder)
        for number in range(rounds):
            storage = folder / f"podman{number}"
            words = ["podman", "--root", f"{storage}/root", "--runroot", f"{storage}/run", "load", "-i"]
            figures.setdefault("podman load", []).append(timed([*words, str(archive)]))
            with Lab.up(managers=1, workers=0, name=new_name(), executors={"": "native"}) as lab:
                host = lab.docker_host("node-1")
                words = ["swarmpy", "--host", host, "image", "load", str(archive)]
                figures.setdefault("swarmpy image load", []).append(timed(words))
    return {what: statistics.median(walls) for what, walls in figures.items()}


def timed(words: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


# --- the table


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", nargs="*", default=[*EXECUTORS, DOCKERD])
    wish = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    for name in wish.only:
        with dockerd() if name == DOCKERD else swarmpy(name) as system:
            results[name] = asyncio.run(measure(system, wish.rounds))
    print(f"{'':<26}" + "".join(f"{name:>10}" for name in results))
    for what in next(iter(results.values())):
        print(f"{what:<26}" + "".join(f"{figures[what]:>10.2f}" for figures in results.values()))
        if DOCKERD in results:
            ratios = (results[DOCKERD][what] / figures[what] for figures in results.values())
            print(f"{'  dockerd / this':<26}" + "".join(f"{ratio:>10.1f}" for ratio in ratios))
    print("an image of 200 MB, loaded and unpacked (s):")
    for what, wall in load_image(wish.rounds).items():
        print(f"  {what:<24}{wall:>10.2f}")
    print(f"load at the end: {' '.join(Path('/proc/loadavg').read_text().split()[:3])}")


if __name__ == "__main__":
    main()
