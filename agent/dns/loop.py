"""The resolver's one thread: waits for sockets and for time, and calls what was left for either.

All sockets belong to that thread. Others hand it work by ``post``; nothing else here is for them.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

import structlog

from agent.dns.limits import DNS_STOP_TIMEOUT_S
from swarmpy.errors import Unavailable

log = structlog.get_logger(__name__)

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT

Call = Callable[[], None]


class Timer:
    """A call that is due at a time, unless it is cancelled before."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call: Call | None = call

    def cancel(self) -> None:
        self.call = None


class Loop:
    def __init__(self) -> None:
        self._poll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._ready: dict[int, Call] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._timers_made = 0
        self._inbox: deque[Call] = deque()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="dns", daemon=True)
        self.watch(self._wake, READABLE, self._read_inbox)

    # --- from other threads

    def start(self) -> None:
        """The thread is born into the caller's network namespace."""
        self._thread.start()

    def post(self, call: Call) -> None:
        self._inbox.append(call)
        os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """Returns when what was posted before is done and the thread has ended."""
        self.post(self._stop)
        self._thread.join(DNS_STOP_TIMEOUT_S)
        if self._thread.is_alive():
            raise Unavailable("the resolver's thread does not end")
        self._poll.close()
        os.close(self._wake)

    # --- from the loop's thread

    def watch(self, fd: int, events: int, ready: Call) -> None:
        self._ready[fd] = ready
        self._poll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        self._poll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Before the socket is closed; one that is not watched is fine."""
        if self._ready.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def after(self, delay_s: float, call: Call) -> Timer:
        timer = Timer(call)
        self._timers_made += 1
        heapq.heappush(self._timers, (time.monotonic() + delay_s, self._timers_made, timer))
        return timer

    def _run(self) -> None:
        poll, ready = self._poll.poll, self._ready
        while not self._is_stopping:
            for fd, _ in poll(self._patience()):
                call = ready.get(fd)  # one that was called before it may have closed it
                if call is not None:
                    self._carry_out(call)
            if self._timers:
                self._ring()

    def _carry_out(self, call: Call) -> None:
        try:
            call()
        except Exception:  # the top of the loop: one query must not silence all tasks
            log.exception("dns_call_failed")

    def _patience(self) -> float | None:
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return max(0.0, self._timers[0][0] - time.monotonic())

    def _ring(self) -> None:
        now = time.monotonic()
        while self._timers and (self._timers[0][0] <= now or self._timers[0][2].call is None):
            call = heapq.heappop(self._timers)[2].call
            if call is not None:
                self._carry_out(call)

    def _read_inbox(self) -> None:
        with contextlib.suppress(BlockingIOError):  # read by the call before
            os.eventfd_read(self._wake)
        while self._inbox:
            self._carry_out(self._inbox.popleft())

    def _stop(self) -> None:
        self._is_stopping = True
