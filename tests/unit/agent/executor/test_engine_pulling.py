"""Images of tasks that an engine has to pull: who wants to know of it is told, and of nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from agent.executor.engine.client import Engine
from agent.executor.engine.pulling import ensure_image
from swarmpy.errors import NotFound, TaskRejected

IMAGE = f"127.0.0.1:5000/app:1@sha256:{'a' * 64}"
SAID = {"Id": f"sha256:{'b' * 64}", "Config": {"Labels": {"a": "b"}}}


class FakeEngine:
    """Has nothing at first; ``answer`` is what it says of a pull."""

    flavour = "docker"

    def __init__(self, answer: bytes) -> None:
        self.has_it = False
        self._answer = answer

    async def call(self, method: str, path: str) -> dict[str, Any]:
        if not self.has_it:
            raise NotFound("no such image")
        return SAID

    @asynccontextmanager
    async def stream(self, method: str, path: str, **more: Any) -> AsyncIterator[bytes]:
        self.has_it = b"error" not in self._answer
        yield self._answer

    async def chunks(self, content: bytes) -> AsyncIterator[bytes]:
        yield content


async def test_what_is_pulled_is_told_once() -> None:
    told: list[tuple[str, Mapping[str, Any]]] = []
    engine = FakeEngine(b'{"status": "Pulling"}\n')
    for _ in range(2):
        image = await ensure_image(
            cast(Engine, engine), IMAGE, pulled=lambda name, said: told.append((name, said))
        )
        assert image.digest == SAID["Id"]
    assert told == [(IMAGE, SAID)]


async def test_what_no_registry_gives_is_not() -> None:
    told: list[str] = []
    engine = FakeEngine(b'{"error": "denied"}\n')
    with pytest.raises(TaskRejected, match="No such image"):
        await ensure_image(cast(Engine, engine), IMAGE, pulled=lambda name, _: told.append(name))
    assert told == []
