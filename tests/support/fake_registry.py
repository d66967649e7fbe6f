"""A registry of a test's own that asks for tokens, has images for many machines, breaks off, lies; and a node
that pulls from it."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import json
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from image_files import image_config, tar_of

from agent.executor.images.store import ImageStore
from agent.registry.client import Registries
from agent.registry.manifests import OCI_MANIFEST
from agent.registry.transfer import Transfers
from swarmpy.model.image_names import parse
from swarmpy.model.images import Credentials, Progress
from swarmpy.runtime import SystemClock

LAYERS = (tar_of(("etc/a", os.urandom(300_000))), tar_of(("etc/b", b"b")))
WHO = Credentials(username="joe", password="secret")


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class FakeRegistry:
    """``faults``: what becomes of the next requests for blobs: "cut", "busy", "lie", "drop", "less".
    ``refusals``: of those for anything: a status, and what its Retry-After says."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    wants_token: bool = False
    drips: bool = False
    """Manifests come byte by byte, without an end."""
    faults: list[str] = field(default_factory=list)
    refusals: list[tuple[int, str]] = field(default_factory=list)
    who: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    host: str = ""

    def put(self, value: object, media_type: str, *names: str) -> str:
        raw = json.dumps(value).encode()
        for name in (digest(raw), *names):
            self.manifests[name] = (media_type, raw)
        return digest(raw)

    def blob(self, data: bytes) -> dict[str, Any]:
        self.blobs[digest(data)] = data
        return {"digest": digest(data), "size": len(data)}

    def add_image(self, *names: str, layers: tuple[bytes, ...] = LAYERS) -> str:
        packed = [gzip.compress(layer, mtime=0) for layer in layers]
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self.blob(image_config(list(layers), Cmd=["x"])),
            "layers": [self.blob(layer) for layer in packed],
        }
        return self.put(manifest, OCI_MANIFEST, *names)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        self.who.append(request.headers.get("Authorization", ""))
        if self.refusals:
            status, retry_after = self.refusals.pop(0)
            return web.Response(status=status, headers={"Retry-After": retry_after} if retry_after else {})
        if request.path == "/token":
            basic = "Basic " + base64.b64encode(b"joe:secret").decode()
            if request.headers.get("Authorization") != basic:
                return web.json_response(
                    {"errors": [{"code": "UNAUTHORIZED", "message": "wrong"}]}, status=401
                )
            return web.json_response({"token": "t-" + request.query["scope"]})
        if self.wants_token and request.headers.get("Authorization") != "Bearer t-repository:app:pull":
            challenge = f'Bearer realm="http://{self.host}/token",service="s"'
            return web.json_response({}, status=401, headers={"WWW-Authenticate": challenge})
        if request.path == "/v2/":
            return web.json_response({})
        *_, repository, kind, name = request.path.split("/")
        found = self.manifests.get(name) if kind == "manifests" and repository == "app" else None
        if found is not None and self.drips:
            response = web.StreamResponse()
            await response.prepare(request)
            while request.transport is not None and not request.transport.is_closing():
                await response.write(b"{")
                await asyncio.sleep(0.01)
            return response
        if found is not None:
            return web.Response(body=found[1], content_type=found[0])
        if kind == "blobs" and name in self.blobs:
            return await self._blob(request, self.blobs[name])
        return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "gone"}]}, status=404)

    async def _blob(self, request: web.Request, data: bytes) -> web.StreamResponse:
        fault = self.faults.pop(0) if self.faults and len(data) > 1_000 else ""
        if fault == "busy":
            return web.Response(status=503)
        if fault == "lie":
            return web.Response(body=bytes(len(data)))
        if fault == "less":
            return web.Response(body=data[:-1])
        if fault == "drop":
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        start = int(request.headers.get("Range", "bytes=0-")[6:-1])
        if fault == "cut":
            length = {"Content-Length": str(len(data) - start)}
            response = web.StreamResponse(status=206 if start else 200, headers=length)
            await response.prepare(request)
            await response.write(data[start : start + len(data) * 2 // 3])
            assert request.transport is not None
            request.transport.close()
            return response
        return web.Response(body=data[start:], status=206 if start else 200)


@asynccontextmanager
async def served() -> AsyncIterator[FakeRegistry]:
    registry = FakeRegistry()
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", registry.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    registry.host = f"127.0.0.1:{runner.addresses[0][1]}"
    yield registry
    await runner.cleanup()


class Clock(SystemClock):
    later_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.later_s


@dataclass
class Node:
    store: ImageStore
    transfers: Transfers
    clock: Clock
    said: list[Progress] = field(default_factory=list)

    async def pull(self, name: str, *, platform: str = "", credentials: Credentials | None = None) -> str:
        image = await self.transfers.pull(
            parse(name), self.said.append, platform=platform, credentials=credentials
        )
        return image.id


def node_in(folder: Path, *, mirrors: tuple[str, ...] = ()) -> Node:
    store, clock = ImageStore(folder / "images"), Clock()
    store.prepare()
    (folder / "spool").mkdir()
    registries = Registries(clock, ThreadPoolExecutor(1), mirrors=mirrors)
    return Node(store, Transfers(registries, store, folder / "spool"), clock)


def left_in_spool(node: Node) -> list[str]:
    return [path.name for path in (node.store.layers_dir.parent.parent / "spool").iterdir()]
