"""What simulated users do with containers of their own: make them on any node, start, stop and remove them.

Whatever becomes of each call: the answers are in no history. The checkers see what it does to tasks, and that
all comes to rest as the last call that was heard has left it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from random import Random
from typing import Any

from swarmpy.sim.fleet import Fleet
from swarmpy.sim.host import Disconnected, Host
from swarmpy.sim.http import Answer

NAMES = ("shell", "cache", "probe")
IMAGES = ("steady:1", "steady:1", "slow-to-stop:1", "crashing:1", "finishing:1", "broken:1", "stubborn:1")
POLICIES: tuple[dict[str, Any], ...] = (
    {"Name": "no"},
    {"Name": "always"},
    {"Name": "on-failure", "MaximumRetryCount": 2},
)
PAUSE_S = 1.0
"""Between two calls, on the average."""
CALLS = {"create": 25, "start": 30, "stop": 15, "restart": 10, "kill": 8, "remove": 12}


async def live(fleet: Fleet, seed: int, is_over: Callable[[], bool]) -> None:
    """One user, until it is over; with dice of its own."""
    dice = Random(f"{seed}/by-hand")
    while not is_over():
        await asyncio.sleep(dice.expovariate(1 / PAUSE_S))
        managers = fleet.managers()
        if managers and not is_over():
            await act(fleet, dice.choice(managers), dice)


async def act(fleet: Fleet, host: Host, dice: Random) -> None:
    name, call = dice.choice(NAMES), dice.choices(list(CALLS), list(CALLS.values()))[0]
    match call:
        case "create":
            await _create(fleet, host, name, dice)
        case "remove":
            await _ask(
                fleet, host, "DELETE", f"/containers/{name}", query={"force": str(dice.choice([0, 1]))}
            )
        case "stop" | "restart":
            query = {"t": str(dice.choice([0, 1, 10]))}
            await _ask(fleet, host, "POST", f"/containers/{name}/{call}", query=query)
        case _:
            await _ask(fleet, host, "POST", f"/containers/{name}/{call}")


async def _create(fleet: Fleet, host: Host, name: str, dice: Random) -> None:
    """On a node of the swarm's; on the one that is asked it would have to hold the image."""
    image, policy = dice.choice(IMAGES), dice.choice(POLICIES)
    is_passing = policy["Name"] == "no" and dice.random() < 0.3
    answer = await _ask(fleet, host, "GET", "/nodes")
    nodes = answer.json if answer is not None and answer.status == HTTPStatus.OK else []
    others = sorted(node["ID"] for node in nodes if node["ID"] != host.node_id)
    if not others:
        return
    host_config = {
        "RestartPolicy": policy,
        "AutoRemove": is_passing,
        "NetworkMode": dice.choice(["default", "default", "host"]),
    }
    body = {"Image": image, "HostConfig": host_config}
    query = {"name": name, "node": dice.choice(others)}
    await _ask(fleet, host, "POST", "/containers/create", body, query=query)


async def _ask(
    fleet: Fleet,
    host: Host,
    method: str,
    path: str,
    body: object = None,
    *,
    query: dict[str, str] | None = None,
) -> Answer | None:
    try:
        return await fleet.ask(host, method, path, body, query=query)
    except Disconnected:
        return None
