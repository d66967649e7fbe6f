"""``/nodes``: list, inspect, update (labels, availability, role), remove.

A change of role only records the wish; the leader carries it out. What would cost the cluster its last
manager or its quorum is refused here already, in swarm mode's words.
"""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web
from msgspec.structs import replace

from manager.api import requests, texts
from manager.api.context import Api
from manager.api.lookup import find
from manager.raft.proposer import RaftStatus
from manager.removed import refusing
from manager.store.view import View
from swarmpy.errors import InvalidArgument, Stale
from swarmpy.model import validate
from swarmpy.model.changes import Change, Delete, Update
from swarmpy.model.cluster_specs import NodeSpec
from swarmpy.model.ids import Timestamp
from swarmpy.model.objects import Kind, Node
from swarmpy.model.states import NodeRole, NodeState

FILTERS = frozenset({"id", "name", "label", "node.label", "engine.label", "role", "membership"})
_WORDS = {"role": ("manager", "worker"), "membership": ("pending", "accepted")}


class Nodes:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.get("/nodes", self.list),
            web.get("/nodes/{id}", self.inspect),
            web.post("/nodes/{id}/update", self.update),
            web.delete("/nodes/{id}", self.remove),
        )

    async def list(self, request: web.Request) -> web.StreamResponse:
        wanted = requests.filters(request, FILTERS)
        for key, words in _WORDS.items():
            for value in wanted.get(key, ()):
                if value.lower() not in words:
                    raise InvalidArgument(f"invalid filter '{key}={value}'")
        view = await self._api.read(request)
        raft = self._api.cluster().raft_status()
        nodes = [node for node in view.nodes() if _is_wanted(node, wanted)]
        return await self._api.answer_list(nodes, lambda node: self._api.shapes.node(node, raft))

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        view = await self._api.read(request)
        node = self._find(view, request)
        return self._api.answer(self._api.shapes.node(node, self._api.cluster().raft_status()))

    async def update(self, request: web.Request) -> web.StreamResponse:
        base_version = requests.version(request, of="node")
        spec = await requests.read_body(request, NodeSpec)
        validate.check_node(spec)

        def plan(view: View) -> tuple[Change, ...]:
            node = self._find(view, request)
            if node.version != base_version:
                raise Stale
            if node.spec.role is NodeRole.MANAGER and spec.role is NodeRole.WORKER:
                check_demotion(view, node, self._api.cluster().raft_status())
            return () if node.spec == spec else (Update(object=replace(node, spec=spec)),)

        await self._api.decide(plan)
        return web.Response()

    async def remove(self, request: web.Request) -> web.StreamResponse:
        is_forced = requests.flag(request, "force")

        def plan(view: View) -> tuple[Change, ...]:
            node = self._find(view, request)
            return remove(
                view,
                node,
                raft=self._api.cluster().raft_status(),
                now=self._api.now(),
                is_forced=is_forced,
            )

        await self._api.decide(plan)
        return web.Response()

    def _find(self, view: View, request: web.Request) -> Node:
        reference = request.match_info["id"]
        return find(view, Node, self._api.control.local().node_id if reference == "self" else reference)


def check_demotion(view: View, node: Node, raft: RaftStatus) -> None:
    """Refuse to demote the last manager, or one without which the others would be no quorum."""
    managers = [other for other in view.nodes() if other.spec.role is NodeRole.MANAGER]
    if len(managers) <= 1:
        raise texts.precondition("attempting to demote the last manager of the swarm")
    if node.manager_status is None:
        return
    if not can_spare(node.manager_status.raft_id, raft):
        raise texts.precondition("can't remove member from the raft: this would result in a loss of quorum")


def can_spare(raft_id: str, raft: RaftStatus) -> bool:
    """Whether the managers without this one can still decide."""
    rest = [member for member in raft.members if member.raft_id != raft_id]
    reachable = [member for member in rest if member.is_reachable or member.raft_id == raft.raft_id]
    return len(rest) > 0 and len(reachable) >= len(rest) // 2 + 1


def remove(
    view: View, node: Node, *, raft: RaftStatus, now: Timestamp, is_forced: bool
) -> tuple[Change, ...]:
    """Forget the node and refuse its certificate from now on."""
    members = {member.raft_id for member in raft.members}
    is_member = node.manager_status is not None and node.manager_status.raft_id in members
    if is_member or (node.spec.role is NodeRole.MANAGER and not is_forced):
        raise texts.precondition(
            f"node {node.id} is a cluster manager and is a member "
            "of the raft cluster. It must be demoted to worker before removal"
        )
    if not is_forced and node.status.state is NodeState.READY:
        raise texts.precondition(f"node {node.id} is not down and can't be removed")
    cluster = view.cluster()
    if cluster is None:
        raise texts.not_found("the cluster object is not there yet; try again")
    return (Update(object=refusing(cluster, (node.id,), now)), Delete(kind=Kind.NODE, id=node.id))


def _is_wanted(node: Node, wanted: requests.Filters) -> bool:
    return (
        requests.matches(wanted, "id", node.id.startswith)
        and requests.matches(wanted, "name", node.description.hostname.startswith)
        and requests.matches(wanted, "role", lambda role: role.lower() == node.role)
        and requests.matches(wanted, "membership", lambda membership: membership.lower() == "accepted")
        and requests.matches_labels(wanted, "node.label", node.spec.labels)
        and requests.matches_labels(wanted, "label", node.description.engine.labels)
        and requests.matches_labels(wanted, "engine.label", node.description.engine.labels)
    )
