"""What a task of the native executor costs: time to create, start and remove, CPU, memory.

    python tests/bench/executor/bench_native.py [--serial 30] [--parallel 100]

Prints medians. CPU is that of the whole machine's share which the bench, its launcher and its shims used
(user and system time of this process and of its descendants, read from /proc), so it is fair on a busy
machine where wall times are not. Needs root.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path

from agent.executor.base import Launch, Sandbox
from agent.executor.native.executor import NativeExecutor
from swarmpy.model.ids import TaskId
from swarmpy.model.specs import ContainerSpec, Limits

_TICKS = os.sysconf("SC_CLK_TCK")


async def bench(serial: int, parallel: int, *, is_limited: bool) -> None:
    limits = Limits(memory_bytes=64 << 20, nano_cpus=500_000_000, pids=50) if is_limited else Limits()
    with tempfile.TemporaryDirectory(prefix="swarmpy-bench-") as folder:
        executor = NativeExecutor(Path(folder), cgroup_parent=f"/swarmpy-bench-{os.getpid()}")
        await executor.start_up()
        image = await executor.ensure_image("host")

        def launch(name: str) -> Launch:
            spec = ContainerSpec(image="host", command=("/bin/sleep", "1000"))
            return Launch(
                task_id=TaskId(name),
                name=name,
                spec=spec,
                image=image,
                sandbox=Sandbox(netns=""),
                limits=limits,
            )

        async def up(name: str) -> None:
            await executor.create(launch(name))
            await executor.start(TaskId(name))

        await up("warm")
        times = []
        for number in range(serial):
            began = time.perf_counter()
            await up(f"serial{number}")
            times.append((time.perf_counter() - began) * 1e3)
        print(f"create + start, one at a time: {statistics.median(times):.1f} ms (min {min(times):.1f})")
        began, cpu = time.perf_counter(), _cpu_s()
        await asyncio.gather(*(up(f"parallel{number}") for number in range(parallel)))
        spent = time.perf_counter() - began
        cpu = _cpu_s() - cpu
        each = cpu / parallel * 1e3
        print(f"create + start, {parallel} at once: {spent:.2f} s; daemon CPU {each:.1f} ms each")
        _print_memory()
        found = await executor.list()
        used = [(await executor.stats(item.task_id)).cpu_ns / 1e6 for item in found]
        print(f"task up to its command: CPU {statistics.median(used):.1f} ms")
        began, cpu = time.perf_counter(), _cpu_s()
        await asyncio.gather(*(executor.remove(item.task_id) for item in found))
        spent = time.perf_counter() - began
        cpu = _cpu_s() - cpu
        print(f"remove, {len(found)} at once: {spent:.2f} s; daemon CPU {cpu / len(found) * 1e3:.1f} ms each")
        await executor.shut_down()
        for root in Path("/sys/fs/cgroup").iterdir():
            own = root / f"swarmpy-bench-{os.getpid()}"
            if own.is_dir():
                own.rmdir()


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system


def _print_memory() -> None:
    """PSS is the honest figure: shared pages are counted once, among those who share them."""
    rss, pss, cpu = [], [], []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "comm").read_text().strip() != "swarmpy-shim":
                continue
            fields = dict(
                line.split(":", 1)
                for line in (entry / "smaps_rollup").read_text().splitlines()
                if ":" in line
            )
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        rss.append(int(fields["Rss"].split()[0]))
        pss.append(int(fields["Pss"].split()[0]))
        cpu.append((int(stat[11]) + int(stat[12])) / _TICKS)
    print(
        f"shim: RSS {statistics.median(rss) / 1024:.1f} MiB, PSS {statistics.median(pss) / 1024:.1f} MiB, "
        f"CPU {statistics.mean(cpu) * 1e3:.1f} ms ({len(rss)} shims)"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--serial", type=int, default=30)
    parser.add_argument("--parallel", type=int, default=100)
    parser.add_argument("--limits", action="store_true", help="give every task memory, cpu and pids limits")
    options = parser.parse_args()
    asyncio.run(bench(options.serial, options.parallel, is_limited=options.limits))


if __name__ == "__main__":
    main()
