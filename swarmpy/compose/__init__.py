"""Compose documents to service specs. Pure: the caller reads files and says what the variables are.

``load`` (text to a tree with lines), ``interpolate``, ``keys`` (what may stand where), ``forms`` (short forms
written out), ``merge``, ``convert``; ``runnable`` for what this version's cluster does not do yet.
"""

from __future__ import annotations

from collections.abc import Mapping as Mappings
from collections.abc import Sequence as Sequences

from swarmpy.compose import convert
from swarmpy.compose.forms import Surroundings, env_files, long_forms
from swarmpy.compose.interpolate import interpolate
from swarmpy.compose.keys import check_keys
from swarmpy.compose.load import load
from swarmpy.compose.merge import merge
from swarmpy.compose.runnable import runnable
from swarmpy.compose.stack import Document, NamedFile, NamedNetwork, NamedSpec, Stack, StackWarning
from swarmpy.compose.tree import ComposeError, Mapping, Place
from swarmpy.errors import InvalidArgument, Rejected
from swarmpy.limits import COMPOSE_FILES_MAX, COMPOSE_SERVICES_MAX
from swarmpy.model import validate

__all__ = [
    "ComposeError",
    "Document",
    "NamedFile",
    "NamedNetwork",
    "NamedSpec",
    "Place",
    "Stack",
    "StackWarning",
    "files_named",
    "merged",
    "read_stack",
    "runnable",
]


def read_stack(
    documents: Sequences[Document],
    *,
    name: str,
    variables: Mappings[str, str],
    files: Mappings[str, str] | None = None,
) -> Stack:
    """The stack that the documents describe, later ones over earlier ones.

    ``files`` holds the text of each file that ``files_named`` asks for, by path. Raises ``ComposeError``.
    """
    try:
        validate.check_name(name)
    except Rejected as error:
        raise InvalidArgument(f'invalid stack name "{name}": {error}') from None
    document, warnings = merged(documents, variables=variables, files=files or {})
    services = document.get("services")
    if not isinstance(services, Mapping) or not services.items:
        place = Place(documents[0].file, 1)
        raise ComposeError(place, "no services: write 'services:' with the services below it")
    return Stack(
        name=name,
        services=convert.services(document, name),
        networks=convert.networks(document, name),
        secrets=convert.files(document, "secrets", name),
        configs=convert.files(document, "configs", name),
        warnings=tuple(warnings),
    )


def merged(
    documents: Sequences[Document], *, variables: Mappings[str, str], files: Mappings[str, str]
) -> tuple[Mapping, list[StackWarning]]:
    """One document in long forms, with what is ignored of it."""
    if not 0 < len(documents) <= COMPOSE_FILES_MAX:
        raise InvalidArgument(f"give between 1 and {COMPOSE_FILES_MAX} Compose files, not {len(documents)}")
    trees, warnings = [], []
    for document in documents:
        tree, found = _checked(document, variables)
        around = Surroundings(document.folder, variables, files, found)
        trees.append(long_forms(tree, around))
        warnings += around.warnings
    return merge(trees), warnings


def files_named(documents: Sequences[Document], *, variables: Mappings[str, str]) -> tuple[str, ...]:
    """Absolute paths of the files that ``read_stack`` needs: those of environment variables."""
    paths: dict[str, None] = {}
    for document in documents:
        tree, _ = _checked(document, variables)
        paths.update(dict.fromkeys(env_files(tree, Surroundings(document.folder, variables, {}))))
    return tuple(paths)


def _checked(document: Document, variables: Mappings[str, str]) -> tuple[Mapping, list[StackWarning]]:
    found = interpolate(load(document.text, document.file), variables)
    warnings = [
        StackWarning(place, f'The "{name}" variable is not set. Defaulting to a blank string.')
        for name, place in found.unset.items()
    ]
    for place, path, note in check_keys(found.tree).ignored:
        reason = f": {note}" if note else ""
        warnings.append(StackWarning(place, f"Ignoring unsupported option: {path}{reason}"))
    services = found.tree.get("services")
    if isinstance(services, Mapping) and len(services.items) > COMPOSE_SERVICES_MAX:
        raise ComposeError(services.place, f"more than {COMPOSE_SERVICES_MAX} services: make several stacks")
    return found.tree, warnings
