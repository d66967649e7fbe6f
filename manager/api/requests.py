"""What comes in over HTTP, as values: bodies, query parameters, filters, version numbers.

Bodies are read as Go's decoder reads them (``go_json.py``). Nothing here looks at the cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from manager.api import go_json, versions
from manager.api.connection_bounds import API_BODY_TIMEOUT_S, API_PARSED_AT_ONCE_BYTES_MAX
from swarmpy.errors import InvalidArgument, TooSlow

T = TypeVar("T", bound=msgspec.Struct)
UINT64_MAX: Final = (1 << 64) - 1
VERSION_DIGITS_MAX: Final = 20
Filters = dict[str, tuple[str, ...]]

TERMINAL_DIGITS_MAX: Final = 4

_GO_BOOLS: Final = {
    "": False,
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}
_FALSE = frozenset({"", "0", "no", "false", "none"})


async def read_body(request: web.Request, type_: type[T]) -> T:
    """The JSON body as a value of ``type_``. The size limit is the server's."""
    try:
        async with asyncio.timeout(API_BODY_TIMEOUT_S):
            data = await request.read()
    except TimeoutError:
        raise TooSlow(f"the request's body has not come within {API_BODY_TIMEOUT_S:.0f} seconds") from None
    if len(data) > API_PARSED_AT_ONCE_BYTES_MAX:
        return await asyncio.to_thread(parse, data, type_)
    return parse(data, type_)


def parse(data: bytes, type_: type[T]) -> T:
    return go_json.parse(data, type_)


def api_version(request: web.Request) -> versions.Version:
    """Which version of the API the client speaks."""
    return versions.of_path(request.match_info.get("version"))


def flag(request: web.Request, name: str) -> bool:
    """A boolean query parameter, as lax as Docker's."""
    return request.query.get(name, "").strip().lower() not in _FALSE


def strict_flag(request: web.Request, name: str, *, has_reason: bool = False) -> bool:
    """A boolean query parameter of which dockerd takes only what Go's ``strconv`` does."""
    text = request.query.get(name, "")
    if text in _GO_BOOLS:
        return _GO_BOOLS[text]
    sentence = f"invalid value for {name}: {text}"
    if has_reason:
        sentence += f": strconv.ParseBool: parsing {msgspec.json.encode(text).decode()}: invalid syntax"
    raise InvalidArgument(sentence)


def version(request: web.Request, *, of: str) -> int:
    """The object version that an update is based on; every update must name one."""
    text = request.query.get("version", "")
    if not text.isascii() or not text.isdigit():
        reason = "invalid syntax"
    elif int(text[:VERSION_DIGITS_MAX]) > UINT64_MAX or len(text) > VERSION_DIGITS_MAX:
        reason = "value out of range"
    else:
        return int(text)
    quoted = msgspec.json.encode(text).decode()
    raise InvalidArgument(f"invalid {of} version '{text}': strconv.ParseUint: parsing {quoted}: {reason}")


def terminal_size(request: web.Request) -> tuple[int, int]:
    """Rows and columns, as docker names them: ``h`` and ``w``."""
    sizes = [request.query.get(name, "") for name in ("h", "w")]
    if not all(text.isascii() and text.isdigit() and len(text) <= TERMINAL_DIGITS_MAX for text in sizes):
        raise InvalidArgument("a terminal's size is given as h=ROWS and w=COLUMNS")
    return int(sizes[0]), int(sizes[1])


def filters(request: web.Request, allowed: frozenset[str] | None) -> Filters:
    """``{"name": {"web": true}}`` or ``{"name": ["web"]}``: values of one key are alternatives. None allows
    any key."""
    text = request.query.get("filters", "")
    if not text:
        return {}
    raw = go_json.parse_filters(text.encode(errors="replace"))
    for key in raw:
        if allowed is not None and key not in allowed:
            raise InvalidArgument(f"invalid filter '{key}'")
    return {key: values for key, values in raw.items() if values}


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
