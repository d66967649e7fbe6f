"""Which containers a list has: ``filters``, ``all``, ``limit`` of ``GET /containers/json``.

Pure. Values of one filter are alternatives, but for labels, which are all required.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from manager.api import requests
from manager.api.container_refs import ContainerRef, ContainerState, find_container, name_of
from manager.api.container_shapes import (
    asked_for,
    created_at,
    labels_of,
    networks_of,
    ports_of,
    protocol_of,
    spec_of,
)
from manager.api.container_status import HEALTH_WORDS, condition_of
from manager.api.requests import Filters
from manager.store.view import View
from swarmpy.errors import InvalidArgument, NotFound, SwarmError
from swarmpy.model.ids import NodeId

FILTERS: Final = frozenset(
    {
        "ancestor", "before", "exited", "id", "isolation", "label", "name", "status", "health", "since",
        "volume", "network", "is-task", "publish", "expose",
    }
)  # fmt: skip
_STATES: Final = frozenset({"created", "restarting", "running", "removing", "paused", "exited", "dead"})
_PORTS: Final = re.compile(r"(\d+)(?:-(\d+))?(?:/(tcp|udp|sctp))?")
_TRUE: Final = frozenset({"1", "true"})
_FALSE: Final = frozenset({"0", "false"})


def check(wanted: Filters) -> None:
    """InvalidArgument for what docker does not know either."""
    for value in wanted.get("status", ()):
        if value not in _STATES:
            raise InvalidArgument(f"Invalid filter 'status={value}'")
    for value in wanted.get("health", ()):
        if value not in HEALTH_WORDS.values():
            raise InvalidArgument(f"Unrecognised filter value for health: {value}")
    values = wanted.get("is-task", ())
    if values and (len(set(values)) != 1 or values[0] not in _TRUE | _FALSE):
        raise InvalidArgument(f"Invalid filter 'is-task=[{' '.join(values)}]'")
    for value in wanted.get("exited", ()):
        if not re.fullmatch(r"[+-]?\d{1,18}", value, re.ASCII):
            raise SwarmError(f'strconv.Atoi: parsing "{value}": invalid syntax')
    for name in ("publish", "expose"):
        for value in wanted.get(name, ()):
            _port_range(name, value)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """``limit`` 0: all of them. ``here``: the node that is asked."""

    filters: Filters
    is_all: bool
    limit: int
    here: NodeId


def select(view: View, found: Iterable[ContainerRef], wish: Wish) -> list[ContainerRef]:
    """Newest first. A limit, as some filters, is about ended ones too."""
    wanted = wish.filters
    check(wanted)
    shows_ended = (
        wish.is_all or wish.limit > 0 or bool({"before", "since", "status", "exited"} & wanted.keys())
    )
    before, since = (_named(view, wanted.get(name, ()), wish.here) for name in ("before", "since"))
    chosen = [
        each
        for each in found
        if (shows_ended or condition_of(each, None).state is ContainerState.RUNNING)
        and (before is None or created_at(each) < created_at(before))
        and (since is None or created_at(each) > created_at(since))
        and _passes(view, each, wanted)
    ]
    chosen.sort(key=lambda each: (created_at(each), each.id), reverse=True)
    return chosen[: wish.limit] if wish.limit > 0 else chosen


def _named(view: View, references: tuple[str, ...], here: NodeId) -> ContainerRef | None:
    if not references:
        return None
    try:
        return find_container(view, references[0], here=here)
    except NotFound:
        raise SwarmError(f"no such container {references[0]}") from None


def _passes(view: View, container: ContainerRef, wanted: Filters) -> bool:
    condition = condition_of(container, None)
    name = name_of(view, container)

    def is_named(pattern: str) -> bool:
        try:
            return re.search(pattern, name) is not None or re.search(pattern, f"/{name}") is not None
        except re.error:
            return pattern in name

    exited = condition.state is ContainerState.EXITED
    is_task = str(not container.is_by_hand).lower()
    return (
        requests.matches(wanted, "id", container.id.startswith)
        and requests.matches(wanted, "name", is_named)
        and requests.matches_labels(wanted, "label", labels_of(view, container))
        and requests.matches(wanted, "status", lambda state: state == condition.state.value)
        and requests.matches(wanted, "exited", lambda code: exited and int(code) == condition.exit_code)
        and requests.matches(wanted, "health", lambda word: word == HEALTH_WORDS[condition.health])
        and requests.matches(wanted, "is-task", lambda value: (value in _TRUE) == (is_task == "true"))
        and requests.matches(
            wanted, "isolation", lambda value: value == (spec_of(view, container).isolation or "default")
        )
        and requests.matches(wanted, "ancestor", lambda image: _is_of(view, container, image))
        and requests.matches(wanted, "volume", lambda place: _has_volume(view, container, place))
        and requests.matches(wanted, "network", lambda reference: _is_on(view, container, reference))
        and requests.matches(wanted, "publish", lambda text: _has_port(container, "publish", text))
        and requests.matches(wanted, "expose", lambda text: _has_port(container, "expose", text))
    )


def _is_of(view: View, container: ContainerRef, image: str) -> bool:
    """By the name that it was made from, with or without its tag and digest."""
    own = str(asked_for(container).config.get("Image") or spec_of(view, container).image)
    plain = own.partition("@")[0]
    return image in (own, plain, plain.removesuffix(":latest")) or f"{image}:latest" == plain


def _has_volume(view: View, container: ContainerRef, place: str) -> bool:
    return any(place in (mount.source, mount.target) for mount in spec_of(view, container).mounts)


def _is_on(view: View, container: ContainerRef, reference: str) -> bool:
    condition = condition_of(container, None)
    networks = networks_of(view, container, condition, is_listed=True)
    if reference in networks:
        return True
    ids = [place["NetworkID"] for place in networks.values()]
    return any(id_.startswith(reference) for id_ in ids if id_ and reference)


def _has_port(container: ContainerRef, name: str, text: str) -> bool:
    first, last, protocol = _port_range(name, text)
    condition = condition_of(container, None)
    numbers = [
        (port.published_port if name == "publish" else port.target_port)
        for port in ports_of(container, condition)
        if protocol_of(port) == protocol
    ]
    if name == "expose":
        exposed = (each.partition("/") for each in asked_for(container).config.get("ExposedPorts") or {})
        numbers += [
            int(number) for number, _, kind in exposed if number.isdigit() and (kind or "tcp") == protocol
        ]
    return any(first <= number <= last for number in numbers)


def _port_range(name: str, text: str) -> tuple[int, int, str]:
    match = _PORTS.fullmatch(text)
    if match is None:
        word = text.partition("/")[0].partition("-")[0]
        raise SwarmError(
            f'error while looking up for {name} {text}: strconv.ParseUint: parsing "{word}": invalid syntax'
        )
    first = int(match[1])
    return first, int(match[2] or first), match[3] or "tcp"
