"""Who leaves while being attached: nothing of it stays, at whatever step it was."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from agent.executor.base import Attachment
from agent.executor.native import inside
from agent.executor.native.attached import Readers, Watched
from agent.executor.native.channel import SocketChannel
from agent.executor.native.launcher import Launcher
from swarmpy.model.ids import TaskId

ID = TaskId("t1")


class OneSocket:
    """Of a shim that has greeted, and does not get round to more."""

    greeting = b'{"number": 1, "offset": 0, "rests": {}}'
    closed = 0

    async def hold(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("step", ["reading", "holding"])
async def test_nothing_stays(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, readers = OneSocket(), Readers()

    async def greeted(_: object) -> SocketChannel:
        return cast("SocketChannel", found)

    monkeypatch.setattr(inside, "_greeted", greeted)
    monkeypatch.setattr("agent.executor.native.folders.read_job", lambda _: {"log_dir": str(tmp_path)})
    calls = 0

    async def run(call: Callable[[], Any]) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3 and step == "reading":
            await asyncio.Event().wait()
        return call()

    native = inside.Inside(cast("Launcher", None), lambda _: tmp_path, run)
    wish = Attachment(replays=True, is_waited_for=True)
    watched = Watched(ID, lambda: None, asyncio.Event(), readers)
    work = asyncio.ensure_future(native.attach(ID, wish, watched))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not work.done()
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    assert found.closed == 1
    assert not readers._counts
