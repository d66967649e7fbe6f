"""What a process of a task finds is what docker 20.10 shows: devices, streams, working folder, groups."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from box_image import box, run, said
from native_rig import NativeRig

from swarmpy.model.specs import ContainerSpec

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]

DEVICES = ("/dev/null", "/dev/zero", "/dev/tty")


def mode_of(path: str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


# --- devices and streams


async def test_the_nodes_device_files_cannot_be_changed_from_inside(rig: NativeRig) -> None:
    before = [mode_of(path) for path in DEVICES]
    script = (
        f"for path in {' '.join(DEVICES)} /proc/keys /proc/self/fd/0; do chmod 640 $path 2>&1; done;"
        "echo x > /dev/null && echo written"
    )
    try:
        for image, spec in (
            ("box", box(script)),
            ("host", ContainerSpec(image="host", command=("/bin/sh", "-c", script))),
        ):
            words = (await rig.output(await run(rig, spec, image))).splitlines()
            assert len([line for line in words if "Read-only file system" in line]) == len(DEVICES) + 2, words
            assert words[-1] == "written"
        assert [mode_of(path) for path in DEVICES] == before
    finally:
        for path, mode in zip(DEVICES, before, strict=True):
            os.chmod(path, mode)


async def test_an_account_may_open_its_own_streams_by_name(rig: NativeRig) -> None:
    script = "echo out > /dev/stdout; echo bad > /dev/stderr; cat /dev/stdin"
    assert sorted(await said(rig, script, user="app")) == ["bad", "out"]
