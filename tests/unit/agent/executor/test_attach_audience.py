"""Who is attached to a task must never be its end: the shim's side, without a task."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.executor.native.shim import attach, frames


@pytest.fixture
def audience(tmp_path: Path) -> Iterator[attach.Audience]:
    audience = attach.Audience(str(tmp_path), select.poll(), feed=-1, terminal=-1)
    yield audience
    audience.finish(0)


def join(audience: attach.Audience, folder: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(str(folder / attach.SOCKET))
    door = audience._door
    assert door is not None
    assert audience.serve(door.fileno(), select.POLLIN)
    return client


def test_a_client_that_leaves_far_behind_is_let_go_once(audience: attach.Audience, tmp_path: Path) -> None:
    client = join(audience, tmp_path)
    audience.tell(frames.STDOUT, bytes(attach.BACKLOG_BYTES_MAX - 100))
    client.close()
    audience.tell(frames.STDOUT, bytes(attach.BACKLOG_BYTES_MAX))
    audience.tell(frames.STDOUT, b"more")
    join(audience, tmp_path).close()


def test_a_client_that_does_not_read_is_let_go(audience: attach.Audience, tmp_path: Path) -> None:
    client = join(audience, tmp_path)
    for _ in range(3):
        audience.tell(frames.STDOUT, bytes(attach.BACKLOG_BYTES_MAX))
    with client:
        client.settimeout(5)
        while client.recv(1 << 20):
            pass
