"""Giving images away as docker's archive: configurations, layers as plain tars, and their list.

The layers are the very bytes that they were before compression, so their digests are the image's. What comes
out is read by docker, podman and ``ImageStore.load``. Blocks: call it in a thread.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from agent.executor.images.compression import decompressed
from agent.executor.images.records import StoredImage
from agent.executor.images.store import ImageStore
from swarmpy.image_limits import IMAGE_BLOB_CHUNK_BYTES

END = bytes(2 * tarfile.BLOCKSIZE)


def save(
    store: ImageStore, wanted: Sequence[tuple[StoredImage, Sequence[str]]], folder: Path
) -> Iterator[bytes]:
    """A tar of these images, each under these tags. NotFound at the first step if bytes are missing; from
    then on the images may be removed. ``folder`` is the caller's, empty, and there until the end.
    """
    store.lend([image for image, _ in wanted], folder)
    manifest = []
    for image, tags in wanted:
        layers = [f"{_hex(diff_id)}/layer.tar" for diff_id in image.record.diff_ids]
        manifest.append(
            {"Config": f"{_hex(image.id)}.json", "RepoTags": list(tags) or None, "Layers": layers}
        )
    written: set[str] = set()
    for image, _ in wanted:
        for diff_id, blob in zip(image.record.diff_ids, image.record.blobs, strict=True):
            if diff_id not in written:
                written.add(diff_id)
                yield from _layer(folder, diff_id, blob)
        if image.id not in written:
            written.add(image.id)
            yield from member(f"{_hex(image.id)}.json", (folder / _hex(image.id)).read_bytes())
    yield from member("manifest.json", json.dumps(manifest).encode())
    yield from member("repositories", json.dumps(_repositories(wanted)).encode())
    yield END


def _layer(folder: Path, diff_id: str, blob: str) -> Iterator[bytes]:
    """A tar's head comes before its content and says how long that is, so it is unpacked on disk first."""
    with open(folder / _hex(blob), "rb") as raw:
        plain = decompressed(raw)
        if plain is raw:
            yield from file_member(f"{_hex(diff_id)}/layer.tar", raw)
            return
        with tempfile.TemporaryFile(dir=folder) as spool:
            while chunk := plain.read(IMAGE_BLOB_CHUNK_BYTES):
                spool.write(chunk)
            yield from file_member(f"{_hex(diff_id)}/layer.tar", spool)


def file_member(name: str, file: IO[bytes]) -> Iterator[bytes]:
    size = file.seek(0, 2)
    file.seek(0)
    yield _head(name, size)
    while chunk := file.read(IMAGE_BLOB_CHUNK_BYTES):
        yield chunk
    yield _padding(size)


def member(name: str, data: bytes) -> Iterator[bytes]:
    yield _head(name, len(data)) + data + _padding(len(data))


def _head(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)


def _repositories(wanted: Sequence[tuple[StoredImage, Sequence[str]]]) -> dict[str, dict[str, str]]:
    """What readers of old look at."""
    found: dict[str, dict[str, str]] = {}
    for image, tags in wanted:
        for name in tags:
            repository, _, tag = name.rpartition(":")
            top = image.record.diff_ids[-1] if image.record.diff_ids else image.id
            found.setdefault(repository, {})[tag] = _hex(top)
    return found


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
