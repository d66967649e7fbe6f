"""``swarmpy volume …``: named volumes of the node that is talked to, or of another with ``--node``."""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import quote

from swarmpy.cli import values
from swarmpy.cli.flags import Command, Options, UsageError, listed, switch, text
from swarmpy.cli.output import LIST_FLAGS, Listing, parse_filters, show_list
from swarmpy.cli.render import size
from swarmpy.cli.session import Session, each
from swarmpy.client import filters

_COLUMNS: Final = {"Driver": "DRIVER", "Name": "VOLUME NAME"}
_NODE_COLUMNS: Final = {"Node": "NODE", **_COLUMNS}
_NODE = text("node", "Act on this node of the swarm instead of the one that is talked to")
_TRUE: Final = "true"


def create(session: Session, arguments: list[str], options: Options) -> int:
    if arguments and options.is_set("name"):
        raise UsageError(
            "conflicting options: cannot specify a volume-name through both --name and as a positional arg"
        )
    body: dict[str, Any] = {
        "Name": arguments[0] if arguments else options.text("name"),
        "Driver": options.text("driver"),
        "DriverOpts": dict(values.pair(entry, what="driver option") for entry in options.many("opt")),
        "Labels": dict(values.pair(entry, what="label") for entry in options.many("label")),
    }
    print(session.client.post("/volumes/create", body, _query(options))["Name"])
    return 0


def ls(session: Session, arguments: list[str], options: Options) -> int:
    if options.on("all-nodes"):
        return _ls_everywhere(session, options)
    query = {**_query(options), **filters(parse_filters(options.many("filter")))}
    found = session.client.get("/volumes", query)["Volumes"]
    show_list(Listing(_COLUMNS, [_row(volume) for volume in found], id_field="Name"), options)
    return 0


def _ls_everywhere(session: Session, options: Options) -> int:
    """What the nodes have told the managers of their volumes."""
    if options.is_set("node") or options.many("filter"):
        raise UsageError("--all-nodes shows what all nodes have reported: leave --node and --filter out")
    rows = [
        {"Node": node["Description"]["Hostname"], **_row(volume)}
        for node in session.client.get("/nodes")
        for volume in node["Description"].get("Volumes") or []
    ]
    rows.sort(key=lambda row: (row["Name"], row["Node"]))
    show_list(Listing(_NODE_COLUMNS, rows, id_field="Name"), options)
    return 0


def inspect(session: Session, arguments: list[str], options: Options) -> int:
    found: list[Any] = []

    def one(name: str) -> None:
        found.append(session.client.get(f"/volumes/{quote(name, safe='')}", _query(options)))

    code = each(arguments, one)
    print(json.dumps(found, indent=4))
    return code


def rm(session: Session, arguments: list[str], options: Options) -> int:
    query = _query(options)
    if options.on("force"):
        query["force"] = _TRUE

    def one(name: str) -> None:
        session.client.delete(f"/volumes/{quote(name, safe='')}", query)
        print(name)

    return each(arguments, one)


def prune(session: Session, arguments: list[str], options: Options) -> int:
    if not options.on("force"):
        kind = "all local volumes" if options.on("all") else "all anonymous local volumes"
        raise UsageError(f"this will remove {kind} not used by at least one task: say so with --force")
    wanted = parse_filters(options.many("filter"))
    if options.on("all"):
        wanted["all"] = [_TRUE]
    query = {**_query(options), **filters(wanted)}
    done = session.client.post("/volumes/prune", {}, query)
    if done["VolumesDeleted"]:
        print("\n".join(["Deleted Volumes:", *done["VolumesDeleted"], ""]))
    print(f"Total reclaimed space: {size(done['SpaceReclaimed'])}")
    return 0


def _query(options: Options) -> dict[str, str | int | bool]:
    return {"node": options.text("node")} if options.is_set("node") else {}


def _row(volume: dict[str, Any]) -> dict[str, Any]:
    labels = volume.get("Labels") or {}
    return {
        "Driver": volume.get("Driver", ""),
        "Name": volume["Name"],
        "Scope": "local",
        "Mountpoint": volume.get("Mountpoint", ""),
        "Labels": ",".join(f"{name}={value}" for name, value in sorted(labels.items())),
    }


COMMANDS = {
    "create": Command(
        create,
        "Create a volume",
        "[VOLUME]",
        0,
        1,
        (
            _NODE,
            text("driver", "Volume driver name", default="local", short="d"),
            listed("label", "Set metadata for a volume"),
            text("name", "Volume name"),
            listed("opt", "Set driver specific options: type, device, o", short="o"),
        ),
    ),
    "ls": Command(
        ls,
        "List volumes",
        flags=(
            *LIST_FLAGS,
            listed("filter", "Provide filter values (e.g. dangling=true)", short="f"),
            _NODE,
            switch("all-nodes", "Show what all nodes have reported"),
        ),
    ),
    "inspect": Command(
        inspect,
        "Display detailed information on one or more volumes",
        "VOLUME [VOLUME...]",
        1,
        None,
        (_NODE,),
    ),
    "rm": Command(
        rm,
        "Remove one or more volumes",
        "VOLUME [VOLUME...]",
        1,
        None,
        (_NODE, switch("force", "Do not complain about a volume that is not there", short="f")),
    ),
    "prune": Command(
        prune,
        "Remove unused local volumes",
        flags=(
            _NODE,
            switch("all", "Remove all unused volumes, not just anonymous ones", short="a"),
            listed("filter", "Provide filter values (e.g. label=<label>)"),
            switch("force", "Do it", short="f"),
        ),
    ),
}
