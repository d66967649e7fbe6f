"""Devices of a service: device files by path, and what is asked for by what it can do, such as GPUs."""

from __future__ import annotations

from typing import Final

from swarmpy.compose.fields import Fields
from swarmpy.compose.tree import Scalar
from swarmpy.model.specs import Device, DeviceRequest

ALL: Final = -1
_GPU: Final = "gpu"
_PERMISSIONS: Final = frozenset("rwm")


def devices(service: Fields) -> tuple[Device, ...]:
    return tuple(_device(fields) for fields in service.list_of_fields("devices"))


def _device(fields: Fields) -> Device:
    source, permissions = fields.text("source"), fields.text("permissions") or "rwm"
    if not source.startswith("/"):
        raise fields.error("source", f'must be the path of a device file, not "{source}"')
    if not set(permissions) <= _PERMISSIONS:
        raise fields.error("permissions", f'must be letters of rwm, not "{permissions}"')
    return Device(
        path_on_host=source, path_in_container=fields.text("target") or source, cgroup_permissions=permissions
    )


def device_requests(service: Fields, rules: Fields) -> tuple[DeviceRequest, ...]:
    """Of ``gpus``, and of the reservations of ``deploy.resources``."""
    found = [_request(fields, default=(_GPU,)) for fields in service.list_of_fields("gpus")]
    resources = rules.fields("resources")
    reservations = None if resources is None else resources.fields("reservations")
    if reservations is not None:
        found += [_request(fields, default=()) for fields in reservations.list_of_fields("devices")]
    return tuple(found)


def _request(fields: Fields, *, default: tuple[str, ...]) -> DeviceRequest:
    ids, count = fields.texts("device_ids"), _count(fields)
    if ids and count is not None:
        raise fields.error("count", "cannot be set together with device_ids: name the devices, or count them")
    capabilities = fields.texts("capabilities") or default
    if not capabilities:
        raise fields.error("capabilities", "is missing: write what the devices must be, such as [gpu]")
    if count is None:
        count = 0 if ids else ALL
    return DeviceRequest(
        driver=fields.text("driver"),
        count=count,
        device_ids=ids,
        capabilities=capabilities,
        options=fields.pairs("options"),
    )


def _count(fields: Fields) -> int | None:
    node = fields.node.get("count")
    if isinstance(node, Scalar) and node.value == "all":
        return ALL
    return fields.whole("count", low=ALL)
