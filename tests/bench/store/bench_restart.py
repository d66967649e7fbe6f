"""A manager with a large store: restart to serving, its snapshot, and how long the loop stalls meanwhile.

Run: python tests/bench/store/bench_restart.py [--tasks N] [--folder DIR]; prints medians of several runs.
Members are processes with the real store, raft, log, seals and gRPC on loopback; there is no control loop.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
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
from tests.bench.raft.bench_commits import Process, free_port  # noqa: E402
from tests.bench.raft.member import SEALING_KEY  # noqa: E402

PROGRAM = "tests.bench.store.restart_member"
DEADLINE_S = 120.0


def make_folder(folder: Path, cluster: PkiCluster, members: tuple[Member, ...]) -> Member:
    """Certificates and an empty log: of a founder, or of one who joins ``members``."""
    identity = cluster.identity(Role.MANAGER)
    raft_id = make_raft_id(identity.node_id, os.urandom(SUFFIX_BYTES))
    member = Member(raft_id=raft_id, address=f"127.0.0.1:{free_port()}")
    folder.mkdir()
    (folder / "cert.pem").write_bytes(identity.certificate)
    (folder / "key.pem").write_bytes(identity.key)
    (folder / "root.pem").write_bytes(identity.roots)
    (folder / "address").write_text(member.address)
    origin = Identity(raft_id=raft_id, members=(*members, member), is_joined=bool(members))
    sealer = AesGcmSealer(SEALING_KEY, SystemEntropy())
    state_files.create(SystemDisk(), folder / "raft", origin, sealer)
    return member


def show(name: str, answers: list[dict[str, Any]], *fields: tuple[str, str]) -> None:
    """Medians; of stalls the longest of all runs too."""
    parts = []
    for key, unit in fields:
        values = [answer[key] for answer in answers]
        text = f"{key.rpartition('_')[0] or key} {statistics.median(values):,.1f} {unit}"
        parts.append(text + (f" (longest {max(values):,.1f})" if key == "stall_ms" else ""))
    print(f"{name:<34} {';  '.join(parts)}")


STALLS = (("stall_ms", "ms"), ("held_ms", "ms"), ("p99_ms", "ms"), ("collection_ms", "ms"))


def bench_alone(process: Process, rounds: int, tasks: int) -> None:
    process.ask(op="born")
    process.ask(op="stall")
    print(f"{process.ask(op='fill', tasks=tasks)['tasks']:,} tasks")
    show("filling the store", [process.ask(op="stall")], *STALLS)
    restarts = []
    for _ in range(rounds):
        process.kill()
        process.start()
        restarts.append(process.ask(op="born"))
    assert {answer["tasks"] for answer in restarts} == {tasks}
    fields = (("load_s", "s"), ("serving_s", "s"))
    show("restart, all in the log", restarts, *fields)
    taken = [process.ask(op="snapshot") for _ in range(rounds)]
    show("taking a snapshot, under writes", taken, ("took_s", "s"), ("bytes", "bytes"), *STALLS)
    restarts = []
    for _ in range(rounds):
        process.kill()
        process.start()
        restarts.append(process.ask(op="born"))
    assert {answer["tasks"] for answer in restarts} == {tasks}
    show("restart, from the snapshot", restarts, *fields)


def bench_install(leader: Process, folder: Path, cluster: PkiCluster, first: Member, rounds: int) -> None:
    tasks = leader.ask(op="state")["tasks"]
    received, sent = [], []
    for number in range(rounds):
        own = folder / f"follower{number}"
        member = make_folder(own, cluster, (first,))
        follower = Process(own, program=PROGRAM)
        try:
            began = time.monotonic()
            follower.ask(op="stall")
            leader.ask(op="stall")
            leader.ask(op="join", raft_id=member.raft_id, address=member.address)
            while follower.ask(op="state")["tasks"] < tasks:
                assert time.monotonic() - began < DEADLINE_S
                time.sleep(0.05)
            took = {"took_s": time.monotonic() - began}
            received.append(follower.ask(op="stall") | took)
            sent.append(leader.ask(op="stall") | took)
        finally:
            leader.ask(op="leave", raft_id=member.raft_id)
            follower.kill()
    show("installing it on a follower", received, ("took_s", "s"), *STALLS)
    show("sending it, on the leader", sent, *STALLS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="parent of the scratch folder, on the disk to be measured")
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-restart-", dir=chosen.folder))
    cluster = PkiCluster()
    first = make_folder(folder / "first", cluster, ())
    process = Process(folder / "first", program=PROGRAM)
    try:
        bench_alone(process, chosen.rounds, chosen.tasks)
        bench_install(process, folder, cluster, first, chosen.rounds)
    finally:
        process.kill()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
