"""Figures of a whole cluster: real daemons on a lab of three managers and two workers, medians.

    python tests/bench/lab/bench_lab.py [FIGURE …] [--runs N]

Figures: leader, worker, replicas, commits, cli, pending (all by default). Each has its own fresh lab, and its
target and what Docker Swarm takes stand beside the result. Needs root. Times include the observer's polling.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab_bench import STEP_TIMEOUT_S, create, processes, report, sleepers, tasks, wait

from swarmpy.errors import Unavailable
from swarmpy.lab import hosts, process
from swarmpy.lab.cluster import Lab


def write_until_accepted(lab: Lab, node: str, name: str) -> None:
    deadline = time.monotonic() + STEP_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            reply = lab.request(node, "POST", "/services/create", sleepers(name, 0), timeout_s=5.0)
        except Unavailable:
            continue
        if reply.is_ok or reply.status == 409:
            return
        time.sleep(0.02)
    raise Unavailable(f"No write was accepted by {node}.")


def bench_leader(lab: Lab, runs: int) -> None:
    """kill -9 of the leader's daemon, then its cable: until another manager accepts a write."""
    for what, kill, back, target in (
        ("leader kill -9 -> write elsewhere", lab.kill, lab.start, "target <=2 s; Docker 12.1 s"),
        ("leader's cable pulled -> write elsewhere", lab.cut, lab.heal, "target <=2 s; Docker 15.6 s"),
    ):
        took = []
        for run in range(runs):
            leader = lab.leader()
            other = next(host.name for host in lab.layout.managers if host.name != leader)
            begin = time.monotonic()
            kill(leader)
            write_until_accepted(lab, other, f"write-{kill.__name__}-{run}")
            took.append(time.monotonic() - begin)
            back(leader)
            lab.wait_ready()
        report(what, took, "s", target=target)


def bench_worker(lab: Lab, runs: int) -> None:
    """A worker's daemon is killed, then a worker's plug is pulled: until its tasks run elsewhere."""
    create(lab, sleepers("web", 10))
    wait(lab, lambda: tasks(lab, "web") == 10, "ten tasks run")
    worker = lab.layout.workers[0].name
    for what, is_host in (
        ("worker kill -9 -> its tasks run elsewhere", False),
        ("the same, its plug pulled", True),
    ):
        took = []
        for _ in range(runs):
            force_spread(lab)
            begin = time.monotonic()
            lab.kill(worker, host=is_host)
            wait(lab, lambda: tasks(lab, "web", away_from=worker) == 10, "ten tasks run elsewhere")
            took.append(time.monotonic() - begin)
            lab.start(worker)
            lab.wait_ready()
        report(what, took, "s", target="target <=4 s; Docker 18.2 s")


def force_spread(lab: Lab) -> None:
    """All five nodes get two of the ten tasks again: down to none and up to ten."""
    for replicas in (0, 10):
        service = lab.call("node-1", "GET", "/services/web")
        spec = service["Spec"] | {"Mode": {"Replicated": {"Replicas": replicas}}}
        version = service["Version"]["Index"]
        lab.call("node-1", "POST", f"/services/{service['ID']}/update?version={version}", spec)
        wait(lab, lambda wanted=replicas: tasks(lab, "web") == wanted, f"{replicas} tasks run")  # type: ignore[misc]


def bench_replicas(lab: Lab, runs: int) -> None:
    for replicas, create_target, remove_target in (
        (1, "Docker 0.38 s", "Docker 1.5 s"),
        (10, "Docker 0.88 s", ""),
        (100, "target <=6 s; Docker 5.1 s", "target <=4 s; Docker 3.5 s"),
    ):
        up, down = [], []
        for run in range(runs):
            name = f"many-{replicas}-{run}"
            begin = time.monotonic()
            id_ = create(lab, sleepers(name, replicas))
            wait(lab, lambda n=name, r=replicas: tasks(lab, n) == r, "all run")  # type: ignore[misc]
            up.append(time.monotonic() - begin)
            begin = time.monotonic()
            lab.call("node-1", "DELETE", f"/services/{name}")
            # by its id: the name of a removed service finds nothing
            wait(lab, lambda i=id_: processes() == 0 and not lab.tasks({"service": [i]}), "all gone")  # type: ignore[misc]
            down.append(time.monotonic() - begin)
        report(f"create --replicas {replicas} -> all running", up, "s", target=create_target)
        report(f"rm of {replicas} -> no process, no task", down, "s", target=remove_target)


def bench_commits(lab: Lab, runs: int) -> None:
    """Services without replicas: each is one commit when asked one by one, many a commit when in parallel."""
    for callers, count, target in ((1, 100, ""), (32, 1000, "Docker 298 /s")):
        rates = []
        for run in range(runs):

            def one(number: int, run: int = run, callers: int = callers) -> None:
                create(lab, sleepers(f"c{callers}-{run}-{number}", 0))

            begin = time.monotonic()
            with ThreadPoolExecutor(callers) as pool:
                list(pool.map(one, range(count)))
            rates.append(count / (time.monotonic() - begin))
        report(f"services created per second, {callers} callers", rates, "/s", target=target)


def rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise Unavailable(f"The process {pid} is gone.")


def report_memory(lab: Lab, when: str) -> None:
    for role, members, target in (
        ("manager", lab.layout.managers, "target <=120 MiB"),
        ("worker", lab.layout.workers, "target <=80 MiB"),
    ):
        running = [hosts.daemon(host) for host in members]
        report(f"{role} RSS, {when}", [rss_mib(one.pid) for one in running if one], "MiB", target=target)


def bench_cli(lab: Lab, runs: int) -> None:
    time.sleep(5.0)  # what "idle" means here
    report_memory(lab, "idle")
    for number in range(100):
        create(lab, sleepers(f"s{number}", 0))
    report_memory(lab, "100 services")
    for words, target in ((["service", "ls"], "target <=0.35 s"), (["node", "ls"], ""), (["version"], "")):
        took = []
        for _ in range(max(runs, 5)):
            begin = time.monotonic()
            environment = process.environment() | {"DOCKER_HOST": lab.docker_host("node-1")}
            subprocess.run(["swarmpy", *words], env=environment, check=True, stdout=subprocess.DEVNULL)
            took.append(time.monotonic() - begin)
        report(f"swarmpy {' '.join(words)}, 100 services", took, "s", target=target)


def bench_pending(lab: Lab, runs: int) -> None:
    """10,000 tasks that fit nowhere: until all are stored, and how long other writes take meanwhile."""
    writes: list[float] = []
    is_over = threading.Event()

    def write() -> None:
        number = 0
        while not is_over.wait(0.1):
            begin = time.monotonic()
            create(lab, sleepers(f"other-{number}", 0), node="node-2")
            writes.append((time.monotonic() - begin) * 1000)
            number += 1

    writer = threading.Thread(target=write)
    begin = time.monotonic()
    create(lab, sleepers("stuck", 10_000, Constraints=["node.labels.nowhere==yes"]))
    writer.start()
    took = []
    try:
        wait(lab, lambda: tasks(lab, "stuck", state="pending") == 10_000, "10,000 tasks are pending")
        took.append(time.monotonic() - begin)
    finally:
        is_over.set()
        writer.join()
    report("10,000 tasks stored and pending", took, "s", target="target 1.5 s; Docker 2.6-5.0 s")
    report("a write meanwhile", writes, "ms", target="target <=250 ms")
    leader = hosts.daemon(lab.host(lab.leader()))
    assert leader is not None
    report("leader RSS with 10,000 pending", [rss_mib(leader.pid)], "MiB", target="Docker: 25 KiB a task")


FIGURES: dict[str, Callable[[Lab, int], None]] = {
    "leader": bench_leader,
    "worker": bench_worker,
    "replicas": bench_replicas,
    "commits": bench_commits,
    "cli": bench_cli,
    "pending": bench_pending,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figures", nargs="*", choices=[[], *FIGURES], metavar="FIGURE")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(json.dumps({"cpus": os.cpu_count(), "load": load, "python": sys.version.split()[0]}))
    for name in options.figures or FIGURES:
        with Lab.up(managers=3, workers=2, name=f"bench-{os.getpid()}") as lab:
            FIGURES[name](lab, options.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
