"""Whole clusters in virtual time: seeds that must be good, seeds that once were not, and proof that the
checkers would notice.

``make sim`` runs many more, larger ones.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from unittest import mock

import pytest
from sim_reports import told

from manager.raft.log import SyncObjLog
from swarmpy.cli import sim
from swarmpy.cli.flags import parse
from swarmpy.cli.session import Session
from swarmpy.client import Client
from swarmpy.sim.disk import SimAppendFile
from swarmpy.sim.workload import shape_of
from swarmpy.sim.world import Options, World

ROOT = Path(__file__).resolve().parents[3]
REGRESSIONS = ROOT / "tests/sim/regressions.txt"
SMALL = Options(nodes=6, managers=3, minutes=1.0, fault_gap_s=1.5)


def options_of(line: str) -> Options:
    """What a command line of ``swarmpy sim`` asks for."""
    words = line.partition("#")[0].split()
    _, options = parse(sim.COMMANDS["sim"], words)
    seeds = sim.seeds_of(options)
    wish = sim.wish_of(Session(Client("unix:///nowhere"), {}, is_terminal=False), options)
    assert len(seeds) == 1
    return sim.with_seed(wish, seeds[0])


def lines() -> list[str]:
    return [line for line in REGRESSIONS.read_text().splitlines() if line and not line.startswith("#")]


@pytest.mark.slow
@pytest.mark.parametrize("line", lines())
def test_what_once_failed_holds(line: str) -> None:
    report = World(options_of(line)).run()
    assert report.is_good, told(report)


@pytest.mark.parametrize("seed", range(101, 103))
def test_faults_and_operators_do_no_harm(seed: int) -> None:
    report = World(Options(seed=seed, nodes=12, minutes=1.0)).run()
    assert report.is_good, told(report)
    assert report.faults.total() > 5
    assert report.summary is not None
    assert report.summary.operations > 50, "a run without clients proves nothing"


@pytest.mark.parametrize("seed", range(201, 202))
def test_a_healthy_majority_gets_its_work_done(seed: int) -> None:
    report = World(Options(seed=seed, nodes=12, managers=5, minutes=1.0, is_liveness=True)).run()
    assert report.is_good, told(report)


# --- the checkers would notice

Sabotage = Callable[[], contextlib.AbstractContextManager[object]]


def _without_sync() -> contextlib.AbstractContextManager[object]:
    def forget(file: SimAppendFile) -> None:
        """A disk that says it has synced and has not."""

    return mock.patch.object(SimAppendFile, "sync", forget)


def _without_read_barrier() -> contextlib.AbstractContextManager[object]:
    async def believe(log: SyncObjLog) -> None:
        """Any manager's state will do."""

    return mock.patch.object(SyncObjLog, "read_barrier", believe)


def _without_synced_starts() -> contextlib.AbstractContextManager[object]:
    return mock.patch("swarmpy.sim.journal.must_outlive_power", return_value=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sabotage", "faults", "checkers"),
    [
        (
            _without_sync,
            ("power", "disk-crash", "kill-several"),
            {"patience", "acknowledged writes", "replicas"},
        ),
        (_without_read_barrier, ("isolate", "pause", "partition"), {"linearizability"}),
        (_without_synced_starts, ("power", "isolate"), {"starts"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_production_code_prevents_is_found_out(
    sabotage: Sabotage, faults: tuple[str, ...], checkers: set[str]
) -> None:
    for seed in range(1, 16):
        with sabotage():
            report = World(
                Options(seed=seed, nodes=6, minutes=1.0, faults=faults, fault_gap_s=1.5, has_operator=False)
            ).run()
        if report.violations:
            assert checkers & {violation.checker for violation in report.violations}, told(report)
            return
    pytest.fail("nobody noticed")


# --- replay


@cache
def digest(seed: int) -> str:
    return World(Options(seed=seed, nodes=6, minutes=0.3, shape=shape_of(24))).run().digest


@pytest.mark.parametrize("hash_seed", ["1"])
def test_a_seed_replays_exactly_whatever_the_hash_seed(hash_seed: str) -> None:
    command = "from tests.sim.cluster.test_world import digest; print(digest(5))"
    paths = f"{ROOT}{os.pathsep}{ROOT / 'tests/support'}"
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": paths}
    result = subprocess.run(
        [sys.executable, "-c", command], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.split()[-1] == digest(5)


def test_other_seeds_make_other_runs() -> None:
    assert digest(5) != digest(6)
