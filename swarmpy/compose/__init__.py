"""Compose documents to service specs. Pure: the caller gives files and says what the variables are.

``gather`` makes one document of many: ``load`` (text to a tree with lines), ``interpolate``, ``keys`` (what
may stand where), ``forms`` (short forms written out), ``extends``, ``merge``; then come ``profiles`` and
``convert``, with ``dependencies`` and ``extras`` (what is ours alone). ``runnable`` is for what this
version's cluster does not do yet, ``write`` for showing a document again.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Mapping as Mappings
from collections.abc import Sequence as Sequences

from swarmpy.compose import convert
from swarmpy.compose.gather import Gatherer
from swarmpy.compose.limits import COMPOSE_FILES_MAX, COMPOSE_SERVICES_MAX
from swarmpy.compose.profiles import active
from swarmpy.compose.runnable import runnable
from swarmpy.compose.stack import Document, Files, NamedFile, NamedNetwork, NamedSpec, Stack, StackWarning
from swarmpy.compose.tree import ComposeError, Mapping, Place, without_resets
from swarmpy.compose.write import yaml_text
from swarmpy.errors import InvalidArgument, Rejected
from swarmpy.model import validate

__all__ = [
    "ComposeError",
    "Document",
    "Files",
    "NamedFile",
    "NamedNetwork",
    "NamedSpec",
    "Place",
    "Stack",
    "StackWarning",
    "merged",
    "read_stack",
    "runnable",
    "yaml_text",
]


def read_stack(
    documents: Sequences[Document],
    *,
    name: str,
    variables: Mappings[str, str],
    files: Files | None = None,
    profiles: Collection[str] = (),
) -> Stack:
    """The stack that the documents describe, later ones over earlier ones.

    ``files`` are those that documents may name: of variables, included or extended ones. ``profiles``:
    services that name some are left out unless one of them is here. Raises ``ComposeError``.
    """
    try:
        validate.check_name(name)
    except Rejected as error:
        raise InvalidArgument(f'invalid stack name "{name}": {error}') from None
    document, warnings = merged(documents, variables=variables, files=files, profiles=profiles)
    services = document.get("services")
    if not isinstance(services, Mapping) or not services.items:
        place = Place(documents[0].file, 1)
        raise ComposeError(place, "no services: write 'services:' with the services below it")
    return Stack(
        name=name,
        services=convert.services(document, name, warnings),
        networks=convert.networks(document, name),
        secrets=convert.files(document, "secrets", name),
        configs=convert.files(document, "configs", name),
        warnings=tuple(warnings),
    )


def merged(
    documents: Sequences[Document],
    *,
    variables: Mappings[str, str],
    files: Files | None = None,
    profiles: Collection[str] = (),
) -> tuple[Mapping, list[StackWarning]]:
    """One document in long forms, with what is ignored of it."""
    if not 0 < len(documents) <= COMPOSE_FILES_MAX:
        raise InvalidArgument(f"give between 1 and {COMPOSE_FILES_MAX} Compose files, not {len(documents)}")
    gatherer = Gatherer({} if files is None else files)
    tree = without_resets(gatherer.gather(documents, variables))
    assert isinstance(tree, Mapping)
    services = tree.get("services")
    if isinstance(services, Mapping) and len(services.items) > COMPOSE_SERVICES_MAX:
        raise ComposeError(services.place, f"more than {COMPOSE_SERVICES_MAX} services: make several stacks")
    return active(tree, profiles), gatherer.warnings
