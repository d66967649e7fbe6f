"""What benchmarks on a lab have in common: services that sleep, what of them runs, how figures are told."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from swarmpy.errors import SwarmError
from swarmpy.lab.cluster import Lab

STEP_TIMEOUT_S = 120.0
TOKEN = "98765.4321"
"""How long the tasks would sleep; also how their processes are told from others."""


def sleepers(name: str, replicas: int, **placement: Any) -> dict[str, Any]:
    container = {"Image": "host", "Command": ["sleep", TOKEN], "StopGracePeriod": 1_000_000_000}
    template: dict[str, Any] = {"ContainerSpec": container}
    if placement:
        template["Placement"] = placement
    return {"Name": name, "TaskTemplate": template, "Mode": {"Replicated": {"Replicas": replicas}}}


def create(lab: Lab, spec: dict[str, Any], *, node: str = "node-1") -> str:
    """The new service's id."""
    id_: str = lab.call(node, "POST", "/services/create", spec)["ID"]
    return id_


def tasks(lab: Lab, service: str, *, state: str = "running", away_from: str = "") -> int:
    """How many tasks of a service should run and are in a state, on other nodes than one."""
    try:
        names = {node["ID"]: node["Description"]["Hostname"] for node in lab.nodes(timeout_s=10.0)}
        found = lab.tasks({"service": [service], "desired-state": ["running"]}, timeout_s=10.0)
    except SwarmError:
        return -1
    in_state = (task for task in found if task["Status"]["State"] == state)
    return sum(names.get(task.get("NodeID", "")) != away_from for task in in_state)


def processes() -> int:
    """The tasks' processes, wherever they run."""
    count = 0
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0") if folder.name.isdigit() else []
        except OSError:
            continue
        count += words[:2] == [b"sleep", TOKEN.encode()]
    return count


def report(what: str, values: list[float], unit: str, *, target: str) -> None:
    spread = f"{min(values):.2f}-{max(values):.2f}" if len(values) > 1 else "one run"
    print(
        f"{what:<58} {statistics.median(values):>9.2f} {unit:<4} ({spread}, n={len(values)})  {target}",
        flush=True,
    )


def wait(lab: Lab, condition: Callable[[], bool], what: str) -> float:
    return lab.wait(condition, timeout_s=STEP_TIMEOUT_S, explain=lambda: f"Not in time: {what}.")
