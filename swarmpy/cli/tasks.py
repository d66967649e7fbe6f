"""``swarmpy task …``"""

from __future__ import annotations

from datetime import UTC, datetime

from swarmpy.cli.flags import Command, Options, listed, switch
from swarmpy.cli.output import FORMAT, LIST_FLAGS, NO_TRUNC, Listing, parse_filters, show_items, show_list
from swarmpy.cli.service_logs import LOGS
from swarmpy.cli.session import Session, each
from swarmpy.cli.task_rows import TASK_COLUMNS, task_rows
from swarmpy.client import Json, filters


def ls(session: Session, arguments: list[str], options: Options) -> int:
    tasks = session.client.get("/tasks", filters(parse_filters(options.many("filter"))))
    if not options.on("all") and not options.is_set("filter"):
        tasks = [task for task in tasks if task["DesiredState"] in ("running", "ready", "complete")]
    rows = task_rows(session.client, tasks, options, now=datetime.now(UTC))
    show_list(Listing(TASK_COLUMNS, rows), options)
    return 0


def inspect(session: Session, arguments: list[str], options: Options) -> int:
    items: list[Json] = []

    def one(id_: str) -> None:
        items.append(session.client.get(f"/tasks/{id_}"))

    code = each(arguments, one)
    show_items(items, options)
    return code


COMMANDS = {
    "logs": LOGS,
    "ls": Command(
        ls,
        "List the tasks of all services",
        flags=(
            *LIST_FLAGS,
            NO_TRUNC,
            switch("all", "Also show tasks that have ended", short="a"),
            switch("no-resolve", "Do not map IDs to Names"),
            listed("filter", "Filter output based on conditions provided", short="f"),
        ),
    ),
    "inspect": Command(
        inspect, "Display detailed information on one or more tasks", "TASK [TASK...]", 1, None, (FORMAT,)
    ),
}
