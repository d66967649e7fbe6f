"""Every short form written out as the long one, so that merging and converting know one form only.

What comes out is Compose again: ``stack config`` prints it. Relative paths become absolute ones, and files of
environment variables are read in, since both depend on which file they were written in.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Mapping as Mappings
from functools import partial
from typing import Final

from swarmpy.compose.environment import environment, labels
from swarmpy.compose.fields import Fields
from swarmpy.compose.limits import COMPOSE_PORTS_MAX
from swarmpy.compose.stack import StackWarning
from swarmpy.compose.surroundings import Surroundings
from swarmpy.compose.tree import ComposeError, Mapping, Node, Place, Scalar, Sequence, kind_of, text_of
from swarmpy.model import quantities

_PROPAGATIONS: Final = frozenset({"shared", "rshared", "slave", "rslave", "private", "rprivate"})
_CONSISTENCIES: Final = frozenset({"default", "consistent", "cached", "delegated"})
_PORT: Final = re.compile(
    r"(?:(?:(?P<ip>\[[^\]]*\]|[^:\[\]]*):)?(?P<published>[^:]*):)?(?P<target>[^:/]+)(?:/(?P<protocol>[^/]*))?\Z"
)


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
    for key, values in (("environment", environment(fields, around)), ("labels", labels(fields, around))):
        if values:
            items[key] = _map(fields, key, values)
    items = {key: node for key, node in items.items() if key not in _READ_IN}
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


def _map(fields: Fields, key: str, values: Mappings[str, str | None]) -> Mapping:
    """Each value has the place of what it was written as."""
    place, node = fields.place(key), fields.node.get(key)
    places = node.key_places if isinstance(node, Mapping) else {}
    return Mapping(
        {name: Scalar(value, places.get(name, place)) for name, value in values.items()},
        place,
        places,
        node.key_tags if isinstance(node, Mapping) else {},
    )


def _list(place: Place, values: list[str] | tuple[str, ...]) -> Sequence:
    return Sequence(tuple(Scalar(value, place) for value in values), place)


def _pairs(fields: Fields, key: str, _: Surroundings) -> Node:
    return _map(fields, key, {**fields.pairs(key)})


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


def _dependencies(fields: Fields, key: str, _: Surroundings) -> Node:
    node = fields.node.get(key)
    if isinstance(node, Mapping):
        return node
    found: dict[str, Node] = {}
    for number, name in enumerate(fields.texts(key)):
        place = node.items[number].place if isinstance(node, Sequence) else fields.place(key)
        found[name] = Mapping({"condition": Scalar("service_started", place)}, place)
    return Mapping(found, fields.place(key), {name: item.place for name, item in found.items()})


def _devices(fields: Fields, key: str, _: Surroundings) -> Node:
    """``source``, ``source:target`` or ``source:target:permissions``."""

    def write_out(text: str, place: Place) -> list[Mapping]:
        pieces = text.split(":")
        if len(pieces) > 3 or not all(pieces) or not text.startswith("/"):
            raise ComposeError(
                place,
                f"{fields.path}.{key}: invalid device '{text}': write /dev/source:/dev/target:rwm; devices "
                "that a driver names are asked for with gpus or deploy.resources.reservations.devices",
            )
        source, target = pieces[0], pieces[min(1, len(pieces) - 1)]
        values = {"source": source, "target": target, "permissions": pieces[2] if len(pieces) == 3 else "rwm"}
        return [Mapping({name: Scalar(value, place) for name, value in values.items()}, place)]

    return Sequence(tuple(item for item, _ in _each_long(fields, key, write_out)), fields.place(key))


def _gpus(fields: Fields, key: str, _: Surroundings) -> Node:
    """``all``, or a list of requests."""
    node = fields.node.get(key)
    if isinstance(node, Sequence):
        return node
    if fields.text(key) != "all":
        raise fields.error(key, f'must be "all" or a list of requests, not "{fields.text(key)}"')
    return Sequence(
        (Mapping({"count": Scalar("all", fields.place(key))}, fields.place(key)),), fields.place(key)
    )


def _is_before(text: str, first: str, second: str) -> bool:
    return first in text and first in text.partition(second)[0]


def _security(fields: Fields, key: str, around: Surroundings) -> Node:
    """A seccomp profile is read in."""
    found = []
    for text in fields.texts(key):
        name, separator, value = text.partition("=" if _is_before(text, "=", ":") else ":")
        if name == "seccomp" and value not in ("", "unconfined") and not value.startswith("{"):
            path = around.path(value)
            profile = around.text(fields, key, path)
            if profile is None:
                raise fields.error(key, f"names {path}, which cannot be read: check the path")
            value = profile
        found.append(f"{name}={value}" if separator else name)
    return _list(fields.place(key), found)


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


_READ_IN: Final = frozenset({"env_file", "label_file"})
_FORMS: Final[dict[str, Callable[[Fields, str, Surroundings], Node]]] = {
    "sysctls": _pairs,
    "command": _command,
    "entrypoint": _command,
    "dns": _texts,
    "dns_search": _texts,
    "dns_opt": _texts,
    "profiles": _texts,
    "depends_on": _dependencies,
    "devices": _devices,
    "gpus": _gpus,
    "security_opt": _security,
    "tmpfs": _texts,
    "extra_hosts": _hosts,
    "networks": _attachments,
    "ports": _ports,
    "secrets": _references,
    "configs": _references,
    "volumes": _volumes,
}
