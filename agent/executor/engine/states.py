"""What an engine's inspection of a container says about its task. Pure.

Both engines say it in docker's words; a container that has never run has the year 1 for its times.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from agent.executor.base import Exit
from agent.executor.engine.task import Ended, Started
from swarmpy.model.ids import SECOND_NS, Timestamp

RUNNING: Final = frozenset({"running", "paused", "stopping", "restarting"})
"""Words of a list for a container that has processes."""
NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
NOT_STARTED: Final = 128
NOT_TOLD: Final = "podman cannot tell how it ended: its conmon was killed"
_KILLED: Final = 137
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")
_NEVER: Final = "0001-01-01"
_MISSING: Final = ("executable file not found", "no such file or directory", "system cannot find")
_UNUSABLE: Final = ("permission denied", "cannot execute", "exec format error", "is a directory")


class ContainerState(NamedTuple):
    """Neither started nor ended: made, and never run."""

    started: Started | None
    ended: Ended | None

    @property
    def is_running(self) -> bool:
        return self.started is not None and self.ended is None


def state_of(inspected: Mapping[str, Any]) -> ContainerState:
    state = inspected.get("State") or {}
    at = time_of(str(state.get("StartedAt") or ""))
    if not at:
        return ContainerState(None, None)
    if state.get("Running") or state.get("Status") in RUNNING:  # podman: not while it is paused or stopping
        return ContainerState(Started(at=at, pid=int(state.get("Pid") or 0)), None)
    code = int(state.get("ExitCode") or 0)
    is_known = code >= 0  # podman's -1: its conmon did not come to say
    exit = Exit(
        code=code if is_known else _KILLED,
        is_oom_killed=bool(state.get("OOMKilled")),
        at=time_of(str(state.get("FinishedAt") or "")),
        message=str(state.get("Error") or "") if is_known else NOT_TOLD,
    )
    return ContainerState(Started(at=at), Ended(exit=exit))


def lost(why: str, at: Timestamp) -> Ended:
    """Of a task that ran, and of whose end nobody can tell more."""
    return Ended(exit=Exit(code=_KILLED, at=at, message=why))


def time_of(text: str) -> Timestamp:
    """RFC 3339 with up to nine digits; 0 for what never happened."""
    match = _TIME.match(text)
    if match is None or text.startswith(_NEVER):
        return Timestamp(0)
    whole, fraction, zone = match.groups()
    moment = datetime.fromisoformat(whole + ("+00:00" if zone == "Z" else zone)).astimezone(UTC)
    return Timestamp(int(moment.timestamp()) * SECOND_NS + int((fraction or "0").ljust(9, "0")))


def start_exit_code(text: str) -> int:
    """What docker makes of the runtime's words when a container does not start."""
    words = text.lower()
    if any(part in words for part in _UNUSABLE):
        return NOT_EXECUTABLE
    if any(part in words for part in _MISSING) or ("executable file" in words and "not found" in words):
        return NOT_FOUND
    return NOT_STARTED
