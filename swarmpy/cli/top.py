"""``swarmpy top`` and ``swarmpy stats``: what runs in tasks, and what they use, wherever they run."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from swarmpy.cli.flags import Command, Options, switch, text
from swarmpy.cli.output import template
from swarmpy.cli.render import binary_size, short_id, size, table
from swarmpy.cli.session import Session, tell
from swarmpy.cli.target import find_service, task_path, tasks_of
from swarmpy.cli.task_rows import slot_text
from swarmpy.client import Client, ErrorAnswer, Json, filters
from swarmpy.limits import STATS_PERIOD_S

_HEADS: Final = {
    "Name": "NAME",
    "CPUPerc": "CPU %",
    "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %",
    "NetIO": "NET I/O",
    "PIDs": "PIDS",
}
_CLEAR: Final = "\x1b[H\x1b[2J"
_ALIVE: Final = ("running", "starting")


def top(session: Session, arguments: list[str], options: Options) -> int:
    """Of a service: its tasks one after the other."""
    client, reference = session.client, arguments[0]
    service = find_service(client, reference)
    if service is None:
        _print_processes(client.get(f"{task_path(client, reference)}/top"))
        return 0
    tasks = [task for task in tasks_of(client, service) if task["Status"]["State"] in _ALIVE]
    if not tasks:
        tell(f"service {reference} has no task that runs")
        return 1
    code = 0
    for number, task in enumerate(tasks):
        print(("\n" if number else "") + f"{reference}.{slot_text(task)}.{task['ID']}")
        try:
            _print_processes(client.get(f"/containers/{task['ID']}/top"))
        except ErrorAnswer as error:
            tell(f"Error response from daemon: {error}")
            code = 1
    return code


def _print_processes(found: Json) -> None:
    print(table([found["Titles"], *found["Processes"]]))


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Of a task, or the sum of a service's."""

    name: str
    id: str
    cpu_percent: float
    memory: int
    limit: int
    pids: int
    received: int
    sent: int

    def row(self) -> dict[str, str]:
        memory_percent = self.memory * 100 / self.limit if self.limit else 0.0
        return {
            "ID": self.id,
            "Name": self.name,
            "CPUPerc": f"{self.cpu_percent:.2f}%",
            "MemUsage": f"{binary_size(self.memory)} / {binary_size(self.limit)}",
            "MemPerc": f"{memory_percent:.2f}%",
            "NetIO": f"{size(self.received)} / {size(self.sent)}",
            "PIDs": str(self.pids),
        }


def usage_of(task: Json, before: Json | None, *, name: str) -> Usage:
    """A rate needs an earlier figure; without one it is nought."""
    cpu = 0.0
    if before is not None:
        used = _cpu(task, "cpu_usage") - _cpu(before, "cpu_usage")
        passed = task["cpu_stats"]["system_cpu_usage"] - before["cpu_stats"]["system_cpu_usage"]
        cpu = used * task["cpu_stats"]["online_cpus"] * 100 / passed if passed > 0 and used > 0 else 0.0
    traffic = task["networks"].values()
    return Usage(
        name=name,
        id=_task_id(task),
        cpu_percent=cpu,
        memory=task["memory_stats"]["usage"],
        limit=task["memory_stats"]["limit"],
        pids=task["pids_stats"]["current"],
        received=sum(link["rx_bytes"] for link in traffic),
        sent=sum(link["tx_bytes"] for link in traffic),
    )


def _task_id(row: Json) -> str:
    """A container's name ends in its task's id."""
    return str(row["name"]).rpartition(".")[2]


def _cpu(task: Json, name: str) -> int:
    used: int = task["cpu_stats"][name]["total_usage"]
    return used


def total(usages: Iterable[Usage], *, name: str, id_: str) -> Usage:
    parts = list(usages)
    return Usage(
        name=name,
        id=id_,
        cpu_percent=sum(part.cpu_percent for part in parts),
        memory=sum(part.memory for part in parts),
        limit=sum(part.limit for part in parts),
        pids=sum(part.pids for part in parts),
        received=sum(part.received for part in parts),
        sent=sum(part.sent for part in parts),
    )


def stats(session: Session, arguments: list[str], options: Options) -> int:
    query = filters(_wanted(session.client, arguments))
    show = _shower(options, is_live=not options.on("no-stream") and session.is_terminal)
    before: dict[str, Json] = {}
    is_first = True
    while True:
        found = session.client.get("/swarmpy/stats", query)
        for warning in found["Warnings"]:
            if not is_first:  # with the rows, and once
                tell(warning)
        tasks = found["Tasks"]
        if not is_first:
            show(_rows(tasks, before, is_whole=options.on("no-trunc")))
            if options.on("no-stream"):
                return 1 if found["Warnings"] else 0
        is_first, before = False, {task["id"]: task for task in tasks}
        time.sleep(STATS_PERIOD_S)


def _wanted(client: Client, references: list[str]) -> dict[str, list[str]]:
    wanted: dict[str, list[str]] = {}
    for reference in references:
        kind = "task" if find_service(client, reference) is None else "service"
        wanted.setdefault(kind, []).append(reference)
    return wanted


def _rows(tasks: list[Json], before: dict[str, Json], *, is_whole: bool) -> list[dict[str, str]]:
    """Each task, and above the tasks of a service that has several their sum."""
    rows = []
    services: dict[str, list[Usage]] = {}
    names: dict[str, str] = {}
    for task in tasks:
        name = task["name"].removeprefix("/").rpartition(".")[0]
        names[task["service_id"]] = name.rpartition(".")[0]
        shown = name if is_whole else f"{name}.{short_id(_task_id(task), is_whole=False)}"
        services.setdefault(task["service_id"], []).append(usage_of(task, before.get(task["id"]), name=shown))
    for service_id, usages in services.items():
        if len(usages) > 1:
            rows.append(total(usages, name=names[service_id], id_=service_id).row())
        rows += [usage.row() for usage in usages]
    return rows


def _shower(options: Options, *, is_live: bool) -> Callable[[list[dict[str, str]]], None]:
    chosen = options.text("format")
    line = None if chosen in ("", "table", "json") else template(chosen)

    def show(rows: list[dict[str, str]]) -> None:
        if is_live and line is None and chosen != "json":
            sys.stdout.write(_CLEAR)
        if chosen == "json":
            for row in rows:
                print(json.dumps(row))
        elif line is not None:
            for row in rows:
                print(line(row))
        else:
            print(table([list(_HEADS.values()), *([row[name] for name in _HEADS] for row in rows)]))
        sys.stdout.flush()

    return show


COMMANDS = {
    "top": Command(
        top, "Display the processes of a task or of a service's tasks", "TASK|SERVICE[.SLOT]", 1, 1
    ),
    "stats": Command(
        stats,
        "Display what tasks use, per task and per service",
        "[TASK|SERVICE...]",
        0,
        None,
        (
            switch("no-stream", "Show one result and end"),
            switch("no-trunc", "Don't truncate output"),
            text("format", 'Show each row by a Go template, or as JSON ("json")'),
        ),
    ),
}
