"""Each kind of fault by itself: it happens in a run, and the swarm survives it."""

from __future__ import annotations

import pytest
from sim_reports import told

from swarmpy.sim.faults import FAULTS
from swarmpy.sim.workload import shape_of
from swarmpy.sim.world import Options, World

SHAPE = shape_of(24)
"""What five nodes are given by default is twenty tasks each: most of a run is then those coming to rest."""


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_each_kind_of_fault_happens_and_is_survived(name: str) -> None:
    options = Options(seed=7, nodes=5, managers=3, minutes=0.25, faults=(name,), fault_gap_s=1.0, shape=SHAPE)
    report = World(options).run()
    assert report.is_good, told(report)
    assert report.faults[name] > 5
