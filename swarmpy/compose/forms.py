"""Every short form written out as the long one, so that merging and converting know one form only.

What comes out is Compose again: ``stack config`` prints it. Relative paths become absolute ones, and files of
environment variables are read in, since both depend on which file they were written in.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from collections.abc import Mapping as Mappings
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from swarmpy.compose.fields import Fields
from swarmpy.compose.stack import StackWarning
from swarmpy.compose.tree import ComposeError, Mapping, Node, Place, Scalar, Sequence, kind_of, text_of
from swarmpy.limits import COMPOSE_PORTS_MAX
from swarmpy.model import quantities

_PROPAGATIONS: Final = frozenset({"shared", "rshared", "slave", "rslave", "private", "rprivate"})
_CONSISTENCIES: Final = frozenset({"default", "consistent", "cached", "delegated"})
_PORT: Final = re.compile(
    r"(?:(?:(?P<ip>\[[^\]]*\]|[^:\[\]]*):)?(?P<published>[^:]*):)?(?P<target>[^:/]+)(?:/(?P<protocol>[^/]*))?\Z"
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a document's words depend on."""

    folder: str
    variables: Mappings[str, str]
    files: Mappings[str, str]
    warnings: list[StackWarning] = field(default_factory=list)

    def path(self, text: str) -> str:
        if text == "~" or text.startswith("~/"):
            text = self.variables.get("HOME", "/root") + text[1:]
        return posixpath.normpath(posixpath.join(self.folder, text))


def long_forms(document: Mapping, around: Surroundings) -> Mapping:
    items = dict(document.items)
    top = Fields(document, "")
    for section in ("secrets", "configs"):
        each = {name: _absolute(fields.node, "file", around) for name, fields in top.each(section)}
        if each:
            items[section] = _like(document, section, each)
    services = {name: _service(fields, around) for name, fields in top.each("services")}
    if services:
        items["services"] = _like(document, "services", services)
    return document.with_items(items)


def env_files(document: Mapping, around: Surroundings) -> list[str]:
    """Paths of the files of environment variables that the document names."""
    return [
        around.path(name)
        for _, service in Fields(document, "").each("services")
        for name in service.texts("env_file")
    ]


def _like(document: Mapping, section: str, each: Mappings[str, Mapping]) -> Mapping:
    old = document.items[section]
    return old.with_items({**each}) if isinstance(old, Mapping) else Mapping({**each}, old.place)


def _absolute(node: Mapping, key: str, around: Surroundings) -> Mapping:
    value = node.get(key)
    if not isinstance(value, Scalar) or not isinstance(value.value, str):
        return node
    return node.with_items({**node.items, key: Scalar(around.path(value.value), value.place)})


# --- services


def _service(fields: Fields, around: Surroundings) -> Mapping:
    items = dict(fields.node.items)
    for key, form in _FORMS.items():
        if fields.has(key):
            items[key] = form(fields, key, around)
    environment = _environment(fields, around)
    if environment:
        items["environment"] = _map(fields.place("environment"), environment)
    items.pop("env_file", None)
    for key in ("deploy", "healthcheck"):
        below = fields.fields(key)
        if below is not None:
            items[key] = _below(below, around)
    return fields.node.with_items(items)


def _below(fields: Fields, around: Surroundings) -> Mapping:
    items = dict(fields.node.items)
    if fields.has("labels"):
        items["labels"] = _pairs(fields, "labels", around)
    test = fields.node.get("test")
    if isinstance(test, Scalar):
        items["test"] = _list(test.place, ["CMD-SHELL", fields.text("test")])
    return fields.node.with_items(items)


def _map(place: Place, values: Mappings[str, str | None]) -> Mapping:
    return Mapping({name: Scalar(value, place) for name, value in values.items()}, place)


def _list(place: Place, values: list[str] | tuple[str, ...]) -> Sequence:
    return Sequence(tuple(Scalar(value, place) for value in values), place)


def _pairs(fields: Fields, key: str, _: Surroundings) -> Node:
    return _map(fields.place(key), fields.pairs(key))


def _texts(fields: Fields, key: str, _: Surroundings) -> Node:
    return _list(fields.place(key), fields.texts(key))


def _command(fields: Fields, key: str, _: Surroundings) -> Node:
    return _list(fields.place(key), fields.command(key))


def _hosts(fields: Fields, key: str, _: Surroundings) -> Node:
    """``name:address``; a map says the same."""
    node = fields.node.get(key)
    if isinstance(node, Mapping):
        return _list(
            fields.place(key), [f"{name}:{address}" for name, address in sorted(fields.pairs(key).items())]
        )
    return _list(fields.place(key), [text.replace("=", ":", 1) for text in fields.texts(key)])


def _environment(fields: Fields, around: Surroundings) -> dict[str, str | None]:
    """A name without a value takes it from the variables; files come first."""
    found: dict[str, str | None] = {}
    for name in fields.texts("env_file"):
        path = around.path(name)
        text = around.files.get(path)
        if text is None:
            raise fields.error("env_file", f"names {path}, which cannot be read: check the path")
        for line in text.splitlines():
            entry = line.strip()
            if entry and not entry.startswith("#"):
                variable, equals, value = entry.partition("=")
                if not variable or any(space in variable for space in " \t"):
                    raise fields.error(
                        "env_file", f"names {path}, where the variable '{variable}' contains whitespaces"
                    )
                given = value if equals else around.variables.get(variable)
                if given is not None:
                    found[variable] = given
    for name, wanted in fields.optional_pairs("environment").items():
        if not name:
            raise fields.error("environment", "has an entry without a name: write NAME=value")
        found[name] = around.variables.get(name) if wanted is None else wanted
    return found


def _attachments(fields: Fields, key: str, _: Surroundings) -> Node:
    node = fields.node.get(key)
    if isinstance(node, Mapping):
        return node
    place = fields.place(key)
    return Mapping({name: Scalar(None, place) for name in fields.texts(key)}, place)


def _each_long(
    fields: Fields, key: str, write_out: Callable[[str, Place], list[Mapping]]
) -> list[tuple[Mapping, bool]]:
    """The long forms of a list's items, and whether each was written so."""
    node = fields.node.get(key)
    if not isinstance(node, Sequence):
        raise fields.error(key, f"must be a list, not {kind_of(node) if node else 'nothing'}")
    found: list[tuple[Mapping, bool]] = []
    for number, item in enumerate(node.items):
        if isinstance(item, Mapping):
            found.append((item, True))
        elif isinstance(item, Scalar) and not isinstance(item.value, bool | None):
            text = text_of(item.value)
            made = _placed(fields, f"{key}.{number}", item.place, partial(write_out, text, item.place))
            found += [(long, False) for long in made]
        else:
            raise ComposeError(
                item.place, f"{fields.path}.{key}.{number} must be a string or a mapping, not {kind_of(item)}"
            )
        if key == "ports" and len(found) > COMPOSE_PORTS_MAX:
            raise fields.error(key, f"names more than {COMPOSE_PORTS_MAX} ports: publish fewer")
    return found


def _placed(fields: Fields, key: str, place: Place, write_out: Callable[[], list[Mapping]]) -> list[Mapping]:
    """What is wrong with an item is said with the item's place, not the list's."""
    return Fields(Mapping({}, place), fields.path).parse(key, write_out)


def _references(fields: Fields, key: str, _: Surroundings) -> Node:
    def write_out(text: str, place: Place) -> list[Mapping]:
        return [Mapping({"source": Scalar(text, place)}, place)]

    return Sequence(tuple(item for item, _ in _each_long(fields, key, write_out)), fields.place(key))


# --- ports


def _ports(fields: Fields, key: str, around: Surroundings) -> Node:
    def write_out(text: str, place: Place) -> list[Mapping]:
        match = _PORT.match(text)
        if match is None:
            raise ComposeError(
                place, f"{fields.path}.{key}: invalid port '{text}': write published:target, such as 8080:80"
            )
        host_ip = (match["ip"] or "").strip("[]")
        protocol = quantities.protocol(match["protocol"] or "tcp")
        return [
            Mapping(
                {
                    "mode": Scalar("ingress", place),
                    "target": Scalar(target, place),
                    **({"published": Scalar(published, place)} if published else {}),
                    "protocol": Scalar(str(protocol), place),
                    **({"host_ip": Scalar(host_ip, place)} if host_ip else {}),
                },
                place,
            )
            for published, target in quantities.port_pairs(
                match["published"] or "", match["target"], text=text
            )
        ]

    return Sequence(tuple(item for item, _ in _each_long(fields, key, write_out)), fields.place(key))


# --- mounts


def _volumes(fields: Fields, key: str, around: Surroundings) -> Node:
    def write_out(text: str, place: Place) -> list[Mapping]:
        return [_mount(text, place, f"{fields.path}.{key}", around)]

    items = []
    for item, is_long in _each_long(fields, key, write_out):
        kind = item.get("type")
        is_bind = isinstance(kind, Scalar) and kind.value == "bind"
        items.append(_absolute(item, "source", around) if is_long and is_bind else item)
    return Sequence(tuple(items), fields.place(key))


def _mount(text: str, place: Place, path: str, around: Surroundings) -> Mapping:
    """``target``, ``source:target`` or ``source:target:options``. A source with a slash is a path."""
    pieces = text.split(":")
    if len(pieces) > 3 or not all(pieces):
        raise ComposeError(
            place, f"{path}: invalid volume specification '{text}': write source:target or source:target:ro"
        )
    source, target = (pieces[0], pieces[1]) if len(pieces) > 1 else ("", pieces[0])
    is_bind = source.startswith((".", "/", "~"))
    values: dict[str, Node] = {"type": Scalar("bind" if is_bind else "volume", place)}
    if source:
        values["source"] = Scalar(around.path(source) if is_bind else source, place)
    values["target"] = Scalar(target, place)
    for option in pieces[2].split(",") if len(pieces) == 3 else ():
        if option == "ro":
            values["read_only"] = Scalar(True, place)
        elif option == "nocopy" and not is_bind:
            values["volume"] = Mapping({"nocopy": Scalar(True, place)}, place)
        elif option in _PROPAGATIONS and is_bind:
            values["bind"] = Mapping({"propagation": Scalar(option, place)}, place)
        elif option in _CONSISTENCIES:
            values["consistency"] = Scalar(option, place)
        elif option != "rw":
            around.warnings.append(StackWarning(place, f"{path}: Ignoring unsupported option: {option}"))
    return Mapping(values, place)


_FORMS: Final[dict[str, Callable[[Fields, str, Surroundings], Node]]] = {
    "labels": _pairs,
    "sysctls": _pairs,
    "command": _command,
    "entrypoint": _command,
    "dns": _texts,
    "dns_search": _texts,
    "tmpfs": _texts,
    "extra_hosts": _hosts,
    "networks": _attachments,
    "ports": _ports,
    "secrets": _references,
    "configs": _references,
    "volumes": _volumes,
}
