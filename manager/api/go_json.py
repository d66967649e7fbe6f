"""A client's JSON read as Go's decoder reads it, since that is what clients were written against.

Keys are found whatever their case; ``null`` is nothing at all, or the empty value in a list or a map; what is
not known is left out; what follows the first value is not looked at. What is refused is refused in the
decoder's words, with the path and the type that dockerd's have. Pure; looks at no cluster.
"""

from __future__ import annotations

import binascii
import json
import re
import types
from collections.abc import Callable
from enum import Enum
from functools import cache
from typing import Any, Final, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from swarmpy.errors import InvalidArgument
from swarmpy.model.ids import Duration
from swarmpy.model.states import (
    EndpointMode,
    FailureAction,
    MountType,
    NodeAvailability,
    NodeRole,
    PortProtocol,
    PublishMode,
    RestartCondition,
    UpdateOrder,
)
from swarmpy.model.value import UNKNOWN_FIELDS_NAME

T = TypeVar("T", bound=msgspec.Struct)
Read = Callable[[Any], Any]

EMPTY: Final = "got EOF while reading request body"
_NO_BASE64: Final = re.compile(r"[^A-Za-z0-9+/=]|=(?!=?$)")
_TOO_DEEP: Final = "invalid character '[' exceeded max depth"
_LITERALS: Final = ("true", "false", "null")

_STRUCTS: Final = {
    "ClusterSpec": "swarm.Spec",
    "ContainerRequest": "types.NetworkConnect",
    "ExecConfig": "types.ExecConfig",
    "Global": "swarm.GlobalService",
    "Healthcheck": "container.HealthConfig",
    "Limits": "swarm.Limit",
    "Mount": "mount.Mount",
    "NetworkRequest": "types.NetworkCreateRequest",
    "Replicated": "swarm.ReplicatedService",
    "VolumeRequest": "volume.VolumeCreateBody",
}
"""dockerd's names of structs that are called something else here."""

_UINT64: Final = {
    "force_update",
    "keep_old_snapshots",
    "log_entries_for_slow_followers",
    "max_attempts",
    "max_concurrent",
    "max_replicas",
    "parallelism",
    "replicas",
    "snapshot_interval",
    "total_completions",
}
_UINT32: Final = {"data_path_port", "mode", "published_port", "subnet_size", "target_port"}
_BOUNDS: Final = {
    "int64": (-(1 << 63), (1 << 63) - 1),
    "time.Duration": (-(1 << 63), (1 << 63) - 1),
    "uint64": (0, (1 << 63) - 1),  # what the store can hold
    "uint32": (0, (1 << 32) - 1),
}

_CHOICES: Final[dict[type, tuple[str, str]]] = {
    MountType: ("mount.Type", 'invalid MountType: "{}"'),
    RestartCondition: ("swarm.RestartPolicyCondition", 'invalid RestartCondition: "{}"'),
    FailureAction: ("string", "unrecognized update failure action {}"),
    UpdateOrder: ("string", "unrecognized update order {}"),
    EndpointMode: ("swarm.ResolutionMode", 'invalid resolution mode: "{}"'),
    PortProtocol: ("swarm.PortConfigProtocol", 'invalid Protocol: "{}"'),
    PublishMode: ("swarm.PortConfigPublishMode", 'invalid PublishMode: "{}"'),
    NodeRole: ("swarm.NodeRole", 'invalid Role: "{}"'),
    NodeAvailability: ("swarm.NodeAvailability", 'invalid Availability: "{}"'),
}
"""Go's type, and what dockerd says of a word that is none of the choices."""


def parse(data: bytes, type_: type[T]) -> T:
    """InvalidArgument with the decoder's words otherwise."""
    raw = first_value(data)
    try:
        read = _struct(type_)
        return msgspec.convert({} if raw is None else read(raw), type_)
    except _MismatchError as error:
        raise InvalidArgument(error.text(_go_name(type_))) from None
    except RecursionError:
        raise InvalidArgument(_TOO_DEEP) from None
    except (msgspec.ValidationError, OverflowError) as error:
        raise InvalidArgument(f"json: {error}") from None


def parse_filters(data: bytes) -> dict[str, tuple[str, ...]]:
    """``{"name": {"web": true}}`` or ``{"name": ["web"]}``: as dockerd, not looking whether it says true."""
    raw = first_value(data)
    if raw is not None and not isinstance(raw, dict):
        raise InvalidArgument(
            f"json: cannot unmarshal {_kind(raw)} into Go value of type map[string]map[string]bool"
        )
    found: dict[str, tuple[str, ...]] = {}
    for key, values in (raw or {}).items():
        if isinstance(values, dict):
            wrong = next((part for part in values.values() if not isinstance(part, bool | None)), None)
        else:
            wrong = None if values is None or _are_texts(values) else values
        if wrong is not None:
            go_type = "bool" if isinstance(values, dict) else "map[string]bool"
            raise InvalidArgument(f"json: cannot unmarshal {_kind(wrong)} into Go value of type {go_type}")
        found[key] = tuple(values or ())
    return found


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


# --- text


def first_value(data: bytes) -> Any:
    """The first value there; what follows is not looked at. InvalidArgument with the decoder's words."""
    try:
        return msgspec.json.decode(data)
    except RecursionError:
        raise InvalidArgument(_TOO_DEEP) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    text = data.decode(errors="replace")  # as Go has it
    start = len(text) - len(text.lstrip(" \t\r\n"))
    if start == len(text):
        raise InvalidArgument(EMPTY)
    try:
        _, end = json.JSONDecoder(parse_int=str).raw_decode(text, start)  # Python bounds the digits of ints
        # Python reads NaN and the like, which are no JSON
        return msgspec.json.decode(text[start:end].encode())
    except RecursionError:
        raise InvalidArgument(_TOO_DEEP) from None
    except json.JSONDecodeError as error:
        raise InvalidArgument(_syntax(text, error)) from None
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise InvalidArgument(f"invalid character '{text[start]}' looking for beginning of value") from None


def _syntax(text: str, error: json.JSONDecodeError) -> str:
    """Go's words for what Python's scanner met."""
    at = error.pos
    if error.msg.startswith("Illegal trailing comma"):  # since Python 3.13
        at += 1
    while at < len(text) and text[at] in " \t\r\n" and not error.msg.startswith("Invalid control"):
        at += 1
    if at >= len(text) or error.msg.startswith("Unterminated"):
        return "unexpected EOF"
    shown = "'\"'" if text[at] == '"' else repr(text[at])
    if error.msg.startswith("Expecting value"):
        return _no_value(text, at, shown)
    if error.msg.startswith("Invalid control"):
        return f"invalid character {shown} in string literal"
    if error.msg.startswith("Invalid \\"):
        at = min(at + 1, len(text) - 1)
        return f"invalid character {text[at]!r} in string escape code"
    if error.msg.startswith("Expecting ':'"):
        return f"invalid character {shown} after object key"
    if error.msg.startswith("Expecting ','"):
        where = "object key:value pair" if _is_in_object(text, at) else "array element"
        return f"invalid character {shown} after {where}"
    return f"invalid character {shown} looking for beginning of object key string"


def _no_value(text: str, at: int, shown: str) -> str:
    literal = next((word for word in _LITERALS if word[0] == text[at]), "")
    for index, wanted in enumerate(literal):
        if at + index >= len(text):
            return "unexpected EOF"
        if text[at + index] != wanted:
            return f"invalid character {text[at + index]!r} in literal {literal} (expecting {wanted!r})"
    return f"invalid character {shown} looking for beginning of value"


def _is_in_object(text: str, at: int) -> bool:
    """Whether the innermost thing that is open there is an object: in a list, a number could follow."""
    try:
        json.loads(text[:at] + ",1", parse_int=str)
    except json.JSONDecodeError as error:
        return error.msg.startswith("Expecting property name")
    return False


# --- values


class _MismatchError(Exception):
    """A value of another type. On its way up it learns where."""

    def __init__(self, found: str, go_type: str) -> None:
        super().__init__(found)
        self.found = found
        self.go_type = go_type
        self.owner = ""
        self.path: list[str] = []

    def text(self, root: str) -> str:
        if not self.path:
            return f"json: cannot unmarshal {self.found} into Go value of type {root}"
        field = ".".join((self.owner, *reversed(self.path)))
        return f"json: cannot unmarshal {self.found} into Go struct field {field} of type {self.go_type}"


def _refuse(value: Any, go_type: str) -> NoReturn:
    raise _MismatchError(_kind(value), go_type)


def _kind(value: Any) -> str:
    for type_, name in ((bool, "bool"), (str, "string"), (list, "array"), (dict, "object")):
        if isinstance(value, type_):
            return name
    return "number"


def _go_name(type_: type) -> str:
    return _STRUCTS.get(type_.__name__, f"swarm.{type_.__name__}")


def _plain(hint: Any) -> Any:
    """The annotation without ``| None`` and without NewTypes, of which durations alone matter."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(option for option in get_args(hint) if option is not type(None))
    while hint is not Duration and hasattr(hint, "__supertype__"):
        hint = hint.__supertype__
    return hint


@cache
def _reader(hint: Any, field: str) -> Read:
    """How a value for this annotation is read; ``field`` tells how wide its numbers are."""
    hint = _plain(hint)
    origin = get_origin(hint)
    if origin in (tuple, list, frozenset):
        return _list_of(get_args(hint)[0], field)
    if origin is dict:
        return _map_of(get_args(hint)[1], field)
    if not isinstance(hint, type):
        return _number(_int_name(hint, field)) if hint is Duration else _anything
    if issubclass(hint, msgspec.Struct):
        return _struct(hint)
    if issubclass(hint, Enum):
        return _choice(hint)
    if issubclass(hint, bool):
        return _flag
    if issubclass(hint, int):
        return _number(_int_name(hint, field))
    if issubclass(hint, float):
        return _fraction
    if issubclass(hint, bytes):
        return _data
    return _text if issubclass(hint, str) else _anything


def _go_type(hint: Any, field: str) -> str:
    hint = _plain(hint)
    origin = get_origin(hint)
    if origin in (tuple, list, frozenset):
        return f"[]{_go_type(get_args(hint)[0], field)}"
    if origin is dict:
        return f"map[string]{_go_type(get_args(hint)[1], field)}"
    if hint is Duration or hint is int:
        return _int_name(hint, field)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _go_name(hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _CHOICES.get(hint, ("string", ""))[0]
    return {str: "string", bool: "bool", float: "float32"}.get(hint, "interface {}")


def _int_name(hint: Any, field: str) -> str:
    if hint is Duration:
        return "time.Duration"
    return "uint64" if field in _UINT64 else "uint32" if field in _UINT32 else "int64"


def _zero(hint: Any) -> Any:
    """What ``null`` is in a list or a map."""
    hint = _plain(hint)
    origin = get_origin(hint)
    if origin in (tuple, list, frozenset):
        return []
    if origin is dict or (isinstance(hint, type) and issubclass(hint, msgspec.Struct)):
        return {}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ""
    return {str: "", bool: False, float: 0.0, int: 0, Duration: 0}.get(hint)


@cache
def _struct(type_: type[msgspec.Struct]) -> Read:
    hints = get_type_hints(type_)
    fields = {
        field.encode_name: (field.encode_name, _Later(hints[field.name], field.name))
        for field in msgspec.structs.fields(type_)
        if field.encode_name != UNKNOWN_FIELDS_NAME
    }
    folded = {name.lower(): entry for name, entry in fields.items()}
    owner = _go_name(type_)

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            _refuse(value, owner)
        result = {}
        for key, part in value.items():
            entry = fields.get(key) or folded.get(key.lower())
            if entry is None or part is None:
                continue
            try:
                result[entry[0]] = entry[1].read(part)
            except _MismatchError as error:
                error.owner = error.owner or owner.partition(".")[2]
                error.path.append(entry[0])
                raise
        return result

    return read


class _Later:
    """A field's reader, found when it is first needed: structs may hold each other."""

    def __init__(self, hint: Any, field: str) -> None:
        self._hint, self._field = hint, field
        self._read: Read | None = None

    def read(self, value: Any) -> Any:
        if self._read is None:
            self._read = _reader(self._hint, self._field)
        return self._read(value)


def _list_of(item: Any, field: str) -> Read:
    read_item, zero, go_type = _reader(item, field), _zero(item), f"[]{_go_type(item, field)}"

    def read(value: Any) -> Any:
        if not isinstance(value, list):
            _refuse(value, go_type)
        return [zero if part is None else read_item(part) for part in value]

    return read


def _map_of(item: Any, field: str) -> Read:
    read_item, zero, go_type = _reader(item, field), _zero(item), f"map[string]{_go_type(item, field)}"

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            _refuse(value, go_type)
        return {key: zero if part is None else read_item(part) for key, part in value.items()}

    return read


def _choice(type_: type[Enum]) -> Read:
    go_type, sentence = _CHOICES.get(type_, ("string", f'invalid {type_.__name__}: "{{}}"'))
    words = {member.value for member in type_}

    def read(value: Any) -> Any:
        if not isinstance(value, str):
            _refuse(value, go_type)
        word = value if value in words else value.lower()
        if word not in words:
            raise InvalidArgument(sentence.format(value))
        return word

    return read


def _number(go_type: str) -> Read:
    low, high = _BOUNDS[go_type]

    def read(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            _refuse(value, go_type)
        if isinstance(value, float) or not low <= value <= high:
            raise _MismatchError(f"number {value}", go_type)
        return value

    return read


def _fraction(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse(value, "float32")
    return float(value)


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        _refuse(value, "string")
    return value


def _data(value: Any) -> Any:
    """Text of base64, in which Go overlooks line ends."""
    if not isinstance(value, str):
        _refuse(value, "[]uint8")
    text = value.replace("\r", "").replace("\n", "")
    try:
        binascii.a2b_base64(text, strict_mode=True)
        return text
    except ValueError:
        pass  # what is wrong with it, and whether Go minds, takes longer
    wrong = _NO_BASE64.search(text)
    if wrong is None and len(text) % 4 == 0:
        return text
    at = wrong.start() if wrong is not None else len(text) - len(text) % 4
    raise InvalidArgument(f"illegal base64 data at input byte {at}")


def _flag(value: Any) -> Any:
    if not isinstance(value, bool):
        _refuse(value, "bool")
    return value


def _anything(value: Any) -> Any:
    return value
