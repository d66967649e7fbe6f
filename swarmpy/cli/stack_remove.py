"""Removing what a stack owns, and waiting until it is gone."""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, TypeVar
from urllib.parse import quote

from swarmpy.cli.flags import Options
from swarmpy.cli.session import Session, tell, tell_refused
from swarmpy.cli.stack_cluster import id_of, name_of, of_stack, owned
from swarmpy.cli.stack_plan import Kind
from swarmpy.client import Client, ErrorAnswer, Json
from swarmpy.errors import Unavailable
from swarmpy.limits import PROGRESS_PERIOD_S, STACK_GONE_TIMEOUT_S

_ENDED: Final = frozenset({"complete", "shutdown", "failed", "rejected", "remove", "orphaned"})
"""States of tasks that run no more."""


_IN_USE_BY_TASK: Final = "is in use by task"
T = TypeVar("T")


def rm(session: Session, arguments: list[str], options: Options) -> int:
    code = 0
    for name in arguments:
        code = max(code, _remove_stack(session.client, name, is_detached=options.on("detach")))
    return code


def _remove_stack(client: Client, name: str, *, is_detached: bool) -> int:
    found = {kind: owned(client, kind, name) for kind in reversed(Kind)}
    if not any(found.values()):
        tell(f"Nothing found in stack: {name}")
        return 0
    code = 0
    for kind, items in found.items():
        if kind is Kind.NETWORK and not is_detached:
            # a network is held by its tasks until they are gone
            code = max(code, _waited(client, list(found[Kind.SERVICE].values()), name))
        for item in sorted(items.values(), key=name_of):
            print(f"Removing {kind} {name_of(item)}", flush=True)
            try:
                remove(client, kind, item, is_patient=not is_detached)
            except ErrorAnswer as error:
                tell_refused(error)
                code = 1
    if code:
        tell(f"Failed to remove some resources from stack: {name}; the same command tries the rest again")
    return code


def _waited(client: Client, services: list[Json], name: str) -> int:
    try:
        wait_gone(client, [id_of(item) for item in services], name)
    except Unavailable as error:
        tell(f"Error: {error}")
        return 1
    return 0


def remove(client: Client, kind: Kind, item: Json, *, is_patient: bool = True) -> None:
    """What is gone already is as it should be. A network is held by tasks for a moment after they have ended:
    if patient, that is waited for."""

    def refusal() -> ErrorAnswer | None:
        try:
            client.delete(f"/{kind}s/{quote(id_of(item), safe='')}")
        except ErrorAnswer as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            if not is_patient or _IN_USE_BY_TASK not in str(error):
                raise
            return error
        return None

    refused = _poll(refusal)
    if refused is not None:
        raise refused


def wait_gone(client: Client, service_ids: list[str], stack: str) -> None:
    """Until none of the services has a task that has not ended. Raises ``Unavailable`` if that takes too
    long."""
    wanted = set(service_ids)
    if not wanted:
        return

    def running() -> list[Json] | None:
        found = [
            task
            for task in client.get("/tasks", of_stack(stack))
            if task.get("ServiceID") in wanted and task["Status"]["State"] not in _ENDED
        ]
        return found or None

    left = _poll(running)
    if left:
        names = ", ".join(sorted({task["NodeID"][:12] for task in left if task.get("NodeID")}))
        raise Unavailable(
            f"{len(left)} tasks of stack {stack} have not ended within {STACK_GONE_TIMEOUT_S:.0f} s "
            f"(nodes {names or 'unknown'}): look at them with swarmpy stack ps, and repeat the command"
        )


def _poll(left: Callable[[], T | None]) -> T | None:
    """What is left at last; None once nothing is. A change of leader does not end the wait."""
    deadline = time.monotonic() + STACK_GONE_TIMEOUT_S
    while True:
        try:
            found = left()
        except ErrorAnswer as error:
            if error.status != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                raise
        except Unavailable:
            if time.monotonic() > deadline:
                raise
        else:
            if found is None or time.monotonic() > deadline:
                return found
        time.sleep(PROGRESS_PERIOD_S)
