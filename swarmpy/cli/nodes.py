"""``swarmpy node …``"""

from __future__ import annotations

from datetime import UTC, datetime

from swarmpy.cli import node_drain, values
from swarmpy.cli.flags import Command, Options, UsageError, listed, switch, text
from swarmpy.cli.node_change import change, path_of
from swarmpy.cli.node_pretty import executor_of, pretty
from swarmpy.cli.output import FORMAT, LIST_FLAGS, NO_TRUNC, Listing, parse_filters, show_items, show_list
from swarmpy.cli.render import capital
from swarmpy.cli.session import Session, each
from swarmpy.cli.task_rows import TASK_COLUMNS, task_rows
from swarmpy.client import Json, filters

_COLUMNS = {
    "ID": "ID",
    "Hostname": "HOSTNAME",
    "Status": "STATUS",
    "Availability": "AVAILABILITY",
    "ManagerStatus": "MANAGER STATUS",
    "EngineVersion": "ENGINE VERSION",
}


def ls(session: Session, arguments: list[str], options: Options) -> int:
    nodes = session.client.get("/nodes", filters(parse_filters(options.many("filter"))))
    own = "" if options.on("quiet") else session.client.get("/info")["Swarm"]["NodeID"]
    nodes.sort(key=lambda node: (_hostname(node), node["ID"]))
    is_marked = not options.on("quiet") and not options.text("format")
    rows = [_row(node, own, is_marked=is_marked) for node in nodes]
    show_list(Listing(_COLUMNS, rows), options)
    return 0


def _row(node: Json, own: str, *, is_marked: bool) -> dict[str, str]:
    manager = node.get("ManagerStatus") or {}
    is_self = node["ID"] == own
    engine = (node.get("Description") or {}).get("Engine") or {}
    mark = (" *" if is_self else "  ") if is_marked else ""
    return {
        "ID": node["ID"] + mark,
        "Self": "true" if is_self else "false",
        "Hostname": _hostname(node),
        "Status": capital(node["Status"]["State"]),
        "Availability": capital(node["Spec"].get("Availability", "")),
        "ManagerStatus": "Leader" if manager.get("Leader") else capital(manager.get("Reachability", "")),
        "EngineVersion": engine.get("EngineVersion", ""),
        "Executor": executor_of(engine),
        "TLSStatus": "Ready",
    }


def _hostname(node: Json) -> str:
    name: str = (node.get("Description") or {}).get("Hostname", "")
    return name


def inspect(session: Session, arguments: list[str], options: Options) -> int:
    items: list[Json] = []

    def one(name: str) -> None:
        items.append(session.client.get(path_of(name)))

    code = each(arguments, one)
    if options.on("pretty"):
        if options.is_set("format"):
            raise UsageError("--format is incompatible with human friendly format")
        print("\n\n".join(pretty(item) for item in items))
    else:
        show_items(items, options)
    return code


def ps(session: Session, arguments: list[str], options: Options) -> int:
    ids: list[str] = []

    def one(name: str) -> None:
        ids.append(session.client.get(path_of(name))["ID"])

    code = each(arguments or ["self"], one)
    if ids:
        chosen = parse_filters(options.many("filter")) | {"node": ids}
        tasks = session.client.get("/tasks", filters(chosen))
        rows = task_rows(session.client, tasks, options, now=datetime.now(UTC))
        show_list(Listing(TASK_COLUMNS, rows), options)
    return code


def update(session: Session, arguments: list[str], options: Options) -> int:
    def edit(spec: Json) -> bool:
        if options.is_set("availability"):
            spec["Availability"] = options.text("availability")
        if options.is_set("role"):
            spec["Role"] = options.text("role")
        labels = dict(spec.get("Labels") or {})
        for name in options.many("label-rm"):
            if labels.pop(name, None) is None:
                raise UsageError(f"key {name} doesn't exist in node's labels")
        labels |= dict(values.pair(entry, what="label") for entry in options.many("label-add"))
        spec["Labels"] = labels
        if options.is_set("stop-after"):
            spec["StopAfter"] = values.duration_ns(options.text("stop-after"))
        return True

    change(session, arguments[0], edit)
    print(arguments[0])
    return 0


def promote(session: Session, arguments: list[str], options: Options) -> int:
    return _set_role(session, arguments, "manager")


def demote(session: Session, arguments: list[str], options: Options) -> int:
    return _set_role(session, arguments, "worker")


def _set_role(session: Session, names: list[str], role: str) -> int:
    def edit(spec: Json) -> bool:
        is_new = spec.get("Role") != role
        spec["Role"] = role
        return is_new

    def one(name: str) -> None:
        if not change(session, name, edit):
            print(f"Node {name} is already a {role}.")
        elif role == "manager":
            print(f"Node {name} promoted to a manager in the swarm.")
        else:
            print(f"Manager {name} demoted in the swarm.")

    return each(names, one)


def rm(session: Session, arguments: list[str], options: Options) -> int:
    def one(name: str) -> None:
        session.client.delete(path_of(name), {"force": options.on("force")})
        print(name)

    return each(arguments, one)


_FILTER = listed("filter", "Filter output based on conditions provided")

COMMANDS = {
    **node_drain.COMMANDS,
    "ls": Command(ls, "List nodes in the swarm", flags=(*LIST_FLAGS, _FILTER)),
    "ps": Command(
        ps,
        "List tasks running on one or more nodes, defaults to current node",
        "[NODE...]",
        0,
        None,
        (*LIST_FLAGS, NO_TRUNC, _FILTER, switch("no-resolve", "Do not map IDs to Names")),
    ),
    "inspect": Command(
        inspect,
        "Display detailed information on one or more nodes",
        "self|NODE [NODE...]",
        1,
        None,
        (FORMAT, switch("pretty", "Print the information in a human friendly format")),
    ),
    "update": Command(
        update,
        "Update a node",
        "NODE",
        1,
        1,
        (
            text("availability", "Availability of the node (active, pause, drain)"),
            text("role", "Role of the node (worker, manager)"),
            listed("label-add", "Add or update a node label (key=value)"),
            listed("label-rm", "Remove a node label if exists"),
            text("stop-after", "Stop the node's tasks this long after it lost all managers (0: never)"),
        ),
    ),
    "promote": Command(promote, "Promote one or more nodes to manager", "NODE [NODE...]", 1, None),
    "demote": Command(demote, "Demote one or more managers to workers", "NODE [NODE...]", 1, None),
    "rm": Command(
        rm,
        "Remove one or more nodes from the swarm",
        "NODE [NODE...]",
        1,
        None,
        (switch("force", "Force remove a node from the swarm", short="f"),),
    ),
}
