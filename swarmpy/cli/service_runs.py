"""``swarmpy service runs``: what a cron job did and what it missed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

from swarmpy.cli.flags import Command, Options, UsageError
from swarmpy.cli.job_progress import is_cron, next_run, shown_time
from swarmpy.cli.output import LIST_FLAGS, Listing, show_list
from swarmpy.cli.render import age, capital, duration, parse_time
from swarmpy.cli.session import Session
from swarmpy.client import Json

_COLUMNS: Final = {
    "Run": "RUN",
    "Tick": "TICK",
    "Started": "STARTED",
    "Took": "TOOK",
    "State": "STATE",
}


def runs(session: Session, arguments: list[str], options: Options) -> int:
    service = session.client.get(f"/services/{quote(arguments[0], safe='')}")
    if not is_cron(service):
        raise UsageError(f"{arguments[0]} is no cron job: see its tasks with service ps")
    status = service.get("CronStatus") or {}
    now = datetime.now(UTC)
    rows = [_row(run, now) for run in reversed(status.get("Runs") or [])]
    show_list(Listing(_COLUMNS, rows, id_field="Run"), options)
    if not options.on("quiet") and not options.is_set("format"):
        for line in told(service):
            print(line)
    return 0


def _row(run: Json, now: datetime) -> dict[str, str]:
    began, ended = (parse_time(run.get(field, "")) for field in ("StartedAt", "EndedAt"))
    took = duration(((ended or now) - began).total_seconds()) if began is not None else ""
    return {
        "Run": str(run["Iteration"]),
        "Tick": shown_time(run["Tick"]),
        "Started": age(run.get("StartedAt", ""), now),
        "Took": took.lower(),
        "State": capital(run["State"]),
    }


def told(service: Json) -> list[str]:
    """What stands below the runs: what comes next, and what was missed."""
    status = service.get("CronStatus") or {}
    lines = [next_run(service).removeprefix("cron job: ")]
    if status.get("Missed"):
        last = shown_time(status.get("LastMissed", ""))
        lines.append(f"missed: {status['Missed']}, the last one at {last}")
    if status.get("Message"):
        lines.append(status["Message"])
    return lines


RUNS: Final = Command(runs, "List the runs of a cron job, and what it missed", "SERVICE", 1, 1, LIST_FLAGS)
