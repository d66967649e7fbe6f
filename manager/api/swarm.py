"""``/swarm``: init, join, leave, inspect with tokens, update and rotation of tokens, lock state.

What the daemon does is the daemon's (``NodeControl``); here are the rules of who may ask for it when.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from aiohttp import web
from msgspec.structs import replace

from manager.api import autolock, ca_change, requests, texts, versions
from manager.api.context import NO_SWARM, SWARM_EXISTS, Api
from manager.api.control import InitRequest, JoinRequest, LocalState
from manager.store.view import View
from swarmpy.errors import AlreadyExists, InvalidArgument, NotInSwarm, Stale
from swarmpy.limits import TOKEN_CHARS_MAX
from swarmpy.model import forms, network_rules, validate
from swarmpy.model.changes import Change, Update
from swarmpy.model.cluster_specs import ClusterSpec
from swarmpy.model.defaults import ADDRESS_POOL, CLUSTER_NAME
from swarmpy.model.objects import Cluster
from swarmpy.pki.authority import rotate_tokens
from swarmpy.pki.unlock import UNLOCK_KEY_BYTES, unlock_key_text

TOKEN_SECRET_BYTES = 16


class UnlockRequest(msgspec.Struct, frozen=True, rename={"unlock_key": "UnlockKey"}):
    unlock_key: str = ""


class Swarm:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.get("/swarm", self.inspect),
            web.post("/swarm/init", self.init),
            web.post("/swarm/join", self.join),
            web.post("/swarm/leave", self.leave),
            web.post("/swarm/update", self.update),
            web.get("/swarm/unlockkey", self.unlock_key),
            web.post("/swarm/unlock", self.unlock),
        )

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        cluster = _cluster(await self._api.read(request))
        result = self._api.shapes.cluster(cluster)
        tokens = cluster.root_ca.join_tokens
        result["JoinTokens"] = {"Worker": tokens.worker, "Manager": tokens.manager}
        return self._api.answer(result)

    async def init(self, request: web.Request) -> web.StreamResponse:
        wish = await requests.read_body(request, InitRequest)
        wish = versions.understood(wish, versions.INIT_FIELDS, requests.api_version(request))
        if self._api.control.local().state is not LocalState.INACTIVE and not wish.force_new_cluster:
            raise NotInSwarm(SWARM_EXISTS)
        validate.check_cluster(wish.spec)
        ca_change.check_supported(wish.spec, is_new=True)
        network_rules.check_data_path_port(wish.data_path_port)
        network_rules.check_pools(wish.default_addr_pool or ADDRESS_POOL, subnet_size=wish.subnet_size)
        node_id = await self._api.control.init(
            replace(wish, spec=forms.cluster_made(replace(wish.spec, name=wish.spec.name or CLUSTER_NAME)))
        )
        return self._api.answer(node_id)

    async def join(self, request: web.Request) -> web.StreamResponse:
        wish = await requests.read_body(request, JoinRequest)
        if self._api.control.local().state is not LocalState.INACTIVE:
            raise NotInSwarm(SWARM_EXISTS)
        if not wish.remote_addrs:
            raise InvalidArgument("at least 1 RemoteAddr is required to join")
        if len(wish.join_token) > TOKEN_CHARS_MAX:
            raise InvalidArgument("invalid join token: it is too long to be one")
        await self._api.control.join(wish)
        return web.Response()

    async def leave(self, request: web.Request) -> web.StreamResponse:
        is_forced = requests.flag(request, "force")
        local = self._api.control.local()
        if local.state is LocalState.INACTIVE:
            raise NotInSwarm(NO_SWARM)
        if not is_forced:
            if local.state is LocalState.LOCKED:
                raise NotInSwarm(
                    "Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore "
                    "this message."
                )
            if local.is_manager:
                raise NotInSwarm(self._why_a_manager_stays())
        await self._api.control.leave(force=is_forced)
        return web.Response()

    def _why_a_manager_stays(self) -> str:
        text = "You are attempting to leave the swarm on a node that is participating as a manager. "
        access = self._api.control.cluster()
        if access is None:
            text += "Doing so may lose the consensus of your cluster. "
        else:
            members = access.raft_status().members
            reachable = sum(member.is_reachable for member in members)
            if len(members) <= 1:
                return text + (
                    "Removing the last manager erases all current state of the swarm. "
                    "Use `--force` to ignore this message. "
                )
            if reachable - 1 < len(members) // 2 + 1:
                text += (
                    f"Removing this node leaves {reachable - 1} managers out of {len(members)}. "
                    "Without a Raft quorum your swarm will be inaccessible. "
                )
        return text + (
            "The only way to restore a swarm that has lost consensus is to reinitialize it with "
            "`--force-new-cluster`. Use `--force` to suppress this message."
        )

    async def update(self, request: web.Request) -> web.StreamResponse:
        base_version = requests.version(request, of="swarm")
        spec = await requests.read_body(request, ClusterSpec)
        spec = replace(spec, name=spec.name or CLUSTER_NAME)
        try:
            validate.check_cluster(spec)
        except InvalidArgument as error:
            raise error if spec.name != CLUSTER_NAME else texts.invalid(error) from None
        ca_change.check_supported(spec)
        entropy = self._api.env.entropy
        rotations: dict[str, bytes] = {
            role: entropy.token_bytes(TOKEN_SECRET_BYTES)
            for role in ("worker", "manager")
            if requests.strict_flag(request, f"rotate{role.capitalize()}Token")
        }
        new_key = entropy.token_bytes(UNLOCK_KEY_BYTES)
        is_rotating = requests.strict_flag(request, "rotateManagerUnlockKey")
        draws, now = ca_change.Draws.draw(entropy), self._api.env.clock.now()

        def plan(view: View) -> tuple[Change, ...]:
            cluster = _cluster(view)
            if cluster.version != base_version:
                raise Stale
            root = rotate_tokens(cluster.root_ca, **rotations) if rotations else cluster.root_ca
            wished = ca_change.with_root(view, replace(cluster, spec=spec, root_ca=root), draws, now)
            changed = autolock.keyed(wished, new_key, is_rotating=is_rotating)
            return () if changed == cluster else (Update(object=changed),)

        await self._api.decide(plan)
        return web.Response()

    async def unlock_key(self, request: web.Request) -> web.StreamResponse:
        cluster = _cluster(await self._api.read(request))
        return self._api.answer({"UnlockKey": unlock_key_text(cluster.unlock_key)})

    async def unlock(self, request: web.Request) -> web.StreamResponse:
        wish = await requests.read_body(request, UnlockRequest)
        if self._api.control.local().state is not LocalState.LOCKED:
            self._api.cluster()  # or why there is none
            raise AlreadyExists("swarm is not locked")
        await self._api.control.unlock(wish.unlock_key)
        return web.Response()


def _cluster(view: View) -> Cluster:
    cluster = view.cluster()
    if cluster is None:
        raise texts.not_found("the cluster object is not there yet; try again")
    return cluster
