"""``swarmpy stack …``: what Compose files describe, as one thing. See docs/stacks.md."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Final

from swarmpy.cli import services
from swarmpy.cli.flags import Command, Options, listed, switch, text
from swarmpy.cli.output import LIST_FLAGS, NO_TRUNC, Listing, parse_filters, show_list
from swarmpy.cli.session import Session, fail, tell
from swarmpy.cli.task_rows import TASK_COLUMNS, task_rows
from swarmpy.client import filters

NAMESPACE: Final = "com.docker.stack.namespace"
_ANY_NAME: Final = "stack"
_STACK_COLUMNS: Final = {"Name": "NAME", "Services": "SERVICES"}


def deploy(session: Session, arguments: list[str], options: Options) -> int:
    from swarmpy.cli import stack_deploy

    return stack_deploy.deploy(session, arguments, options)


def diff(session: Session, arguments: list[str], options: Options) -> int:
    from swarmpy.cli import stack_deploy

    return stack_deploy.diff(session, arguments, options)


def rm(session: Session, arguments: list[str], options: Options) -> int:
    from swarmpy.cli import stack_remove

    return stack_remove.rm(session, arguments, options)


def config(session: Session, arguments: list[str], options: Options) -> int:
    """The document that would be deployed: merged, with variables filled in, in long forms."""
    from swarmpy.cli import stack_files
    from swarmpy.cli.stack_deploy import compose_files
    from swarmpy.compose import merged, read_stack, yaml_text

    documents = stack_files.documents(compose_files(options))
    variables = stack_files.surroundings(documents, options.many("env-file"), session.environment)
    files, profiles = stack_files.DiskFiles(), stack_files.profiles(options.many("profile"), variables)
    # what is printed is looked through as if it were deployed, under any name
    stack = read_stack(documents, name=_ANY_NAME, variables=variables, files=files, profiles=profiles)
    for warning in stack.warnings:
        tell(f"WARNING: {warning}")
    document, _ = merged(documents, variables=variables, files=files, profiles=profiles)
    print(yaml_text(document), end="")
    return 0


def ls(session: Session, arguments: list[str], options: Options) -> int:
    found = session.client.get("/services", filters({"label": [NAMESPACE]}))
    counts = Counter(service["Spec"]["Labels"][NAMESPACE] for service in found)
    rows = [{"Name": name, "Services": str(count)} for name, count in sorted(counts.items())]
    show_list(Listing(_STACK_COLUMNS, rows, id_field="Name"), options)
    return 0


def _label(name: str) -> str:
    return f"{NAMESPACE}={name}"


def ps(session: Session, arguments: list[str], options: Options) -> int:
    name = arguments[0]
    chosen = parse_filters(options.many("filter"))
    tasks = session.client.get(
        "/tasks", filters(chosen | {"label": [*chosen.get("label", []), _label(name)]})
    )
    if not tasks and not session.client.get("/services", filters({"label": [_label(name)]})):
        fail(f"nothing found in stack: {name}")
        return 1
    rows = task_rows(session.client, tasks, options, now=datetime.now(UTC))
    show_list(Listing(TASK_COLUMNS, rows), options)
    return 0


def list_services(session: Session, arguments: list[str], options: Options) -> int:
    name = arguments[0]
    if not session.client.get("/services", filters({"label": [_label(name)]})):
        tell(f"Nothing found in stack: {name}")
        return 0
    options.values.setdefault("filter", []).append(f"label={_label(name)}")
    return services.ls(session, [], options)


_FILTER: Final = listed("filter", "Filter output based on conditions provided", short="f")
_FILE_FLAGS: Final = (
    listed("compose-file", 'Path to a Compose file, or "-" to read from stdin', short="c"),
    listed("env-file", "Read variables from a file (default .env beside the first Compose file)"),
    listed("profile", "Take services of this profile, too (* for all)"),
)
_PRUNE: Final = switch("prune", "Remove what the stack owns and no file names any more")
_DETACH: Final = "Exit immediately instead of waiting for "

COMMANDS = {
    "deploy": Command(
        deploy,
        "Deploy a new stack or update an existing stack",
        "STACK",
        1,
        1,
        (
            *_FILE_FLAGS,
            _PRUNE,
            switch(
                "plan", "Show what would change and why, and change nothing (exit code 3: something would)"
            ),
            switch("detach", _DETACH + "services to converge", short="d"),
            switch("quiet", "Suppress progress output", short="q"),
            text(
                "resolve-image",
                "Ask registries for digests of images: of all services, of those whose image is new, "
                "or of none (always, changed, never)",
                default="changed",
            ),
            switch("with-registry-auth", "Taken for docker's sake: nodes have their own credentials"),
        ),
    ),
    "diff": Command(
        diff,
        "Show how a stack differs from Compose files (exit code 3: it does)",
        "STACK",
        1,
        1,
        (*_FILE_FLAGS, _PRUNE),
    ),
    "config": Command(config, "Show what Compose files come to, merged and filled in", flags=_FILE_FLAGS),
    "ls": Command(ls, "List stacks", flags=(LIST_FLAGS[1], switch("quiet", "Only show names", short="q"))),
    "ps": Command(
        ps,
        "List the tasks in the stack",
        "STACK",
        1,
        1,
        (*LIST_FLAGS, NO_TRUNC, _FILTER, switch("no-resolve", "Do not map IDs to Names")),
    ),
    "services": Command(
        list_services, "List the services in the stack", "STACK", 1, 1, (*LIST_FLAGS, NO_TRUNC, _FILTER)
    ),
    "rm": Command(
        rm,
        "Remove one or more stacks",
        "STACK [STACK...]",
        1,
        None,
        (switch("detach", _DETACH + "tasks to end", short="d"),),
    ),
}
