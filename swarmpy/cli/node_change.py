"""How every command changes a node: read, edit, write; again if somebody else wrote in between."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from swarmpy.cli.session import Session, is_stale, version_of
from swarmpy.client import ErrorAnswer, Json
from swarmpy.limits import STALE_RETRIES_MAX


def path_of(name: str) -> str:
    return f"/nodes/{quote(name, safe='')}"


def change(session: Session, name: str, edit: Callable[[Json], bool]) -> bool:
    """False if there was nothing to change, as ``edit`` said."""
    for attempt in range(STALE_RETRIES_MAX):
        node = session.client.get(path_of(name))
        if not edit(node["Spec"]):
            return False
        try:
            session.client.post(f"/nodes/{node['ID']}/update", node["Spec"], {"version": version_of(node)})
        except ErrorAnswer as error:
            if not is_stale(error) or attempt + 1 == STALE_RETRIES_MAX:
                raise
        else:
            break
    return True
