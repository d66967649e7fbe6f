"""Overlay networks: throughput between tasks of two hosts, endpoints per second, reconcile, cost of a change.

    python tests/bench/net/bench_overlay.py [--rounds 7] [--seconds 1.0] [--endpoints 1000] [--remotes 10000]

Hosts are network namespaces on a switch namespace, so "host to host" is memory speed, not a wire's. All
ratios are taken in one run, round by round, and given as medians. Needs root.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

from net_hosts import Rig, command_in, net_hosts, socket_in
from overlay_rig import BLUE, OverlayRig, overlay_rig

from agent.dataplane.base import NetworkState, NodeState, RemoteEndpoint
from agent.dataplane.linux.backend import LinuxBackend
from swarmpy.model.addresses import mac_of
from swarmpy.model.ids import NodeId, TaskId

_CHUNK_BYTES = 1 << 20
_SENDER = """
import socket, sys, time
address, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
data = memoryview(bytes(1 << 20))
with socket.create_connection((address, port)) as sock:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sock.sendall(data)
"""


def throughput(source: str | Path, target: str | Path, address: str, seconds: float) -> float:
    """Gb/s of one TCP connection; the sender is another process."""
    with socket_in(target) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, 5001))
        listener.listen()
        sender = subprocess.Popen(
            ["nsenter", f"--net={source}", sys.executable, "-c", _SENDER, address, "5001", str(seconds)]
        )
        served, _ = listener.accept()
        with served:
            buffer = bytearray(_CHUNK_BYTES)
            began, total = time.monotonic(), 0
            while count := served.recv_into(buffer):
                total += count
            took = time.monotonic() - began
        assert sender.wait() == 0
    return total * 8 / took / 1e9


def add_raw_vxlan(hosts: Rig) -> None:
    """A VXLAN device on each host with an address on it: no bridge, no namespaces, no rules."""
    for host, other in zip(hosts.hosts, reversed(hosts.hosts), strict=True):
        make = f"link add raw0 type vxlan id 9000 dstport 9789 local {host.address} remote {other.address}"
        host.command("ip", *f"{make} noudpcsum".split())
        host.command("ip", *f"address add 10.99.0.{host.number}/24 dev raw0".split())
        host.command("ip", "link", "set", "raw0", "mtu", "1450", "up")


async def bench_throughput(folder: Path, rounds: int, seconds: float) -> None:
    with net_hosts(2) as hosts:
        add_raw_vxlan(hosts)
        one, two = hosts.hosts
        async with overlay_rig(hosts, folder) as rig:
            client = rig.place("client", 0, (BLUE, "10.1.0.2/16"))
            server = rig.place("server", 1, (BLUE, "10.1.0.3/16"))
            near = rig.place("near", 0, (BLUE, "10.1.0.4/16"))
            await rig.apply()
            cases: dict[str, Callable[[], float]] = {
                "host to host": lambda: throughput(one.path, two.path, two.address, seconds),
                "raw VXLAN": lambda: throughput(one.path, two.path, "10.99.0.2", seconds),
                "task to task": lambda: throughput(client.path, server.path, "10.1.0.3", seconds),
                "same host": lambda: throughput(client.path, near.path, "10.1.0.4", seconds),
            }
            found: dict[str, list[float]] = {name: [] for name in cases}
            for number in range(rounds):
                names = list(cases) if number % 2 else list(reversed(cases))
                for name in names:
                    found[name].append(cases[name]())
    for name, values in found.items():
        print(f"{name}: {statistics.median(values):.2f} Gb/s")
    for base in ("raw VXLAN", "host to host"):
        ratios = [task / other for task, other in zip(found["task to task"], found[base], strict=True)]
        print(f"task to task / {base}: {statistics.median(ratios):.3f}")


async def bench_endpoints(folder: Path, count: int, remotes: int) -> None:
    with net_hosts(2) as hosts:
        async with overlay_rig(Rig(hosts.hosts[:1], hosts.switch), folder) as rig:
            rig.hosts = hosts.hosts
            for number in range(count):
                rig.place(f"task{number}", 0, (BLUE, f"10.1.{number // 250}.{number % 250 + 1}/16"))
            state = await _bench_coming(rig, remotes)
            await _bench_change(rig, state)
            backend = await _bench_restart(rig, state)
            began = time.perf_counter()
            await asyncio.gather(*(backend.detach(task_id) for task_id in state.endpoints))
            took = time.perf_counter() - began
            print(f"{count} endpoints detached: {took:.2f} s, {count / took:.0f} per second")


async def _bench_coming(rig: OverlayRig, remotes: int) -> NodeState:
    state = rig.state_of(0)
    made = {
        TaskId(f"remote{number}"): _remote(f"10.1.{100 + number // 250}.{number % 250 + 1}")
        for number in range(remotes)
    }
    blue = NetworkState(config=BLUE, remotes=made)
    state = replace(state, networks={BLUE.id: blue})
    began, cpu = time.perf_counter(), _cpu_s()
    await rig.backends[0].apply(replace(state, endpoints={}))
    print(f"network with {remotes} remote endpoints: {_took(began, cpu)}")
    began, cpu = time.perf_counter(), _cpu_s()
    await asyncio.gather(*(rig.backends[0].attach(endpoint) for endpoint in state.endpoints.values()))
    took = time.perf_counter() - began
    count = len(state.endpoints)
    print(f"{count} endpoints attached: {_took(began, cpu)}, {count / took:.0f} per second")
    await rig.backends[0].apply(state)
    return state


def _remote(address: str) -> RemoteEndpoint:
    return RemoteEndpoint(node_id=NodeId("host2"), addresses=(address,), mac=mac_of(address))


async def _bench_change(rig: OverlayRig, state: NodeState, rounds: int = 50) -> None:
    """CPU of one remote endpoint that goes or comes."""
    blue, costs = state.networks[BLUE.id], []
    fewer = dict(blue.remotes)
    del fewer[next(iter(fewer))]
    variants = [
        replace(state, networks={BLUE.id: replace(blue, remotes=remotes)})
        for remotes in (fewer, dict(blue.remotes))
    ]
    await rig.backends[0].apply(variants[1])
    for number in range(rounds):
        cpu = _cpu_s()
        await rig.backends[0].apply(variants[number % 2])
        costs.append((_cpu_s() - cpu) * 1e3)
    print(f"one of {len(blue.remotes)} remote endpoints changes: {statistics.median(costs):.2f} ms of CPU")
    await rig.backends[0].apply(state)


async def _bench_restart(rig: OverlayRig, state: NodeState) -> LinuxBackend:
    """A new life of the daemon over what stands, and a round of mending."""
    began, cpu = time.perf_counter(), _cpu_s()
    backend = await rig.restart(0)
    print(f"start-up with {len(state.endpoints)} endpoints: {_took(began, cpu)}")
    began, cpu = time.perf_counter(), _cpu_s()
    await backend.apply(state)
    print(f"first apply, all of it compared with the kernel: {_took(began, cpu)}")
    began, cpu = time.perf_counter(), _cpu_s()
    await backend.mend()
    print(f"reconcile from kernel dumps: {_took(began, cpu)}")
    return backend


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _took(began: float, cpu: float) -> str:
    return f"{time.perf_counter() - began:.2f} s, {_cpu_s() - cpu:.2f} s of CPU"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--endpoints", type=int, default=1000)
    parser.add_argument("--remotes", type=int, default=10_000)
    wish = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    print(f"open files: {soft} of {hard}; kernel {command_in('/proc/self/ns/net', 'uname', '-r').strip()}")
    with tempfile.TemporaryDirectory(prefix="swarmpy-bench-", dir="/dev/shm") as folder:
        if wish.rounds:
            asyncio.run(bench_throughput(Path(folder) / "a", wish.rounds, wish.seconds))
        if wish.endpoints:
            asyncio.run(bench_endpoints(Path(folder) / "b", wish.endpoints, wish.remotes))


if __name__ == "__main__":
    main()
