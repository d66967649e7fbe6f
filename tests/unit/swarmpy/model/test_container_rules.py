"""What the options of a container may say."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from swarmpy.errors import Rejected
from swarmpy.model import validate
from swarmpy.model.specs import (
    AppArmorOptions,
    BindOptions,
    ContainerSpec,
    CredentialSpec,
    Device,
    DeviceRequest,
    ImageOptions,
    Limits,
    Mount,
    Privileges,
    ResourceRequirements,
    SeccompOptions,
    ServiceSpec,
    TaskSpec,
    TmpfsOptions,
    VolumeOptions,
)
from swarmpy.model.states import MountType

FUSE = Device(path_on_host="/dev/fuse")
PROFILE = b'{"defaultAction": "SCMP_ACT_ALLOW"}'


def check(resources: ResourceRequirements | None = None, **fields: Any) -> None:
    container = replace(ContainerSpec(image="host"), **fields)
    task = TaskSpec(container_spec=container, resources=resources)
    validate.check_service(ServiceSpec(name="web", task_template=task))


def mounting(type_: MountType, source: str = "data", **options: Any) -> dict[str, Any]:
    return {"mounts": (Mount(type=type_, source=source, target="/mnt", **options),)}


def privileged(**fields: Any) -> dict[str, Any]:
    return {"privileges": Privileges(**fields)}


@pytest.mark.parametrize(
    "fields",
    [
        {
            "devices": (
                FUSE,
                Device(path_on_host="/dev/fuse", path_in_container="/dev/x", cgroup_permissions="rw"),
            )
        },
        {"device_requests": (DeviceRequest(count=-1, capabilities=("gpu",)),)},
        {"cpuset_cpus": "0-3,7", "cpuset_mems": "0", "shm_size": 1 << 20, "oom_score_adj": -1000},
        {"capability_add": ("ALL", "cap_net_admin"), "capability_drop": ("NET_RAW",), "privileged": True},
        privileged(
            seccomp=SeccompOptions(mode="custom", profile=PROFILE), app_armor=AppArmorOptions(mode="x-y")
        ),
        mounting(MountType.BIND, "/srv", bind_options=BindOptions(propagation="rslave")),
        mounting(MountType.VOLUME, volume_options=VolumeOptions(subpath="a/b", sticky=True)),
        mounting(MountType.IMAGE, "box:1", image_options=ImageOptions(subpath="etc")),
        mounting(MountType.TMPFS, "", tmpfs_options=TmpfsOptions(size_bytes=1 << 20)),
        {"resources": ResourceRequirements(swap_bytes=-1, memory_swappiness=-1)},
        {
            "resources": ResourceRequirements(
                limits=Limits(memory_bytes=1 << 30), swap_bytes=1, memory_swappiness=0
            )
        },
    ],
)
def test_what_may_be_said(fields: dict[str, Any]) -> None:
    check(**fields)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"devices": (Device(path_on_host="fuse"),)}, 'invalid device path "fuse"'),
        ({"devices": (Device(path_on_host="/dev/../etc"),)}, "invalid device path"),
        ({"devices": (Device(path_on_host="/dev/a", cgroup_permissions="rx"),)}, "invalid device mode: rx"),
        ({"devices": (FUSE, FUSE)}, "duplicate device: /dev/fuse"),
        ({"devices": (FUSE,) * 257}, "at most 256"),
        ({"device_requests": (DeviceRequest(count=-2),)}, "invalid count of devices -2"),
        (
            {"device_requests": (DeviceRequest(count=1, device_ids=("0",)),)},
            "cannot set both Count and DeviceIDs",
        ),
        ({"cpuset_cpus": "0-"}, 'invalid cpuset cpus "0-"'),
        ({"cpuset_mems": "3-1"}, "the range 3-1 runs backwards"),
        ({"shm_size": -1}, "SHM size can not be less than"),
        ({"oom_score_adj": 1001}, r"range for oom score adj is \[-1000, 1000\]"),
        ({"capability_add": ("NET ADMIN",)}, 'invalid capability "NET ADMIN"'),
        (privileged(seccomp=SeccompOptions(mode="odd")), 'invalid seccomp mode "odd"'),
        (privileged(seccomp=SeccompOptions(mode="custom")), "profile must be set"),
        (privileged(seccomp=SeccompOptions(mode="default", profile=PROFILE)), "profile must not be set"),
        (privileged(seccomp=SeccompOptions(mode="custom", profile=b"[")), "decoding seccomp profile failed"),
        (
            privileged(seccomp=SeccompOptions(mode="custom", profile=b"{}")),
            "no JSON object with a defaultAction",
        ),
        (privileged(seccomp=SeccompOptions(mode="custom", profile=b"{" * (1 << 19))), "at most 262144"),
        (privileged(app_armor=AppArmorOptions(mode="a b")), 'invalid AppArmor mode "a b"'),
        (privileged(credential_spec=CredentialSpec(file="a", registry="b")), "can only specify one of"),
        (mounting(MountType.CLUSTER), "not supported yet"),
        (mounting(MountType.BIND, "/a", bind_options=BindOptions(propagation="x")), "propagation mode: x"),
        (mounting(MountType.BIND, "/a", volume_options=VolumeOptions()), "field VolumeOptions must not be"),
        (mounting(MountType.VOLUME, volume_options=VolumeOptions(subpath="../x")), "must be a relative path"),
        (mounting(MountType.VOLUME, "", volume_options=VolumeOptions(sticky=True)), "needs a name"),
        (mounting(MountType.IMAGE, ""), "Source must not be empty"),
        (mounting(MountType.TMPFS, "", tmpfs_options=TmpfsOptions(size_bytes=-1)), "cannot be negative"),
        ({"resources": ResourceRequirements(swap_bytes=1)}, "always set the Memory limit"),
        ({"resources": ResourceRequirements(swap_bytes=0)}, "always set the Memory limit"),
        ({"resources": ResourceRequirements(swap_bytes=-2)}, "invalid swap size -2"),
        ({"resources": ResourceRequirements(memory_swappiness=101)}, "swappiness range is 0-100"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_may_not(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(Rejected, match=text):
        check(**fields)
