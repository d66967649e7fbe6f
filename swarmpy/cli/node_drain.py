"""``swarmpy node drain|pause|activate``: availability in a word, and the wait until a drained one is bare."""

from __future__ import annotations

import time
from urllib.parse import quote

from swarmpy.cli import values
from swarmpy.cli.flags import Command, Options, UsageError, switch, text
from swarmpy.cli.node_change import change
from swarmpy.cli.session import Session, each, fail, tell
from swarmpy.cli.task_rows import slot_text
from swarmpy.client import Json, filters
from swarmpy.limits import PROGRESS_PERIOD_S
from swarmpy.model.ids import SECOND_NS

_LIVE = ("assigned", "accepted", "preparing", "ready", "starting", "running")
_SHOWN_MAX = 10


def drain(session: Session, arguments: list[str], options: Options) -> int:
    timeout_s = values.duration_ns(options.text("timeout")) / SECOND_NS
    if timeout_s <= 0:
        raise UsageError("--timeout must be more than 0")
    if options.is_set("timeout") and not options.on("wait"):
        raise UsageError("--timeout is for --wait: give both, or neither")
    drained: list[str] = []

    def one(name: str) -> None:
        change(session, name, lambda spec: _set(spec, "drain"))
        drained.append(name)
        if not options.on("wait"):
            print(name)

    code = each(arguments, one)
    deadline = time.monotonic() + timeout_s
    for name in drained if options.on("wait") else ():
        left = _wait_empty(session, name, deadline, is_quiet=options.on("quiet"))
        if left:
            _tell_left(session, name, left, options.text("timeout"))
            code = 1
        else:
            print(name)
    return code


def pause(session: Session, arguments: list[str], options: Options) -> int:
    return _make(session, arguments, "pause")


def activate(session: Session, arguments: list[str], options: Options) -> int:
    return _make(session, arguments, "active")


def _make(session: Session, names: list[str], availability: str) -> int:
    def one(name: str) -> None:
        change(session, name, lambda spec: _set(spec, availability))
        print(name)

    return each(names, one)


def _set(spec: Json, availability: str) -> bool:
    is_new = spec.get("Availability") != availability
    spec["Availability"] = availability
    return is_new


def _wait_empty(session: Session, name: str, deadline: float, *, is_quiet: bool) -> list[Json]:
    """The tasks that are still there at the deadline; none if it is empty."""
    told = -1
    while True:
        left = _tasks_left(session, name)
        if len(left) != told and not is_quiet and left:
            tell(f"{name}: {len(left)} {'task' if len(left) == 1 else 'tasks'} left")
        told = len(left)
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(PROGRESS_PERIOD_S)


def _tasks_left(session: Session, name: str) -> list[Json]:
    node = session.client.get(f"/nodes/{quote(name, safe='')}")
    if node["Spec"].get("Availability") != "drain":
        raise UsageError(f"node {name} is not drained any more: somebody else has changed it meanwhile")
    is_down = node["Status"]["State"] == "down"
    tasks = session.client.get("/tasks", filters({"node": [node["ID"]]}))
    return [
        task
        for task in tasks
        # of what a node that is down was told to stop, nobody will say that it did
        if task["Status"]["State"] in _LIVE
        and not (is_down and task["DesiredState"] in ("shutdown", "remove"))
    ]


def _tell_left(session: Session, name: str, left: list[Json], timeout: str) -> None:
    services = {each["ID"]: each["Spec"]["Name"] for each in session.client.get("/services")}
    lines = [f"{len(left)} of the tasks on node {name} did not end within {timeout}:"]
    for task in left[:_SHOWN_MAX]:
        service = services.get(task["ServiceID"], task["ServiceID"])
        slot = slot_text(task) if "Slot" in task else name
        why = "is stopping" if task["DesiredState"] in ("shutdown", "remove") else _waits_for(session, task)
        lines.append(f"  {service}.{slot} ({task['ID'][:12]}) {why}")
    if len(left) > _SHOWN_MAX:
        lines.append(f"  and {len(left) - _SHOWN_MAX} more")
    lines.append("The node stays drained; wait again with the same command.")
    fail("\n".join(lines))


def _waits_for(session: Session, task: Json) -> str:
    """Of a service that starts new tasks first: what keeps the one that is to take over."""
    others = session.client.get("/tasks", filters({"service": [task["ServiceID"]]}))
    successors = [
        other
        for other in others
        if other.get("Slot") == task.get("Slot")
        and other["ID"] != task["ID"]
        and other["DesiredState"] in ("ready", "running")
    ]
    if not successors:
        return "runs, and nothing takes over from it yet"
    status = successors[-1]["Status"]
    reason = status.get("Err") or status.get("Message") or ""
    return f"runs until its successor does, which is {status['State']}: {reason}".rstrip(": ")


_ONE_OR_MORE = ("NODE [NODE...]", 1, None)

COMMANDS = {
    "drain": Command(
        drain,
        "Move all tasks away from one or more nodes",
        *_ONE_OR_MORE,
        (
            switch("wait", "Wait until no task is left", short="w"),
            text("timeout", "How long to wait", default="10m"),
            switch("quiet", "Do not tell how many are left", short="q"),
        ),
    ),
    "pause": Command(pause, "Give one or more nodes no new tasks; what runs there stays", *_ONE_OR_MORE),
    "activate": Command(activate, "Let one or more nodes have tasks again", *_ONE_OR_MORE),
}
