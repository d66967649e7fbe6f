"""Docker's way into a task's network: the pause container is in the namespace before the task joins it.

That it is there is not believed but looked at: the namespace of its process is the one at the path. So after
a reboot, or with a namespace that was made anew, one that still holds the former is started again.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from agent.executor.base import NotRunning
from agent.executor.engine.containers import Containers
from agent.executor.engine.limits import ENGINE_JOIN_POLL_S, PAUSE_START_TIMEOUT_S
from agent.executor.engine.states import ContainerState, state_of
from swarmpy.errors import NotFound, TaskRejected, Unavailable
from swarmpy.runtime import Clock


async def join(containers: Containers, pause: str, netns: str, clock: Clock) -> None:
    """Have the pause container run in the namespace at ``netns``."""
    deadline = clock.monotonic() + PAUSE_START_TIMEOUT_S
    state = await _state(containers, pause)
    if state.is_running and not _is_in(state, netns):
        await _end(containers, pause, clock, deadline=deadline)
        state = await _state(containers, pause)
    if not state.is_running:
        await containers.start(pause)
    while not _is_in(state := await _state(containers, pause), netns):
        if state.ended is not None:
            raise Unavailable(
                f"the pause container cannot enter the network namespace {netns} (exit code "
                f"{state.ended.exit.code}): Docker must run as root, in the mount namespace of this daemon"
            )
        if clock.monotonic() > deadline:
            raise Unavailable(
                f"the pause container is not in the network namespace {netns} after "
                f"{PAUSE_START_TIMEOUT_S:g} s: Docker must run in the pid namespace of this daemon"
            )
        await asyncio.sleep(ENGINE_JOIN_POLL_S)


async def _end(containers: Containers, pause: str, clock: Clock, *, deadline: float) -> None:
    try:
        await containers.kill(pause, signal.SIGKILL)
    except NotRunning:
        return
    while (await _state(containers, pause)).is_running:
        if clock.monotonic() > deadline:
            raise Unavailable(f"the pause container {pause} does not end")
        await asyncio.sleep(ENGINE_JOIN_POLL_S)


async def _state(containers: Containers, pause: str) -> ContainerState:
    try:
        return state_of(await containers.inspect(pause))
    except NotFound:
        raise TaskRejected(
            "the container that holds the task's network was removed from docker: it starts no more"
        ) from None


def _is_in(state: ContainerState, netns: str) -> bool:
    if state.started is None or not state.started.pid:
        return False
    try:
        return os.path.samestat(Path(f"/proc/{state.started.pid}/ns/net").stat(), os.stat(netns))
    except OSError:
        return False
