"""Bounds of the simulator's checkers, with their units last."""

from __future__ import annotations

SIM_VIOLATIONS_MAX = 200
"""Violations that are kept in full; more are counted."""
SIM_VERSIONS_KEPT = 200_000
"""Versions of the store whose digest is remembered for managers that come later."""
SIM_STARTS_KEPT = 1_000_000
"""Tasks whose start, or whose agent's reports, are remembered."""
SIM_TERMS_KEPT = 10_000
"""Raft terms whose leader is remembered."""
SIM_JOB_RUNS_KEPT = 1_000
"""Runs of one cron job whose ticks are remembered."""
SIM_OPERATIONS_MAX = 500_000
"""Operations of clients in one history; a longer one is undecided."""
SIM_SEARCH_STEPS_MAX = 500_000
"""Steps of the search for an order of one object's operations before it is called undecided."""
SIM_REASONS_MAX = 50
"""Reasons why a cluster is not quiet that are named at a time."""
