"""``ImageStore``: the images on this node.

On disk: ``blobs/<digest>`` is a layer, a configuration or a manifest as it came, so that an image can be
given away byte for byte; ``layers/<20 hex digits>`` is one unpacked layer, named by the digest of its tar and
shared by all images that have it; ``records/<digest of the name>.json`` is one name's image. All appear
whole, by renaming, and a record after what it needs, also after a power failure; ``work`` holds what is
unfinished and is emptied at start. Loading is all or nothing for every image of an archive.

``host`` is always there: the node's own root file system. All functions block: call them in a thread.
Several threads, stores and processes may work on one folder: a file lock keeps removal apart from loading,
another one changes of names apart from each other.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from agent.executor.base import ImageConfig
from agent.executor.images.archive import (
    Archive,
    is_rootfs,
    open_archive,
    own_architecture,
    read_images,
)
from agent.executor.images.imports import image_config
from agent.executor.images.loading import (
    ConfigOf,
    Loader,
    checked_name,
    name_from,
    names_of,
)
from agent.executor.images.marks import UseMarks
from agent.executor.images.records import ImageRecord, Records, StoredImage, group
from agent.executor.images.removal import SHORT_ID_CHARS, ImageUser, Removal, chain_ids, plan_removal
from agent.file_lock import holding
from agent.trees import make_private, sync_all_beside
from swarmpy.errors import FailedPrecondition, InvalidArgument, NotFound
from swarmpy.model import image_names as references
from swarmpy.model.ids import Timestamp
from swarmpy.model.image_names import HOST
from swarmpy.model.images import labels_in

__all__ = ["HOST", "ImageRecord", "ImageStore", "StoredImage"]

_NOBODY: Mapping[str, Sequence[ImageUser]] = {}


class ImageStore:
    """``now``: the time that names are given at."""

    def __init__(self, folder: Path, now: Callable[[], Timestamp] = lambda: Timestamp(0)) -> None:
        self._folder = folder
        self._now = now
        self.layers_dir = folder / "layers"
        self.blobs_dir = folder / "blobs"
        self._records = Records(folder / "records")
        self._work_dir = folder / "work"
        self.marks = UseMarks(folder / "used")

    def prepare(self) -> None:
        """Make the folders and clear what a crash left unfinished."""
        make_private(self._folder)
        for folder in (self.layers_dir, self.blobs_dir, self._work_dir):
            folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._records.prepare()
        self.marks.prepare()
        try:
            with self._holding(fcntl.LOCK_EX | fcntl.LOCK_NB):
                for left in self._work_dir.iterdir():
                    shutil.rmtree(left)
                self._records.clear_unfinished()
                self._sweep_blobs()
        except BlockingIOError:
            return  # an image is being loaded right now: what lies there is not rubbish

    # --- asking

    def config(self, reference: str) -> ImageConfig:
        """NotFound, in Docker's words, if it is not here."""
        if references.is_host(reference):
            return ImageConfig(reference=HOST)
        return self.inspect(reference).config

    def use(self, reference: str) -> ImageConfig:
        """``config``, for a task that is about to be made: the image stays for a while whatever happens."""
        with self._holding(fcntl.LOCK_SH):
            config = self.config(reference)
            if config.digest:
                self.marks.note(config.digest, self._now())
        return config

    def inspect(self, reference: str) -> ImageRecord:
        """The record of that name, or of the image whose id begins so."""
        image = self.find(reference)
        name = _key_of(reference)
        own = self._records.read(name) if name else None
        return own if own is not None and own.id == image.id else image.record

    def find(self, reference: str) -> StoredImage:
        """By name, by digest, by id or the first digits of it: docker's order."""
        images = self.images()
        whole = reference.removeprefix("sha256:")
        if re.fullmatch(r"[0-9a-f]{64}", whole):
            found = [image for image in images if image.id == f"sha256:{whole}"]
            if not found:
                raise NotFound(f"No such image: sha256:{whole}")
            return found[0]
        name = references.parse(reference)
        for image in images:
            if name.key in image.references:
                return image
            if name.digest == image.id and any(
                references.repository_of(tag) == name.name for tag in image.tags
            ):
                return image  # where nothing was pulled, an image's id is the digest that it has
        if re.fullmatch(r"[0-9a-f]{1,63}", whole):
            found = [image for image in images if image.id.startswith(f"sha256:{whole}")]
            if len(found) == 1:
                return found[0]
        raise NotFound(f"No such image: {_shown(reference)}")

    def records(self) -> tuple[ImageRecord, ...]:
        return self._records.all()

    def images(self) -> tuple[StoredImage, ...]:
        return group(self._records.all())

    def raw_config(self, image: StoredImage) -> dict[str, Any]:
        """The image's configuration as it came; of a version that did not keep it, what is known of it."""
        try:
            config = json.loads((self.blobs_dir / _hex(image.id)).read_bytes())
        except FileNotFoundError:
            config = _remembered(image.record)
        return config if isinstance(config, dict) else {}

    def labels(self, image: StoredImage) -> Mapping[str, Any]:
        """None where its configuration was damaged: that is told when it is needed."""
        try:
            return labels_in(self.raw_config(image)) or {}
        except ValueError:
            return {}

    def lend(self, images: Sequence[StoredImage], folder: Path) -> None:
        """Link what is kept of the images into ``folder``, by the hex digits of digests: it is there whatever
        becomes of them. To be given away is a use. NotFound if an image, or bytes of it, are not here."""
        with self._holding(fcntl.LOCK_SH):
            known = {record.id for record in self._records.all()}
            for image in images:
                if image.id not in known:
                    raise NotFound(f"No such image: {image.id}")
                self._link_blobs(image.record, folder)
                self.marks.note(image.id, self._now())

    def _link_blobs(self, record: ImageRecord, folder: Path) -> None:
        if len(record.blobs) != len(record.diff_ids):
            raise _not_kept(record.id)
        for digest in record.kept_blobs():
            try:
                os.link(self.blob_path(digest), folder / _hex(digest))
            except FileExistsError:
                continue  # of another image that was lent, too
            except FileNotFoundError:
                raise _not_kept(record.id) from None

    def blob_path(self, digest: str) -> Path:
        return self.blobs_dir / _hex(digest)

    # --- changing

    def load(self, path: Path, *, name: str = "", is_private: bool = False) -> list[str]:
        """Bring in every image of an archive; the names that they now have.

        ``name`` is for archives that name none: root file systems, and layouts with a bare tag.
        ``is_private``: ``path`` is a folder that nobody else writes to, and that is of no use afterwards.
        """
        with self._loading(path, is_private) as (work, loader), open_archive(path, work) as archive:
            if is_rootfs(archive):
                wanted = checked_name(name or name_from(path))
                config_of = _rootfs_config("", "")
                record = loader.load_rootfs(path, config_of, has_whiteouts=False)
                return self._name_new([(record, (wanted,))])
            sources = read_images(archive)
            if not sources:
                raise InvalidArgument(f"the archive holds no image for linux/{own_architecture()}")
            if name and len(sources) > 1:
                raise InvalidArgument(f"{path} holds {len(sources)} images, so one name cannot be given")
            named = [(source, names_of(source, name, path)) for source in sources]
            return self._name_new([(loader.load(archive, source), names) for source, names in named])

    def load_pulled(self, path: Path, names: Sequence[str]) -> StoredImage:
        """The one image of an OCI layout that was fetched from a registry, under these very names."""
        with self._loading(path, True) as (work, loader), open_archive(path, work) as archive:
            (source,) = read_images(archive)
            record = loader.load(archive, source)
            self._name_new([(record, tuple(names))])
        return self.find(record.id)

    def bring(
        self,
        folder: Path,
        records_of: Callable[[Loader, Archive], Sequence[tuple[ImageRecord, Sequence[str]]]],
    ) -> list[str]:
        """Bring in what ``records_of`` makes of a folder that nobody else writes to; the names that were
        given. Nothing is removed meanwhile."""
        with self._loading(folder, True) as (work, loader), open_archive(folder, work) as archive:
            return self._name_new(records_of(loader, archive))

    def import_rootfs(self, path: Path, config_of: ConfigOf, *, name: str = "") -> str:
        """The id of an image of one layer; without a name, nothing but the id names it."""
        names = (checked_name(name),) if name else ()
        with self._loading(path, False) as (_, loader):
            record = loader.load_rootfs(path, config_of, has_whiteouts=True)
            self._name_new([(record, names)])
        return record.id

    def tag(self, reference: str, name: str) -> str:
        """Give the image one more name; taken from another, if that had it. Returns its id."""
        wanted = checked_name(name)
        with self._holding(fcntl.LOCK_SH):
            record = self.find(reference).record
            self._name([(record, (wanted,))])
        return record.id

    def note_digest(self, reference: str, key: str) -> None:
        """The image has this ``repository@digest`` in a registry."""
        with self._holding(fcntl.LOCK_SH):
            self._name([(self.find(reference).record, (key,))])

    def remove(
        self,
        reference: str,
        *,
        users: Mapping[str, Sequence[ImageUser]] = _NOBODY,
        layers_in_use: Collection[str] = (),
        is_forced: bool = False,
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names that went; ids of what went with the last of them: the image's, and its layers' chains.

        ``users``: image's id -> tasks. AlreadyExists, in docker's words, if nothing may be removed.
        """
        with self._holding(fcntl.LOCK_EX):
            image = self.find(reference)
            plan = plan_removal(image, reference, users.get(image.id, ()), is_forced=is_forced)
            gone, moved = self._carry_out(image, plan, layers_in_use)
        for folder in moved:
            shutil.rmtree(folder, ignore_errors=True)
        return plan.untagged, gone

    def give_up(
        self, id_: str, *, last_used: Timestamp, layers_in_use: Callable[[], Collection[str]]
    ) -> bool:
        """Remove an image that no task was made from, with all of its names; False if it was used or named
        since ``last_used``, which may be by a task that is being made."""
        with self._holding(fcntl.LOCK_EX):
            image = next((each for each in self.images() if each.id == id_), None)
            if image is None or self.last_used(image) != last_used:
                return False
            _, moved = self._carry_out(image, Removal(image.references, True), layers_in_use())
        for folder in moved:
            shutil.rmtree(folder, ignore_errors=True)
        return True

    def sweep(self, layers_in_use: Callable[[], Collection[str]]) -> None:
        """Remove layers and blobs that no record and no task speaks of: a crash came before the record."""

        def unused() -> set[str]:
            return set(os.listdir(self.layers_dir)).difference(layers_in_use())

        self._remove_unnamed(unused)

    def _remove_unnamed(self, layers: Callable[[], Collection[str]]) -> None:
        """Of these layers, and of all blobs. Not while an image is being brought, which may have found them
        here: then a later sweep sees to it."""
        try:
            with self._holding(fcntl.LOCK_EX | fcntl.LOCK_NB):
                kept = {layer for record in self._records.all() for layer in record.config.layers}
                moved = [self._set_aside(layer) for layer in layers() if layer not in kept]
                self._sweep_blobs()
        except BlockingIOError:
            return
        for folder in moved:
            shutil.rmtree(folder, ignore_errors=True)

    def last_used(self, image: StoredImage) -> Timestamp | None:
        """By a task, or since when it has its newest name; None if no use of it was ever noted."""
        noted = self.marks.last(image.id)
        return None if noted is None else max(noted, image.tagged_at)

    def _carry_out(
        self, image: StoredImage, plan: Removal, layers_in_use: Collection[str]
    ) -> tuple[tuple[str, ...], list[Path]]:
        left = [name for name in image.references if name not in plan.untagged]
        if not plan.is_deleted and not left:
            self._records.write(_nameless(image.record))  # first: a crash must not lose the image
        for name in plan.untagged:
            self._records.remove(name)
        if not plan.is_deleted:
            return (), []
        self._records.remove(image.id)
        kept = set(layers_in_use)
        others = self._records.all()
        for record in others:
            kept.update(record.config.layers)
        doomed = [layer for layer in image.record.config.layers if layer not in kept]
        moved = [self._set_aside(layer) for layer in doomed]
        self._sweep_blobs()
        shared = {chain for record in others for chain in chain_ids(record.diff_ids)}
        chains = zip(chain_ids(image.record.diff_ids), image.record.config.layers, strict=False)
        gone = [chain for chain, layer in chains if layer in doomed and chain not in shared]
        return (image.id, *reversed(gone)), moved

    def _sweep_blobs(self) -> None:
        """Under the exclusive lock: what no record speaks of was left by a crash, or by the last removal."""
        kept = {_hex(digest) for record in self._records.all() for digest in record.kept_blobs()}
        for entry in os.scandir(self.blobs_dir):
            if entry.name not in kept:
                os.unlink(entry.path)

    # --- names

    def _name_new(self, records: Sequence[tuple[ImageRecord, Sequence[str]]]) -> list[str]:
        """Of images that were just brought. What a record speaks of is on the disk before the record is: a
        layer that a power failure has emptied would look whole for ever."""
        sync_all_beside(self._folder)
        return self._name(records)

    def _name(self, records: Sequence[tuple[ImageRecord, Sequence[str]]]) -> list[str]:
        """Write each image under its names; an image that loses its last one stays, by its id."""
        written = []
        with holding(self._folder / "names.lock", fcntl.LOCK_EX):
            for record, names in records:
                for name in names or (record.id,):
                    self._keep_displaced(name, record.id)
                    self._records.write(_named(record, name, self._now()))
                    if name != record.id:
                        written.append(name)
                if names:
                    self._records.remove(record.id)
            self._records.sync()
        return written

    def _keep_displaced(self, name: str, new_id: str) -> None:
        former = self._records.read(name)
        if former is None or former.id == new_id:
            return
        mates = [each for each in self._records.all() if each.id == former.id and each.key != name]
        if not mates:
            self._records.write(_nameless(former))

    # --- small things

    @contextmanager
    def _loading(self, path: Path, is_private: bool) -> Iterator[tuple[Path, Loader]]:
        """A folder to work in, and who works there, while nothing is removed."""
        unpacked: Collection[str] = ()
        try:
            try:
                with self._holding(fcntl.LOCK_SH):
                    work = Path(tempfile.mkdtemp(dir=self._work_dir))
                    loader = Loader(self.layers_dir, self.blobs_dir, work, is_private=is_private)
                    unpacked = loader.unpacked
                    try:
                        yield work, loader
                    finally:
                        shutil.rmtree(work, ignore_errors=True)
            except BaseException:
                self._remove_unnamed(lambda: unpacked)
                raise
        except OSError as error:
            raise FailedPrecondition(f"cannot store the image {path}: {error.strerror or error}") from None

    def _holding(self, kind: int) -> AbstractContextManager[None]:
        """The store's lock: shared while loading, exclusive while removing; across processes, too."""
        return holding(self._folder / "lock", kind)

    def _set_aside(self, layer: str) -> Path:
        target = Path(tempfile.mkdtemp(dir=self._work_dir)) / layer
        if (self.layers_dir / layer).exists():
            os.rename(self.layers_dir / layer, target)
        return target.parent


def _not_kept(id_: str) -> NotFound:
    shown = _hex(id_)[:SHORT_ID_CHARS]
    return NotFound(f"the layers of {shown} were not kept by the version that loaded it: load it again")


def _named(record: ImageRecord, name: str, now: Timestamp) -> ImageRecord:
    return replace(record, config=replace(record.config, reference=name), names=(name,), tagged_at=now)


def _nameless(record: ImageRecord) -> ImageRecord:
    return replace(record, config=replace(record.config, reference=record.id), names=())


def _rootfs_config(created: str, comment: str) -> ConfigOf:
    def config(diff_id: str) -> bytes:
        return image_config(diff_id, architecture=own_architecture(), created=created, comment=comment)

    return config


def _key_of(reference: str) -> str:
    try:
        return references.parse(reference).key
    except InvalidArgument:
        return ""


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _remembered(record: ImageRecord) -> dict[str, Any]:
    config = record.config
    inner = {
        "Entrypoint": list(config.entrypoint) or None,
        "Cmd": list(config.command) or None,
        "Env": list(config.env) or None,
        "User": config.user,
        "WorkingDir": config.workdir,
    }
    return {"created": record.created, "architecture": record.architecture, "os": "linux", "config": inner}


def _shown(reference: str) -> str:
    """As Docker shows a name that it does not know: with its tag."""
    last = reference.rpartition("/")[2]
    return reference if ":" in last or "@" in last else f"{reference}:latest"
