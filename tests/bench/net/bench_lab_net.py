"""Networks of a whole swarm: five real daemons, tasks on overlays, figures beside those of the bare kernel.

    PYTHONPATH=tests/support python tests/bench/net/bench_lab_net.py [--only traffic|deaths|sizes]
        [--rounds 7] [--seconds 0.5] [--deaths 5] [--sizes 1 10 100]

Each figure of traffic is the median of ratios of two runs beside each other, in turn before and after. Hosts
are namespaces on a switch, so "host to host" is memory speed, not a wire's. Deaths and sizes: medians, from
the command or the commit, as a client that asks all the time sees them. Needs root and gcc.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

from lab_cli import wait_for
from net_hosts import command_in, run_in
from net_lab import NetLab, Task, lookup, net_lab
from traffic import KINDS, Way, compare, serving, traffic_program

from swarmpy.errors import SwarmError

PORT = 7_000
HOST_MODE_PORT = 7_200
RAW = "10.99.0"
SLEEP = ("host", "sleep", "1000000")
CLIENT_NODE, SERVER_NODE, OTHER_NODE = "node-4", "node-5", "node-3"


# --- traffic


def add_raw_vxlan(lab: NetLab, *nodes: str) -> None:
    """A VXLAN device on each of the two hosts: no bridge, no namespace, no rule."""
    for number, (name, other) in enumerate(zip(nodes, reversed(nodes), strict=True), 1):
        path, ends = lab.path(name), f"local {lab.address(name)} remote {lab.address(other)}"
        for line in (
            f"link add raw0 mtu 1450 type vxlan id 9000 dstport 9789 {ends} noudpcsum",
            f"address add {RAW}.{number}/24 dev raw0",
            "link set raw0 up",
        ):
            command_in(path, "ip", *line.split())


def bench_traffic(lab: NetLab, rounds: int, seconds: float) -> None:
    """What is compared: (name, its way, the name of what it is divided by, that way)."""
    lab.network("bench")
    ports = [f"{PORT}:{PORT}", f"{PORT + 1}:{PORT + 1}"]
    ports += [f"mode=host,published={HOST_MODE_PORT + number},target={PORT + number}" for number in range(2)]
    words = [word for port in ports for word in ("--publish", port)]
    lab.create("far", "--network", "bench", "--constraint", f"node.hostname=={SERVER_NODE}", *words, *SLEEP)
    lab.create("near", "--network", "bench", "--constraint", f"node.hostname=={CLIENT_NODE}", *SLEEP)
    far, near = placed(lab, "far"), placed(lab, "near")
    add_raw_vxlan(lab, CLIENT_NODE, SERVER_NODE)
    host = Way(lab.path(CLIENT_NODE), lab.address(SERVER_NODE), PORT + 100)
    raw = Way(lab.path(CLIENT_NODE), f"{RAW}.2", PORT + 100)
    direct = Way(near.path, far.at["bench"], PORT)
    vip = Way(near.path, lab.vip("far", "bench"), PORT)
    outside = lab.path()
    mode_host = Way(outside, lab.address(SERVER_NODE), HOST_MODE_PORT)
    entry = Way(outside, lab.address(SERVER_NODE), PORT)
    across = Way(outside, lab.address(OTHER_NODE), PORT)
    pairs = [
        ("raw VXLAN", raw, "host to host", host),
        ("task to task", direct, "raw VXLAN", raw),
        ("task to task", direct, "host to host", host),
        ("through the VIP", vip, "task to task", direct),
        ("mesh, the task's own node asked", entry, "a host-mode port", mode_host),
        ("mesh, another node asked", across, "a host-mode port", mode_host),
    ]
    with ExitStack() as stack:
        program = stack.enter_context(traffic_program())
        stack.enter_context(serving(far.path, program, PORT))
        stack.enter_context(serving(lab.path(SERVER_NODE), program, PORT + 100))
        for name, way, base_name, base in pairs:
            print(f"{name} ÷ {base_name}:", end="", flush=True)
            for kind, label in KINDS.items():
                found = compare(program, kind, way, base, rounds=rounds, seconds=seconds)
                rest = f", latency {found.added_us:+.1f} us" if kind == "ask" else ""
                print(f"  {label} {found.rate:.2f}{rest}", end="", flush=True)
            print()
    lab.remove("far", "near")


def placed(lab: NetLab, service: str) -> Task:
    return wait_for(lambda: lab.tasks(service), bool, what=f"{service} should run")[0]


# --- deaths


class Watch:
    """Until an address is gone from what a task is told: from its names, and from its virtual addresses."""

    def __init__(self, client: Task, address: str) -> None:
        self.names = self.slots = 0.0
        self._client, self._address = client, address
        self._threads = [threading.Thread(target=work) for work in (self._ask_names, self._ask_slots)]
        for thread in self._threads:
            thread.start()

    def _ask_names(self) -> None:
        def work() -> None:
            while self._address in lookup(Path("/proc/thread-self/ns/net"), "tasks.victim"):
                pass

        run_in(self._client.path, work)
        self.names = time.monotonic()

    def _ask_slots(self) -> None:
        words = ("nft", "list", "map", "inet", "swarmpy_vip", "ip_slots")
        while f": {self._address}" in command_in(self._client.path, *words):
            pass
        self.slots = time.monotonic()

    def wait(self) -> float:
        for thread in self._threads:
            thread.join()
        return max(self.names, self.slots)


def bench_deaths(lab: NetLab, times: int) -> None:
    lab.network("deaths")
    lab.create("victim", "--replicas", "5", "--restart-delay", "30s", "--network", "deaths", *SLEEP)
    lab.create("client", "--mode", "global", "--network", "deaths", *SLEEP)
    wait_for(lambda: len(lab.tasks("victim")) == len(lab.tasks("client")) == 5, what="all should run")
    from_death, from_commit = [], []
    for _ in range(times):
        victims = wait_for(lambda: lab.tasks("victim"), what="one should be left")
        victim = victims[0]
        clients = lab.tasks("client")
        watches = [Watch(client, victim.at["deaths"]) for client in clients]
        pid = task_pid(lab, victim)
        lab.lab.exec(victim.node, ["kill", "-9", str(pid)])
        died = time.monotonic()
        committed = until(lambda: victim_state(lab, victim) != "running")  # noqa: B023
        gone = max(watch.wait() for watch in watches)
        from_death.append(gone - died)
        from_commit.append(gone - committed)
    print(
        f"a task's process dies -> gone from names and VIPs on all 5 nodes: {summary(from_death)} after its "
        f"death, {summary(from_commit)} after a client sees the commit ({times} times)"
    )
    lab.remove("victim")
    bench_power_loss(lab)
    lab.remove("client")


def bench_power_loss(lab: NetLab) -> None:
    lab.create("victim", "--replicas", "5", "--restart-delay", "30s", "--network", "deaths", *SLEEP)
    victims = wait_for(lambda: lab.tasks("victim"), lambda found: len(found) == 5)
    victim = next(task for task in victims if task.node == SERVER_NODE)
    watches = [
        Watch(client, victim.at["deaths"]) for client in lab.tasks("client") if client.node != SERVER_NODE
    ]
    began = time.monotonic()
    lab.lab.kill(SERVER_NODE, host=True)
    committed = until(lambda: node_state(lab, SERVER_NODE) == "down")
    gone = max(watch.wait() for watch in watches)
    print(
        f"a node loses its power -> its task is gone on the 4 others: {gone - began:.2f} s after the loss, "
        f"{(gone - committed) * 1e3:+.0f} ms after a client sees the commit"
    )
    lab.lab.start(SERVER_NODE)
    lab.lab.wait_ready()
    lab.remove("victim")


def task_pid(lab: NetLab, task: Task) -> int:
    row = next(row for row in lab.lab.tasks({"service": ["victim"]}) if row["ID"] == task.id)
    return int(row["Status"]["ContainerStatus"]["PID"])


def victim_state(lab: NetLab, victim: Task) -> str:
    row = lab.lab.request("node-1", "GET", f"/tasks/{victim.id}")
    return str(row.body["Status"]["State"]) if row.is_ok else "removed"


def node_state(lab: NetLab, name: str) -> str:
    rows = lab.lab.call("node-1", "GET", "/nodes")
    return str(next(row for row in rows if row["Description"]["Hostname"] == name)["Status"]["State"])


def until(is_so: Callable[[], bool]) -> float:
    """Asked all the time; when it was so."""
    deadline = time.monotonic() + 60.0
    while True:
        try:
            if is_so():
                return time.monotonic()
        except SwarmError:  # a leader is being elected
            pass
        assert time.monotonic() < deadline


def summary(found: list[float]) -> str:
    ordered = sorted(each * 1e3 for each in found)
    return f"{statistics.median(ordered):.0f} ms ({ordered[0]:.0f} to {ordered[-1]:.0f})"


# --- sizes


def bench_sizes(lab: NetLab, sizes: list[int], times: int) -> None:
    """From the request to the last task's state at the manager; the tasks sleep."""
    network_id = lab.network("sizes")
    for size in sizes:
        created, removed = [], []
        for _ in range(times):
            body = {
                "Name": "sized",
                "TaskTemplate": {
                    "ContainerSpec": {
                        "Image": "host",
                        "Command": ["sleep", "1000000"],
                        "StopSignal": "SIGKILL",
                    },
                    "Networks": [{"Target": network_id}],
                },
                "Mode": {"Replicated": {"Replicas": size}},
            }
            began = time.monotonic()
            lab.lab.call("node-1", "POST", "/services/create", body)
            created.append(until(lambda: states(lab).count("running") == size) - began)  # noqa: B023
            began = time.monotonic()
            lab.lab.call("node-1", "DELETE", "/services/sized")
            removed.append(until(lambda: not states(lab)) - began)
        print(
            f"{size} replicas on an overlay, 5 nodes: all run after {statistics.median(created):.2f} s, "
            f"none is left {statistics.median(removed):.2f} s after rm ({times} times)"
        )
    lab.good("network", "rm", "sizes")


def states(lab: NetLab) -> list[str]:
    """No other service is there."""
    return [row["Status"]["State"] for row in lab.lab.call("node-1", "GET", "/tasks")]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--deaths", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--only", choices=("traffic", "deaths", "sizes"))
    wished = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with net_lab(managers=3, workers=2) as lab:
        if wished.only in (None, "sizes"):
            bench_sizes(lab, wished.sizes, wished.times)
        if wished.only in (None, "deaths"):
            bench_deaths(lab, wished.deaths)
        if wished.only in (None, "traffic"):
            bench_traffic(lab, wished.rounds, wished.seconds)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
