"""Versions of the Engine API: how they compare, and what a client of an older one cannot have meant.

Fields of a request that came with a later version than the client speaks are taken as left out, as dockerd
takes them: a client that copies what it was shown must not set what it does not know. Answers have the same
fields in all versions, but for those named in ``system.py``. Pure.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec
from msgspec.structs import replace

from swarmpy.version import API_VERSION

T = TypeVar("T", bound=msgspec.Struct)
Version = tuple[int, ...]

_CONTAINER: Final = "task_template.container_spec."

SPEC_FIELDS: Final = {
    "1.40": (
        _CONTAINER + "sysctls",
        _CONTAINER + "privileges.credential_spec.config",
        _CONTAINER + "configs.runtime",
        "task_template.placement.max_replicas",
    ),
    "1.41": (
        _CONTAINER + "capability_add",
        _CONTAINER + "capability_drop",
        _CONTAINER + "ulimits",
        "task_template.resources.limits.pids",
        "mode.replicated_job",
        "mode.global_job",
    ),
    "1.42": (_CONTAINER + "mounts.bind_options.create_mountpoint",),
    "1.44": (
        _CONTAINER + "healthcheck.start_interval",
        _CONTAINER + "mounts.bind_options.read_only_non_recursive",
        _CONTAINER + "mounts.bind_options.read_only_force_recursive",
        _CONTAINER + "privileges.seccomp",
        _CONTAINER + "privileges.app_armor",
        _CONTAINER + "privileges.no_new_privileges",
    ),
    "1.46": (_CONTAINER + "oom_score_adj",),
}
"""Fields of a service's spec, by the version that brought them. A list on the way means each of its items."""

INIT_FIELDS: Final = {
    "1.39": ("default_addr_pool", "subnet_size"),
    "1.40": ("data_path_port",),
}


def number(version: str) -> Version:
    """``1.41`` as something that compares: part by part, an absent one as 0."""
    parts = [int(part or 0) for part in version.split(".")]
    while parts and not parts[-1]:
        parts.pop()
    return tuple(parts)


def of_path(text: str | None) -> Version:
    """A client that names no version speaks ours."""
    return number(text or API_VERSION)


def understood(value: T, fields: dict[str, tuple[str, ...]], version: Version) -> T:
    """The value without the fields that are younger than the client's version."""
    for brought_by, paths in fields.items():
        if version < number(brought_by):
            for path in paths:
                value = _without(value, path.split("."))
    return value


def _without(value: Any, path: list[str]) -> Any:
    if value is None:
        return None
    if isinstance(value, tuple):
        return tuple(_without(item, path) for item in value)
    name, *rest = path
    before = getattr(value, name)
    after = _without(before, rest) if rest else _default(value, name)
    return value if after == before else replace(value, **{name: after})


def _default(value: msgspec.Struct, name: str) -> Any:
    field = next(field for field in msgspec.structs.fields(type(value)) if field.name == name)
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()  # type: ignore[operator, unused-ignore]  # a union with NODEFAULT
    return field.default
