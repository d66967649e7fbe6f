"""The node's images, as its own API asks for them; they are there whether the node is in a swarm or not."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from agent.executor.images import saving, shipping
from agent.executor.images.archive import own_architecture
from agent.executor.images.imports import changed, image_config
from agent.executor.images.intake import StoreIntake
from agent.executor.images.removal import ImageUser, is_id_prefix
from agent.executor.images.store import ImageStore, StoredImage
from agent.executor.native.image_users import image_users, layers_in_use
from agent.image_receiver import ImageReceiver
from agent.received import ReceivedBlobs
from agent.registry.client import Registries
from agent.registry.sharing import SharedFetches
from agent.registry.transfer import Transfers
from agent.streams import Talk
from manager.api.docker_json import rfc3339
from swarmpy.errors import FailedPrecondition, InvalidArgument, NotFound
from swarmpy.image_events import Action, ImageEvents, names_told
from swarmpy.image_limits import IMAGE_NAMES_MAX, REGISTRY_NAME_THREADS
from swarmpy.limits import IMAGE_BYTES_MAX
from swarmpy.model import image_names as references
from swarmpy.model.ids import SECOND_NS, Timestamp
from swarmpy.model.image_offers import PushSource
from swarmpy.model.images import Credentials, Image, ImageRemoval, Import, ManifestFacts, Progress
from swarmpy.model.registry_auth import decode_credentials
from swarmpy.node.image_shipping import FolderParcel, ToldIntake
from swarmpy.runtime import Env


class Images:
    """``ImageControl`` of a daemon, beside the executor that runs what is here.

    ``insecure_registries``: hosts, or subnets, that need not prove who they are. ``registry_mirrors``: URLs
    that are asked before docker's own registry. ``is_offline``: no registry is asked at all.
    """

    def __init__(
        self,
        data_dir: Path,
        env: Env,
        *,
        insecure_registries: Collection[str] = (),
        registry_mirrors: Sequence[str] = (),
        is_offline: bool = False,
    ) -> None:
        self._clock = env.clock
        self.events = ImageEvents(env.clock)
        self._store = ImageStore(data_dir / "images", self._clock.now)
        self._tasks_dir = data_dir / "tasks"
        self._spool = data_dir / "images" / "incoming"
        names = env.threads("registry-names", REGISTRY_NAME_THREADS)
        registries = Registries(
            self._clock,
            names,
            insecure=insecure_registries,
            mirrors=registry_mirrors,
            is_offline=is_offline,
        )
        self._registries = registries
        self._transfers = Transfers(registries, self._store, self._spool)
        self._fetches = SharedFetches()
        received = ReceivedBlobs(data_dir / "images" / "received")
        intake = ToldIntake(StoreIntake(self._store), self._tell)
        self._receiver = ImageReceiver(intake, received, self._clock)

    def prepare(self) -> None:
        """Make the folders; drop archives that a crash left half received."""
        self._store.prepare()
        shutil.rmtree(self._spool, ignore_errors=True)
        self._spool.mkdir(mode=0o700)
        self._receiver.prepare()

    @property
    def talks(self) -> Mapping[str, Talk]:
        """What managers may ask of the images here, over streams."""
        return self._receiver.talks

    def now(self) -> Timestamp:
        return self._clock.now()

    async def _tell(self, action: Action, id_: str, name: str = "") -> None:
        """With the labels that it has; ``id_`` may be any reference."""
        labels = await asyncio.to_thread(self._labels, id_)
        self.events.tell(action, id_, name=name, labels=labels)

    def _labels(self, reference: str) -> Mapping[str, Any]:
        try:
            return self._store.labels(self._store.find(reference))
        except NotFound:  # removed a moment ago, or no one image is meant
            return {}

    # --- asking

    async def list(self) -> tuple[Image, ...]:
        return await asyncio.to_thread(self._list)

    async def find(self, name: str) -> Image:
        return await asyncio.to_thread(self._find, name)

    async def usage(self) -> int:
        return await asyncio.to_thread(lambda: sum(_layer_sizes(self._store.images()).values()))

    def _list(self) -> tuple[Image, ...]:
        images = self._store.images()
        users, counts = image_users(self._tasks_dir, images), _layer_counts(images)
        return tuple(self._image(image, users.get(image.id, ()), counts) for image in images)

    def _find(self, name: str) -> Image:
        references.refuse_host(name, "there is nothing to show")
        found = self._store.find(name)
        images = self._store.images()
        return self._image(
            found, image_users(self._tasks_dir, images).get(found.id, ()), _layer_counts(images)
        )

    def _image(self, image: StoredImage, users: Collection[ImageUser], counts: Counter[str]) -> Image:
        record = image.record
        config = self._store.raw_config(image)
        sizes = record.layer_sizes
        return Image(
            id=image.id,
            tags=image.tags,
            digests=image.digests,
            created=record.created,
            created_at=_timestamp(record.created),
            size_bytes=record.size_bytes,
            shared_bytes=sum(
                size for layer, size in zip(record.config.layers, sizes, strict=False) if counts[layer] > 1
            ),
            diff_ids=record.diff_ids,
            layer_sizes=sizes,
            layer_dirs=tuple(str(self._store.layers_dir / layer) for layer in record.config.layers),
            tagged_at=image.tagged_at,
            users=tuple(user.task_id for user in users),
            running=tuple(user.task_id for user in users if user.is_running),
            config=config,
        )

    # --- archives

    async def load(
        self, chunks: AsyncIterator[bytes], *, name: str = "", filename: str = ""
    ) -> tuple[str, ...]:
        """Store the images of a tar archive; the names that they now have.

        An archive that names no image gets ``name``, or one made of ``filename``.
        """
        async with self._spooling() as folder:
            path = folder / (Path(filename).name or "image.tar")
            await self._receive(chunks, path)
            names, ids = await asyncio.to_thread(self._load, path, name)
        for id_ in ids:
            await self._tell("load", id_)
        return names

    def _load(self, path: Path, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The names, and the images that have them."""
        names = tuple(self._store.load(path, name=name))
        owners = {key: image.id for image in self._store.images() for key in image.references}
        return names, tuple(dict.fromkeys(owners[key] for key in names if key in owners))

    async def import_rootfs(self, chunks: AsyncIterator[bytes], wish: Import) -> str:
        changed(wish.changes)  # what is wrong with them is told before the archive is read
        created = rfc3339(self._clock.now())
        config_of = partial(
            image_config,
            architecture=own_architecture(),
            created=created,
            comment=wish.comment,
            changes=wish.changes,
        )
        async with self._spooling() as folder:
            path = folder / "rootfs.tar"
            await self._receive(chunks, path)
            id_ = await asyncio.to_thread(self._store.import_rootfs, path, config_of, name=wish.name)
        if wish.name:
            await self._tell("tag", id_, str(references.parse(wish.name)))
        await self._tell("import", id_)
        return id_

    @asynccontextmanager
    async def _spooling(self) -> AsyncGenerator[Path]:
        """A folder for what is on its way, gone afterwards; a thread removes it, for it may be large."""
        try:
            folder = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=self._spool))
        except OSError as error:
            raise FailedPrecondition(f"cannot store the image: {error.strerror or error}") from None
        try:
            yield folder
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _receive(self, chunks: AsyncIterator[bytes], path: Path) -> None:
        try:
            with await asyncio.to_thread(open, path, "xb") as file:
                size = 0
                async for chunk in chunks:
                    size += len(chunk)
                    if size > IMAGE_BYTES_MAX:
                        raise InvalidArgument(f"the archive is larger than {IMAGE_BYTES_MAX} bytes")
                    await asyncio.to_thread(file.write, chunk)
        except OSError as error:
            raise FailedPrecondition(f"cannot store the image: {error.strerror or error}") from None
        if size == 0:
            raise InvalidArgument("the archive is empty: send the image as the request's body")

    @asynccontextmanager
    async def parcel(
        self, source: PushSource, chunks: AsyncIterator[bytes], *, architectures: Collection[str]
    ) -> AsyncGenerator[FolderParcel]:
        """What a push to nodes of these architectures sends; there as long as the context is."""
        async with self._spooling() as folder:
            try:
                shipment = await self._shipment(source, chunks, folder, architectures)
            except OSError as error:
                raise FailedPrecondition(f"cannot store the image: {error.strerror or error}") from None
            yield FolderParcel(shipment)

    async def _shipment(
        self, source: PushSource, chunks: AsyncIterator[bytes], folder: Path, architectures: Collection[str]
    ) -> shipping.Shipment:
        if not source.image:
            async with self._spooling() as spool:
                path = spool / (Path(source.filename).name or "image.tar")
                await self._receive(chunks, path)
                return await asyncio.to_thread(
                    shipping.of_archive, path, folder, name=source.name, architectures=architectures
                )

        def linked() -> shipping.Shipment:
            wanted = [
                (image, (source.name,) if source.name else names or image.tags)
                for image, names in self._wanted((source.image,))
            ]
            return shipping.of_stored(self._store, wanted, folder, architectures=architectures)

        return await asyncio.to_thread(linked)

    async def save(self, names: tuple[str, ...]) -> AsyncIterator[bytes]:
        if len(names) > IMAGE_NAMES_MAX:
            raise InvalidArgument(f"{IMAGE_NAMES_MAX} images can be saved at a time")
        wanted = await asyncio.to_thread(self._wanted, names)
        async with self._spooling() as folder:
            pieces: Iterator[bytes] = saving.save(self._store, wanted, folder)
            piece = await asyncio.to_thread(next, pieces, None)
            for image, _ in wanted:  # which are lent now
                await self._tell("save", image.id)
            while piece is not None:
                yield piece
                piece = await asyncio.to_thread(next, pieces, None)

    def _wanted(self, names: tuple[str, ...]) -> Sequence[tuple[StoredImage, tuple[str, ...]]]:
        """Each image once, with the tags that were asked for."""
        tags: dict[str, list[str]] = {}
        images: dict[str, StoredImage] = {}
        for name in names:
            for image, own in self._named(name):
                images[image.id] = image
                tags.setdefault(image.id, []).extend(own)
        return [(images[id_], tuple(dict.fromkeys(own))) for id_, own in tags.items()]

    def _named(self, name: str) -> Sequence[tuple[StoredImage, tuple[str, ...]]]:
        """A bare repository means all of its tags, an id none."""
        try:
            parsed = references.parse(name)
        except InvalidArgument:
            parsed = None
        if parsed is not None and not parsed.is_tagged and not parsed.digest:
            found = []
            for image in self._store.images():
                own = tuple(tag for tag in image.tags if references.repository_of(tag) == parsed.name)
                if own:
                    found.append((image, own))
            if found:
                return found
        try:
            image = self._store.find(name)
        except NotFound:
            raise NotFound(f"No such image: {name}") from None
        return [(image, tuple(tag for tag in image.tags if parsed is not None and tag == str(parsed)))]

    # --- names

    async def tag(self, name: str, repository: str, tag: str) -> None:
        parsed = references.parse(repository)
        if parsed.digest:
            raise InvalidArgument("refusing to create a tag with a digest reference")
        target = f"{parsed.name}:{references.parse_tag(tag)}" if tag else str(parsed)
        id_ = await asyncio.to_thread(self._store.tag, name, target)
        await self._tell("tag", id_, target)

    async def remove(self, name: str, *, is_forced: bool = False) -> ImageRemoval:
        image, labels, removed = await asyncio.to_thread(self._remove, name, is_forced)
        names = names_told(len(removed.untagged), is_by_id=is_id_prefix(image.id, name))
        self.events.tell_removed(image.id, names=names, is_deleted=bool(removed.deleted), labels=labels)
        return removed

    def _remove(self, name: str, is_forced: bool) -> tuple[StoredImage, Mapping[str, Any], ImageRemoval]:
        images = self._store.images()
        before = sum(_layer_sizes(images).values())
        image = self._store.find(name)
        labels = self._store.labels(image)
        untagged, deleted = self._store.remove(
            name,
            users=image_users(self._tasks_dir, images),
            layers_in_use=layers_in_use(self._tasks_dir),
            is_forced=is_forced,
        )
        freed = before - sum(_layer_sizes(self._store.images()).values())
        return image, labels, ImageRemoval(untagged=untagged, deleted=deleted, size_bytes=max(freed, 0))

    # --- registries

    async def pull(
        self,
        name: str,
        report: Callable[[Progress], None],
        *,
        platform: str = "",
        credentials: Credentials | None = None,
    ) -> Image:
        parsed = references.parse(name)
        references.refuse_host(parsed.name, "it is not pulled")
        before = {image.id: image.references for image in await asyncio.to_thread(self._store.images)}
        image = await self._transfers.pull(parsed, report, platform=platform, credentials=credentials)
        shown = f"{parsed.name}:{parsed.tag}" if not parsed.digest else parsed.key
        await self._tell("pull", parsed.shown, parsed.name)
        is_new = shown not in before.get(image.id, ())
        report(
            Progress(
                status=f"Status: Downloaded newer image for {shown}"
                if is_new
                else f"Status: Image is up to date for {shown}"
            )
        )
        return await self.find(image.id)

    async def fetch(self, name: str, registry_auth: str) -> None:
        """For a task that needs it; nobody watches."""
        who = decode_credentials(registry_auth) if registry_auth else Credentials()
        parsed = references.parse(name)

        async def fetch() -> None:
            await self._transfers.pull(parsed, lambda _: None, credentials=who, is_hurried=True)
            await self._tell("pull", parsed.shown, parsed.name)

        await self._fetches.run((parsed.key, registry_auth), fetch)

    async def push(
        self,
        name: str,
        tag: str,
        report: Callable[[Progress], None],
        *,
        credentials: Credentials | None = None,
    ) -> None:
        parsed = references.parse(f"{name}:{references.parse_tag(tag)}" if tag else name)
        report(Progress(status=f"The push refers to repository [{_canonical(parsed.name)}]"))
        found = [
            (image, each)
            for image in await asyncio.to_thread(self._store.images)
            for each in image.tags
            if (
                each == str(parsed)
                if tag or parsed.is_tagged
                else references.repository_of(each) == parsed.name
            )
        ]
        if not found:
            raise NotFound(
                f"tag does not exist: {parsed}"
                if tag or parsed.is_tagged
                else f"An image does not exist locally with the tag: {parsed.name}"
            )
        for image, each in found:
            await self._transfers.push(image, references.parse(each), report, credentials=credentials)
        await self._tell("push", str(parsed) if tag or parsed.is_tagged else parsed.name, parsed.name)

    async def look(self, name: str, credentials: Credentials) -> ManifestFacts:
        return await self._transfers.look(references.parse(name), credentials)

    async def log_in(self, server: str, credentials: Credentials) -> str:
        return await self._registries.log_in(server, credentials)


def _canonical(name: str) -> str:
    """As docker writes a repository where nothing goes without saying."""
    host, slash, _ = name.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        return name
    return f"docker.io/{name}" if slash else f"docker.io/library/{name}"


def _layer_sizes(images: tuple[StoredImage, ...]) -> dict[str, int]:
    return {
        layer: size
        for image in images
        for layer, size in zip(image.record.config.layers, image.record.layer_sizes, strict=False)
    }


def _layer_counts(images: tuple[StoredImage, ...]) -> Counter[str]:
    """How many images have each layer."""
    return Counter(layer for image in images for layer in set(image.record.config.layers))


def _timestamp(text: str) -> Timestamp:
    """RFC 3339 to nanoseconds; images may say nothing, or nonsense, of their age."""
    try:
        moment = datetime.fromisoformat(text)
        return Timestamp(int(moment.timestamp()) * SECOND_NS + moment.microsecond * 1_000)
    except (ValueError, OverflowError):
        return Timestamp(0)
