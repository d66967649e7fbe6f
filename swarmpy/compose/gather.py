"""From the documents that were given to one: each with what it includes and what its services extend.

A document is read (``load``, ``interpolate``, ``check_keys``, ``long_forms``), its services are extended,
what it includes is put beside what it has, and then the documents are merged. Other files come from
``Files``.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping as Mappings
from collections.abc import Sequence as Sequences
from dataclasses import dataclass, field
from typing import Final

from swarmpy.compose.dotenv import variables_of
from swarmpy.compose.extends import Extender
from swarmpy.compose.fields import Fields
from swarmpy.compose.forms import long_forms
from swarmpy.compose.interpolate import interpolate
from swarmpy.compose.keys import check_keys
from swarmpy.compose.limits import COMPOSE_CHAIN_MAX, COMPOSE_FILES_MAX, COMPOSE_SERVICES_MAX
from swarmpy.compose.load import load
from swarmpy.compose.merge import merge
from swarmpy.compose.stack import Document, Files, StackWarning
from swarmpy.compose.surroundings import Surroundings
from swarmpy.compose.tree import ComposeError, Mapping, Sequence

_ENVIRONMENT: Final = ".env"
_SECTIONS: Final = ("services", "networks", "volumes", "secrets", "configs")


@dataclass(slots=True)
class Gatherer:
    """``warnings`` is what is said of the documents meanwhile."""

    files: Files
    warnings: list[StackWarning] = field(default_factory=list)
    _count: int = 0

    def gather(
        self,
        documents: Sequences[Document],
        variables: Mappings[str, str],
        chain: tuple[str, ...] = (),
    ) -> Mapping:
        return merge([_Gathering(self, variables, document).tree(chain) for document in documents])

    def opened(self, document: Document, variables: Mappings[str, str]) -> Mapping:
        """One file in long forms, as if it stood alone."""
        self._count += 1
        tree = load(document.text, document.file)
        if self._count > COMPOSE_FILES_MAX:
            raise ComposeError(
                tree.place, f"this is one of more than {COMPOSE_FILES_MAX} files: put some of them into one"
            )
        found = interpolate(tree, variables)
        tree = found.tree
        self.warnings += [
            StackWarning(place, f'The "{name}" variable is not set. Defaulting to a blank string.')
            for name, place in found.unset.items()
        ]
        for place, path, note in check_keys(tree).ignored:
            reason = f": {note}" if note else ""
            self.warnings.append(StackWarning(place, f"Ignoring unsupported option: {path}{reason}"))
        services = tree.get("services")
        if isinstance(services, Mapping) and len(services.items) > COMPOSE_SERVICES_MAX:
            raise ComposeError(
                services.place, f"more than {COMPOSE_SERVICES_MAX} services: make several stacks"
            )
        return long_forms(tree, Surroundings(document.folder, variables, self.files, self.warnings))


@dataclass(slots=True)
class _Gathering:
    """Of one document."""

    all: Gatherer
    variables: Mappings[str, str]
    document: Document
    _opened: dict[str, Mapping] = field(default_factory=dict)

    def tree(self, chain: tuple[str, ...]) -> Mapping:
        file = self.document.file
        tree = self.all.opened(self.document, self.variables)
        tree = Extender(self._other_file).extend(file, tree)
        return self._with_included(tree, (*chain, self._path(file)))

    def _path(self, text: str) -> str:
        return Surroundings(self.document.folder, self.variables, self.all.files).path(text)

    def _other_file(self, name: str, asked: Fields) -> tuple[str, Mapping]:
        path = self._path(name)
        if path not in self._opened:
            document = Document(path, self._text(path, asked, "file"), posixpath.dirname(path))
            self._opened[path] = self.all.opened(document, self.variables)
        return path, self._opened[path]

    def _text(self, path: str, asked: Fields, key: str) -> str:
        text = asked.parse(key, lambda: self.all.files.get(path))
        if text is None:
            raise asked.error(key, f"names {path}, which is not there: check the path")
        return text

    # --- include

    def _with_included(self, tree: Mapping, chain: tuple[str, ...]) -> Mapping:
        top = Fields(tree, "")
        if not top.has("include"):
            return tree
        for entry in _includes(top):
            if len(chain) > COMPOSE_CHAIN_MAX:
                raise entry.error("path", f"is the {COMPOSE_CHAIN_MAX}th file in a row: include fewer")
            tree = _beside(tree, self._included(entry, chain))
        return tree.with_items({key: node for key, node in tree.items.items() if key != "include"})

    def _included(self, entry: Fields, chain: tuple[str, ...]) -> Mapping:
        paths = [self._path(path) for path in entry.texts("path")]
        if not paths:
            raise entry.error("path", "is missing: write the path of a Compose file")
        for path in paths:
            if path in chain:
                raise entry.error("path", f"goes around in a circle: {path} includes this file")
        folder = (
            self._path(entry.text("project_directory"))
            if entry.has("project_directory")
            else posixpath.dirname(paths[0])
        )
        documents = [Document(path, self._text(path, entry, "path"), folder) for path in paths]
        return self.all.gather(documents, self._variables_of(entry, folder), (*chain, *paths))

    def _variables_of(self, entry: Fields, folder: str) -> dict[str, str]:
        """Those of who includes go before those of the files beside what is included."""
        found: dict[str, str] = {}
        if entry.has("env_file"):
            for name in entry.texts("env_file"):
                path = self._path(name)
                found |= variables_of(self._text(path, entry, "env_file"), path, self.variables)
        else:
            path = posixpath.join(folder, _ENVIRONMENT)
            found = variables_of(self.all.files.get(path) or "", path, self.variables)
        return {**found, **self.variables}


def _includes(top: Fields) -> list[Fields]:
    node = top.node.get("include")
    if not isinstance(node, Sequence):
        raise top.error("include", "must be a list of paths, or of maps with path")
    found = []
    for number, item in enumerate(node.items):
        long = item if isinstance(item, Mapping) else Mapping({"path": item}, item.place)
        found.append(Fields(long, f"include.{number}"))
    return found


def _beside(tree: Mapping, other: Mapping) -> Mapping:
    """What both define must be the same."""
    items = dict(tree.items)
    for section in _SECTIONS:
        own, theirs = tree.get(section), other.get(section)
        if not isinstance(theirs, Mapping):
            continue
        if not isinstance(own, Mapping):
            items[section] = theirs
            continue
        for name, node in theirs.items.items():
            if name in own.items and own.items[name] != node:
                raise ComposeError(
                    own.at(name),
                    f"{section}.{name} is in an included file, too ({theirs.at(name)}), and differs: "
                    "give one of them another name",
                )
        items[section] = Mapping(
            {**theirs.items, **own.items},
            own.place,
            {**theirs.key_places, **own.key_places},
            {**theirs.key_tags, **own.key_tags},
        )
    return tree.with_items(items)
