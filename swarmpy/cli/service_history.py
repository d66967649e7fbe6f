"""``swarmpy service history|diff|promote|resume|abort``: kept revisions, and updates that wait for a word."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

from swarmpy.cli.flags import Command, Options, UsageError
from swarmpy.cli.output import LIST_FLAGS, NO_TRUNC, Listing, show_list
from swarmpy.cli.progress import wait_converged
from swarmpy.cli.render import age, table
from swarmpy.cli.service_flags import COMMON_FLAGS
from swarmpy.cli.session import Session, fail, version_of
from swarmpy.cli.spec_diff import differences, in_one_line
from swarmpy.client import ErrorAnswer, Json

_WAIT_FLAGS: Final = tuple(flag for flag in COMMON_FLAGS if flag.name in ("detach", "quiet"))
_COLUMNS: Final = {
    "Number": "REVISION",
    "Created": "CREATED",
    "Tasks": "TASKS",
    "Mark": "MARK",
    "Changes": "CHANGES",
}
_LINE_CHARS: Final = 100
_UNDER_WAY: Final = ("updating", "paused")


def history(session: Session, arguments: list[str], options: Options) -> int:
    kept = _history(session, arguments[0])["Revisions"]
    names = network_names(session)
    now = datetime.now(UTC)
    rows = []
    for before, revision in zip([None, *kept], kept, strict=False):
        rows.append(
            {
                "Number": str(revision["Number"]),
                "Created": age(revision["CreatedAt"], now),
                "Tasks": str(revision["RunningTasks"]),
                "Mark": _mark(revision),
                "Changes": _cut(_changes(before, revision, names), is_whole=options.on("no-trunc")),
            }
        )
    show_list(Listing(_COLUMNS, rows[::-1], id_field="Number"), options)
    return 0


def _cut(text: str, *, is_whole: bool) -> str:
    return text if is_whole or len(text) <= _LINE_CHARS else text[: _LINE_CHARS - 1] + "…"


def _mark(revision: Json) -> str:
    return "current" if revision["Current"] else "previous" if revision["Previous"] else ""


def _changes(before: Json | None, revision: Json, names: dict[str, str]) -> str:
    if before is None:
        return "created" if revision["Number"] == 1 else "the revisions before it are not kept"
    changes = differences(before["Spec"], revision["Spec"], names)
    return in_one_line(changes) or "nothing"


def diff(session: Session, arguments: list[str], options: Options) -> int:
    """Of the previous to the current revision; of N to the current one; of N to M."""
    name, numbers = arguments[0], [_number(text) for text in arguments[1:]]
    kept = {revision["Number"]: revision for revision in _history(session, name)["Revisions"]}
    current = next(number for number, revision in kept.items() if revision["Current"])
    if not numbers:
        earlier = [number for number, revision in kept.items() if revision["Previous"]]
        earlier = earlier or [number for number in kept if number < current][-1:]
        if not earlier:
            fail(f"service {name} has one revision only: there is nothing to compare it with")
            return 1
        numbers = earlier
    numbers = [*numbers, current][:2]
    for number in numbers:
        if number not in kept:
            fail(f"revision {number} of service {name} is not kept: give one of {', '.join(map(str, kept))}")
            return 1
    before, after = (kept[number]["Spec"] for number in numbers)
    changes = differences(before, after, network_names(session))
    print(f"{name}: revision {numbers[0]} → {numbers[1]}")
    if not changes:
        print("no difference")
        return 0
    print(table([("FIELD", "BEFORE", "AFTER"), *((each.field, each.before, each.after) for each in changes)]))
    return 0


def resume(session: Session, arguments: list[str], options: Options) -> int:
    """A paused update goes on; ``promote`` is the word for a canary."""
    name = arguments[0]
    service = session.client.get(f"/services/{quote(name, safe='')}")
    query = {"version": version_of(service)}
    session.client.post(f"/swarmpy/services/{service['ID']}/resume", None, query)
    print(name, flush=True)
    return _wait(session, service["ID"], options)


def abort(session: Session, arguments: list[str], options: Options) -> int:
    """An update that goes on, or is paused, is rolled back."""
    name = arguments[0]
    service = session.client.get(f"/services/{quote(name, safe='')}")
    state = (service.get("UpdateStatus") or {}).get("State", "")
    if state not in _UNDER_WAY:
        told = f"its last one is {state}" if state else "there is none"
        fail(
            f"service {name} has no update to abort: {told}. "
            f'To go back to an earlier revision, see "swarmpy service history {name}".'
        )
        return 1
    query = {"version": version_of(service)}
    session.client.post(f"/swarmpy/services/{service['ID']}/rollback", None, query)
    print(name, flush=True)
    return _wait(session, service["ID"], options)


def _wait(session: Session, id_: str, options: Options) -> int:
    return 0 if options.on("detach") else wait_converged(session, id_, is_quiet=options.on("quiet"))


def _history(session: Session, name: str) -> Json:
    found: Json = session.client.get(f"/swarmpy/services/{quote(name, safe='')}/history")
    return found


def network_names(session: Session) -> dict[str, str]:
    """Of the swarm's networks, by id; without them ids are shown."""
    try:
        return {network["Id"]: network["Name"] for network in session.client.get("/networks")}
    except ErrorAnswer:
        return {}


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 19):
        raise UsageError(f'invalid revision "{text}": give a number that "swarmpy service history" shows')
    return int(text)


COMMANDS: Final = {
    "history": Command(
        history, "Show the revisions of a service that are kept", "SERVICE", 1, 1, (*LIST_FLAGS, NO_TRUNC)
    ),
    "diff": Command(
        diff, "Show what two revisions of a service differ in", "SERVICE [REVISION [REVISION]]", 1, 3
    ),
    "promote": Command(
        resume, "Let an update go on that paused after its first tasks", "SERVICE", 1, 1, _WAIT_FLAGS
    ),
    "resume": Command(resume, "Let a paused update or rollback go on", "SERVICE", 1, 1, _WAIT_FLAGS),
    "abort": Command(abort, "Roll back an update that is not over", "SERVICE", 1, 1, _WAIT_FLAGS),
}
