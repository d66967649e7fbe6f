"""Commits per second and failover of three raft members: processes on loopback, mTLS, sealed log, real syncs.

Run: python tests/bench/raft/bench_commits.py [--folder DIR]; prints medians of several rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT)]

from pki_cluster import PkiCluster  # noqa: E402

from manager.raft import state_files  # noqa: E402
from manager.raft.journal import Identity  # noqa: E402
from manager.raft.members import SUFFIX_BYTES, make_raft_id  # noqa: E402
from manager.raft.proposer import Member  # noqa: E402
from manager.raft.sealing import AesGcmSealer  # noqa: E402
from swarmpy.pki import Role  # noqa: E402
from swarmpy.runtime import SystemDisk, SystemEntropy  # noqa: E402
from tests.bench.raft.member import SEALING_KEY  # noqa: E402

NODES = 3
DEADLINE_S = 30.0
IN_FLIGHT = (1, 16, 128, 1024)


class Process:
    def __init__(self, folder: Path, *, program: str = "tests.bench.raft.member") -> None:
        self.folder, self.program = folder, program
        self.start()

    def start(self) -> None:
        with open(self.folder / "stderr", "a") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.program, str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                cwd=ROOT,
            )
        self._answer()

    def ask(self, **request: Any) -> dict[str, Any]:
        self.send(**request)
        return self._answer()

    def send(self, **request: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(
                f"a member ended: see {self.folder}/stderr\n{(self.folder / 'stderr').read_text()}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def make_members(folder: Path) -> list[Process]:
    cluster = PkiCluster()
    identities = [cluster.identity(Role.MANAGER) for _ in range(NODES)]
    members = tuple(
        Member(
            raft_id=make_raft_id(identity.node_id, os.urandom(SUFFIX_BYTES)),
            address=f"127.0.0.1:{free_port()}",
        )
        for identity in identities
    )
    folders = []
    for number, (identity, member) in enumerate(zip(identities, members, strict=True)):
        own = folder / f"m{number}"
        own.mkdir()
        (own / "cert.pem").write_bytes(identity.certificate)
        (own / "key.pem").write_bytes(identity.key)
        (own / "root.pem").write_bytes(identity.roots)
        (own / "address").write_text(member.address)
        origin = Identity(raft_id=member.raft_id, members=members)
        state_files.create(SystemDisk(), own / "raft", origin, AesGcmSealer(SEALING_KEY, SystemEntropy()))
        folders.append(own)
    return [Process(own) for own in folders]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_leader(members: list[Process]) -> Process:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        for member in members:
            if member.ask(op="status")["is_ready"]:
                return member
        time.sleep(0.01)
    raise SystemExit("no leader was elected")


def median_of(member: Process, rounds: int, **request: Any) -> str:
    answers = [member.ask(**request) for _ in range(rounds)]
    rate, p50, p99 = (statistics.median(a[key] for a in answers) for key in ("per_s", "p50_ms", "p99_ms"))
    return f"{rate:9,.0f}/s   p50 {p50:6.2f} ms   p99 {p99:6.2f} ms"


def bench_load(members: list[Process], rounds: int) -> None:
    leader = wait_leader(members)
    follower = next(member for member in members if member is not leader)
    for place, member in (("leader", leader), ("follower", follower)):
        for callers in IN_FLIGHT:
            count = 500 if callers == 1 else min(20_000, 250 * callers)
            figures = median_of(member, rounds, op="write", size=100, count=count, callers=callers)
            print(f"write via {place:8} {callers:5} in flight  {figures}")
        for callers in (1, 64):
            count = 500 if callers == 1 else 5_000
            figures = median_of(member, rounds, op="read", count=count, callers=callers)
            print(f"read  via {place:8} {callers:5} in flight  {figures}")
    figures = median_of(leader, rounds, op="write", size=10_000, count=3_000, callers=64)
    print(f"write 10 kB         64 in flight  {figures}")


def bench_failover(members: list[Process], times: int) -> None:
    delays = []
    for _ in range(times):
        leader = wait_leader(members)
        other = next(member for member in members if member is not leader)
        leader.ask(op="write", size=100, count=50, callers=8)
        killed_at = time.monotonic()
        leader.kill()
        delays.append(other.ask(op="first_write")["at"] - killed_at)
        leader.start()
    delays.sort()
    median = statistics.median(delays)
    spread = f"min {delays[0]:.2f}  median {median:.2f}  max {delays[-1]:.2f} s"
    print(f"leader killed -> first write elsewhere: {spread}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="parent of the scratch folder, on the disk to be measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=7)
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-raft-", dir=chosen.folder))
    members = make_members(folder)
    try:
        bench_load(members, chosen.rounds)
        bench_failover(members, chosen.kills)
    finally:
        for member in members:
            member.kill()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
