"""How fast a task's names are answered: answers per second and per CPU second of the daemon.

    python tests/bench/net/bench_dns.py [--seconds 3] [--rounds 3]

A client in C keeps queries under way from a task's namespace, through the rule that leads port 53 to the
resolver; the daemon's CPU is that of this process, which does nothing else. Prints the median of the rounds.
With ``--busy`` another thread of the process computes without a pause, as a daemon's event loop at its worst.
Needs root and gcc.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.dataplane.base import Endpoint, Leg, Names, NetworkConfig, NetworkState, NodeState
from agent.dataplane.linux import namespaces
from agent.dataplane.linux.names import NamesPart
from agent.dataplane.linux.spaces import NamespaceSpace
from swarmpy.model.ids import NetworkId, TaskId

A = 1
RESOLVER = ("127.0.0.11", "53")
NETWORK = NetworkConfig(id=NetworkId("bench"))
NAMES = Names(
    addresses={
        "service": ("10.0.0.2",),
        "tasks.service": tuple(f"10.0.1.{number}" for number in range(1, 11)),
    }
)


@contextmanager
def task(folder: Path) -> Iterator[Path]:
    """A task's namespace with a resolver."""
    path = folder / "task"
    namespaces.make(path).close()
    space, node, part = NamespaceSpace(path), NamespaceSpace(), NamesPart()
    leg = Leg(network=NETWORK, link="eth0")
    try:
        part.start_up(node)
        part.apply(NodeState(networks={NETWORK.id: NetworkState(config=NETWORK, names=NAMES)}))
        part.attach(Endpoint(task_id=TaskId("task"), legs=(leg,)), space)
        yield path
    finally:
        part.shut_down()
        space.close()
        namespaces.remove(path)


@contextmanager
def busy(is_wished: bool) -> Iterator[None]:
    ended = threading.Event()

    def compute() -> None:
        number = 0
        while not ended.is_set():
            for _ in range(1_000_000):
                number += 1

    thread = threading.Thread(target=compute)
    if is_wished:
        thread.start()
    yield
    ended.set()
    if is_wished:
        thread.join()


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def load(client: Path, path: Path, name: str, window: int, seconds: float) -> tuple[float, float]:
    """Answers per second, and per CPU second."""
    words = [str(client), *RESOLVER, name, str(A), str(window), str(seconds)]
    before = cpu_s()
    run = subprocess.run(["nsenter", f"--net={path}", *words], capture_output=True, text=True, check=True)
    spent = cpu_s() - before
    answers, took, lost = run.stdout.split()
    if int(lost):
        print(f"  {lost} queries were lost")
    return int(answers) / float(took), int(answers) / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", action="store_true")
    wish = parser.parse_args()
    source = Path(__file__).with_name("dns_load.c")
    with tempfile.TemporaryDirectory(prefix="swarmpy-bench-") as folder:
        client = Path(folder) / "dns_load"
        subprocess.run(["gcc", "-O2", "-o", str(client), str(source)], check=True)
        with task(Path(folder)) as path, busy(wish.busy):
            began = time.monotonic()
            for name, window in (("service", 16), ("tasks.service", 16), ("service", 1), ("service", 64)):
                rounds = [load(client, path, name, window, wish.seconds) for _ in range(wish.rounds)]
                rate, per_cpu = (statistics.median(values) for values in zip(*rounds, strict=True))
                per_cpu_text = "" if wish.busy else f", {per_cpu:,.0f} per CPU second"
                print(f"{name}, {window} under way: {rate:,.0f} answers/s{per_cpu_text}")
            print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
