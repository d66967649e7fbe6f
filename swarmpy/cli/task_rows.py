"""Tasks as rows of ``service ps``, ``node ps``, ``task ls``: of each slot the present one, then its past."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from swarmpy.cli.flags import Options
from swarmpy.cli.render import age, capital, parse_time, quoted_error, short_id
from swarmpy.client import Client, ErrorAnswer, Json, filters

TASK_COLUMNS = {
    "ID": "ID",
    "Name": "NAME",
    "Image": "IMAGE",
    "Node": "NODE",
    "DesiredState": "DESIRED STATE",
    "CurrentState": "CURRENT STATE",
    "Error": "ERROR",
    "Ports": "PORTS",
}


def task_rows(client: Client, tasks: list[Json], options: Options, *, now: datetime) -> list[dict[str, str]]:
    """Rows in order: by name, then the newest first. Asks for the names that it shows."""
    is_whole = options.on("no-trunc")
    is_plain = options.on("no-resolve")
    services = {} if is_plain or options.on("quiet") else _names(client, "/services", tasks, "ServiceID")
    nodes = {} if is_plain or options.on("quiet") else _names(client, "/nodes", tasks, "NodeID")
    tasks = sorted(tasks, key=lambda task: task["CreatedAt"], reverse=True)
    tasks.sort(key=lambda task: slot_key(task, services))
    rows = []
    shown_before = ""
    for task in tasks:
        name = task_name(task, services)
        is_past = name == shown_before
        shown_before = name
        rows.append(
            {
                "ID": short_id(task["ID"], is_whole=is_whole or options.on("quiet")),
                "Name": f" \\_ {name}" if is_past and not options.is_set("format") else name,
                "Image": (task["Spec"].get("ContainerSpec") or {}).get("Image", "").partition("@")[0],
                "Node": nodes.get(task.get("NodeID", ""), task.get("NodeID", "")),
                "DesiredState": capital(task["DesiredState"]),
                "CurrentState": current_state(task, now),
                "Error": quoted_error(trouble(task, now), is_whole=is_whole),
                "Ports": _ports(task),
                "Addresses": ",".join(task["Status"].get("Addresses") or []),
            }
        )
    return rows


def task_name(task: Json, services: dict[str, str]) -> str:
    """``web.1``; of a global service ``web.NODE``; of a cron job ``backup.RUN.SLOT``."""
    service = services.get(task.get("ServiceID", ""), task.get("ServiceID", ""))
    return f"{service}.{slot_text(task)}"


def slot_text(task: Json) -> str:
    """What of a task's name follows that of its service."""
    slot = str(task["Slot"]) if _is_numbered(task) else str(task.get("NodeID", ""))
    return f"{task['Run']}.{slot}" if "Run" in task else slot


def _is_numbered(task: Json) -> bool:
    """The slots of jobs begin at 0."""
    return bool(task.get("Slot")) or ("Slot" in task and "JobIteration" in task)


def slot_key(task: Json, services: dict[str, str]) -> tuple[Any, ...]:
    service = services.get(task.get("ServiceID", ""), task.get("ServiceID", ""))
    node = "" if _is_numbered(task) else task.get("NodeID", "")
    return service, task.get("Run", 0), task.get("Slot", 0), node


def current_state(task: Json, now: datetime) -> str:
    """``Running 5 minutes ago``, with what its checks say, unless all is well."""
    status = task["Status"]
    health = status.get("Health") or {}
    told = ""
    if status["State"] in ("starting", "running"):
        if health.get("Status") in ("starting", "unhealthy"):
            told = f" (health: {health['Status']})"
        elif health.get("Unready"):
            told = " (unready)"
    return f"{capital(status['State'])}{told} {age(status['Timestamp'], now)}"


def trouble(task: Json, now: datetime) -> str:
    """What keeps a task from running: its error, what its last check has printed, why nothing follows it, or
    the delay before it is started again."""
    status = task["Status"]
    error: str = status.get("Err", "")
    printed = " ".join((status.get("Health") or {}).get("Output", "").split())
    restart = task.get("Restart") or {}
    told = ": ".join(part for part in (error, printed) if part)
    if told or "Declined" in restart:
        return "; ".join(part for part in (told, restart.get("Declined", "")) if part)
    begins = parse_time(restart.get("NotBefore", ""))
    if begins is not None and begins > now and task["DesiredState"] == "ready":
        failures = "1 failure" if restart.get("Attempt", 0) <= 1 else f"{restart['Attempt']} failures"
        return f"restarting in {(begins - now).total_seconds():.0f}s after {failures}"
    return ""


def _names(client: Client, path: str, tasks: Iterable[Json], key: str) -> dict[str, str]:
    """Names by id. Those of objects that are gone stay ids."""
    ids = {task.get(key, "") for task in tasks} - {""}
    if not ids:
        return {}
    try:
        found = client.get(path, filters({"id": sorted(ids)}))
    except ErrorAnswer:
        return {}
    return {item["ID"]: _name(item) for item in found}


def _name(item: Json) -> str:
    described: str = (item.get("Description") or {}).get("Hostname", "")
    named: str = item["Spec"].get("Name", "")
    return described or named or str(item["ID"])


def _ports(task: Json) -> str:
    ports = (task["Status"].get("PortStatus") or {}).get("Ports") or []
    return ", ".join(
        f"*:{port.get('PublishedPort', 0)}->{port['TargetPort']}/{port.get('Protocol', 'tcp')}"
        for port in ports
    )
