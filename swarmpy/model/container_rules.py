"""What a container's options may say, as far as that can be told without a node: part of ``validate``.

What depends on the node (a device that is there, a kernel with AppArmor, a cgroup controller) is the node's
to refuse: the task is then rejected with its sentence.
"""

from __future__ import annotations

import json
import re
from typing import Final

from swarmpy.errors import InvalidArgument, Unimplemented
from swarmpy.limits import DEVICES_MAX
from swarmpy.model.specs import (
    ContainerSpec,
    Device,
    DeviceRequest,
    Mount,
    Privileges,
    ResourceRequirements,
)
from swarmpy.model.states import MountType

SECCOMP_MODES: Final = ("", "default", "unconfined", "custom")
SECCOMP_BYTES_MAX: Final = 256 << 10
SHM_BYTES_MIN: Final = 4096
OOM_SCORE_MAX: Final = 1000
SWAPPINESS_MAX: Final = 100
USERNS_MODES: Final = ("", "host")
PROPAGATIONS: Final = ("", "private", "rprivate", "shared", "rshared", "slave", "rslave")
"""Empty: docker's default, which is rprivate."""

_CPUSET: Final = re.compile(r"\d{1,5}(?:-\d{1,5})?(?:,\d{1,5}(?:-\d{1,5})?)*\Z")
_ACCESS: Final = re.compile(r"[rwm]{1,3}\Z")
_CAPABILITY: Final = re.compile(r"(?:CAP_)?[A-Z][A-Z_]*\Z", re.IGNORECASE)
_APPARMOR: Final = re.compile(r"[A-Za-z0-9_./-]{1,255}\Z")


def check_options(spec: ContainerSpec) -> None:
    _check_numbers(spec)
    for name in (*spec.capability_add, *spec.capability_drop):
        if not _CAPABILITY.match(name):
            raise InvalidArgument(f'invalid capability "{name}": give a name such as NET_ADMIN, or ALL')
    _check_devices(spec.devices)
    for request in spec.device_requests:
        _check_request(request)
    if spec.userns_mode not in USERNS_MODES:
        raise InvalidArgument(f'invalid userns mode "{spec.userns_mode}": give "host", or nothing')
    if spec.privileges is not None:
        _check_privileges(spec.privileges)
    for mount in spec.mounts:
        check_mount(mount)


def check_memory(spec: ResourceRequirements) -> None:
    swap, swappiness = spec.swap_bytes, spec.memory_swappiness
    if swap is not None and swap < -1:
        raise InvalidArgument(f"invalid swap size {swap}: give bytes, or -1 for no limit")
    if swap is not None and swap >= 0 and not (spec.limits and spec.limits.memory_bytes):
        raise InvalidArgument(
            "You should always set the Memory limit when using Memoryswap limit, see usage: give "
            "--limit-memory as well"
        )
    if swappiness is not None and not -1 <= swappiness <= SWAPPINESS_MAX:
        raise InvalidArgument(f"Invalid value: {swappiness}, valid memory swappiness range is 0-100")


def check_cpuset(text: str, *, what: str) -> None:
    """``0-3,5``: the kernel's lists."""
    if not text:
        return
    if not _CPUSET.match(text):
        raise InvalidArgument(f'invalid {what} "{text}": give numbers and ranges, such as 0-3,5')
    for part in text.split(","):
        first, _, last = part.partition("-")
        if last and int(last) < int(first):
            raise InvalidArgument(f'invalid {what} "{text}": the range {part} runs backwards')


def _check_numbers(spec: ContainerSpec) -> None:
    if spec.shm_size and spec.shm_size < SHM_BYTES_MIN:
        raise InvalidArgument(f"SHM size can not be less than {SHM_BYTES_MIN} bytes, or 0 for the default")
    if abs(spec.oom_score_adj) > OOM_SCORE_MAX:
        raise InvalidArgument(
            f"Invalid value {spec.oom_score_adj}, range for oom score adj is "
            f"[-{OOM_SCORE_MAX}, {OOM_SCORE_MAX}]"
        )
    check_cpuset(spec.cpuset_cpus, what="cpuset cpus")
    check_cpuset(spec.cpuset_mems, what="cpuset mems")


def _check_devices(devices: tuple[Device, ...]) -> None:
    if len(devices) > DEVICES_MAX:
        raise InvalidArgument(f"ContainerSpec: {len(devices)} devices, at most {DEVICES_MAX} may be given")
    targets: set[str] = set()
    for device in devices:
        target = device.path_in_container or device.path_on_host
        for path in (device.path_on_host, target):
            if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
                raise InvalidArgument(
                    f'invalid device path "{path}": give an absolute path, such as /dev/fuse'
                )
        if device.cgroup_permissions and not _ACCESS.match(device.cgroup_permissions):
            raise InvalidArgument(
                f"invalid device mode: {device.cgroup_permissions}: give letters of rwm (read, write, mknod)"
            )
        if target in targets:
            raise InvalidArgument(f"ContainerSpec: duplicate device: {target}")
        targets.add(target)


def _check_request(request: DeviceRequest) -> None:
    if request.count < -1:
        raise InvalidArgument(f"invalid count of devices {request.count}: give a number, or -1 for all")
    if request.count and request.device_ids:
        raise InvalidArgument("cannot set both Count and DeviceIDs on device request")
    if len(request.device_ids) > DEVICES_MAX:
        raise InvalidArgument(f"at most {DEVICES_MAX} devices may be named")


def _check_privileges(wish: Privileges) -> None:
    seccomp, apparmor = wish.seccomp, wish.app_armor
    if seccomp is not None:
        if seccomp.mode not in SECCOMP_MODES:
            raise InvalidArgument(
                f'invalid seccomp mode "{seccomp.mode}": give default, unconfined or custom with a profile'
            )
        if seccomp.mode == "custom":
            _check_profile(seccomp.profile)
        elif seccomp.profile:
            raise InvalidArgument("seccomp profile must not be set when seccomp mode is not custom")
    if apparmor is not None and apparmor.mode and not _APPARMOR.match(apparmor.mode):
        raise InvalidArgument(
            f'invalid AppArmor mode "{apparmor.mode}": give default, disabled or the name of a profile'
        )
    from_ = wish.credential_spec
    if from_ is not None and sum(map(bool, (from_.config, from_.file, from_.registry))) > 1:
        raise InvalidArgument("Invalid CredentialSpec: can only specify one of config, file and registry")


def _check_profile(profile: bytes) -> None:
    if not profile:
        raise InvalidArgument("seccomp profile must be set when seccomp mode is custom")
    if len(profile) > SECCOMP_BYTES_MAX:
        raise InvalidArgument(
            f"the seccomp profile has {len(profile)} bytes, at most {SECCOMP_BYTES_MAX} are allowed"
        )
    try:
        parsed = json.loads(profile)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"decoding seccomp profile failed: {error}") from None
    if not isinstance(parsed, dict) or not parsed.get("defaultAction"):
        raise InvalidArgument(
            "decoding seccomp profile failed: it is no JSON object with a defaultAction, as docker's are"
        )


def check_mount(mount: Mount) -> None:
    if mount.type is MountType.CLUSTER:
        raise Unimplemented(
            "cluster volumes (CSI) are not supported yet: use a volume of the driver local (type=volume)"
        )
    _check_option_kinds(mount)
    bind, volume, image, tmpfs = (
        mount.bind_options,
        mount.volume_options,
        mount.image_options,
        mount.tmpfs_options,
    )
    if bind is not None:
        if bind.propagation not in PROPAGATIONS:
            raise InvalidArgument(f"invalid mount config: invalid propagation mode: {bind.propagation}")
        if bind.read_only_non_recursive and bind.read_only_force_recursive:
            raise InvalidArgument("mount options ReadOnlyNonRecursive and ReadOnlyForceRecursive conflict")
    for subpath in (volume.subpath if volume else "", image.subpath if image else ""):
        if subpath.startswith("/") or ".." in subpath.split("/"):
            raise InvalidArgument(f'subpath must be a relative path within the volume, not "{subpath}"')
    if volume is not None and volume.sticky and not mount.source:
        raise InvalidArgument("a sticky volume needs a name: give the mount a source")
    if mount.type is MountType.IMAGE and not mount.source:
        raise InvalidArgument("invalid mount config for type image: field Source must not be empty")
    if tmpfs is not None and tmpfs.size_bytes < 0:
        raise InvalidArgument("invalid tmpfs size: it cannot be negative")


def _check_option_kinds(mount: Mount) -> None:
    """Options of one type say nothing to another: they would be forgotten in silence."""
    given = {
        MountType.BIND: ("BindOptions", mount.bind_options),
        MountType.VOLUME: ("VolumeOptions", mount.volume_options),
        MountType.TMPFS: ("TmpfsOptions", mount.tmpfs_options),
        MountType.IMAGE: ("ImageOptions", mount.image_options),
    }
    for kind, (name, options) in given.items():
        if options is not None and kind is not mount.type:
            raise InvalidArgument(
                f"invalid mount config for type {mount.type.value}: field {name} must not be specified"
            )
