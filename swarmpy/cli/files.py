"""``swarmpy secret …`` and ``swarmpy config …``: the same verbs on two kinds of small files."""

from __future__ import annotations

import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import quote

from swarmpy.cli import values
from swarmpy.cli.flags import Command, Options, UsageError, listed, switch, text
from swarmpy.cli.output import FORMAT, LIST_FLAGS, Listing, parse_filters, show_items, show_list
from swarmpy.cli.render import age, size
from swarmpy.cli.session import Session, each, is_stale, tell, version_of
from swarmpy.client import ErrorAnswer, Json, filters
from swarmpy.limits import API_BODY_BYTES_MAX, STALE_RETRIES_MAX

_COLUMNS: Final = {"ID": "ID", "Name": "NAME", "CreatedAt": "CREATED", "UpdatedAt": "UPDATED"}
_SECRET_COLUMNS: Final = {
    "ID": "ID",
    "Name": "NAME",
    "Driver": "DRIVER",
    "CreatedAt": "CREATED",
    "UpdatedAt": "UPDATED",
}
_HISTORY_COLUMNS: Final = {
    "Number": "VERSION",
    "Created": "CREATED",
    "Size": "SIZE",
    "Services": "SERVICES",
}
_STDIN: Final = "-"


def create(kind: str, session: Session, arguments: list[str], options: Options) -> int:
    name, *source = arguments
    driver = options.text("driver") if kind == "secret" else ""
    if not source and not driver:
        raise UsageError(f"give the file with the {kind}'s data, or - to read them from standard input")
    if source and driver:
        raise UsageError(f"a {kind} of a driver takes no data from here")
    body: Json = {
        "Name": name,
        "Labels": dict(values.pair(entry, what="label") for entry in options.many("label")),
    }
    if source:
        body["Data"] = _read(source[0])
    if driver:
        body["Driver"] = {"Name": driver}
    if options.is_set("template-driver"):
        body["Templating"] = {"Name": options.text("template-driver")}
    print(session.client.post(f"/{kind}s/create", body)["ID"])
    return 0


def _read(path: str) -> str:
    """As the API takes it; no more than it could take."""
    try:
        if path == _STDIN:
            data = sys.stdin.buffer.read(API_BODY_BYTES_MAX + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(API_BODY_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    return b64encode(data).decode()


def update(kind: str, session: Session, arguments: list[str], options: Options) -> int:
    """Newer data; again from the start if somebody else changed the object in between."""
    name, path = arguments
    data = _read(path)
    for attempt in range(STALE_RETRIES_MAX):
        version = version_of(session.client.get(_path(kind, name)))
        try:
            done = session.client.post(
                f"/swarmpy{_path(kind, name)}/versions", {"Data": data}, {"version": version}
            )
        except ErrorAnswer as error:
            if not is_stale(error) or attempt + 1 == STALE_RETRIES_MAX:
                raise
        else:
            break
    print(f"{name} version {done['Number']}")
    if done["Services"]:
        tell(f"Rolling to it: {', '.join(done['Services'])}")
    if done["Reloaded"]:
        tell(f"Reloaded in place: {', '.join(done['Reloaded'])}")
    return 0


def ls(kind: str, session: Session, arguments: list[str], options: Options) -> int:
    found = session.client.get(f"/{kind}s", filters(parse_filters(options.many("filter"))))
    found.sort(key=lambda item: (item["Spec"]["Name"], item["ID"]))
    now = datetime.now(UTC)
    rows = [
        {
            "ID": item["ID"],
            "Name": item["Spec"]["Name"],
            "Driver": (item["Spec"].get("Driver") or {}).get("Name", ""),
            "CreatedAt": age(item["CreatedAt"], now),
            "UpdatedAt": age(item["UpdatedAt"], now),
            "Labels": _labels(item),
            "Version": str(item["DataVersion"]),
        }
        for item in found
    ]
    show_list(Listing(_SECRET_COLUMNS if kind == "secret" else _COLUMNS, rows), options)
    return 0


def history(kind: str, session: Session, arguments: list[str], options: Options) -> int:
    now = datetime.now(UTC)
    rows = [
        {
            "Number": str(each_["Number"]),
            "Created": age(each_["CreatedAt"], now),
            "Size": size(each_["Size"]),
            "Services": ", ".join(each_["Services"]),
        }
        for each_ in session.client.get(f"/swarmpy{_path(kind, arguments[0])}/versions")
    ]
    show_list(Listing(_HISTORY_COLUMNS, rows, id_field="Number"), options)
    return 0


def inspect(kind: str, session: Session, arguments: list[str], options: Options) -> int:
    is_pretty = options.on("pretty")
    if is_pretty and options.text("format"):
        raise UsageError("--format is incompatible with human friendly format")
    items: list[Json] = []

    def one(name: str) -> None:
        items.append(session.client.get(_path(kind, name)))

    code = each(arguments, one)
    if is_pretty:
        print("\n\n".join(described(kind, item) for item in items))
    else:
        show_items(items, options)
    return code


def described(kind: str, item: Json) -> str:
    """One of them in words. Pure."""
    spec = item["Spec"]
    lines = [f"ID:\t\t\t{item['ID']}", f"Name:\t\t\t{spec['Name']}"]
    if spec.get("Labels"):
        lines += ["Labels:", *(f" - {name}={value}" for name, value in sorted(spec["Labels"].items()))]
    if spec.get("Templating"):
        lines.append(f"Template driver:\t{spec['Templating']['Name']}")
    lines += [
        f"Data version:\t\t{item['DataVersion']}",
        f"Created at:\t\t{item['CreatedAt']}",
        f"Updated at:\t\t{item['UpdatedAt']}",
    ]
    if kind == "config":
        lines += ["Data:", b64decode(spec.get("Data", "")).decode(errors="replace")]
    return "\n".join(lines)


def rm(kind: str, session: Session, arguments: list[str], options: Options) -> int:
    def one(name: str) -> None:
        session.client.delete(_path(kind, name))
        print(name)

    return each(arguments, one)


def _path(kind: str, name: str) -> str:
    return f"/{kind}s/{quote(name, safe='')}"


def _labels(item: Json) -> str:
    labels = item["Spec"].get("Labels") or {}
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))


def commands(kind: str) -> dict[str, Command]:
    """All verbs of one kind."""

    def of(run: Callable[..., int]) -> Callable[..., int]:
        return partial(run, kind)

    noun = kind.upper()
    create_flags = (
        listed("label", f"Set metadata on the {kind}", short="l"),
        text("template-driver", "Expand templates in the data for each task (golang)"),
    )
    driver = (text("driver", "Secret driver", short="d"),) if kind == "secret" else ()
    filter_ = listed("filter", "Filter output based on conditions provided", short="f")
    return {
        "create": Command(
            of(create),
            f"Create a {kind} from a file or standard input",
            f"{noun} [file|-]",
            1,
            2,
            (*create_flags, *driver),
        ),
        "update": Command(
            of(update),
            f"Give a {kind} newer data: services that use it roll, or reload it in place",
            f"{noun} file|-",
            2,
            2,
        ),
        "ls": Command(of(ls), f"List {kind}s", flags=(*LIST_FLAGS, filter_)),
        "history": Command(of(history), f"Show which data of a {kind} are kept", noun, 1, 1, LIST_FLAGS),
        "inspect": Command(
            of(inspect),
            f"Display detailed information on one or more {kind}s",
            f"{noun} [{noun}...]",
            1,
            None,
            (FORMAT, switch("pretty", "Print the information in words")),
        ),
        "rm": Command(of(rm), f"Remove one or more {kind}s", f"{noun} [{noun}...]", 1, None),
    }
