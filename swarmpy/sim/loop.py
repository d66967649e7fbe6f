"""An asyncio loop in virtual time: it never waits, it moves its clock to the next timer.

Tasks, timeouts, queues and TaskGroups work unchanged. There is no I/O and there are no threads: a loop with
nothing ready and no timer left is a deadlock of what runs in it, and is reported as one.

Whatever is scheduled belongs to the process (``swarmpy.sim.process``) whose code scheduled it, or to none:
the simulation itself. So a process can be frozen, killed between any two steps, and given a clock of its own:
``time`` and the standard ways to schedule speak the local monotonic time of the process that calls; ``now``
and ``call_at_true`` speak the one true time.

Callbacks that are due at the same time run in the order in which they were scheduled.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import sys
from asyncio import events
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack

from swarmpy.sim.process import PROCESS, Process, abandon

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

THREAD_S = 0.001
"""Virtual time that the work of a thread takes."""
TIMERS_PURGE_MIN = 1_000
"""Cancelled timers are thrown out once there are this many, and more of them than of others."""

ExceptionHandler = Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object]


class SimTask(asyncio.Task[_T]):
    """A task with a hash of its own: TaskGroup and ``wait`` keep tasks in sets, and their order must not
    depend on where in memory a task happens to lie."""

    def __init__(self, coro: Any, *, number: int, **options: Any) -> None:
        self._number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class Deadlock(Exception):
    """Everything waits for something that can't happen any more."""


if TYPE_CHECKING:
    _Loop = asyncio.BaseEventLoop  # what it does not do (sockets, signals) is not there, rather than abstract
else:
    _Loop = asyncio.AbstractEventLoop


class SimLoop(_Loop):
    """Run it with ``run_until_complete``, then ``close`` it."""

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start
        self._ready: deque[tuple[Process | None, asyncio.Handle]] = deque()
        self._timers: list[tuple[float, int, Process | None, asyncio.Handle]] = []
        self._sequence = self._tasks = 0
        self._cancelled = 0
        self._is_running = self._is_closed = self._is_stopping = False
        self._exception_handler: ExceptionHandler | None = None
        self._forgotten: list[AsyncGenerator[Any, Any]] = []
        self._strays: set[asyncio.Task[Any]] = set()
        """Tasks that run now and are of no process."""
        self.steps = 0
        """Callbacks that were run."""

    # --- time

    @property
    def now(self) -> float:
        """The true time, in seconds, whatever the clock of a process says."""
        return self._now

    def time(self) -> float:
        process = PROCESS.get()
        return self._now if process is None else process.local_time(self._now)

    # --- scheduling

    def call_soon(
        self, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        if context is None:
            context = copy_context()
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append((context.get(PROCESS), handle))
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """At ``when`` on the clock of the process that calls."""
        process = PROCESS.get()
        true = when if process is None else process.true_time(when)
        return self._schedule(true, callback, args, context)

    def call_at_true(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """At ``when`` on the one true clock; ``context`` says whose callback it is."""
        return self._schedule(when, callback, args, context)

    def _schedule(
        self, when: float, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> asyncio.TimerHandle:
        if context is None:
            context = copy_context()
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._sequence += 1
        heapq.heappush(self._timers, (when, self._sequence, context.get(PROCESS), handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self._cancelled += 1
        if self._cancelled > TIMERS_PURGE_MIN and self._cancelled * 2 > len(self._timers):
            self._timers = [timer for timer in self._timers if not timer[3].cancelled()]
            heapq.heapify(self._timers)
            self._cancelled = 0

    def release(self, process: Process, handles: list[asyncio.Handle]) -> None:
        """Run what was held back for a process."""
        self._ready.extend((process, handle) for handle in handles)

    # --- running

    def run_forever(self) -> None:
        if self._is_closed:
            raise RuntimeError("the loop is closed")
        if self._is_running or events._get_running_loop() is not None:
            raise RuntimeError("a loop is running already")
        hooks = sys.get_asyncgen_hooks()
        # When an abandoned generator would be found depends on the garbage collector: keep it instead.
        sys.set_asyncgen_hooks(firstiter=None, finalizer=self._forgotten.append)
        events._set_running_loop(self)
        self._is_running = True
        try:
            while not self._is_stopping:
                self._run_ready()
        finally:
            self._is_running = self._is_stopping = False
            events._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)

    def _run_ready(self) -> None:
        ready = self._ready
        if not ready:
            self._advance()
        for _ in range(len(ready)):
            process, handle = ready.popleft()
            if process is not None and process.is_held:
                process.hold(handle)
            elif not handle.cancelled():
                self.steps += 1
                handle._run()

    def _advance(self) -> None:
        """Move the clock to the next timer, and make ready what is due then."""
        timers = self._timers
        while timers and timers[0][3].cancelled():
            heapq.heappop(timers)
            self._cancelled -= 1
        if not timers:
            raise Deadlock("nothing is ready and no timer is set")
        if timers[0][0] > self._now:
            self._now = timers[0][0]
        while timers and timers[0][0] <= self._now:
            _, _, process, handle = heapq.heappop(timers)
            if handle.cancelled():
                self._cancelled -= 1
            else:
                self._ready.append((process, handle))

    def run_until_complete(self, future: Any) -> Any:
        is_ours = not asyncio.isfuture(future)
        task = asyncio.ensure_future(future, loop=self)
        task.add_done_callback(self._end_run)
        try:
            self.run_forever()
        except BaseException:
            if is_ours and task.done() and not task.cancelled():
                task.exception()  # seen: what ended the loop says more
            raise
        finally:
            task.remove_done_callback(self._end_run)
        if not task.done():
            raise RuntimeError("the loop was stopped before the future was done")
        return task.result()

    def _end_run(self, future: asyncio.Future[Any]) -> None:
        self.stop()

    def stop(self) -> None:
        self._is_stopping = True

    def is_running(self) -> bool:
        return self._is_running

    def is_closed(self) -> bool:
        return self._is_closed

    def close(self) -> None:
        """End what will never run again, rather than leave it to the garbage collector: that one clears what
        a suspended coroutine holds before it lets the coroutine clean up, which can crash the interpreter."""
        for task in self._strays:
            abandon(task)
        while self._forgotten:
            with contextlib.suppress(BaseException):
                self._forgotten.pop().aclose().send(None)
        self._is_closed = True
        self._strays.clear()
        self._ready.clear()
        self._timers.clear()

    async def shutdown_asyncgens(self) -> None:
        """Abandoned generators are never run again."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """There is none."""

    # --- tasks and futures

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, _T] | Coroutine[Any, Any, _T],
        *,
        name: object = None,
        context: Context | None = None,
        **options: Any,
    ) -> asyncio.Task[_T]:
        label = "task" if name is None else str(name)  # not numbered: the count would outlive the loop
        self._tasks += 1
        task: SimTask[_T] = SimTask(
            coro, number=self._tasks, loop=self, name=label, context=context, **options
        )
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is not None:
            process.own(task)
        else:
            self._strays.add(task)
            task.add_done_callback(self._strays.discard)
        return task

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[_Ts]], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        """What a thread would do is done a little later, in one go."""
        if executor is not None:
            return asyncio.wrap_future(executor.submit(func, *args), loop=self)
        future: asyncio.Future[_T] = self.create_future()
        self.call_later(THREAD_S, self._work, future, func, args)
        return future

    def _work(self, future: asyncio.Future[_T], func: Callable[..., _T], args: tuple[Any, ...]) -> None:
        if future.done():
            return
        try:
            result = func(*args)
        except Exception as error:  # noqa: BLE001 - as an executor does: it belongs to who waits
            future.set_exception(error)
        else:
            future.set_result(result)

    # --- what goes wrong

    def set_exception_handler(self, handler: ExceptionHandler | None) -> None:
        self._exception_handler = handler

    def get_exception_handler(self) -> ExceptionHandler | None:
        return self._exception_handler

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self._exception_handler is not None:
            self._exception_handler(self, context)
            return
        self.default_exception_handler(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """An error that nobody takes ends the run; a message that might be overlooked would not do."""
        error = context.get("exception")
        if isinstance(error, BaseException):
            raise error

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        """There is no debug mode."""
