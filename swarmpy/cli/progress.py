"""Waiting for a service to become what was asked for, and showing how far it is.

``judge`` decides from one picture of service, tasks and nodes; the loop around it asks, shows and waits. A
service has converged when as many tasks of its present version run as are wanted, and have done so for the
monitor period. A task that ended and that the restart policy leaves alone counts if it was completed; if it
was not, that is the end of the waiting. An interrupt ends the waiting, not the work.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from swarmpy.cli import job_progress
from swarmpy.cli.session import Session, tell
from swarmpy.client import Client, ErrorAnswer, Json, filters
from swarmpy.errors import Unavailable
from swarmpy.limits import PROGRESS_PERIOD_S, PROGRESS_ROWS_MAX

if TYPE_CHECKING:
    from rich.live import Live

MONITOR_S: Final = 5.0
_BAR_WIDTH: Final = 50
_STATES: Final = (
    "new", "pending", "assigned", "accepted", "preparing", "ready", "starting", "running",
)  # fmt: skip
_BAD_STATES: Final = frozenset({"failed", "rejected"})
_NOT_REPLACED: Final = "a task has ended, and the service's restart policy does not start it again: "
_ENDS: Final = {
    "paused": "service update paused: ",
    "rollback_paused": "service rollback paused: ",
}
_CANARY: Final = "update paused after "
"""Begins the message of a pause that was asked for: no failure, and the end of the waiting."""


@dataclass(frozen=True)
class Picture:
    """How far a service is. ``rows``: label, state or error, and steps done, of each task shown."""

    running: int
    wanted: int
    rows: tuple[tuple[str, str, int], ...] = ()
    failure: str = ""
    note: str = ""
    trouble: str = ""
    pause: str = ""
    title: str = ""
    done: str = ""
    """What is said at the end, if it need not be watched for a while first."""

    @property
    def is_complete(self) -> bool:
        return self.running == self.wanted

    @property
    def headline(self) -> str:
        return self.title or f"overall progress: {self.running} out of {self.wanted} tasks"


@dataclass
class _Watch:
    """What the loop remembers from one picture to the next."""

    stable_since: float | None = None
    shown: list[str] = field(default_factory=list)


def judge(service: Json, tasks: list[Json], nodes: list[Json]) -> Picture:
    """Pure. ``tasks`` are those of the service's present version."""
    if job_progress.is_cron(service):
        told = job_progress.next_run(service)
        return Picture(0, 0, title=told, done=told)
    if job_progress.is_job(service):
        return _of_job(job_progress.judge_job(service, tasks, nodes))
    update = service.get("UpdateStatus") or {}
    state = update.get("State", "")
    message = update.get("Message", "")
    is_canary = state == "paused" and message.startswith(_CANARY)
    pause = _ENDS[state] + message if is_canary else ""
    failure = _ENDS[state] + message if state in _ENDS and not is_canary else ""
    note = f"rollback: {message}" if state.startswith("rollback_") else ""
    active = {node["ID"] for node in nodes if (node.get("Status") or {}).get("State") != "down"}
    current = _current(tasks)
    over = [task for task in _newest(tasks).values() if _is_over(task, service)]
    for task in over:
        if task["Status"]["State"] in _BAD_STATES and not failure:
            failure = _NOT_REPLACED + (task["Status"].get("Err") or task["Status"]["State"])
    running = sum(task["Status"]["State"] == "complete" for task in over) + sum(
        task["Status"]["State"] == "running" and (not nodes or task.get("NodeID") in active)
        for task in current
    )
    wanted = _wanted(service, current, nodes)
    troubles = sorted({task["Status"]["Err"] for task in current if task["Status"].get("Err")})
    rows = tuple(_row(task, wanted) for task in current[:PROGRESS_ROWS_MAX])
    shown = rows if wanted <= PROGRESS_ROWS_MAX else ()
    return Picture(running, wanted, shown, failure, note, "; ".join(troubles[:3]), pause)


def _of_job(job: job_progress.JobPicture) -> Picture:
    return Picture(
        job.completed,
        job.total,
        tuple((label, *_row(task, job.total)[1:]) for label, task in job.rows),
        job.failure,
        trouble=job.trouble,
        title=job.headline,
        done=job_progress.DONE,
    )


def _current(tasks: list[Json]) -> list[Json]:
    """The newest task of each slot that should run, or was to run and came to grief."""
    newest: dict[object, Json] = {}
    for task in sorted(tasks, key=lambda task: task["CreatedAt"]):
        if task["DesiredState"] in ("running", "ready", "complete"):
            newest[task.get("Slot") or task.get("NodeID", "")] = task
        elif task["Status"]["State"] in _BAD_STATES:
            newest.setdefault(task.get("Slot") or task.get("NodeID", ""), task)
    return [newest[key] for key in sorted(newest, key=str)]


def _newest(tasks: list[Json]) -> dict[object, Json]:
    return {
        task.get("Slot") or task.get("NodeID", ""): task
        for task in sorted(tasks, key=lambda task: task["CreatedAt"])
    }


def _is_over(task: Json, service: Json) -> bool:
    """Whether the task has ended and none will follow it. Where a window forgets attempts, one may."""
    state = task["Status"]["State"]
    if state != "complete" and state not in _BAD_STATES:
        return False
    policy = service["Spec"].get("TaskTemplate", {}).get("RestartPolicy") or {}
    condition = policy.get("Condition") or "any"
    if condition == "none" or (condition == "on-failure" and state == "complete"):
        return True
    most = policy.get("MaxAttempts") or 0
    return 0 < most <= (task.get("Restart") or {}).get("Attempt", 0) and not policy.get("Window")


def _wanted(service: Json, current: list[Json], nodes: list[Json]) -> int:
    mode = service["Spec"].get("Mode") or {}
    if "Global" in mode:
        return len({task.get("NodeID") for task in current}) or len(nodes)
    return int((mode.get("Replicated") or {}).get("Replicas", 1))


def _row(task: Json, wanted: int) -> tuple[str, str, int]:
    state = task["Status"]["State"]
    label = f"{task['Slot']}/{wanted}" if task.get("Slot") else task.get("NodeID", "")[:12]
    steps = _STATES.index(state) + 1 if state in _STATES else 0
    return label, task["Status"].get("Err") or state, steps


def wait_converged(session: Session, id_: str, *, is_quiet: bool) -> int:
    """0 once it has converged or its canary waits for a word, 1 if it failed or is gone."""
    watch = _Watch()
    try:
        with _screen(session, is_quiet=is_quiet) as screen:
            while True:
                picture = look(session.client, id_)
                if picture is not None:
                    if picture.failure:
                        screen.show(picture, "")
                        tell(picture.failure)
                        return 1
                    if picture.pause:
                        screen.show(picture, "")
                        tell(picture.pause)
                        return 0
                    verify = _verify(picture, watch, time.monotonic())
                    screen.show(picture, verify)
                    if verify == "":
                        time.sleep(PROGRESS_PERIOD_S)
                        continue
                    if verify.startswith("verify: Service") or verify == picture.done:
                        return 0
                time.sleep(PROGRESS_PERIOD_S)
    except KeyboardInterrupt:
        tell(f"Operation continuing in background.\nUse `swarmpy service ps {id_}` to check progress.")
        return 0


def look(client: Client, id_: str) -> Picture | None:
    """A picture, or None while no manager answers: a change of leader does not end the wait."""
    try:
        service = client.get(f"/services/{id_}")
        tasks = client.get("/tasks", filters({"service": [id_], "_up-to-date": ["true"]}))
        nodes = client.get("/nodes")
    except ErrorAnswer as error:
        if error.status == 503:
            return None
        raise
    except Unavailable:
        return None
    return judge(service, tasks, nodes)


def _verify(picture: Picture, watch: _Watch, now: float) -> str:
    """The line under the bars: empty while tasks are still to start, and at last that all is well."""
    if not picture.is_complete:
        watch.stable_since = None
        return ""
    if picture.done:
        return picture.done
    if watch.stable_since is None:
        watch.stable_since = now
    left = watch.stable_since + MONITOR_S - now
    if left > 0 and picture.wanted:
        return f"verify: Waiting {int(left) + 1} seconds to verify that tasks are stable..."
    return "verify: Service converged"


# --- showing


class _Screen(Protocol):
    def show(self, picture: Picture, verify: str) -> None: ...


class _Silent:
    def show(self, picture: Picture, verify: str) -> None:
        """Nothing is wanted."""


class _Lines:
    """For pipes and logs: a line whenever something changed. Trouble that comes back is told once."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}

    def show(self, picture: Picture, verify: str) -> None:
        step = "verify: Waiting for tasks to be stable" if verify.startswith("verify: Waiting") else verify
        lines = {
            "note": picture.note,
            "headline": picture.headline,
            "trouble": picture.trouble,
            "step": step if step != picture.headline else "",
        }
        for what, line in lines.items():
            if line and line != self._last.get(what):
                print(line, flush=True)
                self._last[what] = line


class _Bars:
    """For a terminal: a bar per task, redrawn in place."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, picture: Picture, verify: str) -> None:
        lines = [picture.note, picture.headline] if picture.note else [picture.headline]
        width = max((len(label) for label, _, _ in picture.rows), default=0)
        for label, state, steps in picture.rows:
            bar = ""
            if steps:
                filled = _BAR_WIDTH * steps // len(_STATES)
                bar = "[" + ("=" * (filled - 1) + ">").ljust(_BAR_WIDTH) + "]"
            lines.append(f"{label}:".ljust(width + 2) + f"{state:<10} {bar}".rstrip())
        if picture.trouble and not picture.rows:
            lines.append(picture.trouble)
        if verify and verify != picture.headline:
            lines.append(verify)
        from rich.text import Text

        self._live.update(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)


@contextmanager
def _screen(session: Session, *, is_quiet: bool) -> Iterator[_Screen]:
    if is_quiet:
        yield _Silent()
    elif not session.is_terminal:
        yield _Lines()
    else:
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(file=sys.stdout, highlight=False), auto_refresh=False) as live:
            yield _Bars(live)
