"""Images of tasks, which the engine keeps: one that is there is used, one that is missing is pulled by it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import structlog
from msgspec.structs import replace

from agent.executor.base import ImageConfig
from agent.executor.engine.client import Engine, Refused
from agent.executor.engine.limits import ENGINE_EVENT_BYTES_MAX, ENGINE_PULL_TIMEOUT_S
from agent.executor.images import loading
from agent.executor.images.archive import ImageSource
from swarmpy.errors import InvalidArgument, NotFound, SwarmError, TaskRejected, Unavailable
from swarmpy.model import image_names as references
from swarmpy.model.image_names import HOST

log = structlog.get_logger(__name__)

Pulled = Callable[[str, Mapping[str, Any]], None]
"""Is told the name of an image that was pulled, and what the engine says of it now."""


async def ensure_image(
    engine: Engine, name: str, *, registry_auth: str = "", pulled: Pulled | None = None
) -> ImageConfig:
    """TaskRejected in docker's words if it is neither here nor to be had, as with native tasks."""
    if references.is_host(name):
        raise TaskRejected(
            f'the image "{HOST}" is the node\'s own root file system, and {engine.flavour} runs images only: '
            "place the service on nodes with the executor native or oci"
        )
    try:
        return config_of(name, await inspect(engine, name))
    except InvalidArgument as error:
        raise TaskRejected(str(error)) from None
    except NotFound as missing:
        reason = str(missing)
    try:
        await pull(engine, name, registry_auth=registry_auth)
        said = await inspect(engine, name)
        if pulled is not None:
            pulled(name, said)
        return config_of(name, said)
    except SwarmError as error:
        log.warning("image_not_pulled", image=name, reason=str(error))
        raise TaskRejected(reason) from None


async def inspect(engine: Engine, name: str) -> dict[str, Any]:
    """NotFound with docker's text, InvalidArgument if it is no name."""
    whole = name if references.is_digest(name) else _shown(name)
    try:
        found: dict[str, Any] = await engine.call("GET", f"/images/{quote(whole, safe='/:@')}/json")
    except NotFound:
        raise NotFound(f"No such image: {whole}") from None
    return found


def _shown(name: str) -> str:
    """As docker shows it, with its tag; checked."""
    references.parse(name)
    last = name.rpartition("/")[2]
    return name if ":" in last or "@" in last else f"{name}:latest"


def config_of(name: str, inspected: dict[str, Any]) -> ImageConfig:
    """What the image says of how it wants to be run. Pure."""
    image_id = str(inspected["Id"])
    source = ImageSource(
        names=(name,),
        digest=image_id if image_id.startswith("sha256:") else f"sha256:{image_id}",
        config={"config": inspected.get("Config") or {}},
        layers=(),
        raw=b"",
    )
    return replace(loading.record_of(source).config, reference=name)


async def pull(engine: Engine, name: str, *, registry_auth: str = "") -> None:
    """By the engine, from the registry that the name leads to. Refused with what it says."""
    wanted = references.parse(name)
    params = {"fromImage": name}
    if not wanted.digest:  # without a tag all of them would be pulled
        bare = name.removesuffix(f":{wanted.tag}") if wanted.is_tagged else name
        params = {"fromImage": bare, "tag": wanted.tag}
    headers = {"X-Registry-Auth": registry_auth} if registry_auth else None
    async with engine.stream(
        "POST", "/images/create", params=params, headers=headers, timeout_s=ENGINE_PULL_TIMEOUT_S
    ) as answer:
        rest = b""
        async for piece in engine.chunks(answer):
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > ENGINE_EVENT_BYTES_MAX:
                raise Unavailable(f"{engine.flavour} says more about pulling {name} than is taken")
            for line in lines:
                _check(line)
        _check(rest)


def _check(line: bytes) -> None:
    try:
        said = json.loads(line) if line.strip() else {}
    except ValueError:
        return
    if isinstance(said, dict) and said.get("error"):
        raise Refused(str(said["error"]), status=500)
