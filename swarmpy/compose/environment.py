"""A service's variables and labels, with those that are in files.

A file of ``env_file`` in its short form is read as the engine reads it, so that a stack means what it means
to docker; in its long form, which docker's stacks do not have, as Compose reads it, unless ``format: raw``.
"""

from __future__ import annotations

from collections.abc import Iterator

from swarmpy.compose.dotenv import Entry, entries, raw_entries
from swarmpy.compose.fields import Fields
from swarmpy.compose.stack import StackWarning
from swarmpy.compose.surroundings import Surroundings
from swarmpy.compose.tree import Mapping, Sequence

_RAW = "raw"


def environment(service: Fields, around: Surroundings) -> dict[str, str | None]:
    """A name without a value takes it from the variables; files come first."""
    found: dict[str, str | None] = {}
    for entry in _of_files(service, around):
        given = around.variables.get(entry.name) if entry.value is None else entry.value
        if given is not None:
            found[entry.name] = given
    for name, wanted in service.optional_pairs("environment").items():
        if not name:
            raise service.error("environment", "has an entry without a name: write NAME=value")
        found[name] = around.variables.get(name) if wanted is None else wanted
    return found


def labels(service: Fields, around: Surroundings) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in service.texts("label_file"):
        path = around.path(name)
        text = around.text(service, "label_file", path)
        if text is None:
            raise service.error("label_file", f"names {path}, which cannot be read: check the path")
        found |= {entry.name: entry.value or "" for entry in entries(text, path, around.variables)}
    return {**found, **service.pairs("labels")}


def _of_files(service: Fields, around: Surroundings) -> Iterator[Entry]:
    node = service.node.get("env_file")
    items = node.items if isinstance(node, Sequence) else () if node is None else (node,)
    for number, item in enumerate(items):
        if isinstance(item, Mapping):
            yield from _of_long(Fields(item, f"{service.path}.env_file.{number}"), around)
        else:
            one = Fields(Mapping({"env_file": item}, service.place("env_file")), service.path)
            yield from _of_short(one, around)


def _of_short(service: Fields, around: Surroundings) -> Iterator[Entry]:
    path = around.path(service.text("env_file"))
    text = around.text(service, "env_file", path)
    if text is None:
        raise service.error("env_file", f"names {path}, which cannot be read: check the path")
    for entry in raw_entries(text, path):
        if entry.value and len(entry.value) > 1 and entry.value[0] == entry.value[-1] in "'\"":
            around.warnings.append(
                StackWarning(
                    entry.place,
                    f"the quotes around the value of {entry.name} are part of it, as docker has it: take "
                    f"them away, or write env_file: [{{path: {service.text('env_file')}}}]",
                )
            )
        yield entry


def _of_long(fields: Fields, around: Surroundings) -> Iterator[Entry]:
    if not fields.text("path"):
        raise fields.error("path", "is missing: write the path of a file of variables")
    path = around.path(fields.text("path"))
    text = around.text(fields, "path", path)
    if text is None:
        if fields.flag("required") is False:
            return
        raise fields.error(
            "path", f"names {path}, which cannot be read: check the path, or write required: false"
        )
    is_raw = fields.one_of("format", str, known=[_RAW]) == _RAW
    yield from raw_entries(text, path) if is_raw else entries(text, path, around.variables)
