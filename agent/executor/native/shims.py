"""Shims that are not watched: a former life of the daemon ordered them, or they do not answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal as signals
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from agent.executor.native import folders
from agent.executor.native.folders import TaskState
from swarmpy.errors import Unavailable
from swarmpy.limits import SHIM_POLL_S, TASK_KILL_TIMEOUT_S, TASK_START_TIMEOUT_S
from swarmpy.runtime import Clock


async def wait_started(read: Callable[[], Awaitable[TaskState]], clock: Clock) -> TaskState:
    """Until the shim that has the task has started it, or has come to its end; ``read`` says what stands."""
    deadline = clock.monotonic() + TASK_START_TIMEOUT_S
    while True:
        state = await read()
        if state.started or state.ended or not state.shim:
            return state
        if clock.monotonic() > deadline:
            raise Unavailable(f"the task of shim {state.shim} did not start in {TASK_START_TIMEOUT_S:g} s")
        await asyncio.sleep(SHIM_POLL_S)


def kill(folder: Path, clock: Clock) -> None:
    """Kill the shim by the lock that it holds; its task dies with it. Blocks."""
    deadline = clock.monotonic() + TASK_KILL_TIMEOUT_S
    while shim := folders.lock_holder(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(shim, signals.SIGKILL)
        if clock.monotonic() > deadline:
            raise Unavailable(f"process {shim}, the shim of the task in {folder}, does not die")
        time.sleep(SHIM_POLL_S)
