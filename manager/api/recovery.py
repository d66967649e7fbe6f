"""``/swarmpy/backup``, ``/restore`` and ``/recover``: ours, for a cluster that is to be saved or was lost.

The bodies of the first two are the backup itself (``manager/backup.py``), in the clear: they travel over the
node's own socket. Whoever stores one seals it, or keeps it where nobody else can read it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from aiohttp import web

from manager.api import requests
from manager.api.context import SWARM_EXISTS, Api
from manager.api.control import LocalState, RecoverRequest, RestoreRequest
from manager.api.streams import open_stream
from swarmpy.errors import InvalidArgument, NotInSwarm
from swarmpy.limits import API_CHUNK_BYTES
from swarmpy.model.states import NodeAvailability

CONTENT_TYPE = "application/vnd.swarmpy.backup"


class Recovery:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.get("/swarmpy/backup", self.backup),
            web.post("/swarmpy/restore", self.restore),
            web.post("/swarmpy/recover", self.recover),
        )

    async def backup(self, request: web.Request) -> web.StreamResponse:
        """All of the store at one version: the one that is there once the read barrier has passed."""
        await self._api.read(request)
        parts = self._api.cluster().backup(self._api.now())
        async with open_stream(self._api, request, CONTENT_TYPE) as response:
            for part in parts:
                await response.write(part)
        return response

    async def restore(self, request: web.Request) -> web.StreamResponse:
        if self._api.control.local().state is not LocalState.INACTIVE:
            raise NotInSwarm(SWARM_EXISTS)
        availability = request.query.get("availability", "")
        if availability not in set(NodeAvailability):
            raise InvalidArgument(f'invalid Availability: "{availability}"')
        wish = RestoreRequest(
            listen_addr=request.query.get("listenAddr", ""),
            advertise_addr=request.query.get("advertiseAddr", ""),
            availability=NodeAvailability(availability),
        )
        return self._api.answer(await self._api.control.restore(wish, _chunks(request)))

    async def recover(self, request: web.Request) -> web.StreamResponse:
        wish = await requests.read_body(request, RecoverRequest)
        return self._api.answer(await self._api.control.recover(wish))


async def _chunks(request: web.Request) -> AsyncIterator[bytes]:
    async for chunk in request.content.iter_chunked(API_CHUNK_BYTES):
        yield chunk
