"""The images of a node whose tasks are an engine's containers: they are the engine's, and so is the work.

What clients ask of the node is asked of Podman or Docker, and told in docker's shapes. Registries are the
engine's affair, too, but for the two questions that it cannot be asked: what is under a name, and whether
somebody may log in.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from agent.executor.engine import image_forms, records
from agent.executor.engine.client import Engine, Flavour, Refused
from agent.executor.engine.image_intake import BLOBS, EngineIntake
from agent.executor.engine.image_lines import lines
from agent.executor.engine.service import PodmanService
from agent.executor.images import shipping
from agent.executor.images.archive import own_architecture
from agent.executor.images.imports import changed
from agent.executor.images.removal import ImageUser, is_id_prefix
from agent.executor.images.store import ImageStore
from agent.image_receiver import ImageReceiver
from agent.received import ReceivedBlobs
from agent.registry.client import Registries
from agent.registry.transfer import Transfers
from agent.streams import Talk
from swarmpy.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    SwarmError,
    Unauthenticated,
)
from swarmpy.image_events import Action, ImageEvents, names_told
from swarmpy.image_limits import IMAGE_BLOB_CHUNK_BYTES, IMAGE_NAMES_MAX, REGISTRY_NAME_THREADS
from swarmpy.limits import IMAGE_BYTES_MAX
from swarmpy.model import image_names as references
from swarmpy.model.ids import Timestamp
from swarmpy.model.image_offers import PushSource
from swarmpy.model.images import (
    Credentials,
    Image,
    ImageRemoval,
    Import,
    ManifestFacts,
    Progress,
    labels_in,
)
from swarmpy.model.registry_auth import encode_credentials
from swarmpy.node.image_shipping import FolderParcel, ToldIntake
from swarmpy.runtime import Env

Users = dict[str, list[ImageUser]]
_PODMAN_FAILED = 500
_TAR = {"Content-Type": "application/x-tar"}
_ERRORS: dict[int, type[SwarmError]] = {400: InvalidArgument, 401: Unauthenticated, 403: PermissionDenied}


class EngineImages:
    """``ImageControl`` of a daemon. ``service``: what serves Podman where no system service does; the same
    one as the executor's."""

    def __init__(
        self,
        data_dir: Path,
        env: Env,
        *,
        flavour: Flavour,
        socket: str = "",
        service: PodmanService | None = None,
        insecure_registries: Collection[str] = (),
        registry_mirrors: Sequence[str] = (),
    ) -> None:
        self._clock = env.clock
        self.events = ImageEvents(env.clock)
        self._service = service
        self._engine = Engine(flavour, service.socket if service is not None else socket)
        self._uses = 0
        self._tasks_dir = data_dir / "tasks"
        self._spool = data_dir / "images" / "incoming"
        self._registries = Registries(
            env.clock,
            env.threads("registry-names", REGISTRY_NAME_THREADS),
            insecure=insecure_registries,
            mirrors=registry_mirrors,
        )
        self._transfers = Transfers(self._registries, ImageStore(data_dir / "images"), self._spool)
        self._intake = ToldIntake(EngineIntake(self._served, self._spool, asyncio.to_thread), self._tell)
        self._receiver = ImageReceiver(
            self._intake, ReceivedBlobs(data_dir / "images" / "received"), env.clock
        )

    def prepare(self) -> None:
        """Make the folders; drop archives that a crash left half received."""
        shutil.rmtree(self._spool, ignore_errors=True)
        self._spool.mkdir(mode=0o700, parents=True)
        self._receiver.prepare()

    @property
    def talks(self) -> Mapping[str, Talk]:
        return self._receiver.talks

    def now(self) -> Timestamp:
        return self._clock.now()

    async def _tell(self, action: Action, id_: str, name: str = "") -> None:
        """With the labels that it has; ``id_`` may be any reference. Of what is done here: the engine's own
        events are for who asks the engine."""
        labels: Mapping[str, str] = {}
        with suppress(SwarmError):  # removed a moment ago, or no one image is meant
            async with self._served() as engine:
                labels = labels_in({"config": (await self._inspect(engine, id_)).get("Config")}) or {}
        self.events.tell(action, id_, name=name, labels=labels)

    def tell_pulled(self, name: str, inspected: Mapping[str, Any]) -> None:
        """For the executor: a task's image was not here, and is now."""
        parsed = references.parse(name)
        labels = labels_in({"config": inspected.get("Config")}) or {}
        self.events.tell("pull", parsed.shown, name=parsed.name, labels=labels)

    @asynccontextmanager
    async def _served(self) -> AsyncGenerator[Engine]:
        """The engine, which answers; who leaves last closes the connections to it."""
        self._uses += 1
        try:
            if self._service is not None:
                await self._service.ensure(self._engine)
            yield self._engine
        finally:
            self._uses -= 1
            if not self._uses:
                await self._engine.close()

    # --- asking

    async def list(self) -> tuple[Image, ...]:
        async with self._served() as engine:
            with _translated():
                rows = await engine.call("GET", "/images/json") or []
            users = await asyncio.to_thread(self._users)
            return tuple(image_forms.listed(row, **_of(users, image_forms.id_of(row))) for row in rows)

    async def find(self, name: str) -> Image:
        async with self._served() as engine:
            said = await self._inspect(engine, name)
            with _translated():
                history = await self._history(engine, image_forms.id_of(said))
            users = await asyncio.to_thread(self._users)
            return image_forms.inspected(said, history, **_of(users, image_forms.id_of(said)))

    async def _history(self, engine: Engine, id_: str) -> Sequence[image_forms.Json]:
        """Podman fails at a step that does not say when it was made, as those of many builders do not: then
        the steps of its own API are told, which have no sizes."""
        try:
            told: Sequence[image_forms.Json] = await engine.call("GET", f"/images/{id_}/history") or ()
        except Refused as error:
            if engine.flavour != "podman" or error.status != _PODMAN_FAILED:
                raise
            said = await engine.call("GET", f"/libpod/images/{id_}/json")
            told = image_forms.steps_of_podman(said)
        return told

    async def usage(self) -> int:
        """Podman does not say what layers share: there it is what the images would take alone."""
        async with self._served() as engine:
            with _translated():
                said = await engine.call("GET", "/system/df") or {}
            return int(said.get("LayersSize") or 0) or sum(
                int(row.get("Size") or 0) for row in said.get("Images") or ()
            )

    async def _inspect(self, engine: Engine, name: str) -> dict[str, Any]:
        references.refuse_host(name, "there is nothing to show")
        with _translated():
            try:
                found: dict[str, Any] = await engine.call("GET", f"/images/{_quoted(name)}/json")
            except NotFound:
                last = name.rpartition("/")[2]
                has_more = ":" in last or "@" in last
                raise NotFound(f"No such image: {name if has_more else f'{name}:latest'}") from None
        return found

    def _users(self) -> Users:
        """Image's id -> its tasks, what runs first. While a task's folder is there, it uses its image."""
        found: Users = {}
        for folder in sorted(self._tasks_dir.glob("*")):
            task = records.read(folder)
            if task is not None and task.record.image_id:
                user = ImageUser(task.record.task_id, task.is_running)
                found.setdefault(task.record.image_id, []).append(user)
        return {id_: sorted(users, key=lambda user: not user.is_running) for id_, users in found.items()}

    # --- archives

    async def load(
        self, chunks: AsyncIterator[bytes], *, name: str = "", filename: str = ""
    ) -> tuple[str, ...]:
        """Any archive that other nodes take: it is read here, and the engine is given what it can read.

        An archive that names no image gets ``name``, or one made of ``filename``.
        """
        own = own_architecture()
        async with self._shipped(chunks, filename, name=name, architectures=(own,)) as shipment:
            offer = shipment.offers.get(own)
            if offer is None:
                raise InvalidArgument(shipment.refusals.get(own, "the archive holds no image"))
            return await self._intake.commit(offer, shipment.folder.parents[1])

    @asynccontextmanager
    async def _shipped(
        self, chunks: AsyncIterator[bytes], filename: str, *, name: str, architectures: Collection[str]
    ) -> AsyncGenerator[shipping.Shipment]:
        with tempfile.TemporaryDirectory(dir=self._spool) as spool:
            path, blobs = Path(spool, Path(filename).name or "image.tar"), Path(spool, BLOBS)
            blobs.mkdir(parents=True)
            await self._receive(chunks, path)
            try:
                yield await asyncio.to_thread(
                    shipping.of_archive, path, blobs, name=name, architectures=architectures
                )
            except OSError as error:
                raise FailedPrecondition(f"cannot store the image: {error.strerror or error}") from None

    async def import_rootfs(self, chunks: AsyncIterator[bytes], wish: Import) -> str:
        """Named afterwards: Podman forgets the tag that it is told."""
        changed(wish.changes)  # what is wrong with them is told before the archive is read
        wanted = references.parse(wish.name) if wish.name else None
        params = [("fromSrc", "-"), ("message", wish.comment)]
        params += [("changes", change) for change in wish.changes]
        id_ = ""
        async with self._served() as engine:
            with tempfile.TemporaryDirectory(dir=self._spool) as folder, _translated():
                path = Path(folder, "rootfs.tar")
                await self._receive(chunks, path)
                said = lines(engine, "/images/create", params=params, headers=_TAR, data=_pieces(path))
                async for line in said:
                    id_ = str(line.get("status") or id_)
            if wanted is not None:
                await self.tag(id_, wanted.name, wanted.tag)
        await self._tell("import", id_)
        return id_

    async def _receive(self, chunks: AsyncIterator[bytes], path: Path) -> None:
        """On disk first: what is too long or breaks off never comes to the engine."""
        size = 0
        try:
            with await asyncio.to_thread(open, path, "xb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > IMAGE_BYTES_MAX:
                        raise InvalidArgument(f"the archive is larger than {IMAGE_BYTES_MAX} bytes")
                    await asyncio.to_thread(file.write, chunk)
        except OSError as error:
            raise FailedPrecondition(f"cannot store the image: {error.strerror or error}") from None
        if size == 0:
            raise InvalidArgument("the archive is empty: send the image as the request's body")

    async def save(self, names: tuple[str, ...]) -> AsyncIterator[bytes]:
        if len(names) > IMAGE_NAMES_MAX:
            raise InvalidArgument(f"{IMAGE_NAMES_MAX} images can be saved at a time")
        ids: dict[str, None] = {}
        async with self._served() as engine:
            for name in names:
                try:
                    ids[image_forms.id_of(await self._inspect(engine, name))] = None
                except NotFound:
                    raise NotFound(f"No such image: {name}") from None
            with _translated():
                async with engine.stream(
                    "GET", "/images/get", params=[("names", name) for name in names]
                ) as content:
                    for id_ in ids:
                        await self._tell("save", id_)
                    async for piece in engine.chunks(content):
                        yield piece

    @asynccontextmanager
    async def parcel(
        self, source: PushSource, chunks: AsyncIterator[bytes], *, architectures: Collection[str]
    ) -> AsyncGenerator[FolderParcel]:
        """What a push to nodes of these architectures sends; there as long as the context is."""
        given = self.save((source.image,)) if source.image else chunks
        shipped = self._shipped(given, source.filename, name=source.name, architectures=architectures)
        async with shipped as shipment:
            yield FolderParcel(shipment)

    # --- names

    async def tag(self, name: str, repository: str, tag: str) -> None:
        parsed = references.parse(repository)
        if parsed.digest:
            raise InvalidArgument("refusing to create a tag with a digest reference")
        wanted = references.parse_tag(tag) if tag else parsed.tag
        repository = image_forms.full_name(parsed.name).rpartition(":")[0]
        async with self._served() as engine:
            said = await self._inspect(engine, name)
            with _translated():
                await engine.call(
                    "POST",
                    f"/images/{image_forms.id_of(said)}/tag",
                    params={"repo": repository, "tag": wanted},
                )
        await self._tell("tag", image_forms.id_of(said), f"{parsed.name}:{wanted}")

    async def remove(self, name: str, *, is_forced: bool = False) -> ImageRemoval:
        async with self._served() as engine:
            said = await self._inspect(engine, name)
            users = (await asyncio.to_thread(self._users)).get(image_forms.id_of(said), [])
            if any(user.is_running for user in users) and is_forced:
                # Podman would remove the containers with it
                raise AlreadyExists(
                    f"conflict: unable to delete {name} (cannot be forced) - image is being used by running "
                    f"container {next(user.task_id for user in users if user.is_running)}"
                )
            with _translated():
                try:
                    rows = await engine.call(
                        "DELETE", f"/images/{_quoted(name)}", params={"force": "1" if is_forced else "0"}
                    )
                except Conflict as error:
                    raise AlreadyExists(str(error)) from None
            untagged = tuple(
                image_forms.shown(str(row["Untagged"])) for row in rows or () if row.get("Untagged")
            )
            deleted = tuple(
                image_forms.shown(str(row["Deleted"])) for row in rows or () if row.get("Deleted")
            )
            id_ = image_forms.id_of(said)
            self.events.tell_removed(
                id_,
                names=names_told(len(untagged), is_by_id=is_id_prefix(id_, name)),
                is_deleted=bool(deleted),
                labels=labels_in({"config": said.get("Config")}) or {},
            )
            return ImageRemoval(
                untagged=untagged, deleted=deleted, size_bytes=int(said.get("Size") or 0) if deleted else 0
            )

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
        params = {"fromImage": parsed.name, "tag": parsed.digest or parsed.tag}
        if platform:
            params["platform"] = platform
        async with self._served() as engine:
            await self._follow(engine, "/images/create", params, report, credentials)
            image = await self.find(parsed.key)
        self.events.tell("pull", parsed.shown, name=parsed.name, labels=labels_in(image.config) or {})
        return image

    async def push(
        self,
        name: str,
        tag: str,
        report: Callable[[Progress], None],
        *,
        credentials: Credentials | None = None,
    ) -> None:
        parsed = references.parse(f"{name}:{references.parse_tag(tag)}" if tag else name)
        params = {"tag": parsed.tag} if tag or parsed.is_tagged else {}
        async with self._served() as engine:
            await self._follow(engine, f"/images/{_quoted(parsed.name)}/push", params, report, credentials)
        await self._tell("push", str(parsed) if params else parsed.name, parsed.name)

    async def _follow(
        self,
        engine: Engine,
        path: str,
        params: Mapping[str, str],
        report: Callable[[Progress], None],
        credentials: Credentials | None,
    ) -> None:
        headers = {"X-Registry-Auth": encode_credentials(credentials or Credentials())}
        with _translated():
            async for said in lines(engine, path, params=params, headers=headers):
                if (step := image_forms.progress(said)) is not None:
                    report(step)

    async def look(self, name: str, credentials: Credentials) -> ManifestFacts:
        return await self._transfers.look(references.parse(name), credentials)

    async def log_in(self, server: str, credentials: Credentials) -> str:
        return await self._registries.log_in(server, credentials)


@contextmanager
def _translated() -> Iterator[None]:
    """An engine's refusal is a request's, here: there is no task that it could be a refusal of."""
    try:
        yield
    except Refused as error:
        raise _ERRORS.get(error.status, SwarmError)(str(error)) from None


def _of(users: Mapping[str, Sequence[ImageUser]], image_id: str) -> dict[str, Any]:
    found = users.get(image_id, ())
    return {
        "users": tuple(user.task_id for user in found),
        "running": tuple(user.task_id for user in found if user.is_running),
    }


def _quoted(name: str) -> str:
    return quote(name, safe="/:@")


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(open, path, "rb") as file:
        while piece := await asyncio.to_thread(file.read, IMAGE_BLOB_CHUNK_BYTES):
            yield piece
