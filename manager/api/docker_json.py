"""Stored values as the Engine API's JSON.

The stored object is the API's object with times as integers, so most of the work is leaving out what is
empty and writing times as RFC 3339. A *plan* per type (its fields, their names and converters) is compiled
once. Specs are immutable and shared by thousands of tasks, so their encoded bytes are kept: a task's or a
service's JSON is a small dict around them.

Fields that a newer version wrote (``unknown_fields``) never appear.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any, Final, get_args, get_origin, get_type_hints

import msgspec

from swarmpy.model import cluster_specs, objects, specs
from swarmpy.model.ids import SECOND_NS, Timestamp
from swarmpy.model.states import TaskState
from swarmpy.model.value import Value, docker_name

Json = dict[str, Any]
Convert = Callable[[Any], Any]

SPECS_CACHED_MAX: Final = 4_000
"""Encoded specs that are kept, a few hundred bytes each."""
SECONDS_CACHED_MAX: Final = 1_000

_ALWAYS: Final[dict[type[Value], frozenset[str]]] = {
    specs.ServiceSpec: frozenset({"name", "labels", "task_template", "mode"}),
    specs.TaskSpec: frozenset({"force_update"}),
    specs.UpdateConfig: frozenset({"parallelism", "max_failure_ratio"}),
    specs.FileTarget: frozenset({"name", "uid", "gid", "mode"}),
    specs.PortConfig: frozenset({"target_port"}),
    specs.Privileges: frozenset({"credential_spec", "selinux_context"}),
    specs.CredentialSpec: frozenset({"config", "file", "registry"}),
    specs.SELinuxContext: frozenset({"disable", "user", "role", "type", "level"}),
    cluster_specs.NodeSpec: frozenset({"labels", "role", "availability"}),
    cluster_specs.NetworkSpec: frozenset({"name", "labels"}),
    cluster_specs.SecretSpec: frozenset({"name", "labels"}),
    cluster_specs.ConfigSpec: frozenset({"name", "labels"}),
    cluster_specs.VolumeSpec: frozenset({"name", "labels"}),
    cluster_specs.ClusterSpec: frozenset(
        {
            "name",
            "labels",
            "orchestration",
            "raft",
            "dispatcher",
            "ca_config",
            "task_defaults",
            "encryption_config",
        }
    ),
    cluster_specs.RaftSettings: frozenset({"keep_old_snapshots", "election_tick", "heartbeat_tick"}),
    cluster_specs.EncryptionConfig: frozenset({"auto_lock_managers"}),
    objects.NodeDescription: frozenset({"hostname", "platform", "resources", "engine"}),
    objects.ContainerStatus: frozenset({"container_id", "pid", "exit_code"}),
    objects.Endpoint: frozenset({"spec"}),
}
"""Fields that clients read without asking whether they are there. Empty ones appear too, None as null."""

_HIDDEN: Final[dict[type[Value], frozenset[str]]] = {
    cluster_specs.CAConfig: frozenset({"signing_ca_cert", "signing_ca_key"}),
    cluster_specs.SecretSpec: frozenset({"data"}),
    specs.ContainerSpec: frozenset({"registry_auth"}),
    # what nodes have to know of each other, and clients have not
    objects.NodeDescription: frozenset(
        {"data_path_addr", "boot_id", "encryption", "wireguard_key", "store_format"}
    ),
}


_NAMES: Final[dict[tuple[type[Value], str], str]] = {(cluster_specs.IPAMConfig, "ip_range"): "Range"}
"""Fields that the swarm's objects spell in another way than the engine's."""


def rfc3339(at: Timestamp) -> str:
    """``2026-01-02T03:04:05.12345678Z``, without zeros at the end; 'never' is Go's zero time."""
    if at == 0:
        return "0001-01-01T00:00:00Z"
    seconds, nanoseconds = divmod(at, SECOND_NS)
    if nanoseconds == 0:
        return f"{_second(seconds)}Z"
    return f"{_second(seconds)}.{nanoseconds:09d}".rstrip("0") + "Z"


@lru_cache(maxsize=SECONDS_CACHED_MAX)
def _second(seconds: int) -> str:
    """Objects come in bursts: a list names few different seconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def encode(value: object) -> bytes:
    return _ENCODER.encode(value)


_ENCODER: Final = msgspec.json.Encoder()


def state_name(state: TaskState) -> str:
    return _STATE_NAMES[state]


def _fraction(value: float) -> float:
    """Go writes no ``.0``."""
    return int(value) if value.is_integer() else value


_STATE_NAMES: Final = {state: state.name.lower() for state in TaskState}


# --- plans


class _Field(msgspec.Struct, frozen=True):
    attribute: str
    name: str
    default: object
    is_always: bool
    convert: Convert | None


def _compile(type_: type[Value]) -> Convert:
    hints = get_type_hints(type_)
    plan = tuple(
        _Field(
            field.name,
            _NAMES.get((type_, field.name)) or docker_name(field.name),
            _default(field),
            field.name in _ALWAYS.get(type_, ()),
            _converter(hints[field.name]),
        )
        for field in msgspec.structs.fields(type_)
        if field.name != "unknown_fields" and field.name not in _HIDDEN.get(type_, ())
    )

    def convert(value: Value) -> Json:
        shape: Json = {}
        for field in plan:
            part = getattr(value, field.attribute)
            if not field.is_always and (part is None or part == field.default):
                continue
            shape[field.name] = part if field.convert is None or part is None else field.convert(part)
        return shape

    return convert


def _default(field: msgspec.structs.FieldInfo) -> object:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()  # type: ignore[operator, unused-ignore]  # a union with NODEFAULT
    return field.default


def _converter(hint: object) -> Convert | None:
    """How a field of this annotation becomes JSON; None if it is JSON already."""
    if hint is Timestamp:
        return rfc3339
    if hint is TaskState:
        return state_name
    if hint is float:
        return _fraction
    if isinstance(hint, type) and issubclass(hint, Value):
        return shape_of(hint)
    if get_origin(hint) is tuple:
        item = _converter(get_args(hint)[0])
        return None if item is None else lambda values: [item(value) for value in values]
    for option in get_args(hint):
        if isinstance(option, type) and issubclass(option, Value):
            return shape_of(option)
    return None


@cache
def shape_of(type_: type[Value]) -> Convert:
    """The function that turns a value of this type into JSON-ready dicts."""
    return _compile(type_)


def shape(value: Value) -> Json:
    result: Json = shape_of(type(value))(value)
    return result


class SpecCache:
    """Encoded specs by identity. Holding the spec itself keeps its identity from being used again.
    ``fill`` makes the value that is shown of the one that is stored."""

    def __init__(
        self, fill: Callable[[Value], Value] = lambda value: value, *, limit: int = SPECS_CACHED_MAX
    ) -> None:
        self._fill = fill
        self._limit = limit
        self._entries: OrderedDict[int, tuple[Value, msgspec.Raw]] = OrderedDict()

    def raw(self, spec: Value) -> msgspec.Raw:
        key = id(spec)
        entry = self._entries.get(key)
        if entry is None:
            entry = (spec, msgspec.Raw(encode(shape(self._fill(spec)))))
            self._entries[key] = entry
            if len(self._entries) > self._limit:
                self._entries.popitem(last=False)
        return entry[1]
