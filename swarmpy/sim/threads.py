"""Threads of the simulation: their work is done later, in one go, on the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from random import Random
from typing import Any

THREAD_WORK_MIN_S = 0.0005
THREAD_WORK_MAX_S = 0.2
"""Virtual time between handing over a piece of work and its being done."""


class SimThreads(Executor):
    """One pool. Work belongs to the process that submits it, and is lost with it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, generator: Random) -> None:
        self._loop = loop
        self._generator = generator
        self._is_shut_down = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self._is_shut_down:
            raise RuntimeError("the pool of threads was shut down")
        future: Future[Any] = Future()
        delay_s = self._generator.uniform(THREAD_WORK_MIN_S, THREAD_WORK_MAX_S)
        self._loop.call_later(delay_s, self._work, future, fn, args, kwargs)
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
