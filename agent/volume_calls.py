"""Calls about this node's volumes, by name, with JSON in and out: what ``/volumes`` of the API comes down to.

The same table answers the node's own API and, over a manager's stream, that of any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from agent.volumes import Volumes
from swarmpy.errors import InvalidArgument, NotFound, Unavailable
from swarmpy.limits import STREAM_BODY_BYTES_MAX
from swarmpy.model.objects import NodeVolume
from swarmpy.model.volumes import (
    VOLUME_CREATE,
    VOLUME_INSPECT,
    VOLUME_LIST,
    VOLUME_PRUNE,
    VOLUME_REMOVE,
    VolumeAnswer,
    VolumeQuery,
    VolumeRequest,
)


def answer(volumes: Volumes, name: str, body: bytes) -> bytes:
    """Blocks. Errors are the caller's to pass on."""
    verb = _VERBS.get(name)
    if verb is None:
        raise NotFound(f'this node knows no call "{name}"')
    try:
        reply = msgspec.json.encode(verb(volumes, body))
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"invalid JSON: {error}") from None
    if len(reply) > STREAM_BODY_BYTES_MAX:
        raise Unavailable("this node has more volumes than one answer can hold: ask for them by name")
    return reply


def _list(volumes: Volumes, body: bytes) -> VolumeAnswer:
    found, users = volumes.list(), volumes.users()
    sizes = {}
    if _query(body).is_measured:
        sizes = {volume.name: volumes.measure(volume.name) for volume in found}
    counts = {name: len(tasks) for name, tasks in sorted(users.items())}
    return VolumeAnswer(volumes=found, used=tuple(counts), counts=counts, sizes=sizes)


def _inspect(volumes: Volumes, body: bytes) -> VolumeAnswer:
    return VolumeAnswer(volumes=(volumes.inspect(_query(body).name),))


def _create(volumes: Volumes, body: bytes) -> VolumeAnswer:
    return VolumeAnswer(volumes=(volumes.create(msgspec.json.decode(body, type=VolumeRequest)),))


def _remove(volumes: Volumes, body: bytes) -> VolumeAnswer:
    query = _query(body)
    volumes.remove(query.name, is_forced=query.is_forced)
    return VolumeAnswer(removed=(query.name,))


def _prune(volumes: Volumes, body: bytes) -> VolumeAnswer:
    query = _query(body)

    def is_wanted(volume: NodeVolume) -> bool:
        return has_labels(volume.labels, query.labels) and not any(
            has_labels(volume.labels, (label,)) for label in query.no_labels
        )

    pruned = volumes.prune(is_all=query.is_all, is_wanted=is_wanted)
    return VolumeAnswer(removed=pruned.names, size_bytes=pruned.size_bytes)


def _query(body: bytes) -> VolumeQuery:
    return msgspec.json.decode(body, type=VolumeQuery)


def has_labels(labels: Mapping[str, str], wanted: tuple[str, ...]) -> bool:
    for entry in wanted:
        name, has_value, value = entry.partition("=")
        if name not in labels or (has_value and labels[name] != value):
            return False
    return True


_VERBS: Final[dict[str, Callable[[Volumes, bytes], VolumeAnswer]]] = {
    VOLUME_LIST: _list,
    VOLUME_INSPECT: _inspect,
    VOLUME_CREATE: _create,
    VOLUME_REMOVE: _remove,
    VOLUME_PRUNE: _prune,
}
NAMES: Final = tuple(_VERBS)
