"""``ImageStore``: the images on this node.

On disk: ``layers/<20 hex digits>`` is one unpacked layer, named by the digest of its tar and shared by all
images that have it; ``records/<digest of the name>.json`` is one name's image. Both appear whole, by
renaming, and layers before the record that needs them; ``work`` holds what is unfinished and is emptied at
start. Loading is all or nothing for every image of an archive.

``host`` is always there: the node's own root file system. All functions block: call them in a thread. Several
threads, stores and processes may work on one folder: a file lock keeps removal apart from loading.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

from agent.executor.base import ImageConfig
from agent.executor.images import reference as references
from agent.executor.images.archive import (
    Archive,
    ImageSource,
    LayerSource,
    decompressed,
    open_archive,
    read_images,
)
from agent.executor.images.unpack import Unpacker
from agent.file_lock import holding
from swarmpy.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from swarmpy.model.ids import Duration
from swarmpy.model.specs import Healthcheck

HOST = "host"
_LAYER_CHARS = 20
"""Of a digest, in a layer's name: 80 bits, and 128 names fit in the one page that mount(2) takes."""
_READ_BYTES = 1 << 20


class ImageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One name's image. ``digest`` is the configuration's, as Docker's image id."""

    config: ImageConfig
    names: tuple[str, ...] = ()
    created: str = ""
    architecture: str = ""
    size_bytes: int = 0


class ImageStore:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.layers_dir = folder / "layers"
        self._records_dir = folder / "records"
        self._work_dir = folder / "work"

    def prepare(self) -> None:
        """Make the folders and clear what a crash left unfinished."""
        for folder in (self.layers_dir, self._records_dir, self._work_dir):
            folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        try:
            with self._holding(fcntl.LOCK_EX | fcntl.LOCK_NB):
                for left in self._work_dir.iterdir():
                    shutil.rmtree(left)
                for left in self._records_dir.glob("*.tmp"):
                    left.unlink()
        except BlockingIOError:
            return  # an image is being loaded right now: what lies there is not rubbish

    # --- asking

    def config(self, reference: str) -> ImageConfig:
        """NotFound, in Docker's words, if it is not here."""
        if reference in (HOST, f"{HOST}:latest"):
            return ImageConfig(reference=HOST)
        return self.inspect(reference).config

    def inspect(self, reference: str) -> ImageRecord:
        """By name, or by the first digits of its id."""
        found = self._by_id(reference)
        if found is None:
            name = references.parse(reference)
            found = self._read(str(name))
            if found is None or (name.digest and name.digest != found.config.digest):
                raise NotFound(f"No such image: {_shown(reference)}")
        return found

    def records(self) -> tuple[ImageRecord, ...]:
        records = [msgspec.json.decode(path.read_bytes(), type=ImageRecord) for path in self._record_paths()]
        return tuple(sorted(records, key=lambda record: record.config.reference))

    # --- changing

    def load(self, path: Path, *, name: str = "") -> list[str]:
        """Bring in every image of an archive; the names that they now have.

        ``name`` is for archives that name none: root file systems, and layouts with a bare tag.
        """
        try:
            with (
                self._holding(fcntl.LOCK_SH),
                self._workspace() as work,
                open_archive(path, work) as archive,
            ):
                sources = read_images(archive)
                if not sources:
                    return [self._load_rootfs(path, work, name or _name_from(path))]
                return self._load_images(archive, sources, work, name=name, path=path)
        except OSError as error:
            raise FailedPrecondition(f"cannot store the image {path}: {error.strerror or error}") from None

    def remove(
        self, reference: str, *, in_use: Mapping[str, str], layers_in_use: Collection[str] = ()
    ) -> None:
        """Forget a name; its layers go with the last name that has them. ``in_use``: name -> task id."""
        record = self.inspect(reference)
        name = record.config.reference
        if name in in_use:
            raise AlreadyExists(
                f"conflict: unable to remove repository reference {name!r} (must force) - "
                f"task {in_use[name]} is using its referenced image"
            )
        with self._holding(fcntl.LOCK_EX):
            self._record_path(name).unlink(missing_ok=True)
            kept = set(layers_in_use)
            for left in self.records():
                kept.update(left.config.layers)
            doomed = [layer for layer in record.config.layers if layer not in kept]
            moved = [self._set_aside(layer) for layer in doomed]
        for folder in moved:
            shutil.rmtree(folder, ignore_errors=True)

    # --- loading

    def _load_images(
        self, archive: Archive, sources: list[ImageSource], work: Path, *, name: str, path: Path
    ) -> list[str]:
        if name and len(sources) > 1:
            raise InvalidArgument(f"{path} holds {len(sources)} images, so one name cannot be given")
        named = [(source, _names_of(source, name, path)) for source in sources]
        for source in sources:
            for layer in source.layers:
                self._ensure_layer(archive, layer, work)
        loaded = []
        for source, names in named:
            for wanted in names:
                self._write(_record_of(source, wanted, self._size(source)))
                loaded.append(wanted)
        return loaded

    def _load_rootfs(self, path: Path, work: Path, name: str) -> str:
        wanted = _checked_name(name)
        if path.is_dir():
            raise InvalidArgument(f"{path} is no OCI layout: it has no index.json")
        root = work / "rootfs"
        root.mkdir()
        with open(path, "rb") as raw:
            hashing = _HashingReader(decompressed(raw))
            Unpacker(root, has_whiteouts=False).unpack(hashing)
            hashing.drain()
        if not any(root.iterdir()):
            raise InvalidArgument(f"{path} holds no files, so it is no root file system")
        digest = "sha256:" + hashing.sha256.hexdigest()
        layer = "r" + _layer_id(digest)[1:]  # not the same tree as a layer of that tar: no whiteouts
        self._install(root, layer)
        config = ImageConfig(reference=wanted, digest=digest, layers=(layer,))
        self._write(ImageRecord(config=config, names=(wanted,), size_bytes=hashing.total))
        return wanted

    def _ensure_layer(self, archive: Archive, layer: LayerSource, work: Path) -> None:
        layer_id = _layer_id(layer.diff_id)
        if (self.layers_dir / layer_id).is_dir():
            return
        root = work / layer_id
        root.mkdir()
        with archive.open(layer.blob) as blob:
            if layer.digest:
                outer = _HashingReader(blob)
                outer.drain()
                if layer.digest != "sha256:" + outer.sha256.hexdigest():
                    raise InvalidArgument(f"the layer {layer.blob} does not have the digest {layer.digest}")
                blob.seek(0)
            inner = _HashingReader(decompressed(blob))
            Unpacker(root).unpack(inner)
            inner.drain()
        if layer.diff_id != "sha256:" + inner.sha256.hexdigest():
            raise InvalidArgument(f"the layer {layer.blob} does not unpack to the digest {layer.diff_id}")
        self._install(root, layer_id)

    def _install(self, root: Path, layer_id: str) -> None:
        """Another load may have been faster; then its tree, the same, stays."""
        os.chmod(root, root.stat().st_mode | 0o055)
        try:
            os.rename(root, self.layers_dir / layer_id)
        except OSError:
            if not (self.layers_dir / layer_id).is_dir():
                raise
            shutil.rmtree(root)

    def _size(self, source: ImageSource) -> int:
        """Bytes of the layers' files as they lie here."""
        total = 0
        for layer in source.layers:
            for folder, _, files in os.walk(self.layers_dir / _layer_id(layer.diff_id)):
                total += sum(os.lstat(os.path.join(folder, file)).st_size for file in files)
        return total

    # --- records

    def _read(self, name: str) -> ImageRecord | None:
        try:
            return msgspec.json.decode(self._record_path(name).read_bytes(), type=ImageRecord)
        except FileNotFoundError:
            return None

    def _write(self, record: ImageRecord) -> None:
        path = self._record_path(record.config.reference)
        temporary = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
        temporary.write_bytes(msgspec.json.encode(record))
        os.replace(temporary, path)

    def _record_path(self, name: str) -> Path:
        return self._records_dir / f"{hashlib.sha256(name.encode()).hexdigest()}.json"

    def _record_paths(self) -> list[Path]:
        return sorted(self._records_dir.glob("*.json"))

    def _by_id(self, text: str) -> ImageRecord | None:
        digits = text.removeprefix("sha256:")
        if not re.fullmatch(r"[0-9a-f]{4,64}", digits):
            return None
        fitting = [
            record
            for record in self.records()
            if record.config.digest.removeprefix("sha256:").startswith(digits)
        ]
        return fitting[0] if len({record.config.digest for record in fitting}) == 1 else None

    # --- small things

    @contextmanager
    def _workspace(self) -> Iterator[Path]:
        work = Path(tempfile.mkdtemp(dir=self._work_dir))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _holding(self, kind: int) -> AbstractContextManager[None]:
        """The store's lock: shared while loading, exclusive while removing; across processes, too."""
        return holding(self._folder / "lock", kind)

    def _set_aside(self, layer: str) -> Path:
        target = Path(tempfile.mkdtemp(dir=self._work_dir)) / layer
        if (self.layers_dir / layer).exists():
            os.rename(self.layers_dir / layer, target)
        return target.parent


class _HashingReader:
    """Passes bytes on and keeps their digest."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.sha256 = hashlib.sha256()
        self.total = 0

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.sha256.update(data)
        self.total += len(data)
        return data

    def drain(self) -> None:
        while self.read(_READ_BYTES):
            pass


def _layer_id(diff_id: str) -> str:
    return diff_id.removeprefix("sha256:")[:_LAYER_CHARS]


def _names_of(source: ImageSource, name: str, path: Path) -> tuple[str, ...]:
    """Under which names an image is stored; one that has none gets the archive's."""
    if name:
        return (_checked_name(name),)
    written = [f"{_name_from(path)}{text}" if text.startswith(":") else text for text in source.names]
    return tuple(dict.fromkeys(_checked_name(text) for text in written or [_name_from(path)]))


def _checked_name(text: str) -> str:
    name = references.parse(text)
    if name.name == HOST:
        raise InvalidArgument(f'the image name "{HOST}" is taken: it is the node\'s own root file system')
    return str(name)


def _name_from(path: Path) -> str:
    """A name out of a file's: ``Debian_12.tar.gz`` is ``debian_12``."""
    stem = path.name.lower()
    for suffix in (".gz", ".tgz", ".xz", ".bz2", ".tar", ".oci"):
        stem = stem.removesuffix(suffix)
    return re.sub(r"[^a-z0-9._-]+", "-", stem).strip("._-") or "image"


def _shown(reference: str) -> str:
    """As Docker shows a name that it does not know: with its tag."""
    last = reference.rpartition("/")[2]
    return reference if ":" in last or "@" in last else f"{reference}:latest"


def _record_of(source: ImageSource, name: str, size_bytes: int) -> ImageRecord:
    inner = source.config.get("config")
    wish: dict[str, Any] = inner if isinstance(inner, dict) else {}
    layers = tuple(_layer_id(layer.diff_id) for layer in source.layers)
    config = ImageConfig(
        reference=name,
        digest=source.digest,
        entrypoint=_words(wish, "Entrypoint"),
        command=_words(wish, "Cmd"),
        env=_words(wish, "Env"),
        user=str(wish.get("User") or ""),
        workdir=str(wish.get("WorkingDir") or ""),
        stop_signal=str(wish.get("StopSignal") or ""),
        layers=layers,
        healthcheck=_healthcheck(wish),
    )
    return ImageRecord(
        config=config,
        names=(name,),
        created=str(source.config.get("created") or ""),
        architecture=str(source.config.get("architecture") or ""),
        size_bytes=size_bytes,
    )


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


def _words(config: dict[str, Any], key: str) -> tuple[str, ...]:
    value = config.get(key) or ()
    if not isinstance(value, list | tuple):
        raise InvalidArgument(f"the image's configuration has a {key} that is no list")
    return tuple(str(word) for word in value)
