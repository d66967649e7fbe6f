"""``SimJournal``: an agent's journal in memory. It outlives its daemon, and may lose its end with the power.

It is the production journal on a database in memory. As on a real disk (``agent.journal``), a killed daemon
loses nothing of it; a machine that goes down keeps what was synced last, by a checkpoint or by a commit that
had to be, and a random number of the commits since then, in order, each whole or not at all.

A checkpoint is made at once when it is due: it is a thread's work in production, and never waited for.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from agent.events import Record
from agent.journal import IN_MEMORY, Journal, must_outlive_power
from swarmpy.limits import JOURNAL_CHECKPOINT_COMMITS


class SimJournal(Journal):
    """``step`` is called before and after each commit: the machine may go down there, by raising."""

    def __init__(self, generator: random.Random, *, step: Callable[[], None] = lambda: None) -> None:
        super().__init__(IN_MEMORY)
        self._generator = generator
        self._step = step
        self._synced = b""
        """The database as the disk surely has it; nothing if it is new."""
        self._since: list[Callable[[], None]] = []
        self.losses = 0
        """Power losses that took a commit with them."""

    def commit(self, records: Iterable[Record]) -> None:
        kept = tuple(records)
        self._write(partial(super().commit, kept))
        if must_outlive_power(kept):
            self._checkpoint()

    def save_managers(self, addresses: Sequence[str]) -> None:
        self._write(partial(super().save_managers, tuple(addresses)))

    def destroy(self) -> None:
        """Removed together with its folder, which is surely gone once that returned."""
        super().destroy()
        self._synced = b""
        self._since.clear()

    def lose_power(self) -> None:
        """The machine goes down. For the next daemon the journal is what its disk has kept."""
        since, self._since = self._since, []
        kept = self._generator.randint(0, len(since))
        self.losses += kept < len(since)
        if self._synced:
            self._connection.deserialize(self._synced)
        else:
            super().destroy()
        for write in since[:kept]:
            write()
        self._checkpoint()

    def _write(self, write: Callable[[], None]) -> None:
        self._step()
        write()
        self._since.append(write)
        if len(self._since) >= JOURNAL_CHECKPOINT_COMMITS:
            self._checkpoint()
        self._step()

    def _checkpoint(self) -> None:
        self._synced = self._connection.serialize()
        self._since.clear()
