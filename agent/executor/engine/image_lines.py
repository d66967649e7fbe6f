"""What engines say while they work on images: one JSON object after the other, errors among them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from agent.executor.engine.client import Engine, Method, Params, Query, Refused
from agent.executor.engine.limits import ENGINE_EVENT_BYTES_MAX, ENGINE_PULL_TIMEOUT_S
from swarmpy.errors import Unavailable


async def lines(
    engine: Engine,
    path: str,
    *,
    params: Query | None = None,
    headers: Params | None = None,
    data: AsyncIterator[bytes] | None = None,
    method: Method = "POST",
) -> AsyncIterator[Mapping[str, Any]]:
    """Refused with the engine's words if one of them is an error."""
    rest = b""
    async with engine.stream(
        method, path, params=params, headers=headers, data=data, timeout_s=ENGINE_PULL_TIMEOUT_S
    ) as answer:
        async for piece in engine.chunks(answer):
            *whole, rest = (rest + piece).split(b"\n")
            if len(rest) > ENGINE_EVENT_BYTES_MAX:
                raise Unavailable(f"{engine.flavour} says more in one line than is taken")
            for line in whole:
                if (said := parse_line(line)) is not None:
                    yield said
    if (said := parse_line(rest)) is not None:
        yield said


def parse_line(line: bytes) -> Mapping[str, Any] | None:
    """None of what says nothing. Pure."""
    try:
        said = json.loads(line) if line.strip() else None
    except ValueError:
        return None
    if not isinstance(said, dict):
        return None
    detail = said.get("errorDetail")
    problem = said.get("error") or (detail.get("message") if isinstance(detail, dict) else "")
    if problem:
        raise Refused(str(problem), status=500)
    return said
