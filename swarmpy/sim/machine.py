"""What a simulated machine is: its description, its answer to ``docker info``, and no images of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AbstractAsyncContextManager

from agent.streams import Talk
from manager.api.control import SystemInfo
from manager.api.image_control import Report
from manager.image_push import Parcel
from swarmpy.config import NodeConfig
from swarmpy.errors import NotFound, Unimplemented
from swarmpy.image_events import ImageEvents
from swarmpy.model.generic_resources import parse
from swarmpy.model.ids import Timestamp
from swarmpy.model.image_offers import PushSource
from swarmpy.model.images import Credentials, Image, ImageRemoval, Import, ManifestFacts
from swarmpy.model.objects import NodeDescription
from swarmpy.model.specs import Platform, Resources
from swarmpy.runtime import Clock

CPU_NANOS = 1_000_000_000
CPUS = 8
MEMORY_BYTES = 32 << 30
_NO_IMAGES = "images are not simulated"
GENERIC_RESOURCES = parse(["gpu=G1,gpu=G2", "slots=6"])


def description(hostname: str) -> NodeDescription:
    return NodeDescription(
        hostname=hostname,
        platform=Platform(architecture="x86_64", os="linux"),
        resources=Resources(
            nano_cpus=CPUS * CPU_NANOS, memory_bytes=MEMORY_BYTES, generic_resources=GENERIC_RESOURCES
        ),
    )


def read_system(config: NodeConfig, *, executor: str, tasks: int) -> SystemInfo:
    return SystemInfo(
        hostname=config.hostname,
        kernel_version="simulated",
        operating_system="simulated",
        os_version="",
        architecture="x86_64",
        cpus=CPUS,
        memory_bytes=MEMORY_BYTES,
        data_dir=str(config.data_dir),
        executor=executor,
        cgroup_version=2,
        labels=config.labels,
        tasks=tasks,
        tasks_running=tasks,
    )


class NoImages:
    """The executor of the simulation takes any image's name; none is stored, and no registry is there."""

    def __init__(self, clock: Clock) -> None:
        self.events = ImageEvents(clock)

    def prepare(self) -> None:
        """There is nothing to prepare."""

    @property
    def talks(self) -> Mapping[str, Talk]:
        return {}

    def now(self) -> Timestamp:
        return Timestamp(0)

    async def list(self) -> tuple[Image, ...]:
        return ()

    async def find(self, name: str) -> Image:
        raise NotFound(f"No such image: {name}")

    async def load(
        self, chunks: AsyncIterator[bytes], *, name: str = "", filename: str = ""
    ) -> tuple[str, ...]:
        raise Unimplemented(_NO_IMAGES)

    def save(self, names: tuple[str, ...]) -> AsyncIterator[bytes]:
        raise Unimplemented(_NO_IMAGES)

    def parcel(
        self, source: PushSource, chunks: AsyncIterator[bytes], *, architectures: Collection[str]
    ) -> AbstractAsyncContextManager[Parcel]:
        raise Unimplemented(_NO_IMAGES)

    async def tag(self, name: str, repository: str, tag: str) -> None:
        raise NotFound(f"No such image: {name}")

    async def remove(self, name: str, *, is_forced: bool = False) -> ImageRemoval:
        raise NotFound(f"No such image: {name}")

    async def import_rootfs(self, chunks: AsyncIterator[bytes], wish: Import) -> str:
        raise Unimplemented(_NO_IMAGES)

    async def pull(
        self, name: str, report: Report, *, platform: str = "", credentials: Credentials | None = None
    ) -> Image:
        raise Unimplemented(_NO_IMAGES)

    async def push(
        self, name: str, tag: str, report: Report, *, credentials: Credentials | None = None
    ) -> None:
        raise NotFound(f"No such image: {name}")

    async def look(self, name: str, credentials: Credentials) -> ManifestFacts:
        raise NotFound(f"manifest unknown: {name}")

    async def log_in(self, server: str, credentials: Credentials) -> str:
        raise Unimplemented(_NO_IMAGES)

    async def usage(self) -> int:
        return 0


class NoVolumes:
    """What tasks mount is the executor's; nobody asks a simulated node's own API."""

    def prepare(self) -> None:
        """There is nothing to prepare."""

    async def call(self, name: str, body: bytes) -> bytes:
        raise Unimplemented("volumes are not simulated")
