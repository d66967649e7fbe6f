"""``/containers``: making, starting, stopping and removing containers that somebody runs by hand.

What is asked for is stored (``container_changes``) and carried out by the leader (``reconcile/standalone``)
and the node; a call ends once that is done. Signals go to the node at once. Containers of services' tasks can
be stopped and killed, too: their service then does what its restart policy says.

Lists, inspection, attaching and logs are in ``containers`` and ``logs``.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import aclosing
from typing import Final

from aiohttp import web
from msgspec.structs import replace

from manager.api import container_changes as changes
from manager.api import container_plan, container_request, container_waits, requests
from manager.api.container_actions import (
    ContainerActions,
    parse_signal,
    result_of,
    seen_of,
    stop_wish,
    task_of,
)
from manager.api.container_limits import (
    CONTAINER_KILL_WAIT_S,
    CONTAINER_REQUEST_BYTES_MAX,
    CONTAINERS_PRUNED_MAX,
)
from manager.api.container_refs import ContainerRef, find_container
from manager.api.container_request import ContainerCreate
from manager.api.container_waits import Condition
from manager.api.context import Api
from manager.api.docker_json import Json, encode
from manager.api.lookup import find
from manager.api.names import random_name
from manager.api.streams import open_stream, parse_moment, wait_unless_gone
from manager.schedule.filters import is_platform
from manager.store.view import View
from swarmpy.errors import (
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    SwarmError,
    Unavailable,
    Unimplemented,
)
from swarmpy.model import signals
from swarmpy.model.changes import Change
from swarmpy.model.container_ids import container_id
from swarmpy.model.defaults import is_standalone
from swarmpy.model.ids import NodeId
from swarmpy.model.image_names import is_host
from swarmpy.model.images import Image
from swarmpy.model.objects import Node, Service
from swarmpy.model.specs import Platform
from swarmpy.model.states import is_terminal

CONTAINERS_FORMAT: Final = 2
"""``Cluster.store_format`` from which on every manager knows containers started by hand."""
_DEFAULT_SIGNAL: Final = "SIGKILL"
_PRUNE_FILTERS: Final = frozenset({"until", "label", "label!"})


class ContainerLife:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._actions = ContainerActions(api)

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.post("/containers/create", self.create),
            web.post("/containers/prune", self.prune),
            web.post("/containers/{id}/start", self.start),
            web.post("/containers/{id}/stop", self.stop),
            web.post("/containers/{id}/kill", self.kill),
            web.post("/containers/{id}/restart", self.restart),
            web.post("/containers/{id}/pause", self.pause),
            web.post("/containers/{id}/unpause", self.pause),
            web.post("/containers/{id}/rename", self.rename),
            web.post("/containers/{id}/update", self.update),
            web.post("/containers/{id}/wait", self.wait),
            web.delete("/containers/{id}", self.remove),
        )

    # --- making and removing

    async def create(self, request: web.Request) -> web.StreamResponse:
        """``node=``, ours: on another node than the one that is asked."""
        data = await request.read()
        body = container_request.read(data)
        if not body.image:
            raise InvalidArgument("Config cannot be empty in order to create a container")
        if len(data) > CONTAINER_REQUEST_BYTES_MAX:
            raise InvalidArgument(
                f"the request has {len(data)} bytes, and {CONTAINER_REQUEST_BYTES_MAX} can be kept of one"
            )
        view = await self._api.read(request)
        _check_format(view)
        reference = request.query.get("node", "")
        node_id = find(view, Node, reference).id if reference else self._here
        if node_id == self._here and not is_host(body.image):
            body = _with_image(body, await self._api.control.image_store.find(body.image))
        name = request.query.get("name", "").removeprefix("/") or self._new_name()
        service_id, revision_id = self._api.new_id(), self._api.new_id()

        def plan(view: View) -> tuple[Change, ...]:
            _check_platform(view, node_id, request.query.get("platform", ""), body.image)
            spec = container_plan.spec_of(view, body, name=name, node_id=node_id, request=data)
            return container_plan.create(view, spec, service_id=service_id, revision_id=revision_id)

        await self._api.decide(plan, is_guarded=True)
        return self._api.answer({"Id": container_id(service_id), "Warnings": []}, status=201)

    async def remove(self, request: web.Request) -> web.StreamResponse:
        is_forced = requests.flag(request, "force")
        container = await self._find(request)
        if container.service is None:
            await self._remove_task(container, is_forced=is_forced)
            return web.Response(status=204)

        def plan(view: View) -> tuple[Change, ...]:
            service = self._actions.service(view, container)
            return changes.remove(view, service, is_forced=is_forced, now=self._api.now())

        await self._api.decide(plan)
        # its name is free at once; its ports and addresses are when its node has let go
        await self._actions.until_at_rest(container, CONTAINER_KILL_WAIT_S)
        return web.Response(status=204)

    async def _remove_task(self, container: ContainerRef, *, is_forced: bool) -> None:
        task = task_of(container)
        if is_terminal(task.status.state):
            await self._api.decide(
                lambda view: changes.remove_history(view, self._actions.task(view, container))
            )
        elif is_forced:
            await self._actions.send(container, signals.SIGKILL)
            await self._actions.until_at_rest(container, CONTAINER_KILL_WAIT_S)
        else:
            raise Conflict(
                f"You cannot remove a running container {container.id}. Stop the container before attempting "
                "removal or force remove"
            )

    async def prune(self, request: web.Request) -> web.StreamResponse:
        """Those of this node that do not run."""
        wanted = requests.filters(request, _PRUNE_FILTERS)
        until = [parse_moment(text) for text in wanted.get("until", ())]
        removed: list[str] = []
        more = True
        while more:
            found: list[str] = []

            def plan(view: View, found: list[str] = found) -> Iterable[Change]:
                now, here = self._api.now(), self._here
                mine = [each for each in view.services() if _is_on(each, here) and _is_chosen(each, wanted)]
                old = [each for each in mine if all(at is None or each.created_at < at for at in until)]
                chosen = changes.prunable(view, old, now)[:CONTAINERS_PRUNED_MAX]
                found[:] = [container_id(service.id) for service in chosen]
                return [
                    each
                    for service in chosen
                    for each in changes.remove(view, service, is_forced=False, now=now)
                ]

            await self._api.decide(plan)
            removed += found
            more = len(found) == CONTAINERS_PRUNED_MAX
        return self._api.answer({"ContainersDeleted": removed or None, "SpaceReclaimed": 0})

    # --- starting and stopping

    async def start(self, request: web.Request) -> web.StreamResponse:
        container = await self._find(request)
        if container.service is None:
            if not is_terminal(task_of(container).status.state):
                return web.Response(status=304)
            changes.by_hand(container, what="started again")
        run = 0

        def plan(view: View) -> tuple[Change, ...]:
            nonlocal run
            planned = changes.start(view, self._actions.service(view, container), self._api.now())
            run = _run_after(planned)
            return planned

        await self._api.decide(plan)
        if not run:
            return web.Response(status=304)
        await self._actions.until_started(container, run)
        return web.Response(status=204)

    async def restart(self, request: web.Request) -> web.StreamResponse:
        wish = stop_wish(request)
        container = await self._find(request)
        if container.service is None:
            await self._actions.stop_task(container, wish)
            return web.Response(status=204)
        run = 0

        def plan(view: View) -> tuple[Change, ...]:
            nonlocal run
            planned = changes.restart(self._actions.service(view, container), wish)
            run = _run_after(planned)
            return planned

        await self._api.decide(plan)
        await self._actions.until_started(container, run, patience_s=self._actions.patience(container, wish))
        return web.Response(status=204)

    async def stop(self, request: web.Request) -> web.StreamResponse:
        wish = stop_wish(request)
        container = await self._find(request)
        if container.service is None:
            is_stopped = await self._actions.stop_task(container, wish)
            return web.Response(status=204 if is_stopped else 304)

        def plan(view: View) -> tuple[Change, ...]:
            return changes.stop(view, self._actions.service(view, container), wish, self._api.now())

        view = self._api.cluster().view
        was_live = bool(changes.live_tasks(view, self._actions.service(view, container)))
        was_started = changes.is_started(view, self._actions.service(view, container), self._api.now())
        await self._api.decide(plan)
        if not (was_live or was_started):
            return web.Response(status=304)
        patience = self._actions.patience(container, wish)
        if not await self._actions.until_at_rest(container, patience):
            raise SwarmError(
                f"cannot stop container: {container.id}: tried to kill container, but did not receive an "
                "exit event"
            )
        return web.Response(status=204)

    async def kill(self, request: web.Request) -> web.StreamResponse:
        reference = request.match_info["id"]
        number = parse_signal(request.query.get("signal", "") or _DEFAULT_SIGNAL, reference)
        try:
            container = await self._find(request)
            await self._kill(container, number)
        except (NotFound, Conflict) as error:
            raise type(error)(f"Cannot kill container: {reference}: {error}") from None
        return web.Response(status=204)

    async def _kill(self, container: ContainerRef, number: int) -> None:
        if container.service is None or number != signals.SIGKILL:
            await self._actions.send(container, number)
        else:
            view = self._api.cluster().view
            service = self._actions.service(view, container)
            if not changes.live_tasks(view, service) and not changes.is_started(
                view, service, self._api.now()
            ):
                raise Conflict(f"Container {container.id} is not running")
            # it is not to be restarted, whatever its policy says: that is stored before anything is sent

            def plan(view: View) -> tuple[Change, ...]:
                service = self._actions.service(view, container)
                return changes.stop(view, service, changes.AT_ONCE, self._api.now())

            await self._api.decide(plan)
            try:
                await self._actions.send(container, number)
            except (Conflict, NotFound):
                pass  # it has ended of the order already
        if number == signals.SIGKILL:
            await self._actions.until_at_rest(container, CONTAINER_KILL_WAIT_S)

    async def pause(self, request: web.Request) -> web.StreamResponse:
        container = await self._find(request)
        self._actions.running_task(container)
        raise Unimplemented("containers cannot be paused here: stop it and start it again")

    # --- changing

    async def rename(self, request: web.Request) -> web.StreamResponse:
        name = request.query.get("name", "").removeprefix("/")
        if not name:
            raise InvalidArgument("Neither old nor new names may be empty")
        container = await self._find(request)
        changes.by_hand(container, what="renamed")
        revision_id = self._api.new_id()

        def plan(view: View) -> tuple[Change, ...]:
            return changes.rename(view, self._actions.service(view, container), name, revision_id=revision_id)

        await self._api.decide(plan)
        return web.Response(status=204)

    async def update(self, request: web.Request) -> web.StreamResponse:
        wish = container_request.read_update(await request.read())
        container = await self._find(request)
        changes.by_hand(container, what="updated")
        revision_id = self._api.new_id()

        def plan(view: View) -> tuple[Change, ...]:
            service = self._actions.service(view, container)
            return changes.update(view, service, wish, revision_id=revision_id, now=self._api.now())

        await self._api.decide(plan)
        return self._api.answer({"Warnings": None})

    # --- waiting

    async def wait(self, request: web.Request) -> web.StreamResponse:
        """The head of the answer goes out at once: a client starts the container after that."""
        text = request.query.get("condition", "")
        condition = Condition(text) if text in tuple(Condition) else Condition.NOT_RUNNING
        container = await self._find(request)
        access = self._api.cluster()
        ended = {
            id_ for id_, task in seen_of(access.view, container).items() if is_terminal(task.status.state)
        }
        results: list[Json] = []

        async def watch() -> None:
            async with aclosing(container_waits.follow(access, container)) as states:
                async for tasks in states:
                    if self._actions.is_met(condition, container, tasks, frozenset(ended)):
                        results.append(result_of(tasks, condition))
                        return

        async with open_stream(self._api, request, "application/json") as response:
            await wait_unless_gone(request, watch(), None)
            if results:
                await response.write(encode(results[0]) + b"\n")
        return response

    # --- small things

    @property
    def _here(self) -> NodeId:
        return self._api.control.local().node_id

    def _new_name(self) -> str:
        return random_name(self._api.env.entropy.token_bytes(8)).replace("-", "_")

    async def _find(self, request: web.Request) -> ContainerRef:
        view = await self._api.read(request)
        return find_container(view, request.match_info["id"], here=self._here)


def _check_format(view: View) -> None:
    cluster = view.cluster()
    if cluster is None or cluster.store_format < CONTAINERS_FORMAT:
        raise FailedPrecondition(
            "containers can be run by hand once every manager of the swarm has this version: upgrade them"
        )


def _check_platform(view: View, node_id: NodeId, platform: str, image: str) -> None:
    node = view.node(node_id)
    if node is None:
        raise Unavailable("this node is not known to the swarm yet: try again")
    if not platform:
        return
    os, _, rest = platform.partition("/")
    wanted = Platform(os=os, architecture=rest.partition("/")[0])
    has = node.description.platform
    if not is_platform((wanted,), has):
        raise NotFound(
            f"image with reference {image} was found but does not match the specified platform: wanted "
            f"{platform}, actual: {has.os}/{has.architecture}"
        )


def _with_image(body: ContainerCreate, image: Image) -> ContainerCreate:
    """What the image exposes is published as well, if all is to be."""
    exposed = (image.config.get("config") or {}).get("ExposedPorts") or {}
    return replace(body, exposed_ports={**exposed, **body.exposed_ports})


def _run_after(planned: Iterable[Change]) -> int:
    """The number of the start that the changes make; 0 if they make none."""
    for change in planned:
        item = getattr(change, "object", None)
        if isinstance(item, Service) and item.spec.mode.standalone is not None:
            return item.spec.mode.standalone.run
    return 0


def _is_on(service: Service, node_id: NodeId) -> bool:
    mode = service.spec.mode.standalone
    return is_standalone(service.spec) and mode is not None and mode.node_id == node_id


def _is_chosen(service: Service, wanted: requests.Filters) -> bool:
    container = service.spec.task_template.container_spec
    labels = container.labels if container is not None else {}
    unwanted: list[requests.Filters] = [{"label": (entry,)} for entry in wanted.get("label!", ())]
    return requests.matches_labels(wanted, "label", labels) and not any(
        requests.matches_labels(each, "label", labels) for each in unwanted
    )
