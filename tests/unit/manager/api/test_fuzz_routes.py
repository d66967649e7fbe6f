"""Whatever is asked of any route: an answer soon, no error of ours, and no change if it was refused.

The routes are the router's, so that a new one is asked as well.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from api_http import spec
from api_node import FakeNode
from request_fuzz import Made, Maker
from yarl import URL

from manager.api import network_joins, requests
from manager.api.context import Api
from manager.api.server import ApiServer, make_app
from swarmpy.model.changes import Create
from swarmpy.model.cluster_specs import ConfigSpec, NetworkSpec, SecretSpec
from swarmpy.model.ids import ConfigId, NetworkId, NodeId, SecretId, ServiceId
from swarmpy.model.objects import Config, Kind, Network, Secret, Service
from swarmpy.model.specs import ServiceSpec
from swarmpy.runtime import Env

SEED = 6
ROUNDS = 12
ANSWER_S = 5.0
WAITING_S = 0.02
ROUNDS_OF_OTHERS = 2
FAULT_CHARS_MAX = 1_000
INTERNAL = b"internal error: "
SERVICE, TASK, SECRET, CONFIG, NETWORK = (kind + "a" * 22 for kind in ("svc", "tsk", "sec", "cnf", "net"))
KNOWN = {
    "nodes": ("n1aaaaaaaaaaaaaaaaaaaaaaa", "node-1", "self"),
    "services": (SERVICE, "web"),
    "tasks": (TASK,),
    "containers": (TASK, "web.1"),
    "secrets": (SECRET, "key"),
    "configs": (CONFIG, "conf"),
    "networks": (NETWORK, "net", "ingress", "bridge"),
    "volumes": ("vol",),
    "images": ("box",),
    "swarmpy": (SERVICE, "key", "conf", "web"),
}
ENDLESS = re.compile(r"/(events|wait|attach|logs|stats|start)$")
"""Answers that may be long in coming, or in ending, for a reason."""
TOLD_ON_THE_STREAM = re.compile(r"/attach$")
"""Errors are lines of text there, as docker has them."""
WITHDRAWN = re.compile(r"/(connect|disconnect)$")
"""Stored first, then waited for and taken back: the store has moved on, and is as it was."""


def _routes() -> list[tuple[str, str]]:
    found = set()
    for route in make_app(Api(FakeNode(), Env())).router.routes():
        path = route.resource.canonical if route.resource is not None else ""
        if not path.startswith("/v{version}") and route.method != "HEAD":
            found.add((route.method, path))
    return sorted(found)


ROUTES = _routes()


def fill(node: FakeNode) -> None:
    """A manager with one of everything."""
    cluster = node.become_manager()
    service = requests.parse(json.dumps(spec()).encode(), ServiceSpec)
    network = NetworkSpec(name="net", attachable=True, scope="swarm")
    cluster.change(
        Create(object=Service(id=ServiceId(SERVICE), spec=service)),
        Create(object=Secret(id=SecretId(SECRET), spec=SecretSpec(name="key", data=b"x"), number=1)),
        Create(object=Config(id=ConfigId(CONFIG), spec=ConfigSpec(name="conf", data=b"x"), number=1)),
        Create(object=Network(id=NetworkId(NETWORK), spec=network)),
    )
    cluster.add_node(NodeId("n2aaaaaaaaaaaaaaaaaaaaaaa"), "node-2")
    cluster.add_task(TASK, SERVICE)


@pytest.fixture
def body_types(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What bodies were read as, the last one last."""
    seen: list[object] = []
    parse = requests.parse

    def noted(data: bytes, type_: Any) -> Any:
        seen.append(type_)
        return parse(data, type_)

    monkeypatch.setattr(requests, "parse", noted)
    monkeypatch.setattr(network_joins, "NETWORK_JOIN_S", 0.001)
    return seen


@pytest.fixture
async def session(node: FakeNode, tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    server = ApiServer(node, Env())
    await server.start(tmp_path / "api.sock")
    connector = aiohttp.UnixConnector(str(tmp_path / "api.sock"))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session
    await server.stop()


async def ask(session: aiohttp.ClientSession, made: Made) -> tuple[int, bytes]:
    """Status and body; of what does not end, what has come after a moment. 0: no answer yet, as may be."""
    url = URL("http://docker" + made.target, encoded=True)
    is_endless = ENDLESS.search(made.target.partition("?")[0]) is not None
    body = b""
    try:
        async with (
            asyncio.timeout(WAITING_S if is_endless else ANSWER_S),
            session.request(made.method, url, data=made.body) as answer,
        ):
            status = answer.status
            try:
                async for chunk in answer.content.iter_any():
                    body += chunk
            except (TimeoutError, aiohttp.ClientPayloadError):
                assert is_endless, f"broken off: {made}"
            return status, body
    except TimeoutError:
        assert is_endless, f"no answer: {made}"
        return 0, body


@pytest.mark.parametrize("is_manager", [True, False])
async def test_every_route_stands_everything(
    session: aiohttp.ClientSession, node: FakeNode, body_types: list[object], is_manager: bool
) -> None:
    faults: list[str] = []
    for method, path in ROUTES:
        maker = Maker(SEED, method, path, KNOWN)
        body_type: object | None = None
        for _ in range(ROUNDS if is_manager else ROUNDS_OF_OTHERS):
            if is_manager and not (node.state.is_manager and node.access.store.service(ServiceId(SERVICE))):
                node.access = type(node.access)()
                fill(node)
            store = node.access.store
            before = store.version
            body_types.clear()
            made = maker.request(body_type, versions(node))
            status, body = await ask(session, made)
            body_type = body_types[-1] if body_types else body_type
            is_same = node.access.store is not store or store.version == before or WITHDRAWN.search(path)
            if TOLD_ON_THE_STREAM.search(path) and status >= 400 and body.endswith(b"\r\n"):
                continue
            if fault := fault_of(status, body, is_same=bool(is_same)):
                faults.append(f"{made} -> {status} {body[:200]!r}: {fault}"[:FAULT_CHARS_MAX])
    assert not faults, "\n".join(faults)


def versions(node: FakeNode) -> tuple[int, ...]:
    view = node.access.store
    found = [*view.services(), *view.all(Kind.SECRET), *view.all(Kind.CONFIG), *view.nodes()]
    cluster = view.cluster()
    return (*(item.version for item in found), 0 if cluster is None else cluster.version)


def fault_of(status: int, body: bytes, *, is_same: bool) -> str:
    if INTERNAL in body:
        return "an error that nobody foresaw"
    if status < 400:
        return ""
    if not body.startswith(b'{"message":"') or body == b'{"message":""}':
        return "no message"
    return "" if is_same else "refused, and the store has changed"


async def test_the_error_that_nobody_foresaw_is_known_by_its_words(
    session: aiohttp.ClientSession, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "system", lambda: 1 // 0)
    status, body = await ask(session, Made("GET", "/info", None))
    assert fault_of(status, body, is_same=True) == "an error that nobody foresaw"
