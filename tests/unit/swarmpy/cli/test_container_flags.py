"""Flags for devices, privileges, shared memory and processors, as specs."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest

from swarmpy.cli import values
from swarmpy.cli.container_flags import (
    CREATE_CONTAINER_FLAGS,
    UPDATE_CONTAINER_FLAGS,
    apply_container,
    device,
    gpus,
)
from swarmpy.cli.flags import Command, UsageError, parse
from swarmpy.model.specs import ServiceSpec


def applied(*argv: str, spec: dict[str, Any] | None = None, is_update: bool = False) -> dict[str, Any]:
    """The container that the flags make."""
    flags = UPDATE_CONTAINER_FLAGS if is_update else CREATE_CONTAINER_FLAGS
    _, options = parse(Command(lambda: 0, "", "", 0, 0, flags), list(argv))
    whole: dict[str, Any] = {"TaskTemplate": {"ContainerSpec": {"Image": "host", **(spec or {})}}}
    apply_container(whole, options, is_update=is_update)
    msgspec.convert(whole, ServiceSpec)  # names are the API's
    container: dict[str, Any] = whole["TaskTemplate"]["ContainerSpec"]
    return {key: value for key, value in container.items() if key != "Image"}


def test_plain_settings() -> None:
    flags = (
        "--privileged",
        "--shm-size",
        "64m",
        "--cpuset-cpus",
        "0-1",
        "--cpuset-mems",
        "0",
        "--gpus",
        "all",
    )
    assert applied(*flags) == {
        "Privileged": True,
        "ShmSize": 64 << 20,
        "CpusetCPUs": "0-1",
        "CpusetMems": "0",
        "DeviceRequests": [{"Count": -1, "Capabilities": ["gpu"]}],
    }
    assert applied() == {}
    assert applied("--privileged=false", "--gpus", "none", is_update=True) == {
        "Privileged": False,
        "DeviceRequests": [],
    }


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("/dev/a", ("/dev/a", "/dev/a", "rwm")),
        ("/dev/a:rw", ("/dev/a", "/dev/a", "rw")),
        ("/dev/a:/dev/b", ("/dev/a", "/dev/b", "rwm")),
        ("/dev/a:/dev/b:r", ("/dev/a", "/dev/b", "r")),
    ],
)
def test_devices(entry: str, expected: tuple[str, str, str]) -> None:
    assert tuple(device(entry).values()) == expected


def test_changing_devices() -> None:
    before = {"Devices": [device("/dev/a"), device("/dev/b")]}
    after = applied("--device-add", "/dev/c:/dev/a:r", "--device-rm", "/dev/b", spec=before, is_update=True)
    assert after == {"Devices": [device("/dev/c:/dev/a:r")]}


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("2", {"Capabilities": ["gpu"], "Count": 2}),
        ("device=0,1", {"Capabilities": ["gpu"], "DeviceIDs": ["0", "1"]}),
        ('"device=0,1",capabilities=utility', {"Capabilities": ["gpu", "utility"], "DeviceIDs": ["0", "1"]}),
        ("driver=nvidia,count=all", {"Capabilities": ["gpu"], "Driver": "nvidia", "Count": -1}),
        ("none", None),
    ],
)
def test_gpus(entry: str, expected: dict[str, Any] | None) -> None:
    assert gpus(entry) == expected


def test_security(tmp_path: Path) -> None:
    (tmp_path / "profile.json").write_text("{}")
    found = applied(
        *("--security-opt", "no-new-privileges", "--security-opt", f"seccomp={tmp_path}/profile.json"),
        *("--security-opt", "apparmor=unconfined", "--security-opt", "label=disable"),
    )
    assert found["Privileges"] == {
        "NoNewPrivileges": True,
        "Seccomp": {"Mode": "custom", "Profile": base64.b64encode(b"{}").decode()},
        "AppArmor": {"Mode": "disabled"},
        "SELinuxContext": {"Disable": True},
    }
    again = applied(
        *("--security-opt", "no-new-privileges:false", "--security-opt", "seccomp=unconfined"),
        spec=found,
        is_update=True,
    )
    assert again["Privileges"]["Seccomp"] == {"Mode": "unconfined"}
    assert again["Privileges"]["NoNewPrivileges"] is False
    assert again["Privileges"]["AppArmor"] == {"Mode": "disabled"}


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (("--device", "/dev/a:/dev/b:rx"), "invalid device mode: rx"),
        (("--device", "a:b:c:d"), "invalid device specification"),
        (("--device", "/dev/a", "--device", "/dev/a:r"), "two devices"),
        (("--gpus", "many"), "give all, a number"),
        (("--shm-size", "big"), 'invalid argument "big" for "--shm-size" flag'),
        (("--security-opt", "seccomp=/no/such"), "opening seccomp profile"),
        (("--security-opt", "odd=1"), "invalid --security-opt"),
        (("--security-opt", "no-new-privileges:maybe"), "invalid --security-opt"),
    ],
)
def test_what_makes_no_sense(argv: tuple[str, ...], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        applied(*argv)


def test_mounts() -> None:
    assert values.mount("type=image,source=box,target=/x,image-subpath=etc")["ImageOptions"] == {
        "Subpath": "etc"
    }
    bind = values.mount("type=bind,source=/a,target=/b,ro,bind-recursive=readonly,bind-create-mountpoint")
    assert bind["BindOptions"] == {"ReadOnlyForceRecursive": True, "CreateMountpoint": True}
    assert values.mount("source=data,target=/b,volume-sticky")["VolumeOptions"] == {"Sticky": True}
    with pytest.raises(UsageError, match="bind-recursive"):
        values.mount("type=bind,source=/a,target=/b,bind-recursive=odd")
