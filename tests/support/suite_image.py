"""The image that the executors' suites run: busybox, a few users and files, and an archive of it that every
executor's image store can load (``docker save``'s form).

Three images come in the one archive: ``suite:1`` says nothing of how it wants to be run; ``suite-set:1`` says
all that can be said; ``suite-bare:1`` has no programs at all.
"""

from __future__ import annotations

import io
import json
import platform
import shutil
import tarfile
from pathlib import Path
from typing import Any

from image_files import digest, tar_of

IMAGE = "suite:1"
CONFIGURED = "suite-set:1"
BARE = "suite-bare:1"

_APPLETS = """
awk base64 cat chmod cp cut date dd df echo env false find grep head hostname httpd id ip kill ln ls mkdir
mount mv nc nproc nslookup od printf ps pwd readlink rm seq sh sleep sort stat stty sync tail tee test touch
tr true tty umount usleep wc wget which xxd yes
"""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

_SETTINGS: dict[str, Any] = {
    "Entrypoint": ["/bin/sh", "-c"],
    "Cmd": ["echo of the image; id -u; pwd; echo $COLOUR"],
    "Env": ["PATH=/bin", "COLOUR=blue"],
    "User": "app",
    "WorkingDir": "/data/deep",
    "StopSignal": "SIGUSR1",
    "Volumes": {"/data": {}},
}


def _root() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:

        def add(name: str, data: bytes = b"", **fields: Any) -> None:
            member = tarfile.TarInfo(name)
            member.mode, member.size = 0o755, len(data)
            for key, value in fields.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(data))

        busybox = Path(shutil.which("busybox") or "/bin/busybox").read_bytes()
        for folder in ("bin", "data", "data/deep", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var"):
            mode = 0o1777 if folder == "tmp" else 0o755
            add(folder, type=tarfile.DIRTYPE, mode=mode, uid=1001 if folder.startswith("data") else 0)
        add("bin/busybox", busybox)
        for name in _APPLETS.split():
            add(f"bin/{name}", type=tarfile.SYMTYPE, linkname="busybox")
        add("bin/garbage", b"\x7fELF but nothing of the kind")
        add("bin/no-program", b"#!/bin/sh\n", mode=0o644)
        users = b"root:x:0:0::/root:/bin/sh\napp:x:1001:1001::/data:/bin/sh\n"
        add("etc/passwd", users, mode=0o644)
        add("etc/group", b"root:x:0:\napp:x:1001:\nmore:x:1002:app\n", mode=0o644)
        add("data/first", b"of the image\n", mode=0o640, uid=1001, gid=1001)
        add("data/deep/link", type=tarfile.SYMTYPE, linkname="../first")
    return target.getvalue()


def _config(layer: bytes, settings: dict[str, Any]) -> bytes:
    machine = platform.machine()
    return json.dumps(
        {
            "architecture": _ARCHITECTURES.get(machine, machine),
            "os": "linux",
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        }
    ).encode()


def write_archive(path: Path) -> Path:
    """All three images, at ``path``."""
    root, bare = _root(), tar_of(("etc", None), ("etc/only", b"a file\n"))
    plain = {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}
    members: list[tuple[str, bytes | None]] = []
    manifest = []
    for number, (name, layer, settings) in enumerate(
        ((IMAGE, root, plain), (CONFIGURED, root, plain | _SETTINGS), (BARE, bare, plain))
    ):
        config, file = _config(layer, settings), f"layer{number}/layer.tar"
        config_name = digest(config).removeprefix("sha256:") + ".json"
        members += [(config_name, config), (file, layer)]
        manifest.append({"Config": config_name, "RepoTags": [name], "Layers": [file]})
    members.append(("manifest.json", json.dumps(manifest).encode()))
    path.write_bytes(tar_of(*members))
    return path
