"""What a task's node-local network costs: time to attach and detach, one by one and many at once.

    unshare --net --mount python tests/bench/executor/bench_network.py [--count 100]

Run it in a namespace of its own, as above. Prints medians. Needs root.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path

from agent.dataplane.base import Endpoint, HostPort
from agent.dataplane.linux.backend import LinuxBackend
from swarmpy.model.ids import TaskId


def _endpoint(number: int, *, port: int = 0) -> Endpoint:
    ports = (HostPort(protocol="tcp", published_port=port, target_port=80),) if port else ()
    return Endpoint(task_id=TaskId(f"bench{number}"), hostname=f"host{number}", host_ports=ports)


async def bench(count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="swarmpy-bench-", dir="/dev/shm") as folder:
        backend = LinuxBackend(run_dir=Path(folder))
        await backend.start_up()
        for label, port in (("", 0), (" with a published port", 30_000)):
            up, down = [], []
            for number in range(count):
                began = time.perf_counter()
                await backend.attach(_endpoint(number, port=port and port + number))
                up.append((time.perf_counter() - began) * 1e3)
            for number in range(count):
                began = time.perf_counter()
                await backend.detach(TaskId(f"bench{number}"))
                down.append((time.perf_counter() - began) * 1e3)
            print(f"attach{label}: {statistics.median(up):.2f} ms, detach {statistics.median(down):.2f} ms")
        began, cpu = time.perf_counter(), sum(os.times()[:2])
        await asyncio.gather(*(backend.attach(_endpoint(number)) for number in range(count)))
        middle = time.perf_counter()
        await asyncio.gather(*(backend.detach(TaskId(f"bench{number}")) for number in range(count)))
        ended = time.perf_counter()
        cpu = sum(os.times()[:2]) - cpu
        print(
            f"{count} at once: attach {middle - began:.2f} s, detach {ended - middle:.2f} s, CPU {cpu:.2f} s"
        )
        await backend.destroy()
        await backend.shut_down()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=100)
    asyncio.run(bench(parser.parse_args().count))


if __name__ == "__main__":
    main()
