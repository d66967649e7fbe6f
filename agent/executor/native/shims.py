"""Shims that are not watched yet: their start, those that a former life of the daemon ordered, their end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal as signals
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from agent.executor.native import folders, process
from agent.executor.native.folders import TaskState
from agent.executor.native.launcher import Launcher
from swarmpy.errors import Unavailable
from swarmpy.limits import SHIM_POLL_S, TASK_KILL_TIMEOUT_S, TASK_START_TIMEOUT_S
from swarmpy.runtime import Clock

Run = Callable[[Callable[[], Any]], Awaitable[Any]]


async def order_start(launcher: Launcher, folder: Path, *, run: Run, clock: Clock) -> str:
    """Give the order and wait for the shim's report. "" if it died without one."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        await run(partial(launcher.order, folder, write_end))
    except OSError as error:
        os.close(read_end)
        raise Unavailable(f"the task launcher takes no orders: {error}") from None
    finally:
        os.close(write_end)
    try:
        async with asyncio.timeout(TASK_START_TIMEOUT_S):
            answer = await process.read_report(read_end)
    except TimeoutError:
        await run(partial(kill, folder, clock))
        raise Unavailable(f"the task in {folder} did not start in {TASK_START_TIMEOUT_S:g} s") from None
    finally:
        os.close(read_end)
    return str(json.loads(answer)["state"]) if answer else ""


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
