"""What comes in over HTTP, as values: bodies, query parameters, filters, version numbers.

A ``null`` counts as left out, as Go's decoder has it; fields that are not known are ignored; a value of the
wrong type is refused with its path. Nothing here looks at the cluster.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

from manager.api.connection_bounds import API_BODY_TIMEOUT_S
from swarmpy.errors import InvalidArgument, TooSlow
from swarmpy.model.value import UNKNOWN_FIELDS_NAME

T = TypeVar("T")
INT_MIN: Final = -(1 << 63)
INT_MAX: Final = (1 << 63) - 1
Filters = dict[str, tuple[str, ...]]

TERMINAL_DIGITS_MAX: Final = 4

_ENUM = re.compile(r"Invalid enum value '?(.*?)'? - at `\$(?:.*\.)?(\w+)`")
_TRUE = frozenset({"1", "true", "t", "yes"})


async def read_body(request: web.Request, type_: type[T]) -> T:
    """The JSON body as a value of ``type_``. The size limit is the server's."""
    try:
        async with asyncio.timeout(API_BODY_TIMEOUT_S):
            data = await request.read()
    except TimeoutError:
        raise TooSlow(f"the request's body has not come within {API_BODY_TIMEOUT_S:.0f} seconds") from None
    if not data:
        raise InvalidArgument("invalid JSON: got EOF while reading request body")
    return parse(data, type_)


def parse(data: bytes, type_: type[T]) -> T:
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"invalid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise InvalidArgument("invalid JSON: the request body must be an object")
    try:
        return msgspec.convert(_without_nulls(raw), type_)
    except (msgspec.ValidationError, OverflowError, RecursionError) as error:
        choice = _ENUM.fullmatch(str(error))
        if choice is not None:
            raise InvalidArgument(f'invalid {choice[2]}: "{choice[1]}"') from None
        raise InvalidArgument(f"invalid JSON: {error}") from None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_nulls(part)
            for key, part in value.items()
            if part is not None and key != UNKNOWN_FIELDS_NAME
        }
    if isinstance(value, list):
        return [_without_nulls(part) for part in value if part is not None]
    if isinstance(value, int) and not INT_MIN <= value <= INT_MAX:
        raise InvalidArgument(f"invalid JSON: the number {value} does not fit 64 bits")
    return value


def flag(request: web.Request, name: str) -> bool:
    """A boolean query parameter, as lax as Docker's."""
    return request.query.get(name, "").strip().lower() in _TRUE


def version(request: web.Request, *, of: str) -> int:
    """The object version that an update is based on; every update must name one."""
    text = request.query.get("version", "")
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise InvalidArgument(f"invalid {of} version '{text}': it must be the Version.Index that was read")
    return int(text)


def terminal_size(request: web.Request) -> tuple[int, int]:
    """Rows and columns, as docker names them: ``h`` and ``w``."""
    sizes = [request.query.get(name, "") for name in ("h", "w")]
    if not all(text.isascii() and text.isdigit() and len(text) <= TERMINAL_DIGITS_MAX for text in sizes):
        raise InvalidArgument("a terminal's size is given as h=ROWS and w=COLUMNS")
    return int(sizes[0]), int(sizes[1])


def filters(request: web.Request, allowed: frozenset[str]) -> Filters:
    """``{"name": {"web": true}}`` or ``{"name": ["web"]}``: values of one key are alternatives."""
    text = request.query.get("filters", "")
    if not text:
        return {}
    try:
        raw = msgspec.json.decode(text.encode(), type=dict[str, dict[str, bool] | list[str]])
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise InvalidArgument(f"invalid filter: {error}") from None
    for key in raw:
        if key not in allowed:
            raise InvalidArgument(f"invalid filter '{key}'")
    return {key: _chosen(values) for key, values in raw.items() if values}


def _chosen(values: Mapping[str, bool] | list[str]) -> tuple[str, ...]:
    if isinstance(values, list):
        return tuple(values)
    return tuple(value for value, is_chosen in values.items() if is_chosen)


def matches(wanted: Filters, key: str, test: Callable[[str], bool]) -> bool:
    """Whether one of the values under ``key`` passes, or none is asked for."""
    values = wanted.get(key)
    return not values or any(test(value) for value in values)


def matches_labels(wanted: Filters, key: str, labels: Mapping[str, str]) -> bool:
    """Labels are all required: ``name`` or ``name=value``."""
    for entry in wanted.get(key, ()):
        name, has_value, value = entry.partition("=")
        if name not in labels or (has_value and labels[name] != value):
            return False
    return True
