"""``--autoscale min=2,max=10,cpu=60%``: how a service's replicas follow its load. Pure."""

from __future__ import annotations

from typing import Final

from swarmpy.cli import values
from swarmpy.cli.flags import Options, UsageError, text
from swarmpy.client import Json

AUTOSCALE_FLAGS: Final = (
    text(
        "autoscale",
        "Let replicas follow load (min=2,max=10,cpu=60%[,memory=80%][,down-delay=5m]), or off",
    ),
)
_OFF: Final = "off"
_EXAMPLE: Final = "write it like min=2,max=10,cpu=60%"
_COUNTS: Final = {"min": "Min", "max": "Max"}
_PERCENTS: Final = {"cpu": "CpuPercent", "memory": "MemoryPercent"}


def apply_autoscale(spec: Json, options: Options) -> None:
    if not options.is_set("autoscale"):
        return
    wish = options.text("autoscale").strip()
    if wish == _OFF:
        spec.pop("Autoscale", None)
    else:
        spec["Autoscale"] = parse(wish)


def parse(wish: str) -> Json:
    found: Json = {}
    for part in wish.split(","):
        key, separator, value = (each.strip() for each in part.partition("="))
        if not separator or not value:
            raise _wrong(wish, f"'{part.strip()}' has no value")
        if key in _COUNTS:
            found[_COUNTS[key]] = _whole(wish, value)
        elif key in _PERCENTS:
            found[_PERCENTS[key]] = _whole(wish, value.removesuffix("%"))
        elif key == "down-delay":
            found["ScaleDownDelay"] = values.duration_ns(value)
        else:
            raise _wrong(wish, f"'{key}' is none of min, max, cpu, memory, down-delay")
    return found


def _whole(wish: str, value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise _wrong(wish, f"'{value}' is no whole number")
    return int(value)


def _wrong(wish: str, why: str) -> UsageError:
    return UsageError(f'invalid argument "{wish}" for "--autoscale" flag: {why}; {_EXAMPLE}')
