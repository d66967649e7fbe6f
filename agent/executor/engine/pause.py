"""The pause image: one static program of some hundred bytes that we make ourselves, as no registry is needed.

Its one program, ``/pause``, enters the network namespace that it finds bind-mounted at ``/netns``, gives up
all capabilities, and sleeps until it is killed. Docker's tasks join it (``container:…``), since Docker takes
``/proc/<pid>/ns/net`` of it when they start and cannot be given a namespace itself. It fails (exit code 1) if
it cannot enter; without such a file it only sleeps, which is what the probe runs with Podman.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
from typing import Any, Final

IMAGE: Final = "io.swarmpy/pause:1"
PROGRAM: Final = "/pause"
NETNS: Final = "/netns"

# open(NETNS); setns(fd, CLONE_NEWNET), or exit(1); capset(nothing); for ever: pause(), or ppoll(NULL, 0).
# Behind the code: capset's header (version 3, own thread), six words of 0, "/netns".
_TAIL: Final = "22050820" + "00" * 28 + "2f6e65746e7300"
_X86_64: Final = (
    "488d3d6900000031f6b8020000000f0585c0781289c7be00000040b8340100000f0585c0751e488d3d23000000488d3524000000"
    "b87e0000000f05b8220000000f05ebf7bf01000000b83c0000000f05" + _TAIL
)
_AARCH64: Final = (
    "600c809201040010020080d2030080d2080780d2010000d4a000f8b70100a8d2882180d2010000d4800100b5c0010010e1010010"
    "680b80d2010000d4000080d2010080d2020080d2030080d2280980d2010000d4faffff17200080d2a80b80d2010000d4" + _TAIL
)
_MACHINES: Final = {"x86_64": ("amd64", 62, _X86_64), "aarch64": ("arm64", 183, _AARCH64)}
"""By the kernel's name of the machine: an image's name for it, ELF's number, the code."""
_BASE: Final = 0x400000
_HEADERS_BYTES: Final = 64 + 56
_CREATED: Final = "1970-01-01T00:00:00Z"


def has_program(machine: str) -> bool:
    return machine in _MACHINES


def program(machine: str) -> bytes:
    """An ELF file: its header, one segment that is read and executed, the code."""
    _, number, code = _MACHINES[machine]
    text = bytes.fromhex(code)
    size = _HEADERS_BYTES + len(text)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    start = _BASE + _HEADERS_BYTES
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, 2, number, 1, start, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + text


def archive(machine: str) -> bytes:
    """The image in the form of ``docker save``, always the same bytes."""
    layer = _tar(
        (PROGRAM.lstrip("/"), program(machine), 0o755),
        *((f"{name}/", None, 0o755) for name in ("dev", "proc", "sys")),
    )
    config = json.dumps(
        {
            "architecture": _MACHINES[machine][0],
            "os": "linux",
            "created": _CREATED,
            "config": {"Entrypoint": [PROGRAM]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
            "history": [{"created": _CREATED, "created_by": "swarmpy"}],
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest: list[dict[str, Any]] = [{"Config": config_name, "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    return _tar(
        (config_name, config, 0o644),
        ("layer.tar", layer, 0o644),
        ("manifest.json", json.dumps(manifest).encode(), 0o644),
    )


def image_id(machine: str) -> str:
    """What engines call the image: the digest of its configuration."""
    with tarfile.open(fileobj=io.BytesIO(archive(machine))) as opened:
        return f"sha256:{opened.getnames()[0].removesuffix('.json')}"


def _tar(*entries: tuple[str, bytes | None, int]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as opened:
        for name, data, mode in entries:
            member = tarfile.TarInfo(name.rstrip("/"))
            member.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            member.mode, member.size = mode, len(data or b"")
            opened.addfile(member, io.BytesIO(data or b""))
    return target.getvalue()
