"""Rolling updates on a lab of three managers and two workers: how long, and what orchestration adds; medians.

    python tests/bench/lab/bench_updates.py [--runs N] [--replicas 10,100] [--parallelism 2,10]

Each update replaces all tasks of a service (stop-first, no delay, monitored for ``MONITOR_S``). Printed:
until all new tasks run, until the update says ``completed``, and what is added for each step on top of the
tasks' own time. A step's own time is measured beside it: that many tasks of a new service, created and then
removed, one after the other. Needs root.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

from lab_bench import create, processes, report, sleepers, tasks, wait

from swarmpy.lab.cluster import Lab

MONITOR_S = 1.0
SECOND_NS = 1_000_000_000
DOCKER = {(10, 2): "Docker 7.6 s"}
"""Docker Swarm 20.10, 10 tasks by 2, no network, five seconds of monitoring."""


def spec_of(name: str, replicas: int, parallelism: int) -> dict[str, Any]:
    config = {"Parallelism": parallelism, "Monitor": int(MONITOR_S * SECOND_NS), "Order": "stop-first"}
    return {**sleepers(name, replicas), "UpdateConfig": config}


def is_updated(lab: Lab, name: str, replicas: int) -> bool:
    wanted = {"service": [name], "desired-state": ["running"], "_up-to-date": ["true"]}
    found = lab.tasks(wanted, timeout_s=10.0)
    running = [task for task in found if task["Status"]["State"] == "running"]
    return len(running) == replicas


def update(lab: Lab, name: str, replicas: int) -> tuple[float, float]:
    """Seconds until all new tasks run, and until the update is completed."""
    service = lab.call("node-1", "GET", f"/services/{name}")
    spec = service["Spec"]
    spec["TaskTemplate"]["ForceUpdate"] = spec["TaskTemplate"].get("ForceUpdate", 0) + 1
    begin = time.monotonic()
    path = f"/services/{service['ID']}/update?version={service['Version']['Index']}"
    lab.call("node-1", "POST", path, spec)
    wait(lab, lambda: is_updated(lab, name, replicas), "all new tasks run")
    running_s = time.monotonic() - begin

    def state() -> str:
        found: str = lab.call("node-1", "GET", f"/services/{name}").get("UpdateStatus", {}).get("State", "")
        return found

    wait(lab, lambda: state() == "completed", "the update is completed")
    return running_s, time.monotonic() - begin


def own_time(lab: Lab, count: int, run: int) -> float:
    """Seconds for so many tasks to stop and as many to start, without an update."""
    name = f"own-{count}-{run}"
    begin = time.monotonic()
    create(lab, sleepers(name, count))
    wait(lab, lambda: tasks(lab, name) == count, "tasks run")
    up_s = time.monotonic() - begin
    before = processes()
    begin = time.monotonic()
    lab.call("node-1", "DELETE", f"/services/{name}")
    wait(lab, lambda: processes() <= before - count, "tasks have stopped")
    return up_s + time.monotonic() - begin


def bench(lab: Lab, replicas: int, parallelism: int, runs: int) -> None:
    name = f"web-{replicas}-{parallelism}"
    create(lab, spec_of(name, replicas, parallelism))
    wait(lab, lambda: tasks(lab, name) == replicas, "the first tasks run")
    steps = -(-replicas // parallelism)
    running, completed, added = [], [], []
    for run in range(runs):
        own_s = own_time(lab, parallelism, run)
        running_s, completed_s = update(lab, name, replicas)
        running.append(running_s)
        completed.append(completed_s)
        added.append(running_s / steps - own_s)
    what = f"update of {replicas} by {parallelism}"
    report(f"{what} -> all new tasks run", running, "s", target=DOCKER.get((replicas, parallelism), ""))
    report(f"{what} -> completed (monitor {MONITOR_S:g} s)", completed, "s", target="")
    report(f"{what}: added to each of {steps} steps", added, "s", target="")
    lab.call("node-1", "DELETE", f"/services/{name}")
    wait(lab, lambda: processes() == 0, "nothing is left")


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--replicas", type=numbers, default=[10, 100])
    parser.add_argument("--parallelism", type=numbers, default=[2, 10])
    asked = parser.parse_args()
    with Lab.up(managers=3, workers=2, name=f"bench-{os.getpid()}") as lab:
        for replicas in asked.replicas:
            for parallelism in asked.parallelism:
                bench(lab, replicas, parallelism, asked.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
