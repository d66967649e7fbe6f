"""What a virtual address costs: through it ÷ direct, a change of backends, a cut.

    PYTHONPATH=tests/support python tests/bench/net/bench_vip.py [--rounds 7] [--only traffic|change|cut]

Traffic goes between tasks on two hosts over VXLAN. Each run through a virtual address has a direct run at its
side, in turn before and after, and the median of their ratios is printed, so that what else the machine does
hits both alike. "CPU" is that of client and server per operation. The direct case has no table in its
namespace at all. Needs root and gcc.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from net_hosts import Host, command_in, fresh_namespace, net_hosts, socket_in, start_in

from agent.dataplane.base import Balancer, Endpoint, Leg, NetworkConfig, NetworkState, NodeState
from agent.dataplane.linux.balancing.connections import Connections
from agent.dataplane.linux.balancing.part import Balancing
from agent.dataplane.linux.spaces import NamespaceSpace
from swarmpy.model.ids import NetworkId, ServiceId, TaskId

NET = NetworkId("bench")
PORT = 7_000
SERVICES = 1_000
CORE = "1"
BACKENDS = tuple(f"10.0.{16 + number // 250}.{number % 250 + 1}" for number in range(1_000))
SIZES = (3, 100, 1_000)
KINDS = {"ask": "requests/s", "call": "connections/s", "push": "bytes/s"}


def vip(number: int) -> str:
    return f"10.0.{200 + number // 250}.{number % 250 + 1}"


def services(measured: int, count: int = SERVICES) -> dict[ServiceId, Balancer]:
    """So many, of three backends each but for the first."""
    return {
        ServiceId(f"s{number:04}"): Balancer(
            vips=(vip(number),), backends=BACKENDS[: measured if number == 0 else 3]
        )
        for number in range(count)
    }


def node_state(balancers: dict[ServiceId, Balancer]) -> NodeState:
    return NodeState(
        networks={NET: NetworkState(config=NetworkConfig(id=NET, is_ingress=False), balancers=balancers)}
    )


def endpoint(number: int) -> Endpoint:
    leg = Leg(network=NetworkConfig(id=NET), link="eth0", addresses=(f"10.0.1.{number}/16",))
    return Endpoint(task_id=TaskId(f"task{number}"), legs=(leg,))


# --- the overlay


def make_sandbox(stack: ExitStack, host: Host, other: Host) -> Path:
    sandbox = stack.enter_context(fresh_namespace())
    vxlan = f"type vxlan id 4097 dstport 4789 local {host.address} remote {other.address} noudpcsum"
    host.command("ip", *f"link add vx0 netns {sandbox} mtu 1450 {vxlan}".split())
    command_in(sandbox, "sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=0")
    for line in (
        "link add br0 mtu 1450 type bridge mcast_snooping 0",
        "link set vx0 master br0 up",
        "link set br0 up",
    ):
        command_in(sandbox, "ip", *line.split())
    return sandbox


def make_task(stack: ExitStack, sandbox: Path, number: int) -> Path:
    task = stack.enter_context(fresh_namespace())
    pair = f"link add p{number} mtu 1450 type veth peer name eth0 mtu 1450 netns {task}"
    command_in(sandbox, "ip", *pair.split())
    command_in(sandbox, "ip", *f"link set p{number} master br0 up".split())
    command_in(task, "ip", *f"address add 10.0.1.{number}/16 dev eth0".split())
    command_in(task, "ip", *["link", "set", "eth0", "up"])
    return task


def batch(path: Path, lines: list[str]) -> None:
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        command_in(path, "ip", "-batch", file.name)


@contextmanager
def tasks(count: int) -> Iterator[tuple[list[Path], Path]]:
    """So many tasks on one host, and one on another that has all backends' addresses."""
    with ExitStack() as stack:
        one, two = stack.enter_context(net_hosts(2)).hosts
        here, there = make_sandbox(stack, one, two), make_sandbox(stack, two, one)
        far = make_task(stack, there, 200)
        batch(far, [f"address add {each}/16 dev eth0 noprefixroute" for each in BACKENDS])
        mac = json.loads(command_in(far, "ip", "-j", "link", "show", "eth0"))[0]["address"]
        local = [make_task(stack, here, number) for number in range(1, count + 1)]
        for path in local:
            batch(
                path, [f"neighbour replace {each} lladdr {mac} dev eth0 nud permanent" for each in BACKENDS]
            )
        yield local, far


# --- traffic


@dataclass(frozen=True)
class Figure:
    rate: float
    latency_us: float
    cpu_us: float


def compiled(folder: Path) -> str:
    program = folder / "traffic"
    source = Path(__file__).with_name("traffic.c")
    subprocess.run(["gcc", "-O2", "-o", str(program), str(source)], check=True)
    return str(program)


def cpu_of(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def measure(words: list[str], path: Path, server: int) -> Figure:
    before, own = cpu_of(server), resource.getrusage(resource.RUSAGE_CHILDREN)
    done, seconds, latency, failed = command_in(path, "taskset", "-c", CORE, *words).split()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = cpu_of(server) - before + used.ru_utime + used.ru_stime - own.ru_utime - own.ru_stime
    assert failed == "0", f"{' '.join(words)}: {failed} failures"
    return Figure(float(done) / float(seconds), float(latency), cpu / float(done) * 1e6)


def bench_traffic(rounds: int, seconds: float, kinds: list[str]) -> None:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="swarmpy-bench-"))
        local, far = stack.enter_context(tasks(1 + len(SIZES)))
        program = compiled(Path(folder))
        server = stack.enter_context(serving(far, "taskset", "-c", CORE, program))
        cases: dict[str, tuple[Path, str]] = {"direct": (local[0], BACKENDS[0])}
        for size, path in zip(SIZES, local[1:], strict=True):
            part, space = Balancing(), NamespaceSpace(path)
            part.start_up(NamespaceSpace())
            part.apply(node_state(services(size)))
            part.attach(endpoint(2), space)
            stack.callback(space.close)
            stack.callback(part.shut_down)
            cases[f"VIP of {size}"] = (path, vip(0))
        cases["direct, beside a VIP"] = (local[1], BACKENDS[0])

        def run(kind: str, path: Path, to: str) -> Figure:
            return measure([program, kind, to, str(PORT), str(seconds)], path, server)

        for kind in kinds:
            label = KINDS[kind]
            print(f"{label} over VXLAN between two hosts, {SERVICES} services, {rounds} rounds:")
            run_cases(kind, cases, run, rounds)


@contextmanager
def serving(path: Path, *words: str) -> Iterator[int]:
    """The server's pid."""
    server = start_in(path, *words, "serve", str(PORT))
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield server.pid
    finally:
        server.kill()
        server.wait()


def run_cases(
    kind: str,
    cases: dict[str, tuple[Path, str]],
    run: Callable[[str, Path, str], Figure],
    rounds: int,
) -> None:
    """Each next to a direct run of its own, now after it, now before."""
    direct, *others = cases
    found: dict[str, list[tuple[Figure, Figure]]] = {name: [] for name in others}
    for number in range(rounds):
        for name in others:
            order = (direct, name) if number % 2 else (name, direct)
            pair = {each: run(kind, *cases[each]) for each in order}
            found[name].append((pair[name], pair[direct]))
    base = statistics.median(each.rate for pairs in found.values() for _, each in pairs)
    print(f"  {direct:22} {base:14,.0f}")
    for name, pairs in found.items():
        ratio = statistics.median(own.rate / each.rate for own, each in pairs)
        cpu = statistics.median(own.cpu_us / each.cpu_us for own, each in pairs)
        added = statistics.median(own.latency_us - each.latency_us for own, each in pairs)
        rate = statistics.median(own.rate for own, _ in pairs)
        latency = f", latency {added:+.2f} us" if kind != "push" else ""
        print(f"  {name:22} {rate:14,.0f}  ÷ direct {ratio:.2f}  CPU ÷ direct {cpu:.2f}{latency}", flush=True)


# --- changes


def toggled(base: NodeState, service_id: ServiceId, backends: tuple[str, ...]) -> NodeState:
    """As the agent makes it: all that did not change are the same objects."""
    network = base.networks[NET]
    balancer = Balancer(vips=network.balancers[service_id].vips, backends=backends)
    return node_state({**network.balancers, service_id: balancer})


def cpu_ms(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return (time.thread_time() - began) * 1e3


def free_mib() -> float:
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) / 1024


def bench_change(rounds: int) -> None:
    with ExitStack() as stack:
        spaces = [NamespaceSpace(stack.enter_context(fresh_namespace())) for _ in range(100)]
        for measured in SIZES:
            bench_changes_of(measured, spaces, rounds)
        for space in spaces:
            space.close()


def bench_changes_of(measured: int, spaces: list[NamespaceSpace], rounds: int) -> None:
    state = node_state(services(measured))

    def attach(part: Balancing, numbers: range) -> float:
        began = time.thread_time()
        for each in numbers:
            part.attach(endpoint(each), spaces[each - 1])
        return (time.thread_time() - began) * 1e3

    def started() -> Balancing:
        part = Balancing()
        part.start_up(NamespaceSpace())
        part.apply(state)
        return part

    part = started()
    first = attach(part, range(1, 2))
    one = change_cost(part, state, measured, rounds)
    before = free_mib()
    rest = attach(part, range(2, 101)) / 99
    memory = (before - free_mib()) / 99
    hundred = change_cost(part, state, measured, rounds)
    unchanged = statistics.median(cpu_ms(lambda: part.apply(state)) for _ in range(rounds))
    part.shut_down()
    again = started()
    over = attach(again, range(1, 101)) / 100
    again.destroy()
    print(
        f"{SERVICES} services, one backend of {measured} comes or goes: CPU {one:.2f} ms for one task, "
        f"{hundred:.1f} ms for 100 ({(hundred - one) / 99:.3f} ms each more)\n"
        f"  nothing changed: {unchanged:.3f} ms; attach: first {first:.0f} ms, then {rest:.1f} ms and "
        f"{memory:.2f} MiB each; taken over after a restart: {over:.1f} ms each"
    )


def change_cost(part: Balancing, state: NodeState, measured: int, rounds: int) -> float:
    less = toggled(state, ServiceId("s0000"), BACKENDS[: measured - 1])
    more = toggled(less, ServiceId("s0000"), BACKENDS[:measured])
    found = []
    for _ in range(rounds):
        found += [cpu_ms(lambda: part.apply(less)), cpu_ms(lambda: part.apply(more))]
    part.apply(state)
    return statistics.median(found)


# --- cut


def bench_cut(rounds: int) -> None:
    """A thousand open connections, idle, half of them to the address that is gone."""
    taken, cpu, count = [], [], 0
    for _ in range(rounds):
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="swarmpy-bench-"))
            [path], far = stack.enter_context(tasks(1))
            stack.enter_context(serving(far, compiled(Path(folder))))
            part, connections, space = Balancing(), Connections(), NamespaceSpace(path)
            stack.callback(space.close)
            stack.callback(part.shut_down)
            part.start_up(space)
            part.apply(node_state(services(2, 1)))
            part.attach(endpoint(1), space)
            connections.attach(endpoint(1), space)
            for _ in range(1_000):
                client = stack.enter_context(socket_in(path))
                client.connect((vip(0), PORT))
            began, began_cpu = time.perf_counter(), time.thread_time()
            count = connections.cut({NET: (BACKENDS[0],)}).sockets
            taken.append((time.perf_counter() - began) * 1e3)
            cpu.append((time.thread_time() - began_cpu) * 1e3)
    print(
        f"cut of {count} connections of 1,000 open: {statistics.median(taken):.0f} ms, "
        f"CPU {statistics.median(cpu):.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--only", choices=("traffic", "change", "cut"))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    wished = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if wished.only in (None, "change"):
        bench_change(wished.rounds)
    if wished.only in (None, "cut"):
        bench_cut(min(wished.rounds, 3))
    if wished.only in (None, "traffic"):
        bench_traffic(wished.rounds, wished.seconds, wished.kinds)


if __name__ == "__main__":
    main()
