"""The log's set-up: structlog to standard error, one canonical line per fact, as text or as JSON.

Everybody else calls ``structlog.get_logger(__name__)`` and writes events in the past tense with fields
(``log.info("task_state_changed", task_id=…, state=…)``). Decisions never log; shells do, once. Secrets,
tokens and keys are never fields.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import Processor

from swarmpy.errors import InvalidArgument

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")


def configure(level: str = "info", format: str = "text", *, stream: TextIO | None = None) -> None:
    """Set up the log of this process. Called once, by whoever owns the process."""
    if level not in LEVELS:
        raise InvalidArgument(f"unknown log level {level!r}: use one of {', '.join(LEVELS)}")
    if format not in FORMATS:
        raise InvalidArgument(f"unknown log format {format!r}: use one of {', '.join(FORMATS)}")
    out = stream if stream is not None else sys.stderr
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if format == "json":
        # Plain tracebacks: the structured kind shows local variables, and with them keys and secrets.
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        is_terminal = out.isatty()
        processors.append(
            structlog.dev.ConsoleRenderer(
                colors=is_terminal,
                pad_event_to=0,
                exception_formatter=structlog.dev.plain_traceback,
            )
        )
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
