"""Keeps a backend's networks as the core asked for last.

Only the newest state counts: those that came while one was being applied are skipped. A failure is tried
again after a growing delay, or sooner with what is asked for then. Nobody waits for this but who wants to be
attached, and that only for a try: whether a task has what it needs its own attach says, so that trouble with
one network keeps no other's tasks waiting. Connections are cut after a try, too, whatever became of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Iterable, Mapping

import structlog

from agent.dataplane.base import Backend, NodeState
from swarmpy.errors import SwarmError
from swarmpy.limits import RETRY_DELAY_MAX_S, RETRY_DELAY_MIN_S
from swarmpy.model.ids import NetworkId

log = structlog.get_logger(__name__)


class Applier:
    """``ask`` and ``cut`` at any time; ``run`` until cancelled. States are counted from 1."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._state: NodeState | None = None
        self._asked = 0
        self._tried = 0
        self._done = 0
        self._cut: dict[NetworkId, dict[str, None]] = {}
        self._wake = asyncio.Event()
        self._tries: asyncio.Event = asyncio.Event()

    @property
    def number(self) -> int:
        """Of the state that was asked for last."""
        return self._asked

    @property
    def is_idle(self) -> bool:
        return self._done == self._asked and not self._cut

    def ask(self, state: NodeState) -> None:
        self._state = state
        self._asked += 1
        self._wake.set()

    def cut(self, addresses: Mapping[NetworkId, tuple[str, ...]]) -> None:
        """End these connections, once what was asked for last is applied: new ones must not go there."""
        self._note(addresses)
        self._wake.set()

    async def wait_tried(self, number: int) -> None:
        """Until that state, or a later one, is applied, or could not be as a whole."""
        while self._tried < number:
            await self._tries.wait()

    async def run(self) -> None:
        failures = 0
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self.is_idle:
                continue
            number = self._asked
            cut, self._cut = self._cut, {}  # what comes meanwhile belongs to a newer state
            is_applied = self._done == number or await self._is_done(self._apply())
            is_cut = not cut or await self._is_done(self._backend.cut(_sorted(cut)))
            self._tried = number
            if is_applied:
                self._done = number
            if not is_cut:
                self._note(cut)
            tries, self._tries = self._tries, asyncio.Event()
            tries.set()
            if is_applied and is_cut:
                failures = 0
                continue
            delay_s = min(RETRY_DELAY_MIN_S * 2 ** min(failures, 10), RETRY_DELAY_MAX_S)
            failures += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._wake.wait()
            self._wake.set()

    def _note(self, addresses: Mapping[NetworkId, Iterable[str]]) -> None:
        for network_id, gone in addresses.items():
            self._cut.setdefault(network_id, {}).update(dict.fromkeys(gone))

    async def _apply(self) -> None:
        assert self._state is not None, "a state was asked for"
        await self._backend.apply(self._state)

    async def _is_done(self, work: Awaitable[None]) -> bool:
        try:
            await work
        except SwarmError as error:
            log.warning("networks_not_applied", error=str(error))
            return False
        except Exception as error:  # the top of the loop: a backend that broke is tried again
            log.error("networks_broke", exc_info=error)
            return False
        return True


def _sorted(cut: Mapping[NetworkId, Mapping[str, None]]) -> dict[NetworkId, tuple[str, ...]]:
    return {network_id: tuple(sorted(gone)) for network_id, gone in cut.items()}
