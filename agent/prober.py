"""Runs one probe of a task's health: a command in the task, with a time limit and a limit on what it prints.

What docker counts as a failure counts here: another exit code than 0, a command that is not there, and no end
in time; then the command is killed. Trouble of this node does not: the probe says nothing then.
"""

from __future__ import annotations

import asyncio
import contextlib

from agent.events import Probe, Probed
from agent.executor.base import Channel, Command, Executor
from swarmpy.errors import Retry, TaskRejected
from swarmpy.limits import HEALTH_OUTPUT_BYTES_MAX, PROBE_KILL_TIMEOUT_S
from swarmpy.model.ids import SECOND_NS
from swarmpy.model.quantities import duration_text

NO_EXIT_CODE = -1
"""Docker's, of a probe that has none."""


async def run_probe(executor: Executor, probe: Probe) -> Probed:
    """Returns within ``timeout_s`` and what it takes to kill the command."""
    printed = bytearray()
    try:
        async with asyncio.timeout(probe.timeout_s):
            code = await _run(executor, probe, printed)
    except TimeoutError:
        waited = duration_text(int(probe.timeout_s * SECOND_NS))
        code, text = NO_EXIT_CODE, f"Health check exceeded timeout ({waited})"
        return Probed(probe.attempt, code, f"{text}: {_text(printed)}" if printed else text)
    except TaskRejected as error:
        return Probed(probe.attempt, NO_EXIT_CODE, str(error))
    except Retry as error:
        return Probed(probe.attempt, None, str(error))
    return Probed(probe.attempt, code, _text(printed))


async def _run(executor: Executor, probe: Probe, printed: bytearray) -> int:
    channel = await executor.exec(probe.task_id, Command(argv=probe.argv))
    try:
        async for part in channel.output():
            printed += part.data[: HEALTH_OUTPUT_BYTES_MAX - len(printed)]
        return await channel.exit_code()
    finally:
        await _close(channel)


async def _close(channel: Channel) -> None:
    """Kill what still runs, also when the time is over; but don't wait for ever."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PROBE_KILL_TIMEOUT_S):
            await channel.close()


def _text(printed: bytearray) -> str:
    return printed.decode(errors="replace").strip()
