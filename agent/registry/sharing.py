"""Fetches of the same image at the same time are one: tasks that start together wait for the first one's.

Who waits gets what the first gets, its error too. If the first is broken off, the next one fetches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from swarmpy.errors import SwarmError

Outcome = SwarmError | bool
"""True: it is here. False: broken off."""


class SharedFetches:
    def __init__(self) -> None:
        self._under_way: dict[tuple[str, str], asyncio.Future[Outcome]] = {}

    async def run(self, key: tuple[str, str], fetch: Callable[[], Awaitable[object]]) -> None:
        """``key``: what is fetched, and who asks for it. SwarmError if it cannot be had."""
        while (other := self._under_way.get(key)) is not None:
            outcome = await asyncio.shield(other)
            if isinstance(outcome, SwarmError):
                raise outcome
            if outcome:
                return
        own = self._under_way[key] = asyncio.get_running_loop().create_future()
        outcome = False
        try:
            await fetch()
            outcome = True
        except SwarmError as error:
            outcome = error
            raise
        finally:
            del self._under_way[key]
            own.set_result(outcome)
