"""What the swarm has of a stack, and what its secrets and configs should hold: from the API and from
files."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from swarmpy.cli.session import version_of
from swarmpy.cli.stack_files import read_bytes
from swarmpy.cli.stack_plan import Data, Kind, Standing, wanted_names
from swarmpy.client import Client, ErrorAnswer, Json, Query, filters
from swarmpy.compose import NamedFile, Stack
from swarmpy.compose.stack import NAMESPACE_LABEL
from swarmpy.compose.tree import ComposeError
from swarmpy.errors import InvalidArgument
from swarmpy.limits import STACK_NAMES_PER_CALL_MAX
from swarmpy.model.validate import CONFIG_BYTES_MAX, SECRET_BYTES_MAX

_BYTES_MAX: Final = {Kind.SECRET: SECRET_BYTES_MAX, Kind.CONFIG: CONFIG_BYTES_MAX}
_LABELS_ONLY: Final = "only updates to Labels are allowed"


def of_stack(name: str) -> Query:
    """The filter for what a stack owns."""
    return filters({"label": [f"{NAMESPACE_LABEL}={name}"]})


def owned(client: Client, kind: Kind, stack: str) -> dict[str, Json]:
    """By name."""
    return {name_of(item): item for item in client.get(f"/{kind}s", of_stack(stack))}


def name_of(item: Json) -> str:
    return str(item["Name"] if "Name" in item else item["Spec"]["Name"])


def id_of(item: Json) -> str:
    return str(item["Id"] if "Id" in item else item["ID"])


def standing_of(client: Client, stack: Stack, data: Data) -> Standing:
    own = {kind: owned(client, kind, stack.name) for kind in Kind}
    others = {
        kind: _named(client, kind, wanted - set(own[kind])) for kind, wanted in wanted_names(stack).items()
    }
    stale = {
        name
        for name, secret in own[Kind.SECRET].items()
        if (Kind.SECRET, name) in data and not _holds(client, secret, data[Kind.SECRET, name])
    }
    return Standing(own, others, stale)


def _named(client: Client, kind: Kind, names: Collection[str]) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for chunk in chunks(sorted(names)):
        query = filters({"name": chunk})
        found |= {name_of(item): item for item in client.get(f"/{kind}s", query) if name_of(item) in names}
    return found


def chunks(values: list[str]) -> Iterable[list[str]]:
    return (
        values[at : at + STACK_NAMES_PER_CALL_MAX] for at in range(0, len(values), STACK_NAMES_PER_CALL_MAX)
    )


def _holds(client: Client, secret: Json, data: bytes) -> bool:
    """Whether a secret has these data, which nobody can read back. The engine's update takes what is there
    already, changes nothing by it, and refuses other data."""
    body = {**secret["Spec"], "Data": base64.b64encode(data).decode()}
    path = f"/secrets/{quote(id_of(secret), safe='')}/update"
    try:
        client.post(path, body, {"version": version_of(secret)})
    except ErrorAnswer as error:
        if error.status == HTTPStatus.BAD_REQUEST and _LABELS_ONLY in str(error):
            return False
        raise
    return True


# --- data


def data_of(stack: Stack, variables: Mapping[str, str]) -> Data:
    """Read before anything is changed. External files, and those of drivers, have none here."""
    found: dict[tuple[Kind, str], bytes] = {}
    for kind, files in ((Kind.SECRET, stack.secrets), (Kind.CONFIG, stack.configs)):
        for file in files:
            if not file.is_external and not file.driver:
                found[kind, file.full_name] = _content(kind, file, variables)
    return found


def _content(kind: Kind, file: NamedFile, variables: Mapping[str, str]) -> bytes:
    path = f"{kind}s.{file.name}"
    if file.path:
        try:
            data = read_bytes(file.path, most=_BYTES_MAX[kind])
        except InvalidArgument as error:
            raise ComposeError(file.place, f"{path}: {error}") from None
        if data is None:
            raise ComposeError(file.place, f"{path} names {file.path}, which is not there: check the path")
    elif file.variable:
        if file.variable not in variables:
            raise ComposeError(file.place, f"{path} is to be in the variable {file.variable}: set it")
        data = variables[file.variable].encode()
    else:
        data = file.content.encode()
    if not 0 < len(data) < _BYTES_MAX[kind]:
        raise ComposeError(
            file.place,
            f"{path}: {kind} data must be larger than 0 and less than {_BYTES_MAX[kind]} bytes, "
            f"not {len(data)}",
        )
    return data
