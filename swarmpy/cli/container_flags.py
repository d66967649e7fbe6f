"""Flags of ``service create|update`` for what docker has for single containers only: devices, privileges,
shared memory, processors. Pure but for the seccomp profile that a flag names, which is read here.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Final

from swarmpy.cli import values
from swarmpy.cli.flags import Options, UsageError, listed, switch, text
from swarmpy.cli.spec_edits import put, take
from swarmpy.client import Json

_CONTAINER: Final = "TaskTemplate.ContainerSpec."
_DEVICES: Final = _CONTAINER + "Devices"
_REQUESTS: Final = _CONTAINER + "DeviceRequests"
_PRIVILEGES: Final = _CONTAINER + "Privileges."
_ACCESS: Final = frozenset("rwm")

_FLAGS: Final = (
    switch("privileged", "Give each container all of its node: devices, capabilities, system settings"),
    text("gpus", "GPUs for each container: all, a number, device=0,1, or none"),
    text("shm-size", "Size of /dev/shm"),
    text("cpuset-cpus", "CPUs that containers may run on (0-3, 0,1)"),
    text("cpuset-mems", "Memory nodes that containers may use (0-3, 0,1)"),
    listed("security-opt", "seccomp=unconfined|FILE, apparmor=unconfined|PROFILE, no-new-privileges"),
)
CREATE_CONTAINER_FLAGS: Final = (
    *_FLAGS,
    listed("device", "Give containers a device file of their node (HOST[:CONTAINER[:rwm]])"),
)
UPDATE_CONTAINER_FLAGS: Final = (
    *_FLAGS,
    listed("device-add", "Add or update a device file of the node (HOST[:CONTAINER[:rwm]])"),
    listed("device-rm", "Remove a device by its path in the container"),
)


def _size(options: Options, flag: str) -> int:
    wish = options.text(flag)
    try:
        return values.memory_bytes(wish)
    except UsageError as error:
        raise UsageError(f'invalid argument "{wish}" for "--{flag}" flag: {error}') from None


def apply_container(spec: Json, options: Options, *, is_update: bool) -> None:
    """What these flags make of a spec."""
    if options.is_set("privileged"):
        put(spec, _CONTAINER + "Privileged", options.on("privileged"))
    if options.is_set("shm-size"):
        put(spec, _CONTAINER + "ShmSize", _size(options, "shm-size"))
    for flag, field in (("cpuset-cpus", "CpusetCPUs"), ("cpuset-mems", "CpusetMems")):
        if options.is_set(flag):
            put(spec, _CONTAINER + field, options.text(flag))
    if options.is_set("gpus"):
        request = gpus(options.text("gpus"))
        put(spec, _REQUESTS, [request] if request is not None else [])
    for entry in options.many("security-opt"):
        _secure(spec, entry)
    if is_update:
        _change_devices(spec, options.many("device-add"), set(options.many("device-rm")))
    else:
        _change_devices(spec, options.many("device"), set())


def device(entry: str) -> Json:
    """``/dev/a``, ``/dev/a:/dev/b``, ``/dev/a:rw``, ``/dev/a:/dev/b:rw``."""
    parts = entry.split(":")
    path, inner, access = parts[0], parts[0], "rwm"
    if len(parts) == 2 and parts[1] and set(parts[1]) <= _ACCESS:
        access = parts[1]
    elif len(parts) in (2, 3):
        inner = parts[1] or path
        access = parts[2] if len(parts) == 3 else access
    if not path or len(parts) > 3:
        raise UsageError(f'invalid device specification: "{entry}": give HOST[:CONTAINER[:PERMISSIONS]]')
    if not access or not set(access) <= _ACCESS:
        raise UsageError(f"invalid device mode: {access}: give letters of rwm")
    return {"PathOnHost": path, "PathInContainer": inner, "CgroupPermissions": access}


def gpus(entry: str) -> Json | None:
    """``all``, ``2``, ``device=0,1``, ``count=2,capabilities=compute,utility``; None for ``none``."""
    if entry in ("none", "0", ""):
        return None
    if entry == "all" or _is_number(entry):
        return {"Count": -1 if entry == "all" else int(entry), "Capabilities": ["gpu"]}
    request: Json = {"Capabilities": ["gpu"]}
    field = ""
    for part in entry.strip('"').split(","):
        key, has_value, value = part.strip().strip('"').partition("=")
        # ids and capabilities are lists themselves: what has no key goes on with the field before
        field, value = (key, value) if has_value else (field, key)
        match field:
            case "count" if value == "all" or _is_number(value):
                request["Count"] = -1 if value == "all" else int(value)
            case "device":
                request.setdefault("DeviceIDs", []).append(value)
            case "driver":
                request["Driver"] = value
            case "capabilities":
                request["Capabilities"].append(value)
            case _:
                raise UsageError(
                    f'invalid argument "{entry}" for "--gpus" flag: give all, a number, or device=0,1'
                )
    if "Count" not in request and "DeviceIDs" not in request:
        request["Count"] = 1
    return request


def _is_number(entry: str) -> bool:
    return entry.isascii() and entry.isdigit()


def _secure(spec: Json, entry: str) -> None:
    key, separator, value = entry.partition("=")
    if not separator:
        key, _, value = entry.partition(":")
    match key:
        case "no-new-privileges":
            if value not in ("", "true", "false"):
                raise UsageError(f"invalid --security-opt: {entry}: give no-new-privileges or …:false")
            put(spec, _PRIVILEGES + "NoNewPrivileges", value != "false")
        case "seccomp":
            put(spec, _PRIVILEGES + "Seccomp", _seccomp(value))
        case "apparmor" if value:
            mode = "disabled" if value == "unconfined" else value
            put(spec, _PRIVILEGES + "AppArmor", {"Mode": mode})
        case "label" if value == "disable":
            put(spec, _PRIVILEGES + "SELinuxContext", {"Disable": True})
        case _:
            raise UsageError(
                f"invalid --security-opt: {entry}: give seccomp=…, apparmor=… or no-new-privileges"
            )


def _seccomp(value: str) -> Json:
    if value in ("unconfined", "default", "builtin"):
        return {"Mode": "unconfined" if value == "unconfined" else "default"}
    try:
        profile = Path(value).read_bytes()
    except OSError as error:
        raise UsageError(f"opening seccomp profile ({value}) failed: {error.strerror}") from None
    return {"Mode": "custom", "Profile": base64.b64encode(profile).decode()}


def _change_devices(spec: Json, entries: list[str], removed: set[str]) -> None:
    added = [device(entry) for entry in entries]
    if not added and not removed:
        return
    new = {wish["PathInContainer"]: wish for wish in added}
    if len(new) < len(added):
        raise UsageError("two devices were given for one path in the container")
    kept = [
        wish for wish in take(spec, _DEVICES) or [] if wish["PathInContainer"] not in removed | new.keys()
    ]
    put(spec, _DEVICES, [*kept, *new.values()])
