"""Bringing an archive's images into the store: blobs as they came, layers unpacked, digests checked.

``Loader`` makes no names: it returns the records that its caller writes once all of an archive is in. Each
blob and each layer appears whole, by renaming.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Protocol

from msgspec.structs import replace

from agent.executor.base import ImageConfig
from agent.executor.images.archive import Archive, ImageSource, LayerSource, digest_of
from agent.executor.images.compression import decompressed
from agent.executor.images.records import ImageRecord
from agent.executor.images.unpack import Unpacker
from swarmpy.errors import InvalidArgument
from swarmpy.image_limits import IMAGE_UNPACK_THREADS
from swarmpy.limits import IMAGE_BYTES_MAX
from swarmpy.model import image_names as references
from swarmpy.model.ids import Duration
from swarmpy.model.image_names import HOST
from swarmpy.model.specs import Healthcheck

_LAYER_CHARS = 20
"""Of a digest, in a layer's name: 80 bits, and 128 names fit in the one page that mount(2) takes."""
_READ_BYTES = 1 << 20


class ConfigOf(Protocol):
    def __call__(self, diff_id: str) -> bytes:
        """The configuration of an image of this one layer."""
        ...


class Loader:
    """``work`` is a folder of the caller's on the same file system, which is removed afterwards.

    ``is_private``: a folder that is read from is the caller's, too, so its files may be taken.
    """

    def __init__(self, layers_dir: Path, blobs_dir: Path, work: Path, *, is_private: bool = False) -> None:
        self._layers_dir = layers_dir
        self._blobs_dir = blobs_dir
        self._work = work
        self._is_private = is_private
        self._count = 0
        self.unpacked: set[str] = set()
        """The layers that were not there before."""

    def load(self, archive: Archive, source: ImageSource) -> ImageRecord:
        """An image of an archive, without a name yet."""
        record = record_of(source)
        blobs = self._ensure_layers(archive, source.layers)
        self._put_blob(source.digest, source.raw)
        if source.manifest:
            self._put_blob(source.manifest, archive.read(f"blobs/sha256/{_hex(source.manifest)}"))
        sizes = tuple(size_of(self._layers_dir / layer) for layer in record.config.layers)
        return _with(record, blobs=blobs, layer_sizes=sizes, size_bytes=sum(sizes))

    def load_rootfs(self, path: Path, config_of: ConfigOf, *, has_whiteouts: bool) -> ImageRecord:
        """An image of one layer. ``has_whiteouts``: it is a layer's tree, where some names hide others."""
        if path.is_dir():
            raise InvalidArgument(f"{path} is no OCI layout: it has no index.json")
        root = self._work / "rootfs"
        root.mkdir()
        with open(path, "rb") as raw:
            hashing = HashingReader(decompressed(raw))
            Unpacker(root, has_whiteouts=has_whiteouts).unpack(hashing)
            hashing.drain()
        if not any(root.iterdir()):
            raise InvalidArgument(f"{path} holds no files, so it is no root file system")
        blob = self._work / "rootfs.blob"
        outer = _copy_hashed(path, blob)
        diff_id = hashing.digest
        raw_config = config_of(diff_id)
        source = ImageSource(
            (),
            digest_of(raw_config),
            _decoded(raw_config),
            (LayerSource("", outer, diff_id),),
            raw_config,
        )
        record = record_of(source)
        layer = layer_id(diff_id) if has_whiteouts else f"r{layer_id(diff_id)[1:]}"
        self._install(root, layer)
        self._keep(blob, outer)
        self._put_blob(source.digest, raw_config)
        size = size_of(self._layers_dir / layer)
        return _with(record, layers=(layer,), blobs=(outer,), layer_sizes=(size,), size_bytes=size)

    # --- layers

    def _ensure_layers(self, archive: Archive, layers: Sequence[LayerSource]) -> tuple[str, ...]:
        """The digests of the blobs, once all layers are unpacked and their blobs are kept. They are read one
        after the other, as they stand in one file, and unpacked beside each other: that is the kernel's
        work, mostly, and Python lets go of its lock for it."""
        with ThreadPoolExecutor(IMAGE_UNPACK_THREADS, thread_name_prefix="unpack") as threads:
            begun: dict[LayerSource, Future[str]] = {}
            try:
                for layer in layers:
                    if layer not in begun:
                        begun[layer] = self._begin_layer(archive, layer, threads)
                return tuple(begun[layer].result() for layer in layers)
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def _begin_layer(self, archive: Archive, layer: LayerSource, threads: Executor) -> Future[str]:
        known = layer.digest or (layer.diff_id if self._has(layer.diff_id) else "")
        if known and self._has(known) and self._is_unpacked(layer):
            done: Future[str] = Future()
            done.set_result(known)
            return done
        self._count += 1
        blob = self._work / f"{self._count}.blob"
        digest = self._take(archive, layer, blob)
        if layer.digest and layer.digest != digest:
            raise InvalidArgument(f"the layer {layer.blob} does not have the digest {layer.digest}")
        return threads.submit(self._finish_layer, blob, layer, digest)

    def _finish_layer(self, blob: Path, layer: LayerSource, digest: str) -> str:
        if not self._is_unpacked(layer):
            self._unpack(blob, layer, digest)
        self._keep(blob, digest)
        return digest

    def _is_unpacked(self, layer: LayerSource) -> bool:
        return (self._layers_dir / layer_id(layer.diff_id)).is_dir()

    def _take(self, archive: Archive, layer: LayerSource, target: Path) -> str:
        own = archive.path(layer.blob) if self._is_private else None
        if own is not None:
            os.link(own, target)
            return digest_of_file(target)
        with archive.open(layer.blob) as source:
            return _write_hashed(source, target)

    def _unpack(self, blob: Path, layer: LayerSource, digest: str) -> None:
        """``digest`` of the blob: where nothing is compressed it is that of the tar, which is not looked at
        a second time."""
        root = blob.with_suffix(".root")
        root.mkdir()
        with open(blob, "rb") as file:
            plain = decompressed(file)
            if plain is file:
                _check_tar(layer, digest)
                Unpacker(root).unpack(file)
            else:
                inner = HashingReader(plain)
                Unpacker(root).unpack(inner)
                inner.drain()
                _check_tar(layer, inner.digest)
        self._install(root, layer_id(layer.diff_id))

    def _install(self, root: Path, layer: str) -> None:
        """Another load may have been faster; then its tree, the same, stays."""
        os.chmod(root, root.stat().st_mode | 0o055)
        try:
            os.rename(root, self._layers_dir / layer)
        except OSError:
            if not (self._layers_dir / layer).is_dir():
                raise
            shutil.rmtree(root)
        else:
            self.unpacked.add(layer)

    # --- blobs

    def _has(self, digest: str) -> bool:
        return (self._blobs_dir / _hex(digest)).is_file()

    def _keep(self, file: Path, digest: str) -> None:
        os.rename(file, self._blobs_dir / _hex(digest))

    def _put_blob(self, digest: str, data: bytes) -> None:
        if not self._has(digest):
            self._count += 1
            file = self._work / f"{self._count}.blob"
            file.write_bytes(data)
            self._keep(file, digest)


def _check_tar(layer: LayerSource, digest: str) -> None:
    if layer.diff_id != digest:
        raise InvalidArgument(f"the layer {layer.blob} does not unpack to the digest {layer.diff_id}")


class HashingReader:
    """Passes bytes on and keeps their digest."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._sha256 = hashlib.sha256()

    @property
    def digest(self) -> str:
        return "sha256:" + self._sha256.hexdigest()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self._sha256.update(data)
        return data

    def drain(self) -> None:
        while self.read(_READ_BYTES):
            pass


def digest_of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _copy_hashed(path: Path, target: Path) -> str:
    with open(path, "rb") as source:
        return _write_hashed(source, target)


def _write_hashed(source: IO[bytes], target: Path) -> str:
    hashing = HashingReader(source)
    left = IMAGE_BYTES_MAX
    with open(target, "xb") as file:
        while chunk := hashing.read(_READ_BYTES):
            left -= len(chunk)
            if left < 0:
                raise InvalidArgument(f"the layer is larger than {IMAGE_BYTES_MAX >> 30} GiB")
            file.write(chunk)
    return hashing.digest


def layer_id(diff_id: str) -> str:
    return diff_id.removeprefix("sha256:")[:_LAYER_CHARS]


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def size_of(folder: Path) -> int:
    """Bytes of the files below, each once however many names it has."""
    seen: set[int] = set()
    total = 0
    for parent, _, files in os.walk(folder):
        for file in files:
            status = os.lstat(os.path.join(parent, file))
            if status.st_nlink == 1 or status.st_ino not in seen:
                seen.add(status.st_ino)
                total += status.st_size
    return total


# --- records


def names_of(source: ImageSource, name: str, path: Path) -> tuple[str, ...]:
    """Under which names an image is stored; one that has none gets the archive's."""
    if name:
        return (checked_name(name),)
    written = [f"{name_from(path)}{text}" if text.startswith(":") else text for text in source.names]
    return tuple(dict.fromkeys(checked_name(text) for text in written or [name_from(path)]))


def checked_name(text: str) -> str:
    name = references.parse(text)
    if name.name == HOST:
        raise InvalidArgument(f'the image name "{HOST}" is taken: it is the node\'s own root file system')
    if name.name == "sha256":
        raise InvalidArgument("refusing to create an ambiguous tag using digest algorithm as name")
    return str(name)


def name_from(path: Path) -> str:
    """A name out of a file's: ``Debian_12.tar.gz`` is ``debian_12``."""
    stem = path.name.lower()
    for suffix in (".gz", ".tgz", ".xz", ".bz2", ".tar", ".oci"):
        stem = stem.removesuffix(suffix)
    return re.sub(r"[^a-z0-9._-]+", "-", stem).strip("._-") or "image"


def record_of(source: ImageSource) -> ImageRecord:
    inner = source.config.get("config")
    wish: dict[str, Any] = inner if isinstance(inner, dict) else {}
    config = ImageConfig(
        reference="",
        digest=source.digest,
        entrypoint=_words(wish, "Entrypoint"),
        command=_words(wish, "Cmd"),
        env=_words(wish, "Env"),
        user=str(wish.get("User") or ""),
        workdir=str(wish.get("WorkingDir") or ""),
        stop_signal=str(wish.get("StopSignal") or ""),
        layers=tuple(layer_id(layer.diff_id) for layer in source.layers),
        healthcheck=_healthcheck(wish),
        volumes=_names(wish, "Volumes"),
        exposed_ports=_names(wish, "ExposedPorts"),
        labels=_labels(wish),
    )
    return ImageRecord(
        config=config,
        created=str(source.config.get("created") or ""),
        architecture=str(source.config.get("architecture") or ""),
        diff_ids=tuple(layer.diff_id for layer in source.layers),
        manifest=source.manifest,
    )


def _with(record: ImageRecord, *, layers: tuple[str, ...] | None = None, **fields: Any) -> ImageRecord:
    config = record.config if layers is None else replace(record.config, layers=layers)
    return replace(record, config=config, **fields)


def _decoded(raw: bytes) -> dict[str, Any]:
    config = json.loads(raw)
    assert isinstance(config, dict)
    return config


def _healthcheck(config: dict[str, Any]) -> Healthcheck | None:
    """The image's own, in Docker's spelling; the OCI specification has none."""
    check = config.get("Healthcheck")
    if not check:
        return None
    if not isinstance(check, dict):
        raise InvalidArgument("the image's configuration has a Healthcheck that is no object")
    return Healthcheck(
        test=_words(check, "Test"),
        interval=Duration(_whole(check, "Interval")),
        timeout=Duration(_whole(check, "Timeout")),
        start_period=Duration(_whole(check, "StartPeriod")),
        start_interval=Duration(_whole(check, "StartInterval")),
        retries=_whole(check, "Retries"),
    )


def _whole(check: dict[str, Any], key: str) -> int:
    value = check.get(key) or 0
    if not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise InvalidArgument(f"the image's Healthcheck has a {key} that makes no sense: {value!r}")
    return value


def _names(config: dict[str, Any], key: str) -> tuple[str, ...]:
    """The specification's way to write a set: an object with empty objects."""
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise InvalidArgument(f"the image's configuration has {key} that are no object")
    return tuple(sorted(value))


def _labels(config: dict[str, Any]) -> dict[str, str]:
    value = config.get("Labels") or {}
    if not isinstance(value, dict):
        raise InvalidArgument("the image's configuration has Labels that are no object")
    return {name: str(text) for name, text in value.items()}


def _words(config: dict[str, Any], key: str) -> tuple[str, ...]:
    value = config.get(key) or ()
    if not isinstance(value, list | tuple):
        raise InvalidArgument(f"the image's configuration has a {key} that is no list")
    return tuple(str(word) for word in value)
