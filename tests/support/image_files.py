"""Image archives made by hand, good and bad, for tests of the image store."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any


def tar_of(*members: tuple[str, bytes | None], links: tuple[tuple[str, str, bytes], ...] = ()) -> bytes:
    """(name, content); a folder if the content is None. ``links``: (name, target, tar's type)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
            else:
                info.size, info.mode = len(content), 0o644
                archive.addfile(info, io.BytesIO(content))
        for name, target, kind in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    return buffer.getvalue()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def image_config(layers: list[bytes], **config: Any) -> bytes:
    """An image's configuration over layers given as plain tars."""
    return json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        }
    ).encode()


def write_layout(
    folder: Path, layers: list[bytes], *, name: str = "", is_gzipped: bool = True, **config: Any
) -> Path:
    """An OCI layout of one image."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def put(data: bytes) -> dict[str, Any]:
        (blobs / digest(data).removeprefix("sha256:")).write_bytes(data)
        return {"digest": digest(data), "size": len(data)}

    stored = [gzip.compress(layer, mtime=0) if is_gzipped else layer for layer in layers]
    manifest = {
        "schemaVersion": 2,
        "config": put(image_config(layers, **config)),
        "layers": [put(layer) for layer in stored],
    }
    entry = put(json.dumps(manifest).encode()) | {"mediaType": "application/vnd.oci.image.manifest.v1+json"}
    if name:
        entry["annotations"] = {"org.opencontainers.image.ref.name": name}
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return folder


def write_docker_save(path: Path, layers: list[bytes], *, names: list[str], **config: Any) -> Path:
    """What ``docker save`` writes."""
    raw = image_config(layers, **config)
    config_name = digest(raw).removeprefix("sha256:") + ".json"
    members = [(config_name, raw)]
    members += [(f"layer{number}/layer.tar", layer) for number, layer in enumerate(layers)]
    layer_names = [name for name, _ in members[1:]]
    manifest = [{"Config": config_name, "RepoTags": names, "Layers": layer_names}]
    members.append(("manifest.json", json.dumps(manifest).encode()))
    path.write_bytes(tar_of(*members))
    return path


def pack(folder: Path, path: Path) -> Path:
    """A folder as a compressed tar."""
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted(folder.rglob("*")):
            archive.add(file, str(file.relative_to(folder)), recursive=False)
    return path
