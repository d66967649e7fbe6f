"""Two hundred simulated lives of a raft cluster, and proof that the checkers would notice what we prevent."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from manager.raft import state_files
from manager.raft.append import Append, Fits, LogView
from manager.raft.journal import Journal
from manager.raft.read_index import ReadIndex
from manager.raft.snapshot import SnapshotHead
from manager.raft.transport import PeerTransport
from swarmpy.sim.disk import SimAppendFile
from tests.sim.raft.tuning import tuned
from tests.sim.raft.world import Options, World

SEEDS_PER_CASE = 25
SEEDS = int(os.environ.get("SIM_SEEDS", "104"))
"""How many lives to simulate in all; each case keeps its own seeds, however many of them are run."""
ROOT = Path(__file__).resolve().parents[3]

CASES = {
    0: Options(nodes=3, duration_s=20),
    1: Options(nodes=3, duration_s=20),
    2: Options(nodes=3, duration_s=20),
    3: Options(nodes=3, duration_s=20, batch_bytes=60, snapshot_entries=25),
    4: Options(nodes=3, duration_s=20, has_member_changes=True),
    5: Options(nodes=3, duration_s=20, has_member_changes=True),
    6: Options(nodes=5, duration_s=12),
    7: Options(nodes=5, duration_s=12, has_member_changes=True),
}


@pytest.fixture(autouse=True)
def _quiet_library() -> None:
    logging.getLogger("pysyncobj").setLevel(logging.CRITICAL)


def live(seed: int, options: Options) -> World:
    world = World(seed, options)
    with tuned(seed):
        world.run()
    return world


@pytest.mark.parametrize("case", CASES)
def test_nothing_acknowledged_is_lost_and_the_cluster_recovers(case: int) -> None:
    found = {}
    first, count = case * SEEDS_PER_CASE, -(-SEEDS // len(CASES))
    for seed in range(first, first + count):
        world = live(seed, CASES[case])
        if world.violations:
            found[seed] = world.violations[:3]
        assert world.stats["acked"] or world.violations, "a life without a single write proves nothing"
    assert not found


# --- the checkers would notice

Sabotage = Callable[[], contextlib.AbstractContextManager[object]]


def _without_clamp() -> contextlib.AbstractContextManager[object]:
    return mock.patch.object(PeerTransport, "_clamp", lambda self, commit_index: commit_index)


def _without_sync() -> contextlib.AbstractContextManager[object]:
    def forget(file: SimAppendFile) -> None:
        """A disk that says it has synced and has not."""

    return mock.patch.object(SimAppendFile, "sync", forget)


def _without_reconcile() -> contextlib.AbstractContextManager[object]:
    def throw_log_away(journal: Journal, head: SnapshotHead) -> None:
        journal.start_over([head.previous, head.last])
        journal.sync()

    return mock.patch.object(state_files, "reconcile", throw_log_away)


def _without_proof_of_leading() -> contextlib.AbstractContextManager[object]:
    return mock.patch.object(ReadIndex, "_proved", lambda self, term, others: self.heartbeat)


def _without_fitting() -> contextlib.AbstractContextManager[object]:
    def take_all(log: LogView, append: Append, *, commit_index: int) -> Fits:
        return Fits(append=append)

    return mock.patch("manager.raft.transport.fit", take_all)


@pytest.mark.parametrize(
    ("sabotage", "options"),
    [
        (_without_clamp, Options(duration_s=20, snapshot_entries=15)),
        (_without_sync, Options(duration_s=20)),
        (_without_reconcile, Options(duration_s=20, snapshot_entries=15)),
        (_without_proof_of_leading, Options(duration_s=30)),
        (_without_fitting, Options(duration_s=30, batch_bytes=60, snapshot_entries=10**9)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_correction_taken_out_is_found_out(sabotage: Sabotage, options: Options) -> None:
    with sabotage():
        assert any(live(seed, options).violations for seed in range(40))


# --- replay


def trace_hash(seed: int) -> str:
    world = live(seed, Options(duration_s=10))
    return hashlib.sha256(repr((world.trace, sorted(world.acked))).encode()).hexdigest()


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_seed_replays_exactly_whatever_the_hash_seed(hash_seed: str) -> None:
    command = "from tests.sim.raft.test_simulation import trace_hash; print(trace_hash(3))"
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", command], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.split()[-1] == trace_hash(3)
