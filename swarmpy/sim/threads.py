"""Threads of the simulation: their work is done later, in one go, on the loop."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from concurrent.futures import Executor, Future
from random import Random
from typing import Any

THREAD_WORK_MIN_S = 0.0005
THREAD_WORK_MAX_S = 0.2
"""Virtual time between handing over a piece of work and its being done."""


class SimThreads(Executor):
    """One pool. Work belongs to the process that submits it, and is lost with it.

    As many pieces are under way at a time as the pool has workers; with one worker they are done in turn.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, generator: Random, workers: int) -> None:
        self._loop = loop
        self._generator = generator
        self._free_at = [loop.time()] * workers
        self._is_shut_down = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self._is_shut_down:
            raise RuntimeError("the pool of threads was shut down")
        future: Future[Any] = Future()
        begin = max(self._loop.time(), heapq.heappop(self._free_at))
        end = begin + self._generator.uniform(THREAD_WORK_MIN_S, THREAD_WORK_MAX_S)
        heapq.heappush(self._free_at, end)
        self._loop.call_at(end, self._work, future, fn, args, kwargs)
        return future

    def _work(self, future: Future[Any], fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = fn(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - as an executor does: it belongs to who waits
            future.set_exception(error)
        else:
            future.set_result(result)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._is_shut_down = True
