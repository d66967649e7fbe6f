"""A node of its own for every test, and an HTTP client on its socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from api_http import Http
from api_node import FakeCluster, FakeNode

from manager.api.server import ApiServer
from swarmpy.runtime import Env


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


@pytest.fixture
def cluster(node: FakeNode) -> FakeCluster:
    """The node leads a swarm."""
    return node.become_manager()


@pytest.fixture
async def http(node: FakeNode, tmp_path: Path) -> AsyncIterator[Http]:
    server = ApiServer(node, Env())
    socket = tmp_path / "api.sock"
    await server.start(socket)
    try:
        async with Http(socket) as client:
            yield client
    finally:
        await server.stop()
