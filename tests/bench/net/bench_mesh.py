"""What the routing mesh costs: through it ÷ direct, ÷ two plain hops, ÷ a host-mode port.

    PYTHONPATH=.:tests/support python tests/bench/net/bench_mesh.py [--rounds 7] [--kinds ask call push]

A client outside, two nodes, a task on the second. Every round has all cases, in turning order; what is
printed are medians over the rounds, and medians of the ratios within each round, so that what else the
machine does hits all alike: of rates, and in brackets of latencies and of CPU: that of client and server
per operation, with what the kernel did in their name. "Two hops" is plain routing through the first node,
which is the least that a task on another node than the one asked can cost; the mesh pays for VXLAN too.
What the mesh itself costs is seen from the first node: by the published port, and by the task's address on
the same way. With ``--change``: CPU of a change of backends. Needs root and gcc.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mesh_rig import MeshRig, mesh_rig
from msgspec.structs import replace

from agent.dataplane.base import HostPort, PublishedPort
from tests.bench.net.bench_vip import KINDS, Figure, compiled, measure, serving

SERVER_PORT = 7_000
"""``traffic`` serves this and the next."""
HOST_MODE, MESH, CLASSIC = 7_100, 7_200, 7_300
SECOND_ADDRESS, CLIENT_SECOND = "198.51.100.2", "198.51.100.9"
BASES = ("direct", "two hops", "host mode")
"""What clients outside are compared with; one on the first node: with the same way, without the mesh."""
OVERLAY = "node, overlay alone"
CORE = "1"


@dataclass(frozen=True)
class Case:
    """``server``: its process. ``client``: where it asks from."""

    client: Path
    address: str
    port: int
    server: int
    bases: tuple[str, ...] = BASES


def publish(rig: MeshRig, backends: tuple[str, ...]) -> None:
    rig.publish(
        *(
            PublishedPort(
                protocol="tcp",
                published_port=number + more,
                target_port=SERVER_PORT + more,
                backends=backends,
                is_source_nat=number == CLASSIC,
            )
            for number in (MESH, CLASSIC)
            for more in (0, 1)
        )
    )


def route_by_way_of_the_first(rig: MeshRig) -> None:
    """An address of the second node that outside knows only the way through the first to, and back."""
    one, two = rig.nodes
    for host, address, other in ((two.host, SECOND_ADDRESS, CLIENT_SECOND), (rig.outside, CLIENT_SECOND, "")):
        host.command("ip", "address", "add", f"{address}/32", "dev", "lo")
        if other:
            host.command("ip", "route", "add", other, "via", one.address)
    rig.outside.command("ip", "route", "add", SECOND_ADDRESS, "via", one.address, "src", CLIENT_SECOND)
    one.host.command("ip", "route", "add", SECOND_ADDRESS, "via", two.address)
    one.host.command("ip", "route", "add", CLIENT_SECOND, "via", rig.outside.address)


def bench_traffic(rounds: int, seconds: float, kinds: list[str]) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="swarmpy-bench-")))
        rig = stack.enter_context(mesh_rig(2, folder / "run"))
        one, two = rig.nodes
        ports = [
            HostPort(protocol="tcp", published_port=HOST_MODE + more, target_port=SERVER_PORT + more)
            for more in (0, 1)
        ]
        task = rig.run("server", on=2, host_ports=ports)
        publish(rig, (task.address,))
        route_by_way_of_the_first(rig)
        program = compiled(folder)
        in_node = stack.enter_context(serving(two.path, "taskset", "-c", CORE, program))
        in_task = stack.enter_context(serving(task.path, "taskset", "-c", CORE, program))
        outside, first = rig.outside.path, one.path
        cases = {
            "direct": Case(outside, two.address, SERVER_PORT, in_node),
            "two hops": Case(outside, SECOND_ADDRESS, SERVER_PORT, in_node),
            "host mode": Case(outside, two.address, HOST_MODE, in_task),
            "mesh, task here": Case(outside, two.address, MESH, in_task),
            "mesh, task elsewhere": Case(outside, one.address, MESH, in_task),
            "source NAT, elsewhere": Case(outside, one.address, CLASSIC, in_task),
            OVERLAY: Case(first, task.address, SERVER_PORT, in_task, (OVERLAY,)),
            "node, mesh": Case(first, one.address, MESH, in_task, (OVERLAY,)),
        }
        for kind in kinds:
            print(f"{KINDS[kind]}, {rounds} rounds:")
            found: dict[str, list[Figure]] = {name: [] for name in cases}
            for number in range(rounds):
                names = list(cases)
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    case = cases[name]
                    words = [program, kind, case.address, str(case.port), str(seconds)]
                    found[name].append(measure(words, case.client, case.server))
            show(kind, found, cases)


def show(kind: str, found: dict[str, list[Figure]], cases: dict[str, Case]) -> None:
    for name, figures in found.items():
        line = f"  {name:22} {statistics.median(each.rate for each in figures):13,.0f}"
        if kind != "push":
            line += f" {statistics.median(each.latency_us for each in figures):7.1f} us"
        for base in cases[name].bases:
            pairs = list(zip(figures, found[base], strict=True))
            rate = statistics.median(own.rate / each.rate for own, each in pairs)
            late = statistics.median(own.latency_us / max(each.latency_us, 1e-9) for own, each in pairs)
            cpu = statistics.median(own.cpu_us / each.cpu_us for own, each in pairs)
            line += f"  ÷ {base} {rate:.2f} ({late:.2f}, CPU {cpu:.2f})"
        print(line, flush=True)


def bench_change(rounds: int) -> None:
    """One backend of one port in or out, among many ports of three backends each."""
    count, backends = 1_000, tuple(f"10.255.1.{number}" for number in range(1, 101))
    with tempfile.TemporaryDirectory(prefix="swarmpy-bench-") as folder, mesh_rig(1, Path(folder)) as rig:
        node = rig.nodes[0]
        sizes = [100, *[3] * (count - 1)]
        many = [
            PublishedPort(
                protocol="tcp", published_port=10_000 + each, target_port=80, backends=backends[:size]
            )
            for each, size in enumerate(sizes)
        ]

        def apply(first: PublishedPort) -> float:
            rig.published = (first, *many[1:])
            state = rig.state_of(node)
            with node.host.inside():
                began = time.thread_time()
                node.mesh.apply(state)
                return (time.thread_time() - began) * 1e3

        first_ms = apply(many[0])
        less = replace(many[0], backends=backends[:99])
        changes = [apply(each) for _ in range(rounds) for each in (less, many[0])]
        idle = [apply(many[0]) for _ in range(rounds)]
        began = time.thread_time()
        node.mend()
        print(
            f"{count} published ports: all at first {first_ms:.0f} ms; one backend of 100 in or out"
            f" {statistics.median(changes):.2f} ms; nothing changed {statistics.median(idle):.2f} ms;"
            f" looked up in the kernel {(time.thread_time() - began) * 1e3:.0f} ms (CPU)"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--change", action="store_true")
    wished = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if wished.change:
        bench_change(wished.rounds)
    else:
        bench_traffic(wished.rounds, wished.seconds, wished.kinds)


if __name__ == "__main__":
    main()
