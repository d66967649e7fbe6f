"""``/auth`` and ``/distribution``: what registries say of who asks, and of an image's name.

A registry that cannot be reached is an error that clients take as a warning; it comes within seconds.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from aiohttp import web

from manager.api import requests
from manager.api.context import Api
from manager.api.docker_json import Json
from swarmpy.errors import InvalidArgument
from swarmpy.model.images import Credentials, Platform
from swarmpy.model.registry_auth import decode_credentials

HEADER = "X-Registry-Auth"


class AuthRequest(msgspec.Struct, frozen=True, kw_only=True, rename="lower"):
    """The body of ``POST /auth``."""

    username: str = ""
    password: str = ""
    auth: str = ""
    email: str = ""
    serveraddress: str = ""
    identitytoken: str = ""
    registrytoken: str = ""


class Registries:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.post("/auth", self.log_in),
            web.get("/distribution/{name:.+}/json", self.distribution),
        )

    async def log_in(self, request: web.Request) -> web.StreamResponse:
        wish = await requests.read_body(request, AuthRequest)
        credentials = Credentials(
            username=wish.username,
            password=wish.password,
            identity_token=wish.identitytoken,
            registry_token=wish.registrytoken,
        )
        token = await self._api.control.image_store.log_in(wish.serveraddress, credentials)
        return self._api.answer({"Status": "Login Succeeded", "IdentityToken": token})

    async def distribution(self, request: web.Request) -> web.StreamResponse:
        facts = await self._api.control.image_store.look(
            request.match_info["name"], credentials_in(request, is_strict=False)
        )
        return self._api.answer(
            {
                "Descriptor": {"mediaType": facts.media_type, "digest": facts.digest, "size": facts.size},
                "Platforms": [_platform(platform) for platform in facts.platforms],
            }
        )


def _platform(platform: Platform) -> Json:
    shape: Json = {"architecture": platform.architecture, "os": platform.os}
    if platform.variant:
        shape["variant"] = platform.variant
    return shape


def credentials_in(request: web.Request, *, is_strict: bool) -> Credentials:
    """Of the header; a bad one is as none, unless ``is_strict``."""
    header = request.headers.get(HEADER, "")
    if not header:
        if is_strict:
            raise InvalidArgument("Bad parameters and missing X-Registry-Auth: EOF")
        return Credentials()
    try:
        return decode_credentials(header)
    except InvalidArgument as error:
        if is_strict:
            raise InvalidArgument(f"Bad parameters and missing X-Registry-Auth: {error}") from None
        return Credentials()
