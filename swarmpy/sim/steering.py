"""What simulated users do about updates: let paused ones go on, abort them, go back to kept revisions.

Whatever becomes of it: the answers are in no history. That a service goes back to a spec of before is what
the checkers of the history allow for, and all others see what it does to tasks.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from random import Random
from typing import Any

from swarmpy.model.ids import SECOND_NS
from swarmpy.sim.fleet import Fleet
from swarmpy.sim.host import Disconnected, Host
from swarmpy.sim.http import Answer

_RETRY_S = 0.5
_RETRIES_MAX = 120
PAUSED = ("paused", "rollback_paused")
UNDER_WAY = ("updating", "rollback_started")


def update_config(dice: Random) -> dict[str, Any]:
    """Some updates are canaries, some have a short time to get anywhere."""
    return {
        "Parallelism": dice.choice([0, 1, 2, 5]),
        "Delay": dice.choice([0, 0, SECOND_NS]),
        "Order": dice.choice(["stop-first", "start-first"]),
        "FailureAction": dice.choice(["pause", "continue", "rollback"]),
        "Monitor": 2 * SECOND_NS,
        "PauseAfter": dice.choice([0, 0, 0, 1, 3]),
        "ProgressDeadline": dice.choice([0, 10 * SECOND_NS, 40 * SECOND_NS]),
    }


async def steer(fleet: Fleet, host: Host, dice: Random) -> None:
    """One service's update, chosen by dice."""
    found = await _ask(fleet, host, "GET", "/services")
    services = found.json if found is not None and found.status == HTTPStatus.OK else []
    paused = [each for each in services if (each.get("UpdateStatus") or {}).get("State") in PAUSED]
    chosen = dice.choice(paused or services) if services else None
    if chosen is None:
        return
    query = {"version": str(chosen["Version"]["Index"])}
    path = f"/swarmpy/services/{chosen['ID']}"
    if paused and dice.random() < 0.7:
        await _ask(fleet, host, "POST", f"{path}/resume", query=query)
        return
    history = await _ask(fleet, host, "GET", f"{path}/history")
    if history is not None and history.status == HTTPStatus.OK and dice.random() < 0.5:
        query["to"] = str(dice.choice(history.json["Revisions"])["Number"])
    await _ask(fleet, host, "POST", f"{path}/rollback", query=query)


def turn_to(spec: dict[str, Any], image: str) -> None:
    """Another image, and no canary: what an update has not reached may be of one that never runs."""
    template = spec["TaskTemplate"]
    spec["TaskTemplate"] = {**template, "ContainerSpec": {**template["ContainerSpec"], "Image": image}}
    if spec.get("UpdateConfig"):
        spec["UpdateConfig"] = {**spec["UpdateConfig"], "PauseAfter": 0}


async def let_go_on(fleet: Fleet, service_id: str) -> None:
    """Wait for a service's update, and let it go on where it is held. One that takes too long is left to
    whoever judges the swarm."""
    for _ in range(_RETRIES_MAX):
        service = (await fleet.call_any("GET", f"/services/{service_id}")).json
        state = (service.get("UpdateStatus") or {}).get("State", "")
        if state not in (*PAUSED, *UNDER_WAY):
            return
        query = {"version": str(service["Version"]["Index"])}
        for host in fleet.managers()[:1] if state in PAUSED else ():
            await _ask(fleet, host, "POST", f"/swarmpy/services/{service_id}/resume", query=query)
        await asyncio.sleep(_RETRY_S)


async def _ask(
    fleet: Fleet, host: Host, method: str, path: str, *, query: dict[str, str] | None = None
) -> Answer | None:
    try:
        return await fleet.ask(host, method, path, None, query=query)
    except Disconnected:
        return None
