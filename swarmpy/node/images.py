"""The node's images, as the API asks for them; they are there whether the node is in a swarm or not."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

from agent.executor.images.store import ImageRecord, ImageStore
from agent.executor.native import folders
from manager.api.control import Image
from swarmpy.errors import InvalidArgument
from swarmpy.limits import IMAGE_BYTES_MAX
from swarmpy.model.ids import SECOND_NS, Timestamp


class Images:
    """Lists, loads and removes images, beside the executor that runs them."""

    def __init__(self, data_dir: Path) -> None:
        self._store = ImageStore(data_dir / "images")
        self._tasks_dir = data_dir / "tasks"
        self._spool = data_dir / "images" / "incoming"

    def prepare(self) -> None:
        """Make the folders; drop archives that a crash left half received."""
        self._store.prepare()
        shutil.rmtree(self._spool, ignore_errors=True)
        self._spool.mkdir(mode=0o700)

    async def list(self) -> tuple[Image, ...]:
        return tuple(_image(record) for record in await asyncio.to_thread(self._store.records))

    async def load(
        self, chunks: AsyncIterator[bytes], *, name: str = "", filename: str = ""
    ) -> tuple[str, ...]:
        """Store the images of a tar archive; the names that they now have.

        An archive that names no image gets ``name``, or one made of ``filename``.
        """
        with tempfile.TemporaryDirectory(dir=self._spool) as folder:
            path = Path(folder, Path(filename).name or "image.tar")
            await self._receive(chunks, path)
            return tuple(await asyncio.to_thread(self._store.load, path, name=name))

    async def _receive(self, chunks: AsyncIterator[bytes], path: Path) -> None:
        with await asyncio.to_thread(open, path, "xb") as file:
            size = 0
            async for chunk in chunks:
                size += len(chunk)
                if size > IMAGE_BYTES_MAX:
                    raise InvalidArgument(f"the archive is larger than {IMAGE_BYTES_MAX} bytes")
                await asyncio.to_thread(file.write, chunk)
            if size == 0:
                raise InvalidArgument("the archive is empty: send the image as the request's body")

    async def remove(self, name: str) -> Image:
        return _image(await asyncio.to_thread(self._remove, name))

    def _remove(self, name: str) -> ImageRecord:
        record = self._store.inspect(name)
        jobs = [job for folder in self._tasks_dir.glob("*") if (job := folders.read_job(folder)) is not None]
        self._store.remove(
            name,
            in_use={job["image"]: job["task_id"] for job in jobs},
            layers_in_use={layer for job in jobs for layer in folders.layers_of(job)},
        )
        return record


def _image(record: ImageRecord) -> Image:
    return Image(
        id=record.config.digest,
        names=record.names or (record.config.reference,),
        created_at=_timestamp(record.created),
        size_bytes=record.size_bytes,
    )


def _timestamp(text: str) -> Timestamp:
    """RFC 3339 to nanoseconds; images may say nothing, or nonsense, of their age."""
    try:
        return Timestamp(int(datetime.fromisoformat(text).timestamp() * SECOND_NS))
    except ValueError:
        return Timestamp(0)
