"""This node's containers in the engine: making, finding, removing. Never touches any other container.

What is ours has the label of this node's data folder. A call whose answer was lost is repeated: a container
that is there already is taken if it was made from the same order, and made anew if not.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any, Final, NamedTuple

from agent.executor.engine import pause
from agent.executor.engine.body import Body, own_filter
from agent.executor.engine.client import Engine, Refused
from agent.executor.engine.limits import ENGINE_LIST_TIMEOUT_S, ENGINE_NAME_POLL_S
from agent.executor.engine.task import LABEL_KIND, LABEL_TASK
from swarmpy.errors import Conflict, NotFound, TaskRejected, Unavailable
from swarmpy.model.ids import TaskId

LABEL_BODY: Final = "io.swarmpy.body"
"""On each container: the digest of the order that it was made from."""
_TAKEN: Final = "in use"
_NAME_TRIES: Final = 50
_GONE_SOON: Final = "already in progress"


class Listed(NamedTuple):
    """One container of ours, as a list has it. ``kind``: what it is to its task."""

    id: str
    kind: str
    task_id: TaskId
    state: str


class Containers:
    def __init__(self, engine: Engine, node: str, machine: str) -> None:
        self._engine = engine
        self._node = node
        self._machine = machine
        self.flavour = engine.flavour

    async def find(self, task_id: TaskId | None = None) -> list[Listed]:
        """All of ours, or those of one task, whether or not they run."""
        params = {"all": "1", "filters": own_filter(self._node, task_id)}
        answer = await self._engine.call(
            "GET", "/containers/json", params=params, timeout_s=ENGINE_LIST_TIMEOUT_S
        )
        return listed(answer or [])

    async def make(self, name: str, body: Body, *, may_have_run: bool = False) -> str:
        """The id of the container that is made from this order, and has not run unless it may have."""
        digest = digest_of(body)
        marked = {**body, "Labels": {**body["Labels"], LABEL_BODY: digest}}
        answer = await self._create_or_find(name, marked)
        if isinstance(answer, str):
            return answer
        present = answer
        labels = (present.get("Config") or {}).get("Labels") or {}
        ours = {key: value for key, value in body["Labels"].items() if key.startswith("io.swarmpy.")}
        if any(labels.get(key) != value for key, value in ours.items()):
            raise TaskRejected(
                f'the name "{name}" is taken in {self._engine.flavour} by a container of others: remove '
                "or rename it"
            )
        state = str((present.get("State") or {}).get("Status"))
        is_fresh = may_have_run or state in ("created", "configured")
        if labels.get(LABEL_BODY) == digest and is_fresh:
            return str(present["Id"])
        await self.remove(str(present["Id"]))
        try:
            return await self._create(name, marked)
        except Conflict as error:  # the former one is not quite gone
            raise Unavailable(str(error)) from None

    async def _create_or_find(self, name: str, body: Body) -> str | dict[str, Any]:
        """The new container's id, or the inspection of the one that has the name.

        A name may be taken by a container that is not seen yet: of an order that was broken off.
        """
        for _ in range(_NAME_TRIES):
            try:
                return await self._create(name, body)
            except (Conflict, Refused) as error:
                if _TAKEN not in str(error):  # podman says it with 500
                    raise TaskRejected(str(error)) from None
            present = await self._present(name)
            if present is not None:
                return present
            await asyncio.sleep(ENGINE_NAME_POLL_S)
        raise Unavailable(f"the name {name} is taken in {self.flavour}, and no container has it")

    async def _present(self, name: str) -> dict[str, Any] | None:
        try:
            return await self.inspect(name)
        except NotFound:
            return None

    async def _create(self, name: str, body: Body) -> str:
        try:
            answer = await self._engine.call("POST", "/containers/create", params={"name": name}, body=body)
        except NotFound as error:
            raise TaskRejected(str(error)) from None  # its image has gone
        return str(answer["Id"])

    async def make_pause(self, name: str, body: Body) -> str:
        """Its image is loaded if it is not there: nobody else keeps it."""
        try:
            return await self.make(name, body, may_have_run=True)
        except TaskRejected as error:
            if not await self.load_pause():
                raise error from None
        return await self.make(name, body, may_have_run=True)

    async def load_pause(self) -> bool:
        """Whether it had to be loaded."""
        if not pause.has_program(self._machine):
            raise TaskRejected(
                f"there is no pause program for {self._machine}: {self._engine.flavour} can run tasks with "
                "networks on x86_64 and aarch64 only"
            )
        try:
            await self._engine.call("GET", f"/images/{pause.IMAGE}/json")
        except NotFound:
            data = pause.archive(self._machine)
            headers = {"Content-Type": "application/x-tar"}
            async with self._engine.stream(
                "POST", "/images/load", data=data, headers=headers, timeout_s=ENGINE_LIST_TIMEOUT_S
            ) as answer:
                said = b"".join([piece async for piece in self._engine.chunks(answer)])
            if b'"error"' in said:
                raise TaskRejected(
                    f"the pause image cannot be loaded: {said.decode(errors='replace')}"
                ) from None
            return True
        return False

    async def inspect(self, container: str) -> dict[str, Any]:
        """NotFound if there is none."""
        found: dict[str, Any] = await self._engine.call("GET", f"/containers/{container}/json")
        return found

    async def start(self, container: str) -> None:
        await self._engine.call("POST", f"/containers/{container}/start")

    async def kill(self, container: str, signal: int) -> None:
        """NotRunning and NotFound are raised."""
        params = {"signal": str(int(signal))}
        await self._engine.call("POST", f"/containers/{container}/kill", params=params)

    async def remove(self, container: str) -> None:
        """At once, and with the nameless volumes that its image asked for. One that is gone is fine."""
        # podman waits for ten seconds unless told otherwise; docker does not know the word
        params = {"force": "1", "v": "1", "timeout": "0"}
        try:
            await self._engine.call("DELETE", f"/containers/{container}", params=params)
        except NotFound:
            return
        except Conflict as error:
            if _GONE_SOON in str(error):
                raise Unavailable(str(error)) from None
            raise TaskRejected(str(error)) from None


def listed(answer: list[dict[str, Any]]) -> list[Listed]:
    """Pure."""
    found = []
    for one in answer:
        labels = one.get("Labels") or {}
        task_id, kind = labels.get(LABEL_TASK), labels.get(LABEL_KIND)
        if task_id and kind:
            found.append(Listed(str(one["Id"]), kind, TaskId(task_id), str(one.get("State") or "").lower()))
    return found


def digest_of(body: Body) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
