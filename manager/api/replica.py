"""``/swarmpy/store``: what this manager's own copy of the cluster's state is, in one short line.

Two managers that have applied the log up to the same entry must show the same digest. Nothing is waited for:
a manager that lags behind says so by its numbers.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable

from aiohttp import web

from manager.api.context import Api
from swarmpy.model.objects import Kind


class Replica:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> Iterable[web.RouteDef]:
        return (web.get("/swarmpy/store", self.show),)

    async def show(self, request: web.Request) -> web.StreamResponse:
        access = self._api.cluster()
        view = access.view
        shown = {
            "Applied": access.raft_status().applied,
            "Version": view.version,
            "Objects": sum(len(view.all(kind)) for kind in Kind),
        }
        digest = hashlib.sha256()
        for slice_ in access.slices():
            digest.update(slice_)
            await asyncio.sleep(0)  # others get their turn between slices
        return self._api.answer({**shown, "Digest": digest.hexdigest()})
