"""Staying cancelled: what a TaskGroup forgets.

If one of a group's tasks fails at the moment at which the group's own task is cancelled, then until Python
3.13 the group raises the failure alone. Who takes that failure for an ordinary end goes on for ever, though
it was told to stop; and ``Task.cancelling`` can't be trusted to tell, since groups leave it counted up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """Do the work in a task of its own. Cancelled meanwhile, end it and stay cancelled, whatever it says."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen; that we were told to stop says more
        raise
    return task.result()
