"""Which bytes the image of a service means: its digest, asked of the registry once, so all run the same.

Decides (pure) whether a registry is asked, and how the digest is written: behind the image's name as the
client wrote it, where clients look for it (docs/adr/016). An image that has a digest, is named by its id, or
is the node's own root is left alone; so is one that keeps its name in an update, unless the update is forced,
or asks for it: then the digest that the service has stays where nobody tells another.
Docker's own client asks registries itself and is believed, also when it wants no digest. For clients of
versions before 1.30 dockerd asks, at each create and update, and so does this.

Nobody waits long for a registry: an image that this node has by loading it is asked for nowhere, asking is
bounded in time, and a registry that was slow to fail is left alone for a while. Then the image stays without
a digest, and the client is warned in docker's words.
"""

from __future__ import annotations

import asyncio
import enum
import re
from typing import Final, NamedTuple

import structlog
from aiohttp import web
from msgspec.structs import replace

from manager.api import requests, versions
from manager.api.context import Api
from swarmpy.errors import InvalidArgument, NotFound, SwarmError
from swarmpy.image_limits import (
    IMAGE_PIN_AWAY_MAX_S,
    IMAGE_PIN_AWAY_S,
    IMAGE_PIN_SLOW_S,
    IMAGE_PIN_TIMEOUT_S,
    IMAGE_PINS_MAX,
    IMAGE_PINS_OWN_MAX,
    IMAGE_PINS_OWN_S,
    REGISTRIES_AWAY_MAX,
)
from swarmpy.model.image_names import HOST, Reference, parse
from swarmpy.model.images import Credentials
from swarmpy.model.objects import Service
from swarmpy.model.registry_auth import decode_credentials
from swarmpy.model.specs import ServiceSpec

QUERY: Final = "resolveImage"
NEVER: Final = "never"
ALWAYS: Final = "always"
"""``?resolveImage=never`` is how our own clients say that no digest is wanted, ``always`` that the one which
the service has may be of old."""
DAEMON_ASKS_BEFORE: Final = versions.number("1.30")
_DOCKER_CLIENT: Final = "Docker-Client/"
_ID: Final = re.compile(r"(?:sha256:)?[0-9a-f]{64}")

log = structlog.get_logger(__name__)


class Policy(enum.Enum):
    """Who finds out an image's digest, by what is known of the client."""

    CLIENT = enum.auto()
    MANAGER = enum.auto()
    """Where the image is new to the service."""
    ANEW = enum.auto()
    """The manager, also where the image keeps its name."""
    DAEMON = enum.auto()
    """At each request: clients of old."""


class Pinned(NamedTuple):
    spec: ServiceSpec
    warnings: tuple[str, ...] = ()


def policy_of(version: versions.Version, user_agent: str, wish: str) -> Policy:
    """InvalidArgument for a wish that there is not."""
    if wish not in ("", ALWAYS, NEVER):
        raise InvalidArgument(f"unsupported {QUERY} value: give {ALWAYS} or {NEVER}")
    if version < DAEMON_ASKS_BEFORE:
        return Policy.DAEMON
    if wish == NEVER or user_agent.startswith(_DOCKER_CLIENT):
        return Policy.CLIENT
    return Policy.ANEW if wish == ALWAYS else Policy.MANAGER


def undecided(spec: ServiceSpec, policy: Policy, *, of: ServiceSpec | None) -> Reference | None:
    """The image to ask for; None if the spec is as it should be but for ``settled``."""
    name = _unpinned(_image(spec))
    if name is None or policy is Policy.CLIENT:
        return None
    is_kept = of is not None and _is_same(name, _image(of)) and not _is_forced(spec, of)
    return None if is_kept and policy is Policy.MANAGER else name


def settled(spec: ServiceSpec, policy: Policy, *, of: ServiceSpec | None) -> ServiceSpec:
    """What needs no registry: an image that keeps its name in an update keeps its digest, too."""
    image = _image(spec)
    name = _unpinned(image)
    if policy is Policy.DAEMON and name is None:
        return _with_image(spec, familiar(image))
    if policy not in (Policy.MANAGER, Policy.ANEW) or name is None or of is None or _is_forced(spec, of):
        return spec
    return _with_image(spec, _image(of)) if _is_same(name, _image(of)) else spec


def pinned(spec: ServiceSpec, policy: Policy, name: Reference, digest: str) -> ServiceSpec:
    """``name`` is what was asked for, ``digest`` the answer."""
    written = str(name) if policy is Policy.DAEMON else _image(spec)
    return _with_image(spec, f"{written}@{digest}")


def familiar(image: str) -> str:
    """An image with a digest as dockerd writes it: without what goes without saying."""
    try:
        name = parse(image)
    except InvalidArgument:
        return image  # an id, or what is refused later
    if not name.digest:
        return image
    return f"{name}@{name.digest}" if name.is_tagged else name.key


def warning(image: str) -> str:
    return (
        f"image {image} could not be accessed on a registry to record\nits digest. Each node will access "
        f"{image} independently,\npossibly leading to different nodes running different\nversions of the "
        "image.\n"
    )


def _unpinned(image: str) -> Reference | None:
    if _ID.fullmatch(image):
        return None
    try:
        name = parse(image)
    except InvalidArgument:
        return None
    return None if name.digest or name.name == HOST else name


def _is_same(name: Reference, image: str) -> bool:
    try:
        other = parse(image)
    except InvalidArgument:
        return False
    return str(other) == str(name)


def _is_forced(spec: ServiceSpec, of: ServiceSpec) -> bool:
    return spec.task_template.force_update != of.task_template.force_update


def _image(spec: ServiceSpec) -> str:
    container = spec.task_template.container_spec
    return "" if container is None else container.image


def _with_image(spec: ServiceSpec, image: str) -> ServiceSpec:
    container = spec.task_template.container_spec
    if container is None or container.image == image:
        return spec
    template = replace(spec.task_template, container_spec=replace(container, image=image))
    return replace(spec, task_template=template)


class _Away(NamedTuple):
    """A registry that is not asked before ``until``; ``period_s`` grows while it stays so."""

    until: float
    period_s: float


class ImagePins:
    """Asks registries, through this manager's node."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._turns = asyncio.Semaphore(IMAGE_PINS_MAX)
        self._away: dict[str, _Away] = {}
        self._own: dict[str, float] = {}

    async def settle(
        self, request: web.Request, spec: ServiceSpec, *, of: Service | None = None, auth: str = ""
    ) -> Pinned:
        """The spec with its image's digest, if there is one to be had; else with a warning."""
        policy = policy_of(
            requests.api_version(request),
            request.headers.get("User-Agent", ""),
            request.query.get(QUERY, ""),
        )
        present = None if of is None else of.spec
        name = undecided(spec, policy, of=present)
        if name is None:
            return Pinned(settled(spec, policy, of=present))
        if await self._is_own(name):
            own = settled(spec, policy, of=present)
            return Pinned(own, (warning(_image(spec)),) if policy is Policy.DAEMON else ())
        digest = await self._digest(name, auth)
        if not digest:
            return Pinned(settled(spec, policy, of=present), (warning(_image(spec)),))
        return Pinned(pinned(spec, policy, name, digest))

    async def _is_own(self, name: Reference) -> bool:
        """Whether this node has it and never had it from, or gave it to, a registry. To look takes
        milliseconds, so who makes many services of one image looks once."""
        now = self._api.env.clock.monotonic()
        if self._own.get(str(name), 0.0) > now:
            return True
        try:
            image = await self._api.control.image_store.find(str(name))
        except (NotFound, InvalidArgument):
            return False
        if any(each.startswith(f"{name.name}@") for each in image.digests):
            return False
        if len(self._own) >= IMAGE_PINS_OWN_MAX:
            self._own.clear()
        self._own[str(name)] = now + IMAGE_PINS_OWN_S
        return True

    async def _digest(self, name: Reference, auth: str) -> str:
        """Nothing if it cannot be had now."""
        clock, host = self._api.env.clock, name.registry
        began = None
        try:
            async with asyncio.timeout(IMAGE_PIN_TIMEOUT_S), self._turns:
                away = self._away.get(host)
                if away is not None and clock.monotonic() < away.until:
                    return ""
                began = clock.monotonic()
                facts = await self._api.control.image_store.look(str(name), _credentials(auth))
        except (SwarmError, TimeoutError) as error:
            reason = str(error) or "the registry did not answer in time"
            log.warning("image_not_pinned", image=str(name), reason=reason)
            if began is not None and clock.monotonic() - began >= IMAGE_PIN_SLOW_S:
                self._note_away(host)
            return ""
        self._away.pop(host, None)
        return facts.digest

    def _note_away(self, host: str) -> None:
        now = self._api.env.clock.monotonic()
        known = self._away.pop(host, None)
        if known is not None and now < known.until:
            self._away[host] = known  # of several that waited together, the first has told
            return
        if len(self._away) >= REGISTRIES_AWAY_MAX:
            self._away.pop(next(iter(self._away)))
        period_s = IMAGE_PIN_AWAY_S if known is None else min(known.period_s * 2, IMAGE_PIN_AWAY_MAX_S)
        self._away[host] = _Away(now + period_s, period_s)


def _credentials(auth: str) -> Credentials:
    """A header that makes no sense counts as none, as it does to dockerd."""
    try:
        return decode_credentials(auth) if auth else Credentials()
    except InvalidArgument:
        return Credentials()
