"""Pulling an image into the node's store, and pushing one out of it.

A pull gathers what the store lacks as an OCI layout in a folder of its own, every blob checked by its digest,
and hands that to the store, which takes all or nothing. A layer that breaks off is gone on with from where it
broke. What happens is told step by step, as docker tells it.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

import structlog

from agent.executor.images.archive import decode_json
from agent.executor.images.loading import digest_of_file
from agent.executor.images.records import StoredImage
from agent.executor.images.removal import short
from agent.executor.images.store import ImageStore
from agent.registry import manifests, remotes
from agent.registry.client import Denied, Registries, RegistryFailed, Repository
from agent.registry.manifests import DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST, Descriptor, Manifest
from agent.registry.remotes import Remote
from swarmpy.errors import FailedPrecondition, InvalidArgument, NotFound, SwarmError
from swarmpy.image_limits import (
    IMAGE_BLOB_CHUNK_BYTES,
    IMAGE_PULLS_MAX,
    REGISTRY_BLOB_PIECES_MAX,
    REGISTRY_BLOB_TRIES_MAX,
    REGISTRY_INDEX_DEPTH_MAX,
    REGISTRY_TRANSFERS_MAX,
)
from swarmpy.model.image_names import Reference
from swarmpy.model.images import Credentials, ManifestFacts, Platform, Progress

T = TypeVar("T")
log = structlog.get_logger(__name__)

Report = Callable[[Progress], None]


class _Fetched(NamedTuple):
    """What was found under a name, and the image in it that is this machine's."""

    top: Manifest
    image: Manifest
    config: bytes


class Transfers:
    """Between registries and one store. ``spool``: a folder for what is on its way, on the store's disk."""

    def __init__(self, registries: Registries, store: ImageStore, spool: Path) -> None:
        self._registries = registries
        self._store = store
        self._spool = spool
        self._turns = asyncio.Semaphore(IMAGE_PULLS_MAX)

    # --- asking

    async def look(self, name: Reference, credentials: Credentials) -> ManifestFacts:
        """What the registry has under a name; nothing is fetched but what says so."""

        async def ask(remote: Remote) -> ManifestFacts:
            async with self._registries.open(remote, credentials, is_hurried=True) as repository:
                top = await repository.manifest(name.digest or name.tag)
                if top.config is None:
                    found = manifests.platforms(top)
                else:
                    raw = await repository.small_blob(top.config.digest)
                    found = (manifests.platform_of(decode_json(raw, top.config.digest)),)
            return ManifestFacts(
                media_type=top.media_type, digest=top.digest, size=len(top.raw), platforms=found
            )

        return await self._first(name, ask)

    async def _first(self, name: Reference, ask: Callable[[Remote], Awaitable[T]]) -> T:
        """The answer of the first that has one. What a mirror lacks is no error: its origin decides."""
        *mirrors, origin = self._registries.sources(name.name)
        for remote in mirrors:
            try:
                return await ask(remote)
            except SwarmError as error:
                if isinstance(error, FailedPrecondition):
                    raise  # our own disk is at fault
                log.info("mirror_passed_over", mirror=remote.host, image=name.key, reason=str(error))
        return await ask(origin)

    # --- pulling

    async def pull(
        self,
        name: Reference,
        report: Report,
        *,
        platform: str = "",
        credentials: Credentials | None = None,
        is_hurried: bool = False,
    ) -> StoredImage:
        """The image, once it is here. NotFound if the registry has none for this machine.

        ``is_hurried``: nobody asked for it now, so a registry that was away a moment ago is not tried.
        """
        wanted = manifests.parse_platform(platform)
        who = credentials or Credentials()

        async def ask(remote: Remote) -> StoredImage:
            async with self._registries.open(remote, who, is_hurried=is_hurried) as repository:
                fetched = await self._find(repository, name, wanted)
                tag = name.key if name.digest else name.tag
                report(Progress(status=f"Pulling from {remote.path}", id=tag))
                return await self._bring(repository, name, fetched, report)

        async with self._turns:
            return await self._first(name, ask)

    async def _bring(
        self, repository: Repository, name: Reference, fetched: _Fetched, report: Report
    ) -> StoredImage:
        """Into a folder of its own first, which is gone afterwards in any case."""
        try:
            folder = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=self._spool))
            try:
                is_new = await self._gather(repository, fetched, folder, report)
                image = await self._store_it(name, fetched, folder)
            finally:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        except OSError as error:
            raise FailedPrecondition(
                f"cannot store the image {name.key}: {error.strerror or error}"
            ) from None
        for layer in is_new:
            report(Progress(status="Pull complete", id=short(layer), is_measured=True))
        report(Progress(status=f"Digest: {fetched.top.digest}"))
        return image

    async def _find(self, repository: Repository, name: Reference, wanted: Platform) -> _Fetched:
        try:
            top = image = await repository.manifest(name.digest or name.tag)
            for _ in range(REGISTRY_INDEX_DEPTH_MAX):
                if image.config is not None:
                    break
                image = await repository.manifest(manifests.choose(image, wanted, name.key).digest)
            if image.config is None:
                raise RegistryFailed(f"the indexes of {name.key} are nested too deep")
            return _Fetched(top, image, await repository.small_blob(image.config.digest))
        except NotFound as error:
            if str(error).startswith("no matching manifest"):
                raise
            raise NotFound(f"manifest for {name.key} not found: {error}") from None
        except Denied as error:
            if "denied" not in str(error):
                raise
            raise NotFound(
                f"pull access denied for {name.name}, repository does not exist or may require "
                f"'docker login': {error}"
            ) from None

    async def _gather(
        self, repository: Repository, fetched: _Fetched, folder: Path, report: Report
    ) -> tuple[str, ...]:
        """The layout, with every layer in it. Returns the layers that were fetched."""
        blobs = folder / "blobs" / "sha256"
        await asyncio.to_thread(blobs.mkdir, parents=True)
        missing = await asyncio.to_thread(self._take_known, fetched, blobs)
        for layer in fetched.image.layers:
            is_missing = layer in missing
            if missing:
                status = "Pulling fs layer" if is_missing else "Already exists"
                report(Progress(status=status, id=short(layer.digest), is_measured=True))
        turns = asyncio.Semaphore(REGISTRY_TRANSFERS_MAX)

        async def one(layer: Descriptor) -> None:
            async with turns:
                await self._fetch(repository, layer, blobs / _hex(layer.digest), report)

        try:
            async with asyncio.TaskGroup() as tasks:
                for layer in missing:
                    tasks.create_task(one(layer))
        except ExceptionGroup as group:  # the first failure is told: the others were broken off by it
            raise group.exceptions[0] from None
        return tuple(layer.digest for layer in missing)

    def _take_known(self, fetched: _Fetched, blobs: Path) -> tuple[Descriptor, ...]:
        """Link what the store has, so that nobody can take it away meanwhile. The rest is missing."""
        missing: dict[str, Descriptor] = {}
        for layer in fetched.image.layers:
            if layer.digest in missing or (blobs / _hex(layer.digest)).exists():
                continue
            try:
                os.link(self._store.blob_path(layer.digest), blobs / _hex(layer.digest))
            except FileNotFoundError:
                missing[layer.digest] = layer
        return tuple(missing.values())

    async def _fetch(self, repository: Repository, layer: Descriptor, target: Path, report: Report) -> None:
        fruitless = 0
        for _ in range(REGISTRY_BLOB_PIECES_MAX):
            before = _size(target)
            try:
                await self._fetch_rest(repository, layer, target, report)
                break
            except RegistryFailed as error:
                fruitless = 0 if _size(target) > before else fruitless + 1
                if fruitless == REGISTRY_BLOB_TRIES_MAX or isinstance(error, Denied):
                    raise
                delay_s = remotes.retry_delay(fruitless)
                shown = max(round(delay_s), 1)
                text = f"Retrying in {shown} second{'s' * (shown > 1)}"
                report(Progress(status=text, id=short(layer.digest), is_measured=True))
                await asyncio.sleep(delay_s)
        else:
            raise RegistryFailed(f"{layer.digest} comes in more than {REGISTRY_BLOB_PIECES_MAX} pieces")
        report(Progress(status="Verifying Checksum", id=short(layer.digest), is_measured=True))
        if await asyncio.to_thread(digest_of_file, target) != layer.digest:
            raise RegistryFailed(f"filesystem layer verification failed for digest {layer.digest}")
        report(Progress(status="Download complete", id=short(layer.digest), is_measured=True))

    async def _fetch_rest(
        self, repository: Repository, layer: Descriptor, target: Path, report: Report
    ) -> None:
        """What is not in the file yet; all of it where the registry knows no parts."""
        offset = _size(target)
        if offset and offset >= layer.size:
            return
        async with repository.blob(layer.digest, offset=offset) as response:
            is_rest = response.status == HTTPStatus.PARTIAL_CONTENT
            done = offset if is_rest else 0
            with await asyncio.to_thread(open, target, "ab" if is_rest else "wb") as file:
                async for chunk in response.content.iter_chunked(IMAGE_BLOB_CHUNK_BYTES):
                    done += len(chunk)
                    if done > layer.size:
                        raise InvalidArgument(
                            f"the registry sends more than the {layer.size} bytes of {layer.digest}"
                        )
                    await asyncio.to_thread(file.write, chunk)
                    report(_measured("Downloading", layer, done))
        if done < layer.size:
            raise RegistryFailed(f"{layer.digest}: unexpected EOF")

    async def _store_it(self, name: Reference, fetched: _Fetched, folder: Path) -> StoredImage:
        names = [f"{name.name}@{fetched.top.digest}"]
        if not name.digest:
            names.insert(0, str(name))
        await asyncio.to_thread(_write_layout, fetched, folder)
        return await asyncio.to_thread(self._store.load_pulled, folder, names)

    # --- pushing

    async def push(
        self, image: StoredImage, name: Reference, report: Report, *, credentials: Credentials | None = None
    ) -> None:
        """One tag of an image, to where its name leads."""
        async with self._turns:
            try:
                raw = await self._give(image, name, report, credentials or Credentials())
                digest = "sha256:" + hashlib.sha256(raw).hexdigest()
                with suppress(NotFound):  # removed meanwhile: there is nothing to note
                    await asyncio.to_thread(self._store.note_digest, image.id, f"{name.name}@{digest}")
            except OSError as error:
                raise FailedPrecondition(f"cannot push {name}: {error.strerror or error}") from None
        report(Progress(status=f"{name.tag}: digest: {digest} size: {len(raw)}"))
        aux = {"Tag": name.tag, "Digest": digest, "Size": len(raw)}
        report(Progress(is_measured=True, aux=aux))

    async def _give(self, image: StoredImage, name: Reference, report: Report, who: Credentials) -> bytes:
        """The manifest that the registry has then."""
        remote = self._registries.remote(name.name)
        folder = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=self._spool))
        try:
            layers, files = await asyncio.to_thread(layers_to_push, self._store, image, folder)
            for diff_id in image.record.diff_ids:
                report(Progress(status="Preparing", id=short(diff_id), is_measured=True))
            async with self._registries.open(remote, who, actions="pull,push") as repository:
                for diff_id, layer in zip(image.record.diff_ids, layers, strict=True):
                    await _push_layer(repository, layer, files[layer.digest], short(diff_id), report)
                raw, media_type = await _push_config(repository, image, layers, folder)
                await repository.put_manifest(name.tag, raw, media_type)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        return raw


def layers_to_push(
    store: ImageStore, image: StoredImage, folder: Path
) -> tuple[tuple[Descriptor, ...], dict[str, Path]]:
    """As they came; what came without compression is compressed, for others expect that. All of the image
    is lent to ``folder`` first: it may be removed meanwhile."""
    store.lend([image], folder)
    sent: dict[str, Descriptor] = {}
    files = {}
    for diff_id, blob in zip(image.record.diff_ids, image.record.blobs, strict=True):
        if blob in sent:
            continue  # an image may have the same layer several times
        file = folder / _hex(blob)
        digest = blob if blob != diff_id else _compress(file)
        sent[blob] = Descriptor(digest, file.stat().st_size, DOCKER_LAYER)
        files[digest] = file
    return tuple(sent[blob] for blob in image.record.blobs), files


async def _push_config(
    repository: Repository, image: StoredImage, layers: tuple[Descriptor, ...], folder: Path
) -> tuple[bytes, str]:
    """The configuration goes there; the manifest comes back, with its type: the image's own, if its layers
    are those. Both lie in ``folder``."""
    config = await asyncio.to_thread((folder / _hex(image.id)).read_bytes)
    if not await repository.has_blob(image.id):
        await repository.put_blob(image.id, len(config), _pieces(config))
    manifest = image.record.manifest
    if manifest and all(layer.digest == blob for layer, blob in zip(layers, image.record.blobs, strict=True)):
        raw = await asyncio.to_thread((folder / _hex(manifest)).read_bytes)
        return raw, manifests.parse(raw, "", manifest).media_type
    row = Descriptor(image.id, len(config), DOCKER_CONFIG)
    return manifests.docker_manifest(row, layers), DOCKER_MANIFEST


async def _push_layer(
    repository: Repository, layer: Descriptor, file: Path, shown: str, report: Report
) -> None:
    if await repository.has_blob(layer.digest):
        report(Progress(status="Layer already exists", id=shown, is_measured=True))
        return

    def tell(done: int) -> None:
        report(Progress(status="Pushing", id=shown, current=done, total=layer.size, is_measured=True))

    with await asyncio.to_thread(open, file, "rb") as source:
        await repository.put_blob(layer.digest, layer.size, _chunks(source, tell))
    report(Progress(status="Pushed", id=shown, is_measured=True))


async def _chunks(source: IO[bytes], tell: Callable[[int], None]) -> AsyncIterator[bytes]:
    done = 0
    while chunk := await asyncio.to_thread(source.read, IMAGE_BLOB_CHUNK_BYTES):
        yield chunk
        done += len(chunk)
        tell(done)


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _measured(status: str, layer: Descriptor, done: int) -> Progress:
    return Progress(status=status, id=short(layer.digest), current=done, total=layer.size, is_measured=True)


def _compress(file: Path) -> str:
    """Put the compressed form in the file's place, always the same."""
    packed = file.with_suffix(".gz")
    with (
        open(file, "rb") as source,
        open(packed, "xb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as target,
    ):
        shutil.copyfileobj(source, target, IMAGE_BLOB_CHUNK_BYTES)
    os.replace(packed, file)
    return digest_of_file(file)


def _write_layout(fetched: _Fetched, folder: Path) -> None:
    """What makes a folder of layers an OCI layout."""
    image = fetched.image
    assert image.config is not None
    blobs = folder / "blobs" / "sha256"
    (blobs / _hex(image.config.digest)).write_bytes(fetched.config)
    (blobs / _hex(image.digest)).write_bytes(image.raw)
    entry = {"mediaType": image.media_type, "digest": image.digest, "size": len(image.raw)}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
