"""The traffic program of the network benches: built once, served in one namespace, asked from another."""

from __future__ import annotations

import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from net_hosts import command_in, start_in

KINDS: Final = {"push": "throughput", "ask": "requests/s", "call": "connections/s"}
_SOURCE: Final = Path(__file__).parents[1] / "bench" / "net" / "traffic.c"
_PINNED: Final = ("taskset", "-c", "1")
"""Both ends on one core, or it is the scheduler's luck that is measured."""


class Way(NamedTuple):
    """From a namespace to an address; bulk goes to the next port."""

    path: Path
    address: str
    port: int


class Ratio(NamedTuple):
    """Medians over rounds: rate ÷ rate, latency − latency, and the way's own rate and latency."""

    rate: float
    added_us: float
    own_rate: float
    own_us: float


@contextmanager
def traffic_program() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="swarmpy-bench-") as folder:
        program = f"{folder}/traffic"
        subprocess.run(["gcc", "-O2", "-o", program, str(_SOURCE)], check=True)
        yield program


@contextmanager
def serving(path: Path, program: str, port: int) -> Iterator[None]:
    """Echoes on the port, swallows on the next."""
    server = start_in(path, *_PINNED, program, "serve", str(port))
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield
    finally:
        server.kill()
        server.wait()


def measure(program: str, kind: str, way: Way, seconds: float) -> tuple[float, float]:
    """Operations (bytes) per second, and the median latency in microseconds."""
    client = (*_PINNED, program, kind, way.address, str(way.port), str(seconds))
    words = command_in(way.path, *client).split()
    assert words[3] == "0", f"{kind} {way.address}: {words[3]} failures"
    return float(words[0]) / float(words[1]), float(words[2])


def compare(program: str, kind: str, own: Way, base: Way, *, rounds: int, seconds: float) -> Ratio:
    """The two beside each other, each first in turn, so that what else the machine does hits both alike."""
    found = []
    for number in range(rounds):
        if number % 2:
            first = measure(program, kind, own, seconds)
            found.append((first, measure(program, kind, base, seconds)))
        else:
            plain = measure(program, kind, base, seconds)
            found.append((measure(program, kind, own, seconds), plain))
    return Ratio(
        statistics.median(mine[0] / plain[0] for mine, plain in found),
        statistics.median(mine[1] - plain[1] for mine, plain in found),
        statistics.median(mine[0] for mine, _ in found),
        statistics.median(mine[1] for mine, _ in found),
    )
