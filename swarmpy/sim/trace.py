"""The trace of a simulated run: everything that production code logs, hashed, the last lines kept.

Two runs with the same seed have the same hash, whatever Python's version and hash seed. Tracebacks are kept
for the reader but not hashed: they name lines of code.
"""

from __future__ import annotations

import hashlib
import logging
import sys
import traceback
from collections import deque
from collections.abc import Callable, MutableMapping
from typing import Any, TextIO

import structlog

from swarmpy.sim.process import current_process

LINES_KEPT = 600
ERRORS_KEPT = 50
_LEVELS = {"info": "", "debug": "", "warning": "!", "error": "!!", "critical": "!!"}
_UNHASHED = frozenset({"exc_info", "took_ms"})


class Trace:
    """``record`` for the simulation's own events; the log of production code comes by itself.

    ``out`` gets every line, with tracebacks.
    """

    def __init__(self, now: Callable[[], float], *, out: TextIO | None = None) -> None:
        self._now = now
        self._out = out
        self._hash = hashlib.sha256()
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        self.errors: deque[str] = deque(maxlen=ERRORS_KEPT)
        """What production code logged as an error, with its traceback."""
        self.is_over = False

    def install(self) -> None:
        """Take in what production code logs, from now on, in this interpreter."""
        logging.getLogger("pysyncobj").setLevel(logging.CRITICAL)
        structlog.reset_defaults()
        structlog.configure(
            processors=[self._take],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            logger_factory=_discarding_logger,
            cache_logger_on_first_use=False,
        )

    def record(self, event: str, **facts: object) -> None:
        self._add("world", event, facts)

    def note_random(self, state: object) -> None:
        """Let the hash cover a generator: two runs that drew differently differ."""
        self._hash.update(repr(state).encode())

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()[:16]

    def _take(self, logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        if self.is_over:
            raise structlog.DropEvent
        process = current_process()
        name = process.name if process is not None else "world"
        text = str(event.pop("event"))
        if method in ("error", "critical", "exception"):
            where = f"{self._now():.3f} {name}"
            self.errors.append(f"{where} {text} {_shown(event)}\n{_traceback(event.get('exc_info'))}")
        self._add(name, _LEVELS.get(method, "!!") + text, event)
        raise structlog.DropEvent

    def _add(self, name: str, event: str, facts: MutableMapping[str, Any]) -> None:
        hashed = {key: value for key, value in facts.items() if key not in _UNHASHED}
        line = f"{self._now():10.4f} {name:<10} {event} {_shown(hashed)}"
        self._hash.update(line.encode())
        self.lines.append(line)
        if self._out is not None:
            self._out.write(f"{line}\n{_traceback(facts.get('exc_info'))}")


def _traceback(error: object) -> str:
    found = sys.exc_info()[1] if error is True else error
    return "".join(traceback.format_exception(found)) if isinstance(found, BaseException) else ""


def _shown(facts: MutableMapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in facts.items())


def _discarding_logger(*arguments: object) -> object:
    """Never written to: every event is taken before."""
    return structlog.ReturnLogger()
