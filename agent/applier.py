"""Keeps a backend's networks as the core asked for last.

Only the newest state counts: those that came while one was being applied are skipped. A failure is tried
again after a growing delay, with whatever is newest then. Nobody waits for this but who wants to be attached:
to a network that is not there as it should be a task must not come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from agent.dataplane.base import Backend, NodeState
from swarmpy.errors import SwarmError, Unavailable
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
        self._error = ""
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
        for network_id, gone in addresses.items():
            self._cut.setdefault(network_id, {}).update(dict.fromkeys(gone))
        self._wake.set()

    async def wait_applied(self, number: int) -> None:
        """Until that state, or a later one, is applied. Unavailable if the next try fails."""
        while self._done < number:
            await self._tries.wait()
            if self._done < number <= self._tried:
                raise Unavailable(f"the node's networks could not be made yet: {self._error}")

    async def run(self) -> None:
        failures = 0
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self.is_idle:
                continue
            number = self._asked
            self._error = await self._try()
            self._tried = number
            if not self._error:
                self._done = number
                failures = 0
            tries, self._tries = self._tries, asyncio.Event()
            tries.set()
            if self._error:
                delay_s = min(RETRY_DELAY_MIN_S * 2 ** min(failures, 10), RETRY_DELAY_MAX_S)
                failures += 1
                self._wake.set()
                await asyncio.sleep(delay_s)

    async def _try(self) -> str:
        """What was wrong; empty if all is as asked for."""
        cut, self._cut = self._cut, {}  # what comes meanwhile belongs to a newer state
        try:
            if self._state is not None and self._done != self._asked:
                await self._backend.apply(self._state)
            if cut:
                await self._backend.cut({network_id: tuple(sorted(gone)) for network_id, gone in cut.items()})
        except SwarmError as error:
            log.warning("networks_not_applied", error=str(error))
            error_text = str(error)
        except Exception as error:  # the top of the loop: a backend that broke is tried again
            log.error("networks_broke", exc_info=error)
            error_text = f"{type(error).__name__}: {error}"
        else:
            return ""
        self.cut({network_id: tuple(gone) for network_id, gone in cut.items()})
        return error_text
