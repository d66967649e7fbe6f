"""``swarmpy rebalance``: have the tasks of services spread evenly, and watch them move."""

from __future__ import annotations

import time
from urllib.parse import quote

from swarmpy.cli import values
from swarmpy.cli.flags import Command, Options, UsageError, switch, text
from swarmpy.cli.session import Session, each, fail, tell
from swarmpy.client import Json, filters
from swarmpy.limits import PROGRESS_PERIOD_S
from swarmpy.model.ids import SECOND_NS

_TIMEOUT = "10m"


def rebalance(session: Session, arguments: list[str], options: Options) -> int:
    timeout_s = values.duration_ns(options.text("timeout")) / SECOND_NS
    if timeout_s <= 0:
        raise UsageError("--timeout must be more than 0")
    names = arguments or _replicated(session)
    before: dict[str, dict[int, str]] = {}

    def ask(name: str) -> None:
        service = session.client.get(f"/services/{quote(name, safe='')}")
        found = _nodes_of(session, service["ID"])
        session.client.post(f"/swarmpy/services/{service['ID']}/rebalance", None)
        before[service["ID"]] = found

    code = each(names, ask)
    if options.on("detach"):
        return code
    deadline = time.monotonic() + timeout_s
    late = []
    for id_, nodes in before.items():
        service = _wait(session, id_, deadline)
        if service is None:
            continue  # it was removed meanwhile
        name = service["Spec"]["Name"]
        if _is_asked(service):
            late.append(name)
        _show_moves(session, name, nodes, _nodes_of(session, id_))
    if late:
        fail(
            f"not even within {options.text('timeout')}: {', '.join(late)}. Tasks go on moving once the "
            "service is at rest: 'swarmpy service ps' shows what it waits for."
        )
        return 1
    return code


def _replicated(session: Session) -> list[str]:
    """All that can be moved now. Those that are packed have no even spread; and nobody knows when one that
    lacks tasks will come to rest."""
    found = []
    for service in session.client.get("/services", {"status": True, **filters({"mode": ["replicated"]})}):
        placement = service["Spec"]["TaskTemplate"].get("Placement") or {}
        status = service["ServiceStatus"]
        if placement.get("Strategy") == "binpack":
            continue
        if status["RunningTasks"] < status["DesiredTasks"]:
            tell(f"{service['Spec']['Name']}: left alone, since not all of its tasks run")
            continue
        found.append(service["ID"])
    return found


def _wait(session: Session, id_: str, deadline: float) -> Json | None:
    """The service once nothing is left to move, as it is at the deadline, or None if it is gone."""
    while True:
        found = session.client.get("/services", filters({"id": [id_]}))
        if not found:
            return None
        service: Json = found[0]
        if not _is_asked(service) or time.monotonic() > deadline:
            return service
        time.sleep(PROGRESS_PERIOD_S)


def _is_asked(service: Json) -> bool:
    return bool((service.get("Rebalance") or {}).get("AskedAt"))


def _nodes_of(session: Session, service_id: str) -> dict[int, str]:
    """By slot, of the tasks that run."""
    chosen = filters({"service": [service_id], "desired-state": ["running"]})
    return {
        task.get("Slot", 0): task.get("NodeID", "")
        for task in session.client.get("/tasks", chosen)
        if task["Status"]["State"] == "running"
    }


def _show_moves(session: Session, name: str, before: dict[int, str], after: dict[int, str]) -> None:
    moved = {slot: node for slot, node in after.items() if before.get(slot, node) != node}
    if not moved:
        print(f"{name}: evenly spread already")
        return
    hostnames = {node["ID"]: node["Description"]["Hostname"] for node in session.client.get("/nodes")}
    for slot in sorted(moved):
        source, target = (hostnames.get(id_, id_) for id_ in (before[slot], moved[slot]))
        print(f"{name}.{slot}: {source} -> {target}")


COMMANDS = {
    "rebalance": Command(
        rebalance,
        "Move tasks of services, all replicated ones by default, until they are evenly spread",
        "[SERVICE...]",
        0,
        None,
        (
            switch("detach", "Only ask for it, do not wait", short="d"),
            text("timeout", "How long to wait", default=_TIMEOUT),
        ),
    ),
}
