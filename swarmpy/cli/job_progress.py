"""How far a job is: what its progress display shows, and when the waiting for it ends. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from swarmpy.cli.service_modes import total_of
from swarmpy.client import Json
from swarmpy.limits import PROGRESS_ROWS_MAX

DONE: Final = "job complete"
_FAILED: Final = "a task of the job has failed, and its restart policy does not start it again: "
_BAD_STATES: Final = frozenset({"failed", "rejected"})


@dataclass(frozen=True)
class JobPicture:
    """``rows``: label and task, of those at work."""

    completed: int
    total: int
    active: int
    most: int
    rows: tuple[tuple[str, Json], ...] = ()
    failure: str = ""
    trouble: str = ""

    @property
    def headline(self) -> str:
        return (
            f"job progress: {self.completed} out of {self.total} complete\n"
            f"active tasks: {self.active} out of {self.most} tasks"
        )


def is_job(service: Json) -> bool:
    return not (service["Spec"].get("Mode") or {}).keys().isdisjoint(("ReplicatedJob", "GlobalJob"))


def is_cron(service: Json) -> bool:
    return "CronJob" in (service["Spec"].get("Mode") or {})


def judge_job(service: Json, tasks: list[Json], nodes: list[Json]) -> JobPicture:
    """``tasks`` may be of any iteration; the present one counts."""
    mode = service["Spec"]["Mode"]
    iteration = _index(service.get("JobStatus"))
    is_numbered = "ReplicatedJob" in mode
    slots: dict[object, list[Json]] = {}
    for task in sorted(tasks, key=lambda task: task["CreatedAt"]):
        if _index(task) == iteration and task["DesiredState"] != "remove":
            slot = task.get("Slot", 0) if is_numbered else task.get("NodeID", "")
            slots.setdefault(slot, []).append(task)
    done = [slot for slot, found in slots.items() if any(_state(task) == "complete" for task in found)]
    at_work = {slot: found[-1] for slot, found in slots.items() if slot not in done and _is_wanted(found[-1])}
    failed = [found[-1] for slot, found in slots.items() if slot not in done and _has_failed(found[-1])]
    if is_numbered:
        total, most = total_of(mode["ReplicatedJob"]), int(mode["ReplicatedJob"].get("MaxConcurrent", 1))
        most = min(most, total - len(done))
    else:
        # docker counts nodes that have tasks; before there are any, all that could get one
        total = len(slots) or len(nodes)
        most = total - len(done)
    running = sum(_state(task) == "running" for task in at_work.values())
    rows = tuple(
        (f"{slot}/{total}" if is_numbered else str(slot)[:12], task)
        for slot, task in sorted(at_work.items(), key=lambda item: str(item[0]))[:PROGRESS_ROWS_MAX]
    )
    troubles = sorted({task["Status"]["Err"] for task in at_work.values() if task["Status"].get("Err")})
    failure = ""
    if failed and len(done) + len(failed) >= total:
        failure = _FAILED + (failed[0]["Status"].get("Err") or _state(failed[0]))
    return JobPicture(len(done), total, running, most, rows, failure, "; ".join(troubles[:3]))


def next_run(service: Json) -> str:
    """What is said of a cron job in place of progress."""
    status = service.get("CronStatus") or {}
    if (service["Spec"]["Mode"]["CronJob"] or {}).get("Suspended"):
        return "cron job: suspended"
    return f"cron job: next run at {shown_time(status.get('NextTick', ''))}"


def shown_time(text: str) -> str:
    """``2026-03-01 12:05:00 UTC``; "" for never."""
    return "" if not text or text.startswith("0001-") else f"{text[:10]} {text[11:19]} UTC"


def _index(item: Json | None) -> int:
    return int(((item or {}).get("JobIteration") or {}).get("Index", 0))


def _state(task: Json) -> str:
    return str(task["Status"]["State"])


def _is_wanted(task: Json) -> bool:
    return task["DesiredState"] in ("complete", "ready") and _state(task) not in ("complete", "shutdown")


def _has_failed(task: Json) -> bool:
    return task["DesiredState"] == "shutdown" and _state(task) in _BAD_STATES
