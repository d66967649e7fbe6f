"""The fault points of the production code: their names, and what happens where one fires.

Each forces a branch that must be right at any time but is rare by nature. They are asked through
``Env.buggify``, which is constantly False in production; the simulation decides when they fire. Each name is
asked for in one place, ``module.what_happens``; a test holds this table and the code together.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

FAULT_POINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "raft.snapshot_early": "a manager writes a snapshot although none is due (asked at each tick)",
        "raft.answer_lost": "whoever proposed is never told the outcome, though it may be committed",
        "control_loop.slice_over": "a planning run ends after one key, as if its time slice were over",
        "control_loop.resync": "the watch seems to have overflowed: every key is looked at again",
        "dispatcher.resync": "an agent is sent all its assignments again, though nothing was lost",
        "dispatcher.small_batch": "one agent's statuses are committed alone, though others' wait",
        "session.ends": "an agent leaves its session after a message, for no reason",
        "driver.outcome_lost": "an agent repeats an operation that was carried out",
        "driver.probe_lost": "an agent never hears what a check of a task has said",
    }
)
"""What happens, by name."""
