"""``swarmpy service …``: ls, ps, inspect, rm, logs; create, update and scale are in ``service_change.py``."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from urllib.parse import quote

from swarmpy.cli import service_change, service_history
from swarmpy.cli.flags import Command, Options, UsageError, listed, switch
from swarmpy.cli.output import FORMAT, LIST_FLAGS, NO_TRUNC, Listing, parse_filters, show_items, show_list
from swarmpy.cli.render import short_id
from swarmpy.cli.service_history import network_names
from swarmpy.cli.service_logs import LOGS
from swarmpy.cli.service_modes import mode_of, replicas_of
from swarmpy.cli.service_pretty import pretty
from swarmpy.cli.service_runs import RUNS
from swarmpy.cli.session import Session, each, tell, tell_refused
from swarmpy.cli.task_rows import TASK_COLUMNS, task_rows
from swarmpy.client import ErrorAnswer, Json, filters

_COLUMNS = {
    "ID": "ID",
    "Name": "NAME",
    "Mode": "MODE",
    "Replicas": "REPLICAS",
    "Image": "IMAGE",
    "Ports": "PORTS",
}


def ls(session: Session, arguments: list[str], options: Options) -> int:
    query = {"status": True, **filters(parse_filters(options.many("filter")))}
    services = session.client.get("/services", query)
    services.sort(key=lambda service: service["Spec"]["Name"])
    is_whole = options.on("no-trunc") or options.on("quiet")
    rows = [
        {
            "ID": short_id(service["ID"], is_whole=is_whole),
            "Name": service["Spec"]["Name"],
            "Mode": mode_of(service),
            "Replicas": replicas_of(service),
            "Image": image_of(service["Spec"]),
            "Ports": ports_of(service),
        }
        for service in services
    ]
    show_list(Listing(_COLUMNS, rows), options)
    return 0


def ps(session: Session, arguments: list[str], options: Options) -> int:
    found: list[str] = []
    code = 0
    for name in arguments:
        try:
            found.append(session.client.get(f"/services/{quote(name, safe='')}")["ID"])
        except ErrorAnswer as error:
            if error.status == HTTPStatus.NOT_FOUND:
                tell(f"no such service: {name}")
            else:
                tell_refused(error)
            code = 1
    if found:
        chosen = parse_filters(options.many("filter")) | {"service": found}
        tasks = session.client.get("/tasks", filters(chosen))
        rows = task_rows(session.client, tasks, options, now=datetime.now(UTC))
        show_list(Listing(TASK_COLUMNS, rows), options)
        if not options.on("quiet") and not options.is_set("format"):
            _tell_waiting(session, found, {task["ServiceID"] for task in tasks})
    return code


def _tell_waiting(session: Session, asked: list[str], shown: set[str]) -> None:
    """Why services have no tasks: an empty table would not say that they wait for others."""
    missing = [id_ for id_ in asked if id_ not in shown]
    if not missing:
        return
    for service in session.client.get("/services", {"status": True, **filters({"id": missing})}):
        reason = (service.get("ServiceStatus") or {}).get("Waiting", "")
        if reason:
            tell(f"{service['Spec']['Name']} has no tasks yet: {reason}")


def inspect(session: Session, arguments: list[str], options: Options) -> int:
    items: list[Json] = []

    def one(name: str) -> None:
        items.append(session.client.get(f"/services/{quote(name, safe='')}"))

    code = each(arguments, one)
    if options.on("pretty"):
        if options.is_set("format"):
            raise UsageError("--format is incompatible with human friendly format")
        networks = network_names(session)
        print("\n".join(pretty(item, datetime.now(UTC), networks) for item in items), end="")
        return code
    show_items(items, options)
    return code


def rm(session: Session, arguments: list[str], options: Options) -> int:
    def one(name: str) -> None:
        session.client.delete(f"/services/{quote(name, safe='')}")
        print(name)

    return each(arguments, one)


def image_of(spec: Json) -> str:
    """The image without its digest: the name says what it is."""
    image: str = (spec["TaskTemplate"].get("ContainerSpec") or {}).get("Image", "")
    return image.partition("@")[0]


def ports_of(service: Json) -> str:
    ports = (service.get("Endpoint") or {}).get("Ports") or []
    shown = [
        f"{port.get('HostIP') or '*'}:{port['PublishedPort']}->{port['TargetPort']}"
        f"/{port.get('Protocol', 'tcp')}"
        for port in sorted(ports, key=lambda port: port.get("PublishedPort", 0))
        if port.get("PublishMode", "ingress") == "ingress" and port.get("PublishedPort")
    ]
    return ", ".join(shown)


_FILTER = listed("filter", "Filter output based on conditions provided", short="f")

COMMANDS = {
    "ls": Command(ls, "List services", flags=(*LIST_FLAGS, NO_TRUNC, _FILTER)),
    "ps": Command(
        ps,
        "List the tasks of one or more services",
        "SERVICE [SERVICE...]",
        1,
        None,
        (*LIST_FLAGS, NO_TRUNC, _FILTER, switch("no-resolve", "Do not map IDs to Names")),
    ),
    "inspect": Command(
        inspect,
        "Display detailed information on one or more services",
        "SERVICE [SERVICE...]",
        1,
        None,
        (FORMAT, switch("pretty", "Print the information in a human friendly format")),
    ),
    "rm": Command(rm, "Remove one or more services", "SERVICE [SERVICE...]", 1, None),
    "logs": LOGS,
    "runs": RUNS,
    **service_change.COMMANDS,
    **service_history.COMMANDS,
}
