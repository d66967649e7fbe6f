"""``TaskImages``: the images of this node's tasks. One that is missing is fetched, if there is a way to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from agent.executor.base import ImageConfig
from agent.executor.images.store import ImageStore
from agent.executor.native.image_users import image_users, layers_in_use
from swarmpy.errors import FailedPrecondition, InvalidArgument, NotFound, SwarmError, TaskRejected

log = structlog.get_logger(__name__)

Fetch = Callable[[str, str], Awaitable[object]]
"""Brings an image of this name to the node, asked for by whom an X-Registry-Auth says; or SwarmError."""
Run = Callable[[Callable[[], Any]], Awaitable[Any]]


class TaskImages:
    """``run`` is the executor's way to call what blocks."""

    def __init__(self, images: ImageStore, tasks_dir: Path, fetch: Fetch | None, run: Run) -> None:
        self._images = images
        self._tasks_dir = tasks_dir
        self._fetch = fetch
        self._run = run

    async def ensure(self, reference: str, registry_auth: str) -> ImageConfig:
        try:
            return await self._config(reference)
        except InvalidArgument as error:
            raise TaskRejected(str(error)) from None
        except NotFound as error:
            return await self._bring(reference, registry_auth, str(error))

    async def _bring(self, reference: str, registry_auth: str, reason: str) -> ImageConfig:
        """As docker does: that no registry gave it is logged, that it is not here ends the task. What is
        wrong with an image that came, or with this node's disk, is told."""
        if self._fetch is None:
            raise TaskRejected(reason)
        try:
            await self._fetch(reference, registry_auth)
            return await self._config(reference)
        except (InvalidArgument, FailedPrecondition) as error:  # a broken image, a full disk
            log.warning("image_not_pulled", image=reference, reason=str(error))
            raise TaskRejected(f"{reason}: {error}") from None
        except SwarmError as error:
            log.warning("image_not_pulled", image=reference, reason=str(error))
            raise TaskRejected(reason) from None

    async def _config(self, reference: str) -> ImageConfig:
        config: ImageConfig = await self._run(partial(self._images.use, reference))
        return config

    async def load(self, path: Path, name: str) -> list[str]:
        loaded: list[str] = await self._run(partial(self._images.load, path, name=name))
        return loaded

    async def remove(self, reference: str) -> None:
        def remove() -> None:
            self._images.remove(
                reference,
                users=image_users(self._tasks_dir, self._images.images()),
                layers_in_use=layers_in_use(self._tasks_dir),
            )

        await self._run(remove)
