"""``Process``: one life of one daemon in the simulation, and what the machine may do to it.

Everything that its code schedules belongs to it. Killed, it never runs again, not even a ``finally``: as
after kill -9, only what it had sent and written is left. Paused (SIGSTOP), or stalled (as in a system call
that takes long), what is due is held back, in order. Its monotonic clock may run fast or slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from swarmpy.sim.loop import SimLoop

_T = TypeVar("_T")

PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


def current_process() -> Process | None:
    """Whose code runs now; None: the simulation's own."""
    return PROCESS.get()


class Process:
    """From its making until it is killed."""

    def __init__(self, loop: SimLoop, name: str) -> None:
        self._loop = loop
        self.name = name
        self.context: Context = copy_context()
        self.context.run(PROCESS.set, self)
        self.is_dead = False
        self.is_held = False
        """Whether what is due for it must wait, or never happens."""
        self.paused_at: float | None = None
        """Since when it is paused, in true time."""
        self._stalled_until = 0.0
        self._held: list[asyncio.Handle] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._end_callbacks: dict[Callable[[], None], None] = {}
        self._pause_callbacks: list[Callable[[], None]] = []
        self._rate, self._offset = 1.0, 0.0

    # --- running in it

    def spawn(self, coroutine: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        return self._loop.create_task(coroutine, context=self.context.copy())

    def own(self, task: asyncio.Task[Any]) -> None:
        """Keep a task alive for as long as the simulation: the dead are not collected either.

        Collecting a coroutine runs its ``finally`` blocks.
        """
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def hold(self, handle: asyncio.Handle) -> None:
        """Called by the loop for what is due while ``is_held``."""
        if not self.is_dead:
            self._held.append(handle)

    # --- what may happen to it

    @property
    def is_paused(self) -> bool:
        return self.paused_at is not None

    def kill(self) -> None:
        if self.is_dead:
            return
        self.is_dead = self.is_held = True
        self._held.clear()
        callbacks, self._end_callbacks = self._end_callbacks, {}
        for callback in callbacks:
            self._loop.call_soon(callback, context=Context())

    def on_end(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call it, outside of any process, once this one is killed. What is returned takes that back."""
        if self.is_dead:
            self._loop.call_soon(callback, context=Context())
        else:
            self._end_callbacks[callback] = None
        return lambda: self._end_callbacks.pop(callback, None)

    def on_pause(self, callback: Callable[[], None]) -> None:
        """Call it, there and then, whenever this one was paused or resumed."""
        self._pause_callbacks.append(callback)

    def pause(self) -> None:
        if self.paused_at is None and not self.is_dead:
            self.paused_at = self._loop.now
            self.is_held = True
            self._tell_pause()

    def resume(self) -> None:
        if self.paused_at is not None:
            self.paused_at = None
            self._release()
            self._tell_pause()

    def _tell_pause(self) -> None:
        for callback in self._pause_callbacks:
            callback()

    def stall(self, seconds: float) -> None:
        """Freeze for that long once the present step is over."""
        self._stalled_until = max(self._stalled_until, self._loop.now + seconds)
        self.is_held = True
        self._loop.call_at_true(self._stalled_until, self._release, context=Context())

    def _release(self) -> None:
        if self.is_dead or self.paused_at is not None or self._stalled_until > self._loop.now:
            return
        self.is_held = False
        held, self._held = self._held, []
        self._loop.release(self, held)

    def dispose(self) -> None:
        """Free what it holds, once the loop runs no more. What its code does meanwhile reaches nobody."""
        self.is_dead = self.is_held = True
        for task in self._tasks:
            abandon(task)
        self._tasks.clear()
        self._held.clear()

    # --- its monotonic clock

    def set_rate(self, rate: float) -> None:
        """How many of its seconds pass in a true one, from now on. Timers that are set stay as they are."""
        local = self.local_time(self._loop.now)
        self._rate, self._offset = rate, local - rate * self._loop.now

    def local_time(self, true: float) -> float:
        return self._rate * true + self._offset

    def true_time(self, local: float) -> float:
        """The first moment at which ``local_time`` has reached ``local``.

        A hair sooner, by rounding, and who waits for that time would find that it has not come, for ever.
        """
        true = (local - self._offset) / self._rate
        while self.local_time(true) < local:
            true = math.nextafter(true, math.inf)
        return true


def abandon(task: asyncio.Task[Any]) -> None:
    """End a task that never runs again. What its ``finally`` blocks say or want is ignored."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coroutine = task.get_coro()
    with contextlib.suppress(BaseException):
        if coroutine is not None:
            coroutine.close()
