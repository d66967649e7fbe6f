"""``/plugins``: there are none, and none can be installed. Clients that list them find an empty list.

Drivers of networks, volumes and logs are what the daemon brings. dockerd's own words for a plugin that is
not there; what would bring one here is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from aiohttp import web

from manager.api import requests
from manager.api.context import Api
from swarmpy.errors import NotFound, Unimplemented

FILTERS: Final = frozenset({"enabled", "capability"})
NO_PLUGINS: Final = (
    "plugins of Docker's kind are not supported: a daemon's drivers of networks, volumes and logs are its own"
)
_ACTIONS: Final = ("enable", "disable", "push", "set", "upgrade")


class Plugins:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> Iterable[web.RouteDef]:
        actions = [web.post(f"/plugins/{{name:.+}}/{action}", self.missing) for action in _ACTIONS]
        return (
            web.get("/plugins", self.list),
            web.get("/plugins/privileges", self.refuse),
            web.post("/plugins/pull", self.refuse),
            web.post("/plugins/create", self.refuse),
            web.get("/plugins/{name:.+}/json", self.missing),
            web.delete("/plugins/{name:.+}", self.missing),
            *actions,
        )

    async def list(self, request: web.Request) -> web.StreamResponse:
        requests.filters(request, FILTERS)
        return self._api.answer([])

    async def missing(self, request: web.Request) -> web.StreamResponse:
        raise NotFound(f'plugin "{request.match_info["name"]}" not found')

    async def refuse(self, request: web.Request) -> web.StreamResponse:
        raise Unimplemented(NO_PLUGINS)
