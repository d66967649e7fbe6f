"""An image of one static program for tests of the native executor, and how its tasks are run and heard."""

from __future__ import annotations

import itertools
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from native_rig import NativeRig

from swarmpy.model.ids import TaskId
from swarmpy.model.specs import ContainerSpec

BUSYBOX = Path("/bin/busybox")


def closure(program: str) -> dict[str, bytes]:
    """The libraries of a dynamic program of this machine, by their paths."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    paths = {word for word in listed.split() if word.startswith("/")}
    return {path.lstrip("/"): Path(path).resolve().read_bytes() for path in paths}


def layer() -> bytes:
    """busybox, a set-uid program, a folder for volumes to begin with, and links that lead out."""
    target = BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:

        def add(
            name: str, data: bytes = b"", *, mode: int = 0o755, kind: bytes = tarfile.REGTYPE, **more: Any
        ) -> None:
            member = tarfile.TarInfo(name)
            member.mode, member.type, member.size = mode, kind, len(data)
            for key, value in more.items():
                setattr(member, key, value)
            archive.addfile(member, BytesIO(data))

        add("bin/busybox", BUSYBOX.read_bytes())
        for name in ("sh", "cat", "ls", "touch", "mkdir", "stat", "grep", "mount", "sleep", "df"):
            add(f"bin/{name}", type=tarfile.SYMTYPE, linkname="busybox")
        for path, data in closure("/usr/bin/id").items():
            add(path, data)
        add("bin/sudo-id", Path("/usr/bin/id").read_bytes(), mode=0o4755)
        add("etc/passwd", b"root:x:0:0::/root:/bin/sh\napp:x:1001:1001::/home/app:/bin/sh\n", mode=0o644)
        add("data", type=tarfile.DIRTYPE, uid=1001, gid=1001, mode=0o750)
        add("data/first", b"of the image\n", mode=0o640, uid=1001)
        add("data/deep", type=tarfile.DIRTYPE)
        add("data/deep/link", type=tarfile.SYMTYPE, linkname="../first")
        add("out", type=tarfile.SYMTYPE, linkname="../../../../../../../../tmp")
    return target.getvalue()


def box(script: str, **fields: object) -> ContainerSpec:
    return replace(ContainerSpec(image="box:1", args=(script,)), **fields)


_numbers = itertools.count()


async def run(rig: NativeRig, spec: ContainerSpec, name: str = "task", **fields: object) -> TaskId:
    """Every task has an id of its own: ends of former ones may still be told."""
    unique = f"{name}-{next(_numbers)}"
    launch = replace(await rig.launch(unique, spec=spec, image=spec.image), **fields)
    await rig.executor.create(launch)
    await rig.executor.start(launch.task_id)
    return launch.task_id


async def said(rig: NativeRig, script: str, name: str = "task", **fields: object) -> list[str]:
    return (await rig.output(await run(rig, box(script, **fields), name))).splitlines()
