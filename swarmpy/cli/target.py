"""Which task a command line means: a task, a service's slot (``web.2``), or a service: then its first."""

from __future__ import annotations

from urllib.parse import quote

from swarmpy.client import Client, ErrorAnswer, Json, filters
from swarmpy.errors import NotFound


def task_path(client: Client, reference: str) -> str:
    """Of a service the running task with the lowest slot; anything else the daemon finds by itself."""
    service = find_service(client, reference)
    if service is None:
        return f"/containers/{quote(reference, safe='')}"
    tasks = [task for task in tasks_of(client, service) if task["Status"]["State"] in ("running", "starting")]
    if not tasks:
        raise NotFound(
            f"service {reference} has no task that runs: 'swarmpy service ps {reference}' says why"
        )
    return f"/containers/{tasks[0]['ID']}"


def find_service(client: Client, reference: str) -> Json | None:
    try:
        found: Json = client.get(f"/services/{quote(reference, safe='')}")
    except ErrorAnswer as error:
        if "not found" not in str(error):
            raise
        return None
    return found


def tasks_of(client: Client, service: Json) -> list[Json]:
    """Those that are to run, or as a job's to run to their end, by slot and node."""
    wanted = filters({"service": [service["ID"]], "desired-state": ["running", "complete"]})
    tasks: list[Json] = client.get("/tasks", wanted)
    return sorted(tasks, key=lambda task: (task.get("Slot", 0), task.get("NodeID", ""), task["ID"]))
