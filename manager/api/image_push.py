"""``POST /swarmpy/images/push``: images straight to nodes, without a registry.

The body is an archive, or ``image`` names one that this node has. The answer is a story of JSON lines, told
as that of a pull; each node's last line has an ``aux`` that says how it ended there. What is wrong with the
request or the archive is an error of its own, and no node has heard of it then.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from aiohttp import web

from manager import image_push
from manager.api import image_streams, requests
from manager.api.context import Api
from manager.api.docker_json import Json
from manager.api.lookup import find
from manager.image_push import Step, Target
from manager.store.view import View
from swarmpy.errors import InvalidArgument, Retry
from swarmpy.image_push_limits import IMAGE_PUSHES_MAX
from swarmpy.limits import API_CHUNK_BYTES
from swarmpy.model.architectures import normal_architecture
from swarmpy.model.image_offers import PushSource, Receipt
from swarmpy.model.images import Progress
from swarmpy.model.objects import Node
from swarmpy.model.states import NodeState

_NO_NODES: Final = "name the nodes to push to (nodes=…), or ask for all of them (all=true)"
_BOTH: Final = "name nodes, or ask for all of them, not both"


class ImagePushes:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._running = 0

    def routes(self) -> Iterable[web.RouteDef]:
        return (web.post("/swarmpy/images/push", self.push),)

    async def push(self, request: web.Request) -> web.StreamResponse:
        view = await self._api.read(request)
        names = [name for text in request.query.getall("nodes", []) for name in text.split(",") if name]
        targets = chosen(view, names, is_all=requests.flag(request, "all"))
        source = PushSource(
            image=request.query.get("image", ""),
            name=request.query.get("name", ""),
            filename=request.query.get("filename", ""),
        )
        architectures = {target.architecture for target in targets if not target.trouble} - {""}
        streams = self._api.streams
        store = self._api.control.image_store
        with self._turn():
            async with store.parcel(source, _chunks(request), architectures=architectures) as parcel:
                return await image_streams.tell(
                    self._api,
                    request,
                    lambda report: image_push.push(streams, parcel, targets, _teller(report)),
                    is_begun=True,
                )

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._running >= IMAGE_PUSHES_MAX:
            raise Retry(
                f"This manager is doing {IMAGE_PUSHES_MAX} pushes to nodes already; try again later.",
                delay_s=1.0,
            )
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1


def chosen(view: View, names: Sequence[str], *, is_all: bool) -> tuple[Target, ...]:
    """Each node once, by name. InvalidArgument or NotFound if it is not clear which are meant."""
    if is_all and names:
        raise InvalidArgument(_BOTH)
    if not is_all and not names:
        raise InvalidArgument(_NO_NODES)
    found = tuple(view.nodes()) if is_all else tuple(find(view, Node, name) for name in names)
    targets = {node.id: _target(node) for node in found}
    return tuple(sorted(targets.values(), key=lambda target: (target.name, target.id)))


def _target(node: Node) -> Target:
    name = node.description.hostname or node.id
    architecture = normal_architecture(node.description.platform.architecture)
    system = node.description.platform.os
    trouble = ""
    if node.status.state is NodeState.DOWN:  # one that is disconnected may be back in a moment
        trouble = f"node {name} is {node.status.state.value}: push to it again once it is back"
    elif system not in ("", "linux"):
        trouble = f"node {name} runs {system}, and images are for linux"
    return Target(node.id, name, architecture, trouble)


def _teller(report: Callable[[Progress], None]) -> Callable[[Step], None]:
    def tell(step: Step) -> None:
        report(progress(step))

    return tell


def progress(step: Step) -> Progress:
    """A node's step as a line of the story."""
    target = step.target
    if step.error:
        status = f"Error: {step.error}"
        return Progress(status=status, id=target.name, aux=_aux(target, error=step.error))
    if step.receipt is not None:
        status = "Pushed" if step.receipt.layers_sent else "Already exists"
        return Progress(status=status, id=target.name, aux=_aux(target, receipt=step.receipt))
    status = step.doing.capitalize() or "Sending"
    if step.doing in ("", "receiving"):
        return Progress(
            status="Pushing",
            id=target.name,
            current=step.done_bytes,
            total=step.total_bytes,
            is_measured=True,
        )
    return Progress(status=status, id=target.name, is_measured=True)


def _aux(target: Target, *, receipt: Receipt | None = None, error: str = "") -> Json:
    """How it ended at one node."""
    shape: Json = {"NodeID": target.id, "Node": target.name}
    if receipt is not None:
        shape["Images"] = list(receipt.names)
        shape["LayersSent"] = receipt.layers_sent
        shape["LayersPresent"] = receipt.layers_here
        shape["BytesSent"] = receipt.layer_bytes
    if error:
        shape["Error"] = error
    return shape


async def _chunks(request: web.Request) -> AsyncIterator[bytes]:
    async for chunk in request.content.iter_chunked(API_CHUNK_BYTES):
        yield chunk
