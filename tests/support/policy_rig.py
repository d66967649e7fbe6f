"""What tests of policies ask: a policy put on tasks that are placed, and what the kernel counts of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from net_hosts import command_in
from overlay_rig import OverlayRig, Placed

from swarmpy.model.endpoint_policy import Policy, parse
from swarmpy.model.ids import TaskId


def set_policy(rig: OverlayRig, name: str, acl: str = "", *, rate_in: int = 0, rate_out: int = 0) -> None:
    """On all legs of the task; to be applied."""
    policy = Policy(rules=parse(acl), rate_in_bps=rate_in, rate_out_bps=rate_out)
    placed = rig.tasks[TaskId(name)]
    legs = tuple(replace(leg, policy=policy) for leg in placed.endpoint.legs)
    rig.tasks[TaskId(name)] = Placed(replace(placed.endpoint, legs=legs), placed.node, placed.path)


def queues(path: Path, link: str) -> dict[str, Any]:
    """By kind the queueing of a link, with its counters."""
    shown = json.loads(command_in(path, "tc", "-s", "-j", "qdisc", "show", "dev", link))
    return {each["kind"]: each for each in shown}
