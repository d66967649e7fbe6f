"""What two specs of a service differ in, field by field, in the words of the command line. Pure.

A field is named as the flag that sets it, where there is one, and by its place in the spec otherwise.
Members of lists are matched by what names them: a variable by its name, a mount by its target, a secret by
its name and target. So a list that was put into another order is no difference, but where the order is the
meaning (args, entrypoint, DNS servers) lists are compared whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from swarmpy.cli import values
from swarmpy.cli.service_flags import FAMILIES, SETTINGS
from swarmpy.client import Json
from swarmpy.model.quantities import duration_text

NOT_SET: Final = "(not set)"
_SHOWN_MAX: Final = 3
"""Changes that one line of history names."""

_CONTAINER: Final = "TaskTemplate.ContainerSpec."
_NAMES: Final = {
    **{setting.path: setting.name for setting in SETTINGS},
    **{family.path: family.name for family in FAMILIES},
    _CONTAINER + "Image": "image",
    _CONTAINER + "Args": "args",
    _CONTAINER + "Secrets": "secret",
    _CONTAINER + "Configs": "config",
    _CONTAINER + "Healthcheck.Test": "health-cmd",
    "TaskTemplate.Networks": "network",
    "TaskTemplate.ForceUpdate": "force",
    "EndpointSpec.Ports": "publish",
    "Mode.Replicated.Replicas": "replicas",
    "Mode.ReplicatedJob.TotalCompletions": "replicas",
    "Mode.ReplicatedJob.MaxConcurrent": "max-concurrent",
    "DependsOn": "depends-on",
}
_ORDERED: Final = frozenset({"args", "entrypoint", "health-cmd", "dns", "dns-search", "placement-pref"})
_ALWAYS_TOLD: Final = frozenset(
    {
        "UpdateConfig.MaxFailureRatio",
        "RollbackConfig.MaxFailureRatio",
        "TaskTemplate.ForceUpdate",
        "TaskTemplate.RestartPolicy.MaxAttempts",
    }
)
"""Fields that the API shows even if nobody has set them: their zero is no setting."""
_FILLED_IN: Final = {
    "update-failure-action": "pause",
    "update-order": "stop-first",
    "rollback-failure-action": "pause",
    "rollback-order": "stop-first",
    "restart-condition": "any",
    "endpoint-mode": "vip",
}
"""What the API fills in beside what was set (``swarmpy/model/forms.py``): its coming or going is no news."""
_READERS: Final = {setting.path: setting.read for setting in SETTINGS}
_MEMBERS: Final[dict[str, Callable[[Any], str]]] = {
    "env": lambda entry: str(entry).partition("=")[0],
    "mount": lambda mount: str(mount["Target"]),
    "ulimit": lambda ulimit: str(ulimit["Name"]),
    "publish": lambda port: f"{port.get('TargetPort', 0)}/{port.get('Protocol', 'tcp')}",
    "network": lambda place: str(place["Target"]),
    "secret": lambda reference: _reference_name(reference, "SecretName"),
    "config": lambda reference: _reference_name(reference, "ConfigName"),
    "depends-on": lambda dependency: str(dependency["Service"]),
}


@dataclass(frozen=True, slots=True)
class Difference:
    """``before`` or ``after`` is ``NOT_SET`` for what came or went."""

    field: str
    before: str
    after: str

    def __str__(self) -> str:
        if self.before == NOT_SET:
            return f"+{self.field} {self.after}".rstrip()
        if self.after == NOT_SET:
            return f"-{self.field}"
        return f"{self.field} {self.before} → {self.after}"


def differences(before: Json, after: Json, names: Mapping[str, str] | None = None) -> list[Difference]:
    """Sorted by field. ``names``: what networks are called, by id."""
    old, new = (dict(_leaves(spec, names or {})) for spec in (before, after))
    return [
        Difference(field, old.get(field, NOT_SET), new.get(field, NOT_SET))
        for field in sorted(old.keys() | new.keys())
        if old.get(field) != new.get(field)
        and {old.get(field), new.get(field)} != {None, _FILLED_IN.get(field)}
    ]


def in_one_line(changes: list[Difference]) -> str:
    shown = ", ".join(map(str, changes[:_SHOWN_MAX]))
    more = len(changes) - _SHOWN_MAX
    return f"{shown}, and {more} more" if more > 0 else shown


# --- a spec as fields


def _leaves(spec: Json, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for path, value in _walk(spec, ""):
        name = _NAMES.get(path)
        if name is None:
            yield path, _text(path, value)
        elif isinstance(value, dict):
            for key, part in value.items():
                yield f"{name} {key}", str(part) or '""'
        elif isinstance(value, list) and name not in _ORDERED:
            for key, text in _members(name, value, names):
                yield f"{name} {key}", text
        else:
            yield name, _text(path, value)


def _walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Values by place; what has a name of its own is not taken apart."""
    if not isinstance(value, dict) or path in _NAMES:
        if value not in (None, "", [], {}) and (value or path not in _ALWAYS_TOLD):
            yield path, value
        return
    if not value and path.startswith("Mode."):
        yield "Mode", path.removeprefix("Mode.").lower()
    for key, part in value.items():
        yield from _walk(part, f"{path}.{key}" if path else key)


def _members(name: str, items: list[Any], names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    key_of = _MEMBERS.get(name)
    if key_of is None:
        for item in items:
            yield _text("", item), "yes"
        return
    grouped: dict[str, list[str]] = {}
    for item in items:
        key = key_of(item)
        grouped.setdefault(names.get(key, key), []).append(_member_text(name, item))
    for key, texts in grouped.items():
        yield key, ", ".join(sorted(texts))


def _member_text(name: str, item: Any) -> str:
    match name:
        case "env":
            return str(item).partition("=")[2] or '""'
        case "ulimit":
            return f"{item.get('Soft', 0)}:{item.get('Hard', 0)}"
        case "publish":
            place = f"{item['PublishedPort']}" if item.get("PublishedPort") else "a free port"
            return place + (
                "" if item.get("PublishMode", "ingress") == "ingress" else f" ({item['PublishMode']})"
            )
        case "secret" | "config":
            return f"version {item['Version']}" if item.get("Version") else "yes"
    rest = {key: part for key, part in item.items() if key not in ("Target", "Service")}
    return _compact(rest) if rest else "yes"


def _reference_name(reference: Any, name_field: str) -> str:
    name, target = str(reference[name_field]), (reference.get("File") or {}).get("Name", "")
    return name if target in ("", name, f"/{name}") else f"{name} as {target}"


def _text(path: str, value: Any) -> str:
    reader = _READERS.get(path)
    if reader is values.duration_ns and isinstance(value, int):
        return duration_text(value)
    if reader is values.memory_bytes and isinstance(value, int):
        return _bytes(value)
    if reader is values.nano_cpus and isinstance(value, int):
        return f"{value / 1e9:g}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return " ".join(value)
    return value if isinstance(value, str) else _compact(value)


def _bytes(count: int) -> str:
    """Exactly: two values never look the same."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count and count % size == 0:
            return f"{count // size}{unit}"
    return f"{count}B"


def _compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
