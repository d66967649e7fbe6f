"""A node that is served in this process, and the CLI pointed at it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from api_node import FakeCluster, FakeNode, serving
from cli_run import Run


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


@pytest.fixture
def cluster(node: FakeNode) -> FakeCluster:
    return node.become_manager()


@pytest.fixture
def run(node: FakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    socket = tmp_path / "api.sock"
    with serving(node, socket):
        yield Run(str(socket), capsys)
