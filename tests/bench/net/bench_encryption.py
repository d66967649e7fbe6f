"""Encrypted overlay networks in user space: throughput and round trips, ÷ plain VXLAN between the same hosts.

    python tests/bench/net/bench_encryption.py [--rounds 5] [--seconds 1.0]

Each round has one run of either, so the ratios are of one moment; figures are medians. Hosts are network
namespaces, so a "wire" is memory speed. Needs root. IPsec and WireGuard are the kernel's; where this machine
has them, ``--way esp`` or ``--way wireguard`` measures them.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

from encryption_rig import VNI, SecureHost, SecureRig, add_vxlan, inner_address, node_id, secure_hosts
from net_hosts import EchoServer, socket_in

from agent.dataplane.linux.encryption.ways import WAYS
from agent.dataplane.linux.part import Carriage

_PLAIN_PORT = 4789
_PLAIN_OVERHEAD_BYTES = 50
_TCP_PORT = 5001
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


def plain_address(each: SecureHost) -> str:
    return f"10.2.0.{each.host.number}"


def add_plain(rig: SecureRig) -> None:
    for each in rig.hosts:
        routes = {node_id(other.host): other.addr for other in rig.hosts}
        carriage = Carriage(each.addr, _PLAIN_PORT, routes, _PLAIN_OVERHEAD_BYTES)
        add_vxlan(each.host, "vxplain", carriage, plain_address(each), rig.hosts, VNI + 1)


def throughput(source: SecureHost, target: SecureHost, address: str, seconds: float) -> float:
    """Gb/s of one TCP connection; the sender is another process."""
    with socket_in(target.host.path) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, _TCP_PORT))
        listener.listen()
        words = [sys.executable, "-c", _SENDER, address, str(_TCP_PORT), str(seconds)]
        sender = subprocess.Popen(["nsenter", f"--net={source.host.path}", *words])
        served, _ = listener.accept()
        with served:
            buffer = bytearray(_CHUNK_BYTES)
            began, total = time.monotonic(), 0
            while count := served.recv_into(buffer):
                total += count
            took = time.monotonic() - began
        sender.wait()
    return total * 8 / took / 1e9


def round_trips(source: SecureHost, target: SecureHost, address: str, seconds: float) -> float:
    """Requests of one byte per second, one after the other."""
    with EchoServer(target.host.path, address, _TCP_PORT + 1), socket_in(source.host.path) as client:
        client.connect((address, _TCP_PORT + 1))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        count, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            client.sendall(b"x")
            client.recv(1)
            count += 1
    return count / seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--way", choices=WAYS, default="userspace")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        secure_hosts(Path(folder), (options.way,), (options.way,)) as rig,
    ):
        one, two = rig.hosts
        add_plain(rig)
        for name, unit, measure in (("tcp", "Gb/s", throughput), ("round trips", "/s", round_trips)):
            plain, secure = [], []
            for _ in range(options.rounds):
                plain.append(measure(one, two, plain_address(two), options.seconds))
                secure.append(measure(one, two, inner_address(two.host), options.seconds))
            ratio = statistics.median(b / a for a, b in zip(plain, secure, strict=True))
            print(
                f"{name}: {options.way} {statistics.median(secure):.2f} {unit}, "
                f"plain VXLAN {statistics.median(plain):.2f} {unit}, ratio {ratio:.2f}"
            )


if __name__ == "__main__":
    main()
