"""What the API server asks of its node about images and registries: a protocol, no code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from manager.image_push import Parcel
from swarmpy.image_events import ImageEvents
from swarmpy.model.ids import Timestamp
from swarmpy.model.image_offers import PushSource
from swarmpy.model.images import (
    Credentials,
    Image,
    ImageRemoval,
    Import,
    ManifestFacts,
    Progress,
)

Report = Callable[[Progress], None]


class ImageControl(Protocol):
    """The images on one node, whether it is in a swarm or not, and the registries that it can reach."""

    @property
    def events(self) -> ImageEvents:
        """What happens to them, whoever does it."""
        ...

    async def list(self) -> tuple[Image, ...]: ...

    async def find(self, name: str) -> Image:
        """By name, digest, id or the beginning of one. NotFound, in docker's words."""
        ...

    async def load(
        self, chunks: AsyncIterator[bytes], *, name: str = "", filename: str = ""
    ) -> tuple[str, ...]:
        """Store the images of a tar archive; returns their names. InvalidArgument if it is none.

        ``name``, or else what ``filename`` suggests, is for archives that name no image.
        """
        ...

    def save(self, names: tuple[str, ...]) -> AsyncIterator[bytes]:
        """Images as one archive. NotFound, before the first bytes, if one is not here."""
        ...

    def parcel(
        self, source: PushSource, chunks: AsyncIterator[bytes], *, architectures: Collection[str]
    ) -> AbstractAsyncContextManager[Parcel]:
        """What a push to nodes of these architectures sends; there as long as the context is. InvalidArgument
        if what comes is no archive that can be read, NotFound if the image is not here."""
        ...

    async def tag(self, name: str, repository: str, tag: str) -> None: ...

    async def remove(self, name: str, *, is_forced: bool = False) -> ImageRemoval:
        """NotFound; AlreadyExists (a conflict) while a task stands on it."""
        ...

    async def import_rootfs(self, chunks: AsyncIterator[bytes], wish: Import) -> str:
        """The new image's id."""
        ...

    async def pull(
        self, name: str, report: Report, *, platform: str = "", credentials: Credentials | None = None
    ) -> Image: ...

    async def push(
        self, name: str, tag: str, report: Report, *, credentials: Credentials | None = None
    ) -> None:
        """A tag of a repository; all of them if none is named."""
        ...

    async def look(self, name: str, credentials: Credentials) -> ManifestFacts:
        """What the registry has under a name."""
        ...

    async def log_in(self, server: str, credentials: Credentials) -> str:
        """An identity token, or nothing. Unauthenticated if the registry refuses."""
        ...

    async def usage(self) -> int:
        """Bytes of all layers, each once."""
        ...

    def now(self) -> Timestamp: ...
