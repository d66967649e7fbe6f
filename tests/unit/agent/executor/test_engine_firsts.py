"""How a container's process has ended is heard of the kernel where its monitor does not say it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from agent.executor.base import NotRunning
from agent.executor.engine.client import Engine
from agent.executor.engine.containers import Containers
from agent.executor.engine.ends import Ends
from agent.executor.engine.identity import Identity
from agent.executor.engine.states import NOT_TOLD
from agent.executor.engine.task import EngineTask, Record, Started
from swarmpy.model.ids import TaskId, Timestamp
from swarmpy.runtime import SystemClock

TELLS_OF_REAPED = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2])) >= (6, 15)


class Unaware:
    """A podman whose monitor was killed: everything runs for ever, but for who sends a signal."""

    flavour = "podman"
    socket = "/run/podman.sock"

    async def call(self, method: str, path: str, **_: object) -> Any:
        if path == "/info":
            return {"DockerRootDir": "/root"}
        if path.endswith("/kill"):
            raise NotRunning("container state improper")
        return {"State": {"StartedAt": "2026-01-01T00:00:00Z", "Running": True, "Pid": self.pid}}

    pid = 0


async def run(call: Callable[[], Any]) -> Any:
    return call()


class Rig:
    def __init__(self, folder: Path, words: str) -> None:
        self.child = subprocess.Popen(["sh", "-c", f"read x; {words}"], stdin=subprocess.PIPE)
        engine = Unaware()
        engine.pid = self.child.pid
        record = Record(task_id=TaskId("t1"), name="web.1", container="web.1", image="box:1")
        started = Started(at=Timestamp(1), pid=self.child.pid)
        self.task = EngineTask(record=record, container="c1", started=started, is_created=True)
        found = cast("Engine", engine)
        self.ends = Ends(
            {record.task_id: self.task},
            Containers(found, "node", "x86_64"),
            identity=Identity(found, folder, count_tasks=lambda: 1, run=run),
            tasks_dir=folder,
            run=run,
            clock=SystemClock(),
        )

    async def hold(self) -> None:
        await self.ends._watch(self.task)

    def let_end(self, *, is_reaped: bool) -> None:
        assert self.child.stdin is not None
        self.child.stdin.close()
        if is_reaped:
            self.child.wait()

    async def told(self) -> tuple[int, str]:
        async with asyncio.timeout(20):
            await self.task.ended.wait()
        assert self.task.end is not None
        await self.ends.close()
        self.child.wait()
        return self.task.end.exit.code, self.task.end.exit.message


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("ends", "firsts"):
        monkeypatch.setattr(f"agent.executor.engine.{module}.ENGINE_CONMON_GRACE_S", 0.0)
    monkeypatch.setattr("agent.executor.engine.firsts.groups_of", lambda *_: object())


@pytest.mark.parametrize(("words", "code"), [("exit 7", 7), ("exit 0", 0), ("kill -TERM $$", 143)])
async def test_one_that_nobody_reaps(tmp_path: Path, words: str, code: int) -> None:
    rig = Rig(tmp_path, words)
    await rig.hold()
    rig.let_end(is_reaped=False)
    assert await rig.told() == (code, "")


async def test_one_that_was_reaped(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "exit 7")
    await rig.hold()
    rig.let_end(is_reaped=True)
    assert await rig.told() == ((7, "") if TELLS_OF_REAPED else (137, NOT_TOLD))


async def test_one_that_was_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number was another's when it was looked at: nothing is held of that one."""
    monkeypatch.setattr("agent.executor.engine.firsts.groups_of", lambda *_: None)
    before = len(os.listdir("/proc/self/fd"))
    rig = Rig(tmp_path, "exit 7")
    await rig.hold()
    assert len(os.listdir("/proc/self/fd")) == before + 1  # the child's input
    rig.let_end(is_reaped=True)
    rig.ends.look_at(rig.task)
    assert await rig.told() == (137, NOT_TOLD)


async def test_nothing_stays_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    rig = Rig(tmp_path, "exit 7")
    await rig.hold()
    await rig.hold()
    assert len(os.listdir("/proc/self/fd")) == before + 2
    rig.child.send_signal(signal.SIGKILL)
    assert await rig.told() == (137, "")
    assert rig.child.stdin is not None
    rig.child.stdin.close()
    assert len(os.listdir("/proc/self/fd")) == before
