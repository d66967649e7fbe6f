"""Asking a registry: who we are, manifests, blobs there and back. The one file that speaks to them.

Every answer is bounded, in bytes and in time; a registry that cannot be reached is left alone for a while by
those in a hurry. What is fetched is only believed by its digest; of blobs the caller
checks it. A failed request is repeated a few times where that may help.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from agent.registry import remotes
from agent.registry.manifests import ACCEPTED, Manifest, parse
from agent.registry.remotes import Challenge, Remote
from swarmpy.errors import InvalidArgument, NotFound, SwarmError, Unauthenticated
from swarmpy.image_limits import (
    REGISTRIES_AWAY_MAX,
    REGISTRY_ANSWER_TIMEOUT_S,
    REGISTRY_AWAY_S,
    REGISTRY_CONNECT_TIMEOUT_S,
    REGISTRY_ERROR_BYTES_MAX,
    REGISTRY_REDIRECTS_MAX,
    REGISTRY_SMALL_TIMEOUT_S,
    REGISTRY_TOKEN_BYTES_MAX,
    REGISTRY_TRIES_MAX,
)
from swarmpy.limits import IMAGE_MANIFEST_BYTES_MAX
from swarmpy.model.images import Credentials
from swarmpy.runtime import Clock
from swarmpy.version import VERSION

_REALM_CLIENT = "docker"
_OK = (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT, HTTPStatus.CREATED, HTTPStatus.ACCEPTED)
_TRANSIENT = (HTTPStatus.TOO_MANY_REQUESTS, *range(500, 600))


class RegistryFailed(SwarmError):
    """The registry cannot be reached, or does not answer as it should."""


class RegistryAway(RegistryFailed):
    """It cannot be reached: asking another time may help, asking now does not."""


class Denied(RegistryFailed):
    """The registry does not give this to who asks."""


class Registries:
    """All registries that a node may ask. ``names``: the threads that look up hosts, apart from all others,
    since a lookup may hang. ``mirrors``: URLs, for docker's own registry. ``is_offline``: none is asked."""

    def __init__(
        self,
        clock: Clock,
        names: Executor,
        *,
        insecure: Collection[str] = (),
        mirrors: Sequence[str] = (),
        is_offline: bool = False,
    ) -> None:
        self._clock = clock
        self._names = names
        self._insecure = frozenset(insecure)
        self._mirrors = tuple(mirrors)
        self._is_offline = is_offline
        self._away: dict[str, tuple[float, str]] = {}

    def remote(self, name: str) -> Remote:
        return remotes.remote_of(name, self._insecure)

    def sources(self, name: str) -> tuple[Remote, ...]:
        """Where an image of this name may be had: mirrors first."""
        return remotes.sources_of(self.remote(name), self._mirrors, self._insecure)

    @asynccontextmanager
    async def open(
        self,
        remote: Remote,
        credentials: Credentials,
        *,
        actions: str = "pull",
        is_hurried: bool = False,
    ) -> AsyncIterator[Repository]:
        """RegistryAway if it cannot be reached. ``actions``: what is going to be done there.

        ``is_hurried``: one that could not be reached a moment ago is not tried again.
        """
        self._check(remote.host, is_hurried=is_hurried)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=_Resolver(self._names), use_dns_cache=False),
            timeout=aiohttp.ClientTimeout(
                total=None,
                connect=REGISTRY_CONNECT_TIMEOUT_S,
                sock_connect=REGISTRY_CONNECT_TIMEOUT_S,
                sock_read=REGISTRY_ANSWER_TIMEOUT_S,
            ),
            headers={"User-Agent": f"swarmpy/{VERSION}"},
            auto_decompress=False,
        ) as session:
            # who we are to a registry is no affair of its mirrors
            who = Credentials() if remote.is_mirror else credentials
            repository = Repository(session, remote, who, actions)
            try:
                await repository.begin()
            except RegistryAway as error:
                self._note_away(remote.host, str(error))
                raise
            self._away.pop(remote.host, None)
            yield repository

    async def log_in(self, server: str, credentials: Credentials) -> str:
        """An identity token, or nothing if the registry gives none. Unauthenticated if it refuses."""
        host = remotes.server_host(server)
        remote = Remote(host, "", remotes.is_insecure(host, self._insecure))
        async with self.open(remote, credentials, actions="") as repository:
            return await repository.log_in()

    def _check(self, host: str, *, is_hurried: bool) -> None:
        if self._is_offline:
            raise RegistryAway(f'Get "https://{host}/v2/": this node asks no registries')
        until, text = self._away.get(host, (0.0, ""))
        if is_hurried and self._clock.monotonic() < until:
            raise RegistryAway(text)

    def _note_away(self, host: str, text: str) -> None:
        now = self._clock.monotonic()
        if len(self._away) >= REGISTRIES_AWAY_MAX:
            self._away = {name: (until, why) for name, (until, why) in self._away.items() if until > now}
        if len(self._away) < REGISTRIES_AWAY_MAX:
            self._away[host] = (now + REGISTRY_AWAY_S, text)


class Repository:
    """One repository of a registry, while its session is open."""

    def __init__(
        self, session: aiohttp.ClientSession, remote: Remote, credentials: Credentials, actions: str
    ) -> None:
        self._session = session
        self._remote = remote
        self._credentials = credentials
        self._scope = f"repository:{remote.path}:{actions}" if actions else ""
        self._base = ""
        self._ssl: ssl.SSLContext | bool = True
        self._challenge: Challenge | None = None
        self._authorization = ""

    # --- the beginning

    async def begin(self) -> None:
        """Find out how the registry is reached and what it wants to know of us."""
        if self._remote.scheme == "http":
            await self._ping("http", True)
            return
        if self._remote.scheme or not self._remote.is_insecure:
            await self._ping("https", not self._remote.is_insecure)
            return
        try:
            await self._ping("https", False)
        except RegistryAway:
            await self._ping("http", True)

    async def _ping(self, scheme: str, check: bool) -> None:
        self._base = f"{scheme}://{self._remote.host}"
        self._ssl = check
        for tries_left in reversed(range(REGISTRY_TRIES_MAX)):
            async with self._send("GET", f"{self._base}/v2/", {}) as response:
                await _read(response, REGISTRY_ERROR_BYTES_MAX)
            if response.status not in _TRANSIENT or not tries_left:
                break
            await _rest(response, tries_left)
        self._learn(response)

    def _learn(self, response: aiohttp.ClientResponse) -> None:
        """What it wants to know of us."""
        if response.status == HTTPStatus.UNAUTHORIZED:
            found = [
                remotes.parse_challenge(text) for text in response.headers.getall("WWW-Authenticate", [])
            ]
            known = [challenge for challenge in found if challenge is not None]
            self._challenge = min(known, key=lambda each: each.kind != "bearer", default=None)
        elif response.status not in _OK:
            raise RegistryFailed(
                f'Get "{self._base}/v2/": the registry answers {response.status} {response.reason}'
            )

    async def _authorize(self, url: str, method: str) -> None:
        """Say who we are, in the way that the registry asked for. RegistryFailed if we are nobody."""
        who = self._credentials
        if who.registry_token:
            self._authorization = f"Bearer {who.registry_token}"
        elif self._challenge is None:
            return
        elif self._challenge.kind == "basic":
            if not who.username:
                raise RegistryFailed(f'{method.capitalize()} "{url}": no basic auth credentials')
            self._authorization = _basic(who)
        else:
            token, _ = await self._token(self._challenge)
            self._authorization = f"Bearer {token}"

    async def _token(self, challenge: Challenge, *, is_offline: bool = False) -> tuple[str, str]:
        """A token for what we are about to do, and one that stands for the password if asked for."""
        who, realm = self._credentials, challenge.parameters.get("realm", "")
        if urlsplit(realm).scheme != "https" and not (
            self._remote.is_insecure and urlsplit(realm).scheme == "http"
        ):
            raise RegistryFailed(
                f"the registry {self._remote.host} names no safe place for tokens: {realm!r}"
            )
        fields = {"service": challenge.parameters.get("service", "")}
        if self._scope:
            fields["scope"] = self._scope
        if who.identity_token:
            fields |= {
                "grant_type": "refresh_token",
                "refresh_token": who.identity_token,
                "client_id": _REALM_CLIENT,
            }
            request = self._send("POST", realm, {}, data=urlencode(fields).encode(), form=True)
        else:
            if is_offline:
                fields |= {"offline_token": "true", "client_id": _REALM_CLIENT}
            if who.username:
                fields["account"] = who.username
            basic = _basic(who) if who.username else ""
            headers = {"Authorization": basic} if basic else {}
            request = self._send("GET", f"{realm}{'&' if '?' in realm else '?'}{urlencode(fields)}", headers)
        async with request as response:
            body = await _read(response, REGISTRY_TOKEN_BYTES_MAX)
            if response.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                raise Unauthenticated(
                    f'Get "{self._base}/v2/": '
                    + (remotes.error_text(body) or "unauthorized: incorrect username or password")
                )
            if response.status not in _OK:
                raise RegistryFailed(f'Get "{realm}": the answer is {response.status} {response.reason}')
        try:
            answer: dict[str, Any] = json.loads(body)
            token = answer.get("token") or answer["access_token"]
            return str(token), str(answer.get("refresh_token") or "")
        except (ValueError, KeyError, AttributeError, RecursionError):
            raise RegistryFailed(f'Get "{realm}": the answer holds no token') from None

    async def log_in(self) -> str:
        url = f"{self._base}/v2/"
        if self._challenge is not None and self._challenge.kind == "bearer":
            token, identity = await self._token(self._challenge, is_offline=True)
            self._authorization = f"Bearer {token}"
        else:
            identity = ""
            await self._authorize(url, "GET")
        async with self._send("GET", url, self._headers()) as response:
            await _read(response, REGISTRY_ERROR_BYTES_MAX)
            if response.status not in _OK:
                raise Unauthenticated(
                    f"login attempt to {url} failed with status: {response.status} {response.reason}"
                )
        return identity

    # --- manifests

    async def manifest(self, reference: str) -> Manifest:
        """By tag or digest; a digest is checked. NotFound if there is none."""
        url = self._url(f"manifests/{reference}")
        async with self._ask("GET", url, headers={"Accept": ", ".join(ACCEPTED)}) as response:
            raw = await _read(response, IMAGE_MANIFEST_BYTES_MAX)
            media_type = response.headers.get("Content-Type", "")
        digest = "sha256:" + hashlib.sha256(raw).hexdigest()
        if ":" in reference and reference != digest:
            raise RegistryFailed(f"manifest verification failed for digest {reference}")
        return parse(raw, media_type, digest)

    async def put_manifest(self, reference: str, raw: bytes, media_type: str) -> None:
        url = self._url(f"manifests/{reference}")
        async with self._ask("PUT", url, headers={"Content-Type": media_type}, data=raw) as response:
            await _read(response, REGISTRY_ERROR_BYTES_MAX)

    # --- blobs

    async def small_blob(self, digest: str) -> bytes:
        async with self.blob(digest) as response:
            raw = await _read(response, IMAGE_MANIFEST_BYTES_MAX)
        if digest != "sha256:" + hashlib.sha256(raw).hexdigest():
            raise RegistryFailed(f"filesystem layer verification failed for digest {digest}")
        return raw

    @asynccontextmanager
    async def blob(self, digest: str, *, offset: int = 0) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer whose body is the blob: from ``offset`` on if its status is PARTIAL_CONTENT."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self._ask("GET", self._url(f"blobs/{digest}"), headers=headers) as response:
            yield response

    async def has_blob(self, digest: str) -> bool:
        try:
            async with self._ask("HEAD", self._url(f"blobs/{digest}")):
                return True
        except NotFound:
            return False

    async def put_blob(self, digest: str, size: int, chunks: AsyncIterator[bytes]) -> None:
        """In one piece. ``chunks`` is read once, so this is not repeated here."""
        start = self._url("blobs/uploads/")
        async with self._ask("POST", start) as response:
            await _read(response, REGISTRY_ERROR_BYTES_MAX)
            location = urljoin(start, response.headers.get("Location", ""))
        if urlsplit(location).netloc != urlsplit(start).netloc:
            raise RegistryFailed(f"the registry {self._remote.host} sends uploads to another host")
        target = f"{location}{'&' if '?' in location else '?'}{urlencode({'digest': digest})}"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        async with self._send("PUT", target, {**self._headers(), **headers}, data=chunks) as response:
            body = await _read(response, REGISTRY_ERROR_BYTES_MAX)
            if response.status not in _OK:
                raise _error_of(response.status, response.reason or "", body, target, "Put")

    # --- requests

    def _url(self, rest: str) -> str:
        return f"{self._base}/v2/{self._remote.path}/{rest}"

    def _headers(self) -> dict[str, str]:
        return {"Authorization": self._authorization} if self._authorization else {}

    @asynccontextmanager
    async def _ask(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, data: bytes | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A good answer. Repeated with (new) authority if it was refused, and where the registry is busy."""
        if not self._authorization:
            is_manifest = method == "GET" and "/manifests/" in url
            await self._authorize(url, "HEAD" if is_manifest else method)  # docker's text is of a HEAD
        has_renewed = False
        for tries_left in reversed(range(REGISTRY_TRIES_MAX)):
            async with self._send(method, url, {**self._headers(), **(headers or {})}, data=data) as response:
                if response.status in _OK:
                    yield response
                    return
                body = await _read(response, REGISTRY_ERROR_BYTES_MAX)
                failure = _error_of(response.status, response.reason or "", body, url, method)
            if response.status == HTTPStatus.UNAUTHORIZED and not has_renewed and self._challenge is not None:
                has_renewed = True
                await self._authorize(url, method)
            elif response.status not in _TRANSIENT or not tries_left:
                raise failure
            else:
                await _rest(response, tries_left)
        raise failure

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        data: bytes | AsyncIterator[bytes] | None = None,
        form: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if form:
            headers = {**headers, "Content-Type": "application/x-www-form-urlencoded"}
        what = f'{method.capitalize()} "{url}"'
        try:
            async with self._session.request(
                method,
                url,
                headers=headers,
                data=data,
                ssl=self._ssl,
                max_redirects=REGISTRY_REDIRECTS_MAX,
            ) as response:
                yield response
        except aiohttp.ClientConnectorError as error:
            raise RegistryAway(f"{what}: {_dial_text(error)}") from None
        except TimeoutError:
            raise RegistryAway(f"{what}: context deadline exceeded") from None
        except (aiohttp.ClientError, ValueError, ConnectionError) as error:
            raise RegistryFailed(f"{what}: {error or type(error).__name__}") from None


class _Resolver(AbstractResolver):
    """Names, looked up in threads of their own."""

    def __init__(self, threads: Executor) -> None:
        self._threads = threads

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST,
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        """The threads belong to who made them."""


def _basic(who: Credentials) -> str:
    return "Basic " + base64.b64encode(f"{who.username}:{who.password}".encode()).decode()


def _dial_text(error: aiohttp.ClientConnectorError) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"dial tcp: lookup {error.host}: no such host"
    if isinstance(error, aiohttp.ClientSSLError | aiohttp.ClientConnectorCertificateError):
        return f"tls: {error}"
    reason = (error.os_error.strerror or str(error.os_error)).lower()
    if isinstance(error.os_error, ConnectionRefusedError):
        reason = "connection refused"
    return f"dial tcp {error.host}:{error.port}: connect: {reason}"


def _error_of(status: int, reason: str, body: bytes, url: str, method: str) -> SwarmError:
    text = remotes.error_text(body)
    if status == HTTPStatus.NOT_FOUND:
        return NotFound(text or "manifest unknown: manifest unknown")
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return Denied(text or "unauthorized: authentication required")
    shown = text or f"unexpected status from the registry: {status} {reason}"
    if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _TRANSIENT:
        return InvalidArgument(shown)
    return RegistryFailed(f'{method.capitalize()} "{url}": {shown}')


async def _rest(response: aiohttp.ClientResponse, tries_left: int) -> None:
    attempt = REGISTRY_TRIES_MAX - 1 - tries_left
    await asyncio.sleep(remotes.retry_delay(attempt, response.headers.get("Retry-After", "")))


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    """A small answer; in one time for all of it, or byte after byte would keep us for ever."""
    data = bytearray()
    async with asyncio.timeout(REGISTRY_SMALL_TIMEOUT_S):
        async for chunk in response.content.iter_chunked(1 << 16):
            data += chunk
            if len(data) > most:
                raise RegistryFailed(f"{response.url}: the answer is longer than {most} bytes")
    return bytes(data)
