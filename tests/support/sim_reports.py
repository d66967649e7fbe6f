"""What is told of a simulated run that was not good."""

from __future__ import annotations

from swarmpy.sim.world import Report


def told(report: Report) -> str:
    return "\n".join([*map(str, report.violations), *report.errors[:3]])
