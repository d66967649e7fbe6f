"""Tasks that try to get out: an image with the program of ``tests/isolation/escape.c``, and what it says."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from box_image import layer, run
from image_files import write_layout
from native_rig import NativeRig

from swarmpy.model.specs import ContainerSpec

SOURCE = Path(__file__).parents[1] / "isolation" / "escape.c"
ALL_CAPABILITIES = b"\x01\x00\x00\x02" + 4 * b"\xff\xff\xff\xff"
"""A file's capabilities, as the kernel stores them: all permitted, and effective."""


def compiled(folder: Path) -> bytes:
    """The program, which needs nothing of the image."""
    target = folder / "escape"
    compiler = shutil.which("musl-gcc") or "gcc"
    words = (compiler, "-static", "-O1", "-Wall", "-Werror", "-o", target, SOURCE)
    subprocess.run(words, check=True)
    return target.read_bytes()


def program_layer(program: bytes) -> bytes:
    """The program; as one that sets its user, as one with all capabilities, and links to what /proc has."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:

        def add(name: str, *, mode: int = 0o755, **more: Any) -> None:
            member = tarfile.TarInfo(name)
            member.mode = mode
            for key, value in more.items():
                setattr(member, key, value)
            member.size = len(program) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(program))

        add("escape")
        add("escape-suid", mode=0o4755)
        raw = ALL_CAPABILITIES.decode("utf-8", "surrogateescape")
        add("escape-caps", pax_headers={"SCHILY.xattr.security.capability": raw})
        add("me", type=tarfile.SYMTYPE, linkname="/proc/self/exe")
        add("tmp", type=tarfile.DIRTYPE, mode=0o1777)
    return buffer.getvalue()


def write_image(folder: Path) -> Path:
    return write_layout(
        folder / "trial",
        [layer(), program_layer(compiled(folder))],
        name="trial:1",
        Entrypoint=["/bin/sh", "-c"],
        Cmd=["true"],
    )


async def said(rig: NativeRig, script: str, **fields: Any) -> list[str]:
    """What a shell in a task with these fields of its spec says."""
    spec = ContainerSpec(image="trial:1", args=(script,), **fields)
    return (await rig.output(await run(rig, spec, "trial"))).splitlines()


async def attempts(
    rig: NativeRig, group: str, *, env: dict[str, str] | None = None, **fields: Any
) -> dict[str, str]:
    """What came of each attempt of a group: "ok", or the errno's name."""
    pairs = tuple(f"{name}={value}" for name, value in (env or {}).items())
    lines = await said(rig, f"/escape {group}", env=pairs, **fields)
    return dict(line.split(" ", 1) for line in lines)
