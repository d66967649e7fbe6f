"""What flags of ``service create`` and ``update`` do to a spec beyond putting a value at its place. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from swarmpy.cli.flags import Options, UsageError
from swarmpy.client import Json

_CONTAINER: Final = "TaskTemplate.ContainerSpec."
_HEALTH: Final = _CONTAINER + "Healthcheck"
_READINESS: Final = _CONTAINER + "Readiness"
CAPABILITIES_ADDED: Final = _CONTAINER + "CapabilityAdd"
CAPABILITIES_DROPPED: Final = _CONTAINER + "CapabilityDrop"
CAPABILITY_FLAGS: Final = ("cap-add", "cap-drop")
_RESET: Final = "RESET"
_LOG_OPTIONS: Final = "TaskTemplate.LogDriver.Options"

ROLLOUT_DEFAULTS: Final[Json] = {"Parallelism": 1}
"""What an update's settings begin with: there, a parallelism that is left out means all at once."""


def begin_rollouts(spec: Json, options: Options, names: Iterable[str]) -> None:
    """The first of an update's settings brings what holds where nothing is said."""
    given = [name for name in names if options.is_set(name)]
    for kind, field in (("update-", "UpdateConfig"), ("rollback-", "RollbackConfig")):
        if any(name.startswith(kind) for name in given) and not spec.get(field):
            spec[field] = dict(ROLLOUT_DEFAULTS)


def apply_healthcheck(spec: Json, options: Options, names: Iterable[str]) -> None:
    """``--no-healthcheck``, and what a check that was off becomes when something is said of it again; and the
    same of readiness."""
    given = [name for name in names if options.is_set(name)]
    _apply_check(spec, options, given, check=("no-healthcheck", "health-", _HEALTH))
    _apply_check(spec, options, given, check=("no-readiness", "readiness-", _READINESS))


def _apply_check(spec: Json, options: Options, given: Iterable[str], *, check: tuple[str, str, str]) -> None:
    """``check``: the switch that turns it off, how its flags begin, and where it is in a spec."""
    off, prefix, place = check
    is_told = any(name.startswith(prefix) for name in given)
    if options.on(off):
        if is_told:
            raise UsageError(f"--{off} conflicts with --{prefix}* options")
        put(spec, place, {"Test": ["NONE"]})
    elif is_told and take(spec, f"{place}.Test") == ["NONE"]:
        put(spec, f"{place}.Test", [])


def begin_log_driver(spec: Json, options: Options) -> None:
    """Another driver has options of its own."""
    if options.is_set("log-driver") and take(spec, _LOG_OPTIONS):
        put(spec, _LOG_OPTIONS, {})


def hosts_named(entry: str, present: list[str]) -> list[str]:
    """``--host-rm name`` takes every address of the name, ``name:address`` one. Present ones are
    ``address name``."""
    name, _, address = entry.partition(":")
    wanted = []
    for line in present:
        at, _, names = line.partition(" ")
        if name in names.split() and address in ("", at):
            wanted.append(line)
    return wanted


# --- capabilities


def capability(text: str) -> str:
    """``net_admin`` as ``CAP_NET_ADMIN``."""
    name = text.strip().upper()
    return name if name in ("ALL", _RESET) or name.startswith("CAP_") else f"CAP_{name}"


def change_capabilities(spec: Json, options: Options) -> None:
    """Added, dropped or neither: adding what was dropped makes it neither, and so does dropping what was
    added. ``RESET`` forgets both."""
    add = [capability(entry) for entry in options.many("cap-add")]
    drop = [capability(entry) for entry in options.many("cap-drop")]
    if not add and not drop:
        return
    added, dropped = list(take(spec, CAPABILITIES_ADDED) or ()), list(take(spec, CAPABILITIES_DROPPED) or ())
    if _RESET in add or _RESET in drop:
        added, dropped = [], []
    for name in drop:
        _move(name, source=added, target=dropped)
    for name in (name for name in add if name not in drop):
        _move(name, source=dropped, target=added)
    put(spec, CAPABILITIES_ADDED, sorted(added))
    put(spec, CAPABILITIES_DROPPED, sorted(dropped))


def _move(name: str, *, source: list[str], target: list[str]) -> None:
    if name == _RESET:
        return
    if name in source:
        source.remove(name)
    elif name not in target:
        target.append(name)


# --- places in specs


def put(spec: Json, path: str, value: Any) -> None:
    """Set a value deep inside, making what is missing on the way."""
    *way, last = path.split(".")
    place = spec
    for name in way:
        inner = place.get(name)
        if not isinstance(inner, dict):
            inner = place[name] = {}
        place = inner
    place[last] = value


def take(spec: Json, path: str) -> Any:
    """The value deep inside, or None."""
    place: Any = spec
    for name in path.split("."):
        if not isinstance(place, dict):
            return None
        place = place.get(name)
    return place
