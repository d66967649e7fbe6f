"""A client of the Engine API for tests: what was answered, with its status."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL


class Answer:
    def __init__(self, status: int, headers: CIMultiDictProxy[str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        text: str = self.json["message"]
        return text


class Http:
    """``get``, ``post``, ``delete``; ``filters`` are encoded as the API wants them."""

    def __init__(self, socket: Path) -> None:
        self.session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.session.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
        **query: object,
    ) -> Answer:
        if body is not None:
            data = json.dumps(body).encode()
        params = {
            name: json.dumps(value) if isinstance(value, dict) else str(value)
            for name, value in query.items()
        }
        url = URL(f"http://swarmpy{path}", encoded=True)
        async with self.session.request(method, url, data=data, headers=headers, params=params) as reply:
            return Answer(reply.status, reply.headers, await reply.read())

    async def get(self, path: str, **query: Any) -> Answer:
        return await self.call("GET", path, **query)

    async def post(self, path: str, body: object = None, **query: Any) -> Answer:
        return await self.call("POST", path, body=body, **query)

    async def delete(self, path: str, **query: Any) -> Answer:
        return await self.call("DELETE", path, **query)


def spec(name: str = "web", *, image: str = "host", replicas: int = 3, **more: Any) -> dict[str, Any]:
    """A service's spec; ``container`` adds to the container's part, the rest to the top."""
    container = {"Image": image, "Args": ["sleep", "100"], **more.pop("container", {})}
    template = {"ContainerSpec": container, **more.pop("template", {})}
    return {
        "Name": name,
        "TaskTemplate": template,
        "Mode": {"Replicated": {"Replicas": replicas}},
        **more,
    }
