"""What every part of the API shares: who this node is, reading with a barrier, committing with patience.

``commit`` makes each HTTP request take effect once: all its attempts carry one request id, so a repeat after
an unknown outcome changes nothing if the first attempt was committed after all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, TypeVar

import structlog
from aiohttp import web

from manager.api.control import ClusterAccess, LocalState, NodeControl, Streams
from manager.api.docker_json import Json, encode
from manager.api.shapes import Shapes
from manager.store.refusals import error_of
from manager.store.view import View
from swarmpy.errors import (
    NoLeader,
    NotInSwarm,
    OutcomeUnknown,
    Rejected,
    Retry,
    Stale,
)
from swarmpy.limits import API_LIST_SLICE_OBJECTS, API_STREAMS_MAX, PROPOSE_TIMEOUT_S, RETRY_DELAY_MAX_S
from swarmpy.model.changes import Applied, Batch, Change, Group
from swarmpy.model.ids import ID_BYTES, Timestamp, make_id
from swarmpy.model.states import Owner
from swarmpy.runtime import Env

T = TypeVar("T")

STALE_HEADER: Final = "X-SwarmPy-Stale"
"""In a request: an answer from this manager's own store will do. In an answer: that is what it is."""

NO_SWARM: Final = "This node is not part of a swarm"
SWARM_EXISTS: Final = (
    'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.'
)
NOT_A_MANAGER: Final = (
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. "
    "Please run this command on a manager node or promote the current node to a manager."
)
USE_INIT: Final = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node '
    "to swarm and try again."
)
LOCKED: Final = (
    "Swarm is encrypted and needs to be unlocked before it can be used. "
    'Please use "docker swarm unlock" to unlock it.'
)
OPEN: Final = (
    "The change may or may not have been made: no manager could confirm it in time. "
    "Look at the object before you try again."
)

log = structlog.get_logger(__name__)


class Api:
    """The API's view of its daemon. Holds no state of the cluster."""

    def __init__(self, control: NodeControl, env: Env) -> None:
        self.control: Final = control
        self.env: Final = env
        self.shapes: Final = Shapes()
        self._streams = 0

    def now(self) -> Timestamp:
        return self.env.clock.now()

    def new_id(self) -> str:
        return make_id(self.env.entropy.token_bytes(ID_BYTES))

    def cluster(self) -> ClusterAccess:
        """The cluster, or the sentence that says why this node cannot speak for it."""
        access = self.control.cluster()
        if access is not None:
            return access
        local = self.control.local()
        if local.state is LocalState.LOCKED:
            raise NotInSwarm(LOCKED)
        if local.state is LocalState.INACTIVE:
            raise NotInSwarm(USE_INIT)
        if local.error:
            raise NotInSwarm(f"{NOT_A_MANAGER} The node reports: {local.error}")
        raise NotInSwarm(NOT_A_MANAGER)

    @property
    def streams(self) -> Streams:
        """To nodes; or the sentence that says why this node cannot reach them."""
        return self.cluster().streams

    async def read(self, request: web.Request) -> View:
        """The store, current unless the client said that it need not be."""
        access = self.cluster()
        if not is_stale_allowed(request):
            await access.read_barrier()
        return access.view

    async def decide(self, plan: Callable[[View], Iterable[Change]], *, is_guarded: bool = False) -> Applied:
        """Commit what ``plan`` makes of the current store; plan again if it moved on meanwhile.

        For changes of the API's own making, whose base version no client named. A plan without changes
        commits nothing. ``is_guarded``: whatever the plan takes from the store, ``apply`` checks again. Then
        the first plan needs no read barrier; should it fail, the present state decides what is answered.
        """
        access = self.cluster()
        if is_guarded:
            with suppress(Rejected):  # perhaps an old state is at fault: asked again below
                if changes := tuple(plan(access.view)):
                    return await self.commit(changes)
        await access.read_barrier()
        deadline = self.env.clock.monotonic() + PROPOSE_TIMEOUT_S
        while True:
            changes = tuple(plan(access.view))
            if not changes:
                return Applied(version=access.view.version)
            try:
                return await self.commit(changes)
            except Stale:
                if self.env.clock.monotonic() > deadline:
                    raise

    async def commit(self, changes: Iterable[Change]) -> Applied:
        """One atomic group. Raises Stale, or AlreadyExists/FailedPrecondition, if it was refused."""
        batch = Batch(
            groups=(Group(owner=Owner.API, changes=tuple(changes)),), at=self.now(), request_id=self.new_id()
        )
        applied = await self._propose(batch)
        for refusal in applied.refused:
            raise error_of(refusal)
        return applied

    async def _propose(self, batch: Batch) -> Applied:
        """``NoLeader`` only if the batch was certainly not committed: once an attempt's outcome is open, the
        same batch is proposed again until its outcome is known or the time is up."""
        clock = self.env.clock
        deadline = clock.monotonic() + PROPOSE_TIMEOUT_S
        delay = 0.0
        is_open = False
        while True:
            try:
                return await self.cluster().propose(batch)
            except Retry as error:
                if isinstance(error, NoLeader) and not is_open:
                    raise
                is_open = is_open or isinstance(error, OutcomeUnknown)
                delay = min(max(error.delay_s, delay * 2), RETRY_DELAY_MAX_S)
                if clock.monotonic() + delay > deadline:
                    if is_open:
                        raise OutcomeUnknown(OPEN) from error
                    raise
                log.info("proposal_repeated", reason=str(error), delay_s=delay)
            except NotInSwarm as error:  # a manager no more, in the middle of it
                if is_open:
                    raise OutcomeUnknown(OPEN) from error
                raise
            await asyncio.sleep(delay)

    # --- answers

    def answer(self, value: object, *, status: int = 200) -> web.Response:
        return web.Response(body=encode(value), status=status, content_type="application/json")

    async def answer_list(self, items: Iterable[T], shape: Callable[[T], Json]) -> web.Response:
        """Encode in slices: ten thousand tasks must not hold the loop that raft runs on."""
        parts: list[bytes] = []
        slice_: list[Json] = []
        for item in tuple(items):
            slice_.append(shape(item))
            if len(slice_) == API_LIST_SLICE_OBJECTS:
                parts.append(encode(slice_)[1:-1])
                slice_.clear()
                await asyncio.sleep(0)
        if slice_:
            parts.append(encode(slice_)[1:-1])
        return web.Response(body=b"[" + b",".join(parts) + b"]", content_type="application/json")

    def begin_stream(self) -> None:
        if self._streams >= API_STREAMS_MAX:
            raise Retry(f"This node serves {API_STREAMS_MAX} streams already; try again later.", delay_s=1.0)
        self._streams += 1

    def end_stream(self) -> None:
        self._streams -= 1


def is_stale_allowed(request: web.Request) -> bool:
    return request.headers.get(STALE_HEADER, "").lower() in ("1", "true")
