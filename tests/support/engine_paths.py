"""Every path of the published Engine API 1.47, and what becomes of a request to it here.

An API without a daemon behind it is asked each of them. "Served" says that somebody answers for the path, not
that all of it works. What is not served needs a reason in ``NOT_SERVED``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

import aiohttp
from api_node import FakeNode

from manager.api.server import ApiServer
from swarmpy.runtime import Env

_PAGE_NOT_FOUND: Final = "page not found"

PATHS: Final = """
GET /_ping
HEAD /_ping
GET /version
GET /info
GET /events
GET /system/df
POST /auth
GET /swarm
POST /swarm/init
POST /swarm/join
POST /swarm/leave
POST /swarm/update
GET /swarm/unlockkey
POST /swarm/unlock
GET /nodes
GET /nodes/{id}
DELETE /nodes/{id}
POST /nodes/{id}/update
GET /services
POST /services/create
GET /services/{id}
DELETE /services/{id}
POST /services/{id}/update
GET /services/{id}/logs
GET /tasks
GET /tasks/{id}
GET /tasks/{id}/logs
GET /secrets
POST /secrets/create
GET /secrets/{id}
DELETE /secrets/{id}
POST /secrets/{id}/update
GET /configs
POST /configs/create
GET /configs/{id}
DELETE /configs/{id}
POST /configs/{id}/update
GET /networks
GET /networks/{id}
DELETE /networks/{id}
POST /networks/create
POST /networks/{id}/connect
POST /networks/{id}/disconnect
POST /networks/prune
GET /volumes
POST /volumes/create
GET /volumes/{name}
PUT /volumes/{name}
DELETE /volumes/{name}
POST /volumes/prune
GET /containers/json
POST /containers/create
GET /containers/{id}/json
GET /containers/{id}/top
GET /containers/{id}/logs
GET /containers/{id}/changes
GET /containers/{id}/export
GET /containers/{id}/stats
POST /containers/{id}/resize
POST /containers/{id}/start
POST /containers/{id}/stop
POST /containers/{id}/restart
POST /containers/{id}/kill
POST /containers/{id}/update
POST /containers/{id}/rename
POST /containers/{id}/pause
POST /containers/{id}/unpause
POST /containers/{id}/attach
GET /containers/{id}/attach/ws
POST /containers/{id}/wait
DELETE /containers/{id}
HEAD /containers/{id}/archive
GET /containers/{id}/archive
PUT /containers/{id}/archive
POST /containers/prune
POST /containers/{id}/exec
POST /exec/{id}/start
POST /exec/{id}/resize
GET /exec/{id}/json
GET /images/json
POST /images/create
POST /images/load
GET /images/get
GET /images/search
POST /images/prune
GET /images/{name}/json
GET /images/{name}/history
GET /images/{name}/get
POST /images/{name}/push
POST /images/{name}/tag
DELETE /images/{name}
GET /distribution/{name}/json
POST /build
POST /build/prune
POST /commit
POST /session
GET /plugins
GET /plugins/privileges
POST /plugins/pull
POST /plugins/create
GET /plugins/{name}/json
DELETE /plugins/{name}
POST /plugins/{name}/enable
POST /plugins/{name}/disable
POST /plugins/{name}/upgrade
POST /plugins/{name}/push
POST /plugins/{name}/set
"""

_QUERY: Final = {
    "/events": "?until=1",
    "/images/create": "?fromSrc=-",
    "/containers/{id}/archive": "?path=/",
    "/images/get": "?names=nope",
}
_LAST: Final = ("/swarm/leave", "/swarm/init", "/swarm/join", "/swarm/unlock")
"""These may change what the node is, so they are asked after the others."""

NOT_SERVED: Final = {"POST /session": "images are built elsewhere, and loaded or pulled"}


class Answered(NamedTuple):
    method: str
    path: str
    outcome: str

    @property
    def is_served(self) -> bool:
        return not self.outcome.startswith("not served")


async def probe() -> list[Answered]:
    """What becomes of each, in the order of ``PATHS``."""
    asked = [line.split() for line in PATHS.split("\n") if line]
    node = FakeNode()
    node.become_manager()
    server = ApiServer(node, Env())
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder, "api.sock")
        await server.start(socket)
        try:
            connector = aiohttp.UnixConnector(path=str(socket))
            async with aiohttp.ClientSession("http://node", connector=connector) as session:
                outcomes = {
                    (method, path): await _outcome(session, method, path)
                    for method, path in sorted(asked, key=lambda call: call[1] in _LAST)
                }
        finally:
            await server.stop()
    return [Answered(method, path, outcomes[method, path]) for method, path in asked]


async def _outcome(session: aiohttp.ClientSession, method: str, path: str) -> str:
    target = path.replace("{id}", "nope").replace("{name}", "nope") + _QUERY.get(path, "")
    body: dict[str, str] | None = {} if method == "POST" else None
    async with session.request(method, target, json=body) as response:
        text = await response.text() if response.status in (404, 501) else ""
    message = str(json.loads(text).get("message", "")) if text.startswith("{") else ""
    if response.status == 501:
        return f"refused (501): {message}"
    if message == _PAGE_NOT_FOUND:
        return f"not served: {NOT_SERVED.get(f'{method} {path}', '')}"
    return "served"
