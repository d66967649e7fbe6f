"""Bounds of what executors do for clients, beside those of ``swarmpy/limits``."""

ATTACHED_LAST_WORDS_S = 5.0
"""So long a task's log outlives its removal for who is attached and reads it."""
DETACHED_KEPT_MAX = 1_000
"""Detached commands of a node that can be asked about, those that run and the last that have ended."""
ATTACH_POLL_S = 0.02
"""How often a task that has not started yet is looked at by who waits to be attached to it."""
