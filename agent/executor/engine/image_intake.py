"""``EngineIntake``: images that managers send to this node, given to the engine as one archive of docker's.

An engine takes images only whole: so all layers of one that it does not have come here, and none of one that
it has. It is asked for the image afterwards: what it has made of the archive decides.
"""

from __future__ import annotations

import gzip
import json
import tempfile
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote

from agent.executor.engine.client import Engine, Refused
from agent.executor.engine.image_forms import full_name
from agent.executor.engine.image_lines import lines
from agent.executor.images.compression import decompressed
from agent.executor.images.saving import END, file_member, member
from swarmpy.errors import InvalidArgument, NotFound, Unavailable
from swarmpy.image_limits import IMAGE_BLOB_CHUNK_BYTES
from swarmpy.model import image_names as references
from swarmpy.model.image_offers import ImageOffer, Offer

BLOBS: Final = "blobs/sha256"
"""Where blobs lie in a folder of them, by the hex digits of their digests."""
Run = Callable[[Callable[[], Any]], Awaitable[Any]]


class EngineIntake:
    """``engine`` is asked for each time, and answers then. ``run`` calls what blocks in a thread."""

    def __init__(
        self, engine: Callable[[], AbstractAsyncContextManager[Engine]], spool: Path, run: Run
    ) -> None:
        self._engine = engine
        self._spool = spool
        self._run = run

    async def missing(self, offer: Offer) -> frozenset[str]:
        async with self._engine() as engine:
            lacking = [image for image in offer.images if not await _has(engine, image.id)]
        return frozenset(blob.digest for image in lacking for blob in (image.config, *image.layers))

    async def commit(self, offer: Offer, folder: Path) -> tuple[str, ...]:
        async with self._engine() as engine:
            return await self._give(engine, offer, folder)

    async def _give(self, engine: Engine, offer: Offer, folder: Path) -> tuple[str, ...]:
        fresh = [image for image in offer.images if not await _has(engine, image.id)]
        if fresh:
            try:
                async for _ in lines(
                    engine,
                    "/images/load",
                    params={"quiet": "1"},
                    headers={"Content-Type": "application/x-tar"},
                    data=self._archive(fresh, folder),
                ):
                    continue
            except Refused as error:
                raise InvalidArgument(f"{engine.flavour} does not take the image: {error}") from None
        names = []
        for image in offer.images:
            if not await _has(engine, image.id):
                raise Unavailable(
                    f"{engine.flavour} does not have the image {image.id} that was given to it: push it again"
                )
            for name in image.names:
                repository, _, tag = full_name(name).rpartition(":")
                await engine.call("POST", f"/images/{image.id}/tag", params={"repo": repository, "tag": tag})
                names.append(str(references.parse(name)))
        return tuple(names)

    async def _archive(self, images: list[ImageOffer], folder: Path) -> AsyncIterator[bytes]:
        pieces = archive(images, folder, self._spool)
        try:
            while (piece := await self._run(lambda: next(pieces, None))) is not None:
                yield piece
        except FileNotFoundError as error:
            raise Unavailable(f"a part of the image was removed meanwhile: push it again ({error})") from None


def archive(images: list[ImageOffer], folder: Path, spool: Path) -> Iterator[bytes]:
    """Blocks. ``folder`` has the blobs; ``spool`` is for layers that have to be unpacked on the way."""
    listed = []
    written: set[str] = set()
    for image in images:
        layers = []
        for layer in image.layers:
            name = f"{_hex(layer.diff_id)}/layer.tar"
            layers.append(name)
            if name not in written:
                written.add(name)
                with open(_blob(folder, layer.digest), "rb") as raw:
                    yield from _plain(name, raw, spool)
        config = f"{_hex(image.id)}.json"
        if config not in written:
            written.add(config)
            yield from member(config, _blob(folder, image.config.digest).read_bytes())
        tags = [full_name(name) for name in image.names]
        listed.append({"Config": config, "RepoTags": tags or None, "Layers": layers})
    yield from member("manifest.json", json.dumps(listed).encode())
    yield END


def _plain(name: str, raw: IO[bytes], spool: Path) -> Iterator[bytes]:
    plain = decompressed(raw)
    if plain is raw:
        yield from file_member(name, raw)
        return
    with tempfile.TemporaryFile(dir=spool) as file:
        try:
            while chunk := plain.read(IMAGE_BLOB_CHUNK_BYTES):
                file.write(chunk)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InvalidArgument(f"a layer of the image cannot be unpacked: {error}") from None
        yield from file_member(name, file)


async def _has(engine: Engine, image_id: str) -> bool:
    try:
        await engine.call("GET", f"/images/{quote(image_id, safe=':')}/json")
    except NotFound:
        return False
    return True


def _blob(folder: Path, digest: str) -> Path:
    return folder / BLOBS / _hex(digest)


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
