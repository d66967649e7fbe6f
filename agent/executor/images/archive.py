"""Reading what people bring: OCI layouts (folder or tar), ``docker save`` archives, root file system tars.

``open_archive`` says which it is and gives its blobs by name; ``read_images`` lists the images inside:
their names, configuration and layers, with the digests that each must have. Nothing is unpacked here.
Compressed archives are decompressed to a temporary file first, since their parts are read out of order.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, NamedTuple

from agent.executor.images.compression import decompressed
from agent.executor.images.heads import listed, printable
from swarmpy.errors import InvalidArgument
from swarmpy.image_limits import IMAGE_ARCHIVE_FILES_MAX, IMAGE_INDEXES_MAX
from swarmpy.limits import (
    IMAGE_BYTES_MAX,
    IMAGE_LAYERS_MAX,
    IMAGE_MANIFEST_BYTES_MAX,
    IMAGE_MANIFESTS_MAX,
)
from swarmpy.model.architectures import normal_architecture

_NAME_MARKS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_COPY_BYTES = 1 << 20


class LayerSource(NamedTuple):
    """One layer: the blob's name, the digest of the blob ("" if unknown) and of the tar within."""

    blob: str
    digest: str
    diff_id: str


class ImageSource(NamedTuple):
    """One image of an archive. ``names`` are as written; a bare tag stands with a leading colon."""

    names: tuple[str, ...]
    digest: str
    config: dict[str, Any]
    layers: tuple[LayerSource, ...]
    raw: bytes
    """The configuration as it is written, which is what ``digest`` is of."""
    manifest: str = ""
    """The name of the manifest's blob; docker's archives have none."""


class Archive:
    """Named blobs in a folder or an uncompressed tar, then with its members."""

    def __init__(
        self,
        folder: Path | None,
        tar: tarfile.TarFile | None,
        members: Mapping[str, tarfile.TarInfo] = MappingProxyType({}),
    ) -> None:
        self._folder = folder
        self._tar = tar
        self._members = members

    def has(self, name: str) -> bool:
        if self._folder is not None:
            return (self._folder / name).is_file()
        return name in self._members

    def open(self, name: str) -> IO[bytes]:
        if name.startswith("/") or ".." in name.split("/"):
            raise InvalidArgument(f'the image archive names the file "{name}" outside of itself')
        try:
            if self._folder is not None:
                path = (self._folder / name).resolve(strict=True)
                if not path.is_relative_to(self._folder.resolve()):
                    raise InvalidArgument(f'the image archive\'s "{name}" is a link out of it')
                return open(path, "rb")
            assert self._tar is not None
            file = self._tar.extractfile(self._members[name])
        except (KeyError, OSError):
            raise InvalidArgument(f'the image archive lacks the file "{printable(name)}"') from None
        except RecursionError:
            raise InvalidArgument(f'the image archive\'s "{printable(name)}" is a link in a circle') from None
        if file is None:
            raise InvalidArgument(f'the image archive\'s "{name}" is no file')
        return file

    def path(self, name: str) -> Path | None:
        """The file itself, if the archive is a folder and it is one."""
        path = self._folder / name if self._folder is not None else None
        return path if path is not None and path.is_file() and not path.is_symlink() else None

    def read(self, name: str, digest: str = "") -> bytes:
        """One of the small files: a manifest or a configuration."""
        with self.open(name) as file:
            data = file.read(IMAGE_MANIFEST_BYTES_MAX + 1)
        if len(data) > IMAGE_MANIFEST_BYTES_MAX:
            raise InvalidArgument(f'the image archive\'s "{name}" is larger than a manifest may be')
        if digest and digest != digest_of(data):
            raise InvalidArgument(f'the image archive\'s "{name}" does not have the digest {digest}')
        return data

    def read_json(self, name: str, digest: str = "") -> Any:
        return decode_json(self.read(name, digest), name)


def decode_json(data: bytes, name: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidArgument(f'the image archive\'s "{name}" is no JSON') from None


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def open_archive(path: Path, work: Path) -> Iterator[Archive]:
    """``work`` is a folder for temporary files."""
    if path.is_dir():
        yield Archive(path, None)
        return
    with contextlib.ExitStack() as stack:
        try:
            raw: IO[bytes] = stack.enter_context(open(path, "rb"))
        except OSError as error:
            raise InvalidArgument(f"cannot read {path}: {error.strerror}") from None
        plain = decompressed(raw)
        if plain is not raw:
            target = stack.enter_context(open(work / "archive.tar", "w+b"))
            try:
                _copy_bounded(plain, target)
            except InvalidArgument as error:
                raise InvalidArgument(f"{path} is no readable image archive: {error}") from None
            target.seek(0)
            raw = target
        try:
            archive, members = listed(raw, IMAGE_ARCHIVE_FILES_MAX)
            opened = Archive(None, stack.enter_context(archive), members)
        except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
            raise InvalidArgument(f"{path} is no readable image archive: {error}") from None
        yield opened


def _copy_bounded(source: IO[bytes], target: IO[bytes]) -> None:
    left = IMAGE_BYTES_MAX
    while chunk := source.read(_COPY_BYTES):
        left -= len(chunk)
        if left < 0:
            raise InvalidArgument(f"the image archive holds more than {IMAGE_BYTES_MAX >> 30} GiB")
        target.write(chunk)


def is_rootfs(archive: Archive) -> bool:
    """Whether it has no list of images: then it is a plain root file system, if anything."""
    return not archive.has("manifest.json") and not archive.has("index.json")


def read_images(archive: Archive, architecture: str = "") -> list[ImageSource]:
    """The images inside. Of an image for several platforms the one for this machine, or for
    ``architecture``; empty if there is none for it."""
    if archive.has("manifest.json"):
        return _read_docker(archive)
    if archive.has("index.json"):
        return _read_layout(archive, architecture or own_architecture())
    return []


# --- docker save


def _read_docker(archive: Archive) -> list[ImageSource]:
    manifest = archive.read_json("manifest.json")
    if not isinstance(manifest, list):
        raise InvalidArgument("the image archive's manifest.json is no list of images")
    images = []
    for entry in manifest[:IMAGE_MANIFESTS_MAX]:
        try:
            config_name, blobs = str(entry["Config"]), [str(blob) for blob in entry["Layers"]]
            names = tuple(str(name) for name in entry.get("RepoTags") or ())
        except (KeyError, TypeError, AttributeError):
            raise InvalidArgument("the image archive's manifest.json lacks Config or Layers") from None
        digest = "sha256:" + config_name.rpartition("/")[2].removesuffix(".json")
        raw = archive.read(config_name, digest)
        config = decode_json(raw, config_name)
        diff_ids = _diff_ids(config, len(blobs))
        layers = tuple(LayerSource(blob, "", diff) for blob, diff in zip(blobs, diff_ids, strict=True))
        images.append(ImageSource(names, digest, config, layers, raw))
    return images


# --- OCI layout


def _read_layout(archive: Archive, architecture: str) -> list[ImageSource]:
    found = _Found([], [])
    _find_manifests(archive, archive.read_json("index.json"), "", found, architecture=architecture)
    images: dict[str, ImageSource] = {}
    for digest, name in found.manifests[:IMAGE_MANIFESTS_MAX]:
        image = _read_manifest(archive, digest, name)
        former = images.get(image.digest)
        names = tuple(dict.fromkeys((*(former.names if former else ()), *image.names)))
        images[image.digest] = image._replace(names=names)
    return list(images.values())


class _Found(NamedTuple):
    """``manifests``: (digest, name). ``indexes``: digests of those within the index, as often as named."""

    manifests: list[tuple[str, str]]
    indexes: list[str]


def _find_manifests(archive: Archive, index: Any, name: str, found: _Found, *, architecture: str) -> None:
    """Of every image for such a machine, also in indexes within the index."""
    entries = index.get("manifests") if isinstance(index, dict) else None
    if not isinstance(entries, list):
        raise InvalidArgument("the image archive's index holds no list of manifests")
    fitting = [entry for entry in entries if isinstance(entry, dict) and _fits(entry, architecture)]
    for entry in fitting:
        marks = entry.get("annotations")
        marks = marks if isinstance(marks, dict) else {}
        own = next((str(marks[mark]) for mark in _NAME_MARKS if marks.get(mark)), "")
        if own and not ("/" in own or ":" in own or "." in own) and _NAME_MARKS[0] not in marks:
            own = f":{own}"  # tools that write one image a layout put only the tag here
        digest = str(entry.get("digest", ""))
        if "index" in str(entry.get("mediaType", "")) or "manifest.list" in str(entry.get("mediaType", "")):
            found.indexes.append(digest)
            if len(found.indexes) > IMAGE_INDEXES_MAX:
                raise InvalidArgument(
                    f"the image archive has more than {IMAGE_INDEXES_MAX} indexes in its index"
                )
            inner = archive.read_json(_blob(digest), digest)
            _find_manifests(archive, inner, own or name, found, architecture=architecture)
        else:
            found.manifests.append((digest, own or name))


def _fits(entry: dict[str, Any], architecture: str) -> bool:
    """Whether a manifest's platform is that machine's; one that names none fits."""
    wanted = entry.get("platform")
    if not isinstance(wanted, dict) or not wanted.get("architecture"):
        return True
    return wanted.get("os") == "linux" and wanted.get("architecture") == architecture


def own_architecture() -> str:
    """As images name it."""
    return normal_architecture(platform.machine())


def _read_manifest(archive: Archive, digest: str, name: str) -> ImageSource:
    manifest = archive.read_json(_blob(digest), digest)
    try:
        config_digest = str(manifest["config"]["digest"])
        digests = [str(layer["digest"]) for layer in manifest["layers"]]
    except (KeyError, TypeError):
        raise InvalidArgument(f"the manifest {digest} lacks its config or layers") from None
    raw = archive.read(_blob(config_digest), config_digest)
    config = decode_json(raw, config_digest)
    diff_ids = _diff_ids(config, len(digests))
    layers = tuple(
        LayerSource(_blob(layer), layer, diff) for layer, diff in zip(digests, diff_ids, strict=True)
    )
    return ImageSource((name,) if name else (), config_digest, config, layers, raw, digest)


def _blob(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or len(value) != 64 or not value.isalnum():
        raise InvalidArgument(f'"{digest}" is no sha256 digest')
    return f"blobs/sha256/{value}"


def _diff_ids(config: Any, layers: int) -> list[str]:
    rootfs = config.get("rootfs") if isinstance(config, dict) else None
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or len(diff_ids) != layers:
        raise InvalidArgument("the image's configuration does not name as many layers as the image has")
    if layers > IMAGE_LAYERS_MAX:
        raise InvalidArgument(f"the image has {layers} layers; {IMAGE_LAYERS_MAX} is the most")
    for diff_id in diff_ids:
        _blob(str(diff_id))
    return [str(diff_id) for diff_id in diff_ids]
