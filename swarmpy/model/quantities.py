"""Durations, sizes, CPUs and ports as people write them, as the numbers that specs hold.

One reading for the command line and for Compose files. Each function raises ``InvalidArgument`` with docker's
sentence where docker has one. Nothing here is larger than 64 bits: such a number could not be stored.
"""

from __future__ import annotations

import re
from typing import Final

from swarmpy.errors import InvalidArgument
from swarmpy.model.ids import Duration
from swarmpy.model.states import PortProtocol

PORT_MAX: Final = 65535
PORT_RANGE_MAX: Final = 1_000
"""Ports in one range, such as 8000-8999."""
_NUMBER_MAX: Final = (1 << 63) - 1
_CPUS_MAX: Final = 1_000_000

_DURATION: Final = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(ns|us|µs|ms|s|m|h)")
_UNIT_NS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s?([kmgtp]?)i?b?", re.IGNORECASE | re.ASCII)
_SIZE_POWER: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def duration_ns(text: str) -> Duration:
    """``1h30m``, ``500ms``."""
    if text == "0":
        return Duration(0)
    found = _DURATION.findall(text)
    if not found or "".join(f"{number}{unit}" for number, unit in found) != text:
        raise InvalidArgument(f'invalid duration "{text}": give a number with a unit, such as 10s or 1m30s')
    value = sum(float(number) * _UNIT_NS[unit] for number, unit in found)
    if abs(value) > _NUMBER_MAX:
        raise InvalidArgument(f'invalid duration "{text}": it is longer than 292 years')
    return Duration(int(value))


def duration_text(duration: int) -> str:
    """``1h30m0s``, ``500ms``, as Go writes durations; ``duration_ns`` reads it."""
    sign, rest = ("-", -duration) if duration < 0 else ("", duration)
    for unit, below in (("ns", "µs"), ("µs", "ms"), ("ms", "s")):
        if rest < _UNIT_NS[below]:
            return "0s" if not rest else f"{sign}{_decimal(rest, _UNIT_NS[unit])}{unit}"
    hours, rest = divmod(rest, _UNIT_NS["h"])
    minutes, rest = divmod(rest, _UNIT_NS["m"])
    text = f"{_decimal(rest, _UNIT_NS['s'])}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{sign}{hours}h{text}" if hours else f"{sign}{text}"


def _decimal(amount: int, unit: int) -> str:
    whole, fraction = divmod(amount, unit)
    digits = f"{fraction:0{len(str(unit)) - 1}d}".rstrip("0") if fraction else ""
    return f"{whole}.{digits}" if digits else str(whole)


def memory_bytes(text: str) -> int:
    """``512m``, ``1g``: powers of 1024."""
    match = _SIZE.fullmatch(text.strip())
    value = float(match[1]) * 1024 ** _SIZE_POWER[match[2].lower()] if match is not None else -1.0
    if not 0 <= value <= _NUMBER_MAX:
        raise InvalidArgument(f"invalid size: '{text}'")
    return int(value)


def nano_cpus(text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < _CPUS_MAX:
        raise InvalidArgument(f"invalid value for CPUs: '{text}': give a number such as 0.5")
    return round(value * 1_000_000_000)


def port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5) or not 0 < int(text) <= PORT_MAX:
        raise InvalidArgument(f"invalid port '{text}': give a number between 1 and {PORT_MAX}")
    return int(text)


def port_range(text: str) -> tuple[int, ...]:
    """``80`` or ``8000-8010``."""
    first, is_range, last = text.partition("-")
    low = port(first)
    high = port(last) if is_range else low
    if high < low or high - low >= PORT_RANGE_MAX:
        raise InvalidArgument(f"invalid range of ports: {text}")
    return tuple(range(low, high + 1))


def port_pairs(published: str, target: str, *, text: str) -> tuple[tuple[int, int], ...]:
    """Published and target ports, one by one; 0 stands for a published port that is still to be chosen."""
    targets = port_range(target)
    outside = port_range(published) if published else (0,) * len(targets)
    if len(outside) != len(targets):
        raise InvalidArgument(f"invalid ranges specified for container and host ports: {text}")
    return tuple(zip(outside, targets, strict=True))


def protocol(text: str) -> PortProtocol:
    try:
        return PortProtocol(text.lower() or "?")
    except ValueError:
        raise InvalidArgument(f"invalid protocol value '{text}'") from None
