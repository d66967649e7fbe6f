"""Waiting for all services of a deployment at once, and telling how far they are."""

from __future__ import annotations

import time
from collections.abc import Collection
from urllib.parse import quote

from swarmpy.cli.progress import MONITOR_S, Picture, look
from swarmpy.cli.session import tell
from swarmpy.client import Client
from swarmpy.limits import PROGRESS_PERIOD_S


def wait_services(client: Client, names: list[str], *, changed: Collection[str], is_quiet: bool) -> int:
    """0 once all have converged and stayed so for the monitor period, 1 if one has failed. An interrupt ends
    the waiting, not the work."""
    ids = {name: str(client.get(f"/services/{quote(name, safe='')}")["ID"]) for name in names}
    watch = _Watch(changed, is_quiet=is_quiet)
    code = 0
    try:
        while ids:
            for name, id_ in list(ids.items()):
                picture = look(client, id_)
                if picture is None:
                    continue
                if picture.failure:
                    tell(f"service {name}: {picture.failure}")
                    code = 1
                    del ids[name]
                elif watch.has_converged(name, picture, time.monotonic()):
                    del ids[name]
            if ids:
                time.sleep(PROGRESS_PERIOD_S)
    except KeyboardInterrupt:
        tell(f"Operation continuing in background: {', '.join(sorted(ids))}.")
        return 0
    return code


class _Watch:
    """What was told of each service, and since when it is complete."""

    def __init__(self, changed: Collection[str], *, is_quiet: bool) -> None:
        self._changed = changed
        self._is_quiet = is_quiet
        self._told: dict[tuple[str, str], str] = {}
        self._stable_since: dict[str, float] = {}

    def has_converged(self, name: str, picture: Picture, now: float) -> bool:
        if not picture.is_complete:
            self._stable_since.pop(name, None)
            self._tell(name, f"{picture.running} out of {picture.wanted} tasks")
            if picture.trouble:
                self._tell(name, picture.trouble, what="trouble")
            return False
        since = self._stable_since.setdefault(name, now)
        if picture.wanted and name in self._changed and now - since < MONITOR_S:
            self._tell(
                name, f"{picture.running} out of {picture.wanted} tasks, waiting for them to be stable"
            )
            return False
        if name in self._changed or (name, "progress") in self._told:
            self._tell(name, "converged")
        return True

    def _tell(self, name: str, line: str, *, what: str = "progress") -> None:
        """Trouble that comes back is told once."""
        if not self._is_quiet and self._told.get((name, what)) != line:
            print(f"service {name}: {line}", flush=True)
            self._told[name, what] = line
