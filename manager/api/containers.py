"""``/containers/…``: lists, inspection, terminals, processes, usage, of the containers of tasks and of those
that were started by hand.

Clients see the containers of the node that they ask, as of an engine; one that is named may be anywhere in
the swarm. ``?cluster=1``, the header ``X-SwarmPy-Cluster`` or ``?node=`` (ours) list those of other nodes
too, each with its node. What only a node knows of its containers it is asked for; one that does not answer in
a moment leaves gaps in the answer, and no more than that.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from aiohttp import web

from manager.api import requests
from manager.api.archive import read_tar
from manager.api.container_filters import FILTERS, Wish, select
from manager.api.container_inspect import inspected
from manager.api.container_refs import ContainerRef, containers, find_container
from manager.api.container_shapes import running_task, summary
from manager.api.container_status import has_container
from manager.api.context import Api
from manager.api.docker_json import Json
from manager.api.lookup import find
from manager.store.view import View
from swarmpy.errors import SwarmError, Unimplemented
from swarmpy.limits import STREAM_CALL_TIMEOUT_S
from swarmpy.model.containers import CONTAINER_LOOK, ContainerAnswer, ContainerFacts, ContainerQuery
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.objects import Node
from swarmpy.pb import streams_pb2 as pb

CLUSTER_HEADER: Final = "X-SwarmPy-Cluster"
"""In a request for a list: of the whole swarm. In an answer: that is what it is."""
_LOOK_TIMEOUT_S: Final = 3.0
_TRUE: Final = ("1", "true")


class Containers:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.get("/containers/json", self.list),
            web.get("/containers/{id}/json", self.inspect),
            web.post("/containers/{id}/resize", self.resize),
            web.get("/containers/{id}/top", self.top),
            web.get("/containers/{id}/changes", self.changes),
            web.get("/containers/{id}/export", self.export),
        )

    async def list(self, request: web.Request) -> web.StreamResponse:
        wanted = requests.filters(request, FILTERS)
        view = await self._api.read(request)
        here = self._api.control.local().node_id
        asked = request.query.get("node", "")
        is_cluster = _is_cluster(request)
        nodes: frozenset[NodeId] | None = frozenset({find(view, Node, asked).id if asked else here})
        if is_cluster and not asked:
            nodes = None
        found = (
            each
            for each in containers(view)
            if (nodes is None or each.node_id in nodes) and has_container(each)
        )
        wish = Wish(
            filters=wanted,
            is_all=requests.flag(request, "all"),
            limit=_limit(request.query.get("limit", "")),
            here=here,
        )
        chosen = select(view, found, wish)
        facts = await self._facts_of(chosen, has_sizes=requests.flag(request, "size"))
        has_node = is_cluster or bool(asked)
        now = self._api.now()
        answer = await self._api.answer_list(
            chosen,
            lambda each: summary(view, each, facts.get(_task_id(each)), now=now, has_node=has_node),
        )
        if is_cluster:
            answer.headers[CLUSTER_HEADER] = "true"
        return answer

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        view = await self._api.read(request)
        here = self._api.control.local().node_id
        container = find_container(view, request.match_info["id"], here=here, has_task_ids=False)
        facts = await self._facts_of([container], has_sizes=requests.flag(request, "size"))
        return self._api.answer(inspected(view, container, facts.get(_task_id(container))))

    async def with_sizes(self, view: View) -> Sequence[Json]:
        """All of this node, as a list with sizes has them."""
        here = self._api.control.local().node_id
        found = (each for each in containers(view) if each.node_id == here and has_container(each))
        chosen = select(view, found, Wish(filters={}, is_all=True, limit=0, here=here))
        facts = await self._facts_of(chosen, has_sizes=True)
        now = self._api.now()
        return [summary(view, each, facts.get(_task_id(each)), now=now, has_node=False) for each in chosen]

    async def asked(self, request: web.Request) -> tuple[View, ContainerRef]:
        view = await self._api.read(request)
        here = self._api.control.local().node_id
        return view, find_container(view, request.match_info["id"], here=here)

    async def _facts_of(
        self, chosen: Iterable[ContainerRef], *, has_sizes: bool
    ) -> dict[TaskId, ContainerFacts]:
        """Of those whose nodes have told in time."""
        by_node: dict[NodeId, list[TaskId]] = {}
        for each in chosen:
            if each.task is not None and each.node_id:
                by_node.setdefault(each.node_id, []).append(each.task.id)
        async with asyncio.TaskGroup() as asking:
            answers = [
                asking.create_task(
                    self._look(node_id, ContainerQuery(task_ids=tuple(ids), has_sizes=has_sizes))
                )
                for node_id, ids in by_node.items()
            ]
        return {facts.task_id: facts for answer in answers for facts in answer.result()}

    async def _look(self, node_id: NodeId, query: ContainerQuery) -> tuple[ContainerFacts, ...]:
        try:
            async with asyncio.timeout(STREAM_CALL_TIMEOUT_S if query.has_sizes else _LOOK_TIMEOUT_S):
                body = await self._api.streams.call(node_id, CONTAINER_LOOK, msgspec.json.encode(query))
            return msgspec.json.decode(body, type=ContainerAnswer).containers
        except (SwarmError, TimeoutError):
            return ()  # a node that is down, or older than this

    async def resize(self, request: web.Request) -> web.StreamResponse:
        rows, columns = requests.terminal_size(request)
        _, container = await self.asked(request)
        task = running_task(container)
        start = pb.TaskStart(task_id=task.id, rows=rows, columns=columns)
        await self._api.streams.call(task.node_id, "task.resize", start.SerializeToString())
        return web.Response()

    async def top(self, request: web.Request) -> web.StreamResponse:
        _, container = await self.asked(request)
        task = running_task(container)
        start = pb.TaskStart(task_id=task.id, ps_args=request.query.get("ps_args", ""))
        answer = await self._api.streams.call(task.node_id, "task.top", start.SerializeToString())
        table = pb.ProcessTable.FromString(answer)
        rows = [list(row.cells) for row in table.rows]
        return self._api.answer({"Processes": rows, "Titles": list(table.titles)})

    async def changes(self, request: web.Request) -> web.StreamResponse:
        await self.asked(request)
        raise Unimplemented(
            "the changes to a container's files are not told apart from its image's: copy out what you want "
            "to compare"
        )

    async def export(self, request: web.Request) -> web.StreamResponse:
        _, container = await self.asked(request)
        task = running_task(container)
        return await read_tar(self._api, request, task, "/")


def _is_cluster(request: web.Request) -> bool:
    return requests.flag(request, "cluster") or request.headers.get(CLUSTER_HEADER, "").lower() in _TRUE


def _limit(text: str) -> int:
    """0 for all of them."""
    if not text:
        return 0
    if not re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII):
        raise SwarmError(f'strconv.Atoi: parsing "{text}": invalid syntax')
    return int(text)


def _task_id(container: ContainerRef) -> TaskId:
    return container.task.id if container.task is not None else TaskId("")
