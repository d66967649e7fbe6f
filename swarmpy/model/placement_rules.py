"""What a service may wish of where its tasks run, beside constraints (those are the scheduler's)."""

from __future__ import annotations

from swarmpy.errors import InvalidArgument
from swarmpy.model.defaults import is_replicated
from swarmpy.model.specs import ServiceSpec
from swarmpy.model.states import PlacementStrategy


def check_rebalance(spec: ServiceSpec) -> None:
    """Refuse a wish for tasks to be moved that could never be followed."""
    if not spec.rebalance:
        return
    if not is_replicated(spec):
        raise InvalidArgument("rebalance is for replicated services: tasks of other modes are never moved")
    placement = spec.task_template.placement
    if placement is not None and placement.strategy is PlacementStrategy.BINPACK:
        raise InvalidArgument(
            "rebalance spreads tasks evenly, and placement strategy binpack does not: choose one of them"
        )
