"""What policies cost: setting an endpoint up, and its traffic with long access lists, next to none at all.

``python tests/bench/net/bench_policy.py``; ratios are of one run, and of medians.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from net_hosts import EchoServer, net_hosts, run_in, socket_in  # noqa: E402
from overlay_rig import BLUE, OverlayRig, overlay_rig  # noqa: E402
from policy_rig import set_policy  # noqa: E402

RUNS = 5
CONNECTIONS = 300
BYTES = 100_000_000
CHUNK = b"x" * (1 << 16)
LISTS = {
    "10 rules": "\n".join(f"deny in tcp {1000 + number}" for number in range(10)),
    "200 rules": "\n".join(f"deny in tcp {1000 + number} from 10.9.{number}.0/24" for number in range(200)),
}
ENDPOINTS = 100


def connections(path: Path, address: str) -> float:
    """New ones per second, each asked once."""

    def work() -> float:
        begin = time.perf_counter()
        for _ in range(CONNECTIONS):
            with socket.create_connection((address, 80)) as client:
                client.sendall(b"hello")
                client.recv(100)
        return CONNECTIONS / (time.perf_counter() - begin)

    return run_in(path, work)


def throughput(source: Path, target: Path, address: str) -> float:
    """Bits per second of one TCP connection."""
    with socket_in(target) as server:
        server.bind((address, 5001))
        server.listen()

        def take() -> None:
            client, _ = server.accept()
            with client:
                while client.recv(1 << 18):
                    pass

        taker = threading.Thread(target=take)
        taker.start()
        with socket_in(source) as client:
            client.connect((address, 5001))
            begin = time.perf_counter()
            for _ in range(BYTES // len(CHUNK)):
                client.sendall(CHUNK)
            client.shutdown(socket.SHUT_WR)
            taker.join()
            return BYTES * 8 / (time.perf_counter() - begin)


async def traffic(rig: OverlayRig) -> None:
    web = rig.place("web", 0, (BLUE, "10.1.0.2/16"))
    far = rig.place("far", 1, (BLUE, "10.1.0.4/16"))
    await rig.apply()
    measures: dict[str, Callable[[], float]] = {
        "new connections/s": lambda: connections(far.path, "10.1.0.2"),
        "bit/s": lambda: throughput(far.path, web.path, "10.1.0.2"),
    }
    found: dict[tuple[str, str], list[float]] = {}
    with EchoServer(web.path, "10.1.0.2", 80):
        for _ in range(RUNS):
            for name, text in (("none", ""), *LISTS.items()):
                set_policy(rig, "web", text)
                await rig.apply()
                for what, measure in measures.items():
                    found.setdefault((name, what), []).append(measure())
    for what in measures:
        plain = statistics.median(found["none", what])
        for name in LISTS:
            ratio = statistics.median(found[name, what]) / plain
            print(f"{what} with {name} / without: {ratio:.3f} ({plain:.3g} without)")


async def set_up(rig: OverlayRig) -> None:
    for name, text, rate in (
        ("none", "", 0),
        ("a list", "deny in tcp 25", 0),
        ("list and rates", "deny in", 10**8),
    ):
        for number in range(ENDPOINTS):
            rig.place(f"t{number}", 0, (BLUE, f"10.1.1.{number + 1}/16"))
            set_policy(rig, f"t{number}", text, rate_in=rate, rate_out=rate)
        begin, cpu = time.perf_counter(), time.process_time()
        await rig.apply(0)
        took, used = time.perf_counter() - begin, time.process_time() - cpu
        print(
            f"endpoints with {name}: {took / ENDPOINTS * 1e3:.2f} ms each, "
            f"{used / ENDPOINTS * 1e3:.2f} ms of CPU"
        )
        begin = time.perf_counter()
        await rig.backends[0].mend()
        print(f"  looked over: {(time.perf_counter() - begin) * 1e3:.0f} ms for {ENDPOINTS}")
        for number in range(ENDPOINTS):
            rig.remove(f"t{number}")
        await rig.apply(0)


async def main() -> None:
    with net_hosts(2) as hosts, tempfile.TemporaryDirectory() as folder:
        async with overlay_rig(hosts, Path(folder)) as rig:
            await traffic(rig)
            await set_up(rig)


if __name__ == "__main__":
    asyncio.run(main())
