"""``/events``: what changed in the cluster, as it changes, and what this manager remembers of before.

The mapping from a stored change to Docker's event is pure. Tasks have events too, which Docker lacks: type
``task``, actions ``create``, ``update`` (a new state) and ``remove``; who filters for the type, or says
``tasks=1``, gets them. A network's ``connect`` and ``disconnect`` are those of tasks on any node, so their
scope is the swarm. Containers and images are those of the node that is asked; what happens to images is not
in the store, and a node that is no manager tells it, too. A reader that falls behind is told so by the end of
its stream.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Generic, TypeVar

from aiohttp import web

from manager.api import image_shapes, requests
from manager.api.connection_bounds import API_EVENTS_LOOK_S
from manager.api.container_events import container_events
from manager.api.container_refs import id_of
from manager.api.context import Api
from manager.api.control import ClusterAccess
from manager.api.docker_json import Json, encode, state_name
from manager.api.lookup import is_by_hand
from manager.api.requests import Filters
from manager.api.streams import is_gone, open_stream, parse_moment, wait_unless_gone
from manager.history import Change
from manager.store.view import View
from swarmpy.errors import InvalidArgument
from swarmpy.image_events import ImageEvent
from swarmpy.limits import API_LIST_SLICE_OBJECTS
from swarmpy.model import image_names
from swarmpy.model.defaults import network_driver, place_text, replicas_of
from swarmpy.model.ids import SECOND_NS, NodeId, ServiceId, Timestamp
from swarmpy.model.objects import KINDS, Config, Kind, Network, Node, Object, Secret, Service, Task
from swarmpy.model.states import TaskState
from swarmpy.recent import FallenBehind, Recent, Timed

T = TypeVar("T", bound=Timed)
_IMAGE: Final = "image"
_NAMED: Final = (
    *("daemon", "container", "plugin", "volume", "network", "node", "service", "secret", "config", "task"),
)
"""Filters that begin an id or a name. As with docker, of whatever kind that is: a service's name also finds
the containers of its tasks, and two of them find what both are for."""
_SHOWN: Final = frozenset({Kind.SERVICE, Kind.NODE, Kind.TASK, Kind.NETWORK, Kind.SECRET, Kind.CONFIG})


class Events:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> tuple[web.RouteDef, ...]:
        return (web.get("/events", self.stream),)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        wanted = requests.filters(request, None)  # as dockerd: others keep nothing out
        has_tasks = requests.flag(request, "tasks")
        since, until = _span(request.query.get("since", ""), request.query.get("until", ""))
        async with open_stream(self._api, request, "application/json") as response:
            access = self._api.control.cluster()
            images = _Reader(self._api.control.image_store.events.recent, since)
            changes = _changes_of(access, since)
            while not is_gone(request):
                try:
                    told = _in_order(changes.take() if changes is not None else (), images.take())
                except FallenBehind:
                    break
                async for event in self._told(access, told, until):
                    if is_wanted(event, wanted, has_tasks=has_tasks):
                        await response.write(encode(event) + b"\n")
                if until is not None and self._api.now() >= until:
                    break
                await wait_unless_gone(request, _news(images, changes), self._pause(until))
                if self._api.control.cluster() is not access:  # a manager from now on, or none any more
                    access = self._api.control.cluster()
                    changes = _changes_of(access, None)
        return response

    async def _told(
        self, access: ClusterAccess | None, told: Sequence[Change | ImageEvent], until: Timestamp | None
    ) -> AsyncIterator[Json]:
        """In slices: thousands of changes at once must not hold the loop that raft runs on."""
        here = self._api.control.local().node_id
        for first in range(0, len(told), API_LIST_SLICE_OBJECTS):
            if first:
                await asyncio.sleep(0)
            for item in told[first : first + API_LIST_SLICE_OBJECTS]:
                if until is not None and item.at > until:
                    return
                if isinstance(item, ImageEvent):
                    yield image_shapes.event(item)
                elif access is not None:
                    for event in _events_of(access, item, here=here):
                        yield event

    def _pause(self, until: Timestamp | None) -> float:
        """That the client leaves is told; the time, and what this node is, have to be looked at."""
        if until is None:
            return API_EVENTS_LOOK_S
        return min(API_EVENTS_LOOK_S, max(0.0, (until - self._api.now()) / SECOND_NS))


def _span(since: str, until: str) -> tuple[Timestamp | None, Timestamp | None]:
    """None where nothing is said; 0 is the beginning of time."""
    begin, end = (parse_moment(text) or (Timestamp(0) if text else None) for text in (since, until))
    if begin is not None and end is not None and begin > end:
        raise InvalidArgument(f"`since` time ({since}) cannot be after `until` time ({until})")
    return begin, end


class _Reader(Generic[T]):
    """How far a stream has read of what happens."""

    def __init__(self, recent: Recent[T], since: Timestamp | None) -> None:
        self._recent = recent
        self._number = recent.next if since is None else recent.since(since)

    def take(self) -> tuple[T, ...]:
        items = self._recent.beginning_with(self._number)
        self._number += len(items)
        return items

    def ringing(self, bell: asyncio.Event) -> AbstractContextManager[None]:
        return self._recent.ringing(bell, self._number)


def _changes_of(access: ClusterAccess | None, since: Timestamp | None) -> _Reader[Change] | None:
    return None if access is None else _Reader(access.history.changes, since)


def _in_order(changes: Sequence[Change], images: Sequence[ImageEvent]) -> tuple[Change | ImageEvent, ...]:
    """Each one's own order stays, also where the clock was set back."""
    return tuple(heapq.merge(changes, images, key=lambda item: item.at))


async def _news(images: _Reader[ImageEvent], changes: _Reader[Change] | None) -> None:
    """Until there is something to read."""
    bell = asyncio.Event()
    with images.ringing(bell), nullcontext() if changes is None else changes.ringing(bell):
        await bell.wait()


def _events_of(access: ClusterAccess, change: Change, *, here: NodeId) -> Iterator[Json]:
    view = access.view
    access.history.catch_up()
    event = describe(view, change, access.history.removed)
    if event is not None:
        yield event
    yield from container_events(view, change, here=here, removed=access.history.removed)
    yield from network_events(view, change.old, change.new, change.at)


def describe(view: View, change: Change, removed: Mapping[ServiceId, Service]) -> Json | None:
    """Docker's event of one change; None if clients have no use for it. ``removed``: services that are no
    longer stored."""
    old, new = change.old, change.new
    item = new if new is not None else old
    if item is None or KINDS[type(item)] not in _SHOWN or is_by_hand(view, item):
        return None
    if isinstance(item, Task):
        attributes = _task_attributes(view, item, removed)
    else:
        attributes = {"name": _name(item)}
    if old is not None and new is not None:
        changes = _changes(old, new)
        if changes is None:
            return None
        attributes |= changes
    action = "create" if old is None else "remove" if new is None else "update"
    return _event(KINDS[type(item)], action, item.id, attributes=attributes, now=change.at)


def network_events(view: View, old: Object | None, new: Object | None, now: Timestamp) -> list[Json]:
    """A task that runs is on its networks, one that has run is on none; it may join and leave some."""
    if not isinstance(new, Task) or not isinstance(old, Task):
        return []
    was_on, is_on = (
        [place.network_id for place in task.places] if task.status.state is TaskState.RUNNING else []
        for task in (old, new)
    )
    if was_on == is_on:
        return []
    steps = [("disconnect", each) for each in was_on if each not in is_on]
    steps += [("connect", each) for each in is_on if each not in was_on]
    return [
        _event(
            Kind.NETWORK,
            action,
            network_id,
            attributes={
                "container": id_of(view, new),
                "name": network.spec.name,
                "type": network_driver(network.spec),
            },
            now=now,
        )
        for action, network_id in steps
        if (network := view.network(network_id)) is not None
    ]


def _task_attributes(view: View, task: Task, removed: Mapping[ServiceId, Service]) -> dict[str, str]:
    service = view.service(task.service_id) or removed.get(task.service_id)
    node = view.node(task.node_id)
    spec = None if service is None else service.spec
    service_name = task.service_id if spec is None else spec.name
    attributes = {
        "name": f"{service_name}.{place_text(spec, task)}",
        "service": service_name,
        "state": state_name(task.status.state),
    }
    if task.node_id:
        attributes["node"] = (node.description.hostname if node is not None else "") or task.node_id
    if task.status.err:
        attributes["error"] = task.status.err
    return attributes


def _event(kind: Kind, action: str, id_: str, *, attributes: dict[str, str], now: Timestamp) -> Json:
    return {
        "Type": kind,
        "Action": action,
        "Actor": {"ID": id_, "Attributes": attributes},
        "scope": "swarm",
        "time": now // SECOND_NS,
        "timeNano": now,
    }


def is_wanted(event: Json, wanted: Filters, *, has_tasks: bool = False) -> bool:
    """All filters of a request hold; of each, one of the values.

    Docker has no events of tasks: only who asks for them gets them.
    """
    id_: str = event["Actor"]["ID"]
    attributes: dict[str, str] = event["Actor"]["Attributes"]
    name = attributes.get("name", "")
    is_asked = has_tasks or "task" in wanted or "task" in wanted.get("type", ())
    if event["Type"] == Kind.TASK and not is_asked:
        return False
    return (
        requests.matches(wanted, "type", lambda kind: kind == event["Type"])
        and requests.matches(wanted, "event", lambda action: action == event["Action"].partition(":")[0])
        and requests.matches(wanted, "scope", lambda scope: scope == event["scope"])
        and requests.matches(wanted, "image", lambda image: image in _images_of(event))
        and requests.matches_labels(wanted, "label", attributes)
        and all(
            requests.matches(wanted, kind, lambda text: id_.startswith(text) or name.startswith(text))
            for kind in _NAMED
        )
    )


def _images_of(event: Json) -> tuple[str, ...]:
    """What it says of an image, with its tag and without."""
    attributes: dict[str, str] = event["Actor"]["Attributes"]
    said = (event["Actor"]["ID"], attributes.get("name" if event["Type"] == _IMAGE else "image", ""))
    return (*said, *map(_without_tag, said))


def _without_tag(name: str) -> str:
    try:
        return image_names.parse(name).name
    except InvalidArgument:
        return name  # of no image


def _name(item: Object) -> str:
    match item:
        case Node():
            return item.description.hostname
        case Service() | Network() | Secret() | Config():
            return item.spec.name
        case _:
            return item.id


def _changes(old: Object, new: Object) -> dict[str, str] | None:
    """What an update changed, for those who watch; None if nothing that they can see."""
    match old, new:
        case Node(), Node():
            pairs = {
                "availability": (old.spec.availability, new.spec.availability),
                "role": (old.spec.role, new.spec.role),
                "state": (old.status.state, new.status.state),
            }
            found = _differing({key: (str(a), str(b)) for key, (a, b) in pairs.items()})
            return found if found or old.spec != new.spec else None
        case Service(), Service():
            found = _differing(
                {
                    "replicas": (str(replicas_of(old)), str(replicas_of(new))),
                    "image": (_image(old), _image(new)),
                    "updatestate": (_update_state(old), _update_state(new)),
                }
            )
            return found if found or old.spec != new.spec else None
        case Task(), Task():
            found = _differing(
                {
                    "state": (state_name(old.status.state), state_name(new.status.state)),
                    "desiredstate": (state_name(old.desired_state), state_name(new.desired_state)),
                }
            )
            return found or None
        case _:
            return {}


def _differing(pairs: dict[str, tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, (old, new) in pairs.items():
        if old != new:
            found[f"{key}.old"], found[f"{key}.new"] = old, new
    return found


def _image(service: Service) -> str:
    container = service.spec.task_template.container_spec
    return "" if container is None else container.image


def _update_state(service: Service) -> str:
    return "" if service.update_status is None else str(service.update_status.state)
