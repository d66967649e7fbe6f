"""``/images`` and ``/distribution``: the images that this node holds; no registry is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from aiohttp import web

from manager.api import requests
from manager.api.context import Api
from manager.api.control import Image
from manager.api.docker_json import Json, encode, rfc3339
from swarmpy.errors import NotFound
from swarmpy.limits import API_CHUNK_BYTES
from swarmpy.model.ids import SECOND_NS

FILTERS = frozenset({"reference", "dangling", "label", "before", "since", "until"})


class Images:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.get("/images/json", self.list),
            web.post("/images/load", self.load),
            web.get("/images/{name:.+}/json", self.inspect),
            web.delete("/images/{name:.+}", self.remove),
            web.get("/distribution/{name:.+}/json", self.distribution),
        )

    async def list(self, request: web.Request) -> web.StreamResponse:
        wanted = requests.filters(request, FILTERS)
        references = wanted.get("reference", ())
        images = [
            image
            for image in await self._api.control.images()
            if not references or any(_is_named(image, reference) for reference in references)
        ]
        return self._api.answer([_summary(image) for image in images])

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        for image in await self._api.control.images():
            if _is_named(image, name):
                return self._api.answer(
                    {
                        "Id": image.id,
                        "RepoTags": list(image.names),
                        "RepoDigests": [],
                        "Created": rfc3339(image.created_at),
                        "Size": image.size_bytes,
                        "Os": "linux",
                    }
                )
        raise NotFound(f"No such image: {name}")

    async def load(self, request: web.Request) -> web.StreamResponse:
        """A tar archive in, one JSON line per image out. Errors after the start are a line too."""
        names = await self._api.control.load_image(
            _chunks(request),
            name=request.query.get("name", ""),
            filename=request.query.get("filename", ""),
        )
        lines = [{"stream": f"Loaded image: {name}\n"} for name in names]
        return web.Response(
            body=b"".join(encode(line) + b"\r\n" for line in lines), content_type="application/json"
        )

    async def remove(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        removed = await self._api.control.remove_image(name)
        answer: list[Json] = [{"Untagged": tag} for tag in removed.names or (name,)]
        return self._api.answer([*answer, {"Deleted": removed.id}])

    async def distribution(self, request: web.Request) -> web.StreamResponse:
        """Clients take this as a warning and use the image's name as it stands."""
        name = request.match_info["name"]
        raise NotFound(
            f"manifest unknown: {name} is not looked up in a registry; nodes use the image they have"
        )


async def _chunks(request: web.Request) -> AsyncIterator[bytes]:
    async for chunk in request.content.iter_chunked(API_CHUNK_BYTES):
        yield chunk


def _is_named(image: Image, name: str) -> bool:
    full = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
    return name in image.names or full in image.names or image.id.removeprefix("sha256:").startswith(name)


def _summary(image: Image) -> Json:
    return {
        "Id": image.id,
        "ParentId": "",
        "RepoTags": list(image.names),
        "RepoDigests": [],
        "Created": image.created_at // SECOND_NS,
        "Size": image.size_bytes,
        "SharedSize": -1,
        "Containers": -1,
        "Labels": None,
    }
