"""``/images``: what this node holds; loading, saving, naming, removing, and fetching from registries.

Images are their node's, not the swarm's. They are not built here: what would build one says what to do
instead.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Final

from aiohttp import web

from manager.api import image_filters, image_shapes, image_streams, requests
from manager.api.context import Api
from manager.api.docker_json import Json, encode
from manager.api.registry_auth import credentials_in
from swarmpy.errors import AlreadyExists, InvalidArgument, NotFound, Unimplemented
from swarmpy.limits import API_CHUNK_BYTES
from swarmpy.model.images import Image, ImageRemoval, Import

NO_BUILDS: Final = (
    "SwarmPy builds no images: build with docker, podman or buildah, and bring the image here by a registry, "
    "or with 'docker save' and 'swarmpy image load'"
)
NO_COMMITS: Final = (
    "SwarmPy makes no images of containers: build one with docker, podman or buildah, or import a root file "
    "system with 'swarmpy image import'"
)
NO_SEARCH: Final = "SwarmPy searches no registries: look on the registry's own pages, then pull by name"
LINUX_ONLY: Final = "operating system is not supported"


class Images:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.get("/images/json", self.list),
            web.post("/images/load", self.load),
            web.post("/images/create", self.create),
            web.post("/images/prune", self.prune),
            web.get("/images/get", self.save_many),
            web.get("/images/search", self.search),
            web.get("/images/{name:.+}/json", self.inspect),
            web.get("/images/{name:.+}/history", self.history),
            web.get("/images/{name:.+}/get", self.save),
            web.post("/images/{name:.+}/tag", self.tag),
            web.post("/images/{name:.+}/push", self.push),
            web.delete("/images/{name:.+}", self.remove),
            web.post("/build", self.build),
            web.post("/build/prune", self.prune_builds),
            web.post("/build/cancel", self.build),
            web.post("/commit", self.commit),
        )

    # --- looking

    async def list(self, request: web.Request) -> web.StreamResponse:
        wanted = requests.filters(request, image_filters.LIST)
        if "filter" in request.query:  # of clients before API 1.25
            wanted = {**wanted, "reference": (request.query["filter"],)}
        images = await self._api.control.image_store.list()
        anchors = await self._anchors(wanted)
        found = image_filters.chosen(images, wanted, self._api.now(), anchors.__getitem__)
        version = requests.api_version(request)
        is_shared = requests.flag(request, "shared-size")
        return self._api.answer(
            [image_shapes.summary(image, version, is_shared_size=is_shared) for image in found]
        )

    async def _anchors(self, wanted: requests.Filters) -> dict[str, Image]:
        names = (*wanted.get("before", ()), *wanted.get("since", ()))
        return {name: await self._api.control.image_store.find(name) for name in names}

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        image = await self._find(request)
        return self._api.answer(image_shapes.details(image, requests.api_version(request)))

    async def history(self, request: web.Request) -> web.StreamResponse:
        return self._api.answer(image_shapes.history(await self._find(request)))

    async def _find(self, request: web.Request) -> Image:
        return await self._api.control.image_store.find(request.match_info["name"])

    # --- archives

    async def load(self, request: web.Request) -> web.StreamResponse:
        """A tar archive in, one JSON line per image out."""
        names = await self._api.control.image_store.load(
            _chunks(request),
            name=request.query.get("name", ""),
            filename=request.query.get("filename", ""),
        )
        lines = [{"stream": f"Loaded image: {name}\n"} for name in names]
        return _lines(lines)

    async def save(self, request: web.Request) -> web.StreamResponse:
        pieces = self._api.control.image_store.save((request.match_info["name"],))
        return await image_streams.send(self._api, request, pieces)

    async def save_many(self, request: web.Request) -> web.StreamResponse:
        names = tuple(name for text in request.query.getall("names", []) for name in text.split(",") if name)
        return await image_streams.send(self._api, request, self._api.control.image_store.save(names))

    # --- names

    async def tag(self, request: web.Request) -> web.StreamResponse:
        await self._api.control.image_store.tag(
            request.match_info["name"], request.query.get("repo", ""), request.query.get("tag", "")
        )
        return web.Response(status=201)

    async def remove(self, request: web.Request) -> web.StreamResponse:
        removed = await self._api.control.image_store.remove(
            request.match_info["name"], is_forced=requests.flag(request, "force")
        )
        return self._api.answer(image_shapes.removal(removed))

    async def prune(self, request: web.Request) -> web.StreamResponse:
        """What has no name; with ``dangling=false``, all that no task stands on."""
        wanted = requests.filters(request, image_filters.PRUNE)
        is_dangling = image_filters.is_dangling_wanted(wanted) is not False
        limits = {
            "label": wanted.get("label", ()),
            "until": wanted.get("until", ()),
            **({"dangling": ("true",)} if is_dangling else {}),
        }
        store = self._api.control.image_store
        found = image_filters.chosen(await store.list(), limits, self._api.now(), _no_anchor)
        rows: list[Json] = []
        size = 0
        for image in found:
            if image.users or not image_filters.lacks_labels(image, wanted.get("label!", ())):
                continue
            removed = await self._remove_whole(image)
            rows += image_shapes.removal(removed)
            size += removed.size_bytes
        store.events.tell_pruned(size)
        return self._api.answer({"ImagesDeleted": rows or None, "SpaceReclaimed": size})

    async def _remove_whole(self, image: Image) -> ImageRemoval:
        """Name by name; one that a task has begun to use meanwhile stays."""
        removed = ImageRemoval()
        for name in image.tags or image.digests or (image.id,):
            try:
                step = await self._api.control.image_store.remove(name)
            except (AlreadyExists, NotFound):
                break
            removed = ImageRemoval(
                untagged=(*removed.untagged, *step.untagged),
                deleted=(*removed.deleted, *step.deleted),
                size_bytes=removed.size_bytes + step.size_bytes,
            )
        return removed

    # --- from elsewhere

    async def create(self, request: web.Request) -> web.StreamResponse:
        if "fromImage" in request.query:
            return await self._pull(request)
        return await self._import(request)

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        name, tag = request.query["fromImage"], request.query.get("tag", "")
        if tag:
            bare = _without_tag(name)
            name = f"{bare}@{tag}" if tag.startswith("sha256:") else f"{bare}:{tag}"
        credentials = credentials_in(request, is_strict=False)
        platform = request.query.get("platform", "")
        store = self._api.control.image_store
        return await image_streams.tell(
            self._api,
            request,
            lambda report: store.pull(name, report, platform=platform, credentials=credentials),
        )

    async def _import(self, request: web.Request) -> web.StreamResponse:
        source = request.query.get("fromSrc", "")
        if source != "-":
            raise Unimplemented(
                "a root file system is imported from the request's body (fromSrc=-), not from a URL: "
                "download it first"
            )
        system = request.query.get("platform", "").partition("/")[0].lower()
        if system not in ("", "linux"):
            raise InvalidArgument(LINUX_ONLY)
        repository, tag = request.query.get("repo", ""), request.query.get("tag", "")
        wish = Import(
            name=f"{repository}:{tag}" if repository and tag else repository,
            comment=request.query.get("message", "") or "Imported from -",
            changes=tuple(request.query.getall("changes", [])),
        )
        id_ = await self._api.control.image_store.import_rootfs(_chunks(request), wish)
        return _lines([{"status": id_}])

    async def push(self, request: web.Request) -> web.StreamResponse:
        credentials = credentials_in(request, is_strict=True)
        name, tag = request.match_info["name"], request.query.get("tag", "")
        store = self._api.control.image_store
        return await image_streams.tell(
            self._api, request, lambda report: store.push(name, tag, report, credentials=credentials)
        )

    # --- what is not done here

    async def search(self, request: web.Request) -> web.StreamResponse:
        raise Unimplemented(NO_SEARCH)

    async def build(self, request: web.Request) -> web.StreamResponse:
        raise Unimplemented(NO_BUILDS)

    async def prune_builds(self, request: web.Request) -> web.StreamResponse:
        """Nothing is built, so nothing is left of it: ``docker system prune`` goes on."""
        return self._api.answer({"CachesDeleted": None, "SpaceReclaimed": 0})

    async def commit(self, request: web.Request) -> web.StreamResponse:
        raise Unimplemented(NO_COMMITS)


def _without_tag(name: str) -> str:
    """Of a name that comes with a tag beside it, which counts."""
    head = name.partition("@")[0]
    folder, slash, last = head.rpartition("/")
    return folder + slash + last.partition(":")[0]


def _no_anchor(name: str) -> Image:
    raise NotFound(f"No such image: {name}")


def _lines(lines: list[Json]) -> web.Response:
    """Chunked as from the engine: docker-py takes an answer of known length for one JSON value."""
    response = web.Response(
        body=b"".join(encode(line) + b"\r\n" for line in lines), content_type="application/json"
    )
    response.enable_chunked_encoding()
    return response


async def _chunks(request: web.Request) -> AsyncIterator[bytes]:
    async for chunk in request.content.iter_chunked(API_CHUNK_BYTES):
        yield chunk
