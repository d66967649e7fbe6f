"""The page on simulation names every fault and fault point, in the code's own words."""

from __future__ import annotations

from pathlib import Path

from swarmpy.sim.fault_points import FAULT_POINTS
from swarmpy.sim.faults import FAULTS
from swarmpy.sim.world import QUIET_WITHIN_S

PAGE = (Path(__file__).parents[4] / "docs" / "simulation.md").read_text()


def test_every_fault_is_described() -> None:
    rows = [f"| `{name}` | {' '.join((fault.__doc__ or '').split())} |" for name, fault in FAULTS.items()]
    assert [row for row in rows if row not in PAGE] == []


def test_every_fault_point_is_described() -> None:
    rows = [f"| `{name}` | {meaning} |" for name, meaning in FAULT_POINTS.items()]
    assert [row for row in rows if row not in PAGE] == []


def test_the_bound_is_the_codes() -> None:
    assert f"{QUIET_WITHIN_S:.0f} virtual seconds" in PAGE
