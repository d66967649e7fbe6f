"""Which engine is believed, how its events are listened to, what becomes of ends: with one that is none."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from agent.executor.engine import watching
from agent.executor.engine.client import Engine, Flavour
from agent.executor.engine.containers import Containers
from agent.executor.engine.ends import Ends
from agent.executor.engine.executor import EngineExecutor
from agent.executor.engine.identity import Identity, OtherEngine, key_of
from agent.executor.engine.oom import OomWatches
from agent.executor.engine.states import lost, state_of
from agent.executor.engine.task import EngineTask, Record, Started
from agent.executor.engine.watching import Watch
from swarmpy.errors import Corrupt, FailedPrecondition, NotFound, Unavailable
from swarmpy.model.ids import TaskId, Timestamp
from swarmpy.runtime import SystemClock

ROOT = "/var/lib/docker"


class NoEngine:
    """It says who it is, has no containers, and ends its streams at once, or never begins them."""

    def __init__(self, id: str = "ABC", flavour: Flavour = "docker") -> None:
        self.flavour: Flavour = flavour
        self.socket = "/run/engine.sock"
        self.id = id
        self.lists = 0
        self.asked = 0
        self.hangs = False

    async def call(self, method: str, path: str, **_: object) -> Any:
        if path == "/info":
            self.asked += 1
            return {"ID": self.id, "DockerRootDir": ROOT}
        if path == "/containers/json":
            self.lists += 1
            return []
        raise NotFound(f"No such container: {path}")

    @asynccontextmanager
    async def stream(self, *_: object, **__: object) -> AsyncGenerator[None]:
        if self.hangs:
            await asyncio.Event().wait()
        yield

    async def chunks(self, _: object) -> AsyncIterator[bytes]:
        for piece in tuple[bytes, ...]():
            yield piece

    async def close(self) -> None:
        pass


async def run(call: Callable[[], Any]) -> Any:
    return call()


def identity_of(engine: NoEngine, folder: Path, *, tasks: int) -> Identity:
    return Identity(cast("Engine", engine), folder, count_tasks=lambda: tasks, run=run)


def test_what_engines_are_known_by() -> None:
    info = {"ID": "ABC", "DockerRootDir": ROOT}
    assert key_of("docker", info) == f"ABC {ROOT}"
    assert key_of("docker", info | {"DockerRootDir": "/other"}) != key_of("docker", info)
    assert key_of("podman", info) == key_of("podman", info | {"ID": "another at each call"}) == ROOT
    assert key_of("docker", {}) == key_of("podman", {}) == ""


async def test_another_engine_is_refused_while_tasks_are_left(tmp_path: Path) -> None:
    engine = NoEngine()
    await identity_of(engine, tmp_path, tasks=2).require()  # a folder without a record takes what is there
    engine.id = "XYZ"
    later = identity_of(engine, tmp_path, tasks=2)
    for _ in range(2):
        with pytest.raises(OtherEngine, match=r"another docker than the one that 2 tasks .* are in: name"):
            await later.require()
    engine.id = "ABC"
    await later.require()
    engine.id = "XYZ"
    await later.require()  # of this connection it is known
    later.doubt()
    with pytest.raises(OtherEngine):
        await later.require()
    await identity_of(engine, tmp_path, tasks=0).require()  # with none left, it is the one
    await identity_of(engine, tmp_path, tasks=2).require()
    engine.id = "ABC"
    with pytest.raises(OtherEngine):
        await identity_of(engine, tmp_path, tasks=1).confirm()


async def test_a_record_that_does_not_read_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_text("{")
    with pytest.raises(Corrupt, match=r"engine\.json is damaged"):
        await identity_of(NoEngine(), tmp_path, tasks=1).require()


async def test_an_engine_that_does_not_say_who_it_is(tmp_path: Path) -> None:
    engine = NoEngine(flavour="podman")
    engine.call = _nothing  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="does not say who it is"):
        await identity_of(engine, tmp_path, tasks=0).require()


async def _nothing(method: str, path: str, **_: object) -> Any:
    return None


async def test_a_task_that_another_engine_does_not_have_has_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by a comparison, and not by who waits for its end."""
    engine = NoEngine()
    await identity_of(engine, tmp_path, tasks=0).require()
    record = Record(task_id=TaskId("t1"), name="web.1", container="web.1", image="box:1")
    task = EngineTask(record=record, container="c1", started=Started(at=Timestamp(1), pid=1), is_created=True)
    engine.id = "XYZ"
    clock = SystemClock()
    monkeypatch.setattr(clock, "now", lambda: Timestamp(7))
    ends = Ends(
        {TaskId("t1"): task},
        Containers(cast("Engine", engine), "node", "x86_64"),
        identity=identity_of(engine, tmp_path, tasks=1),
        tasks_dir=tmp_path,
        run=run,
        clock=clock,
    )
    with pytest.raises(OtherEngine):
        await ends.reconcile()
    with pytest.raises(OtherEngine):
        await ends._settle(task)
    assert not task.ended.is_set()
    engine.id = "ABC"
    await ends.reconcile()  # ours says so: it was removed
    assert task.end == lost("its container was removed from docker", Timestamp(7))
    await ends.close()


async def test_a_daemon_does_not_start_over_another_engine(tmp_path: Path) -> None:
    engine = NoEngine()
    await identity_of(engine, tmp_path, tasks=0).require()
    folder = tmp_path / "tasks" / "t1"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text('{"task_id":"t1","name":"w","container":"w","image":"box:1"}')
    executor = EngineExecutor(tmp_path, flavour="docker", files_dir=tmp_path / "files")
    engine.id = "XYZ"
    for part in (executor, executor._identity):
        vars(part)["engine" if part is executor else "_engine"] = engine
    executor._files.prepare = lambda: None  # type: ignore[method-assign]
    try:
        with pytest.raises(FailedPrecondition, match="1 task of this node is in"):
            await executor.start_up()
        assert await executor.list() != ()
    finally:
        await executor.shut_down()


def watch_of(engine: NoEngine, counts: list[str]) -> Watch:
    async def reconcile() -> None:
        counts.append("compared")

    return Watch(
        cast("Engine", engine),
        "node",
        clock=SystemClock(),
        reconcile=reconcile,
        heard=lambda _: None,
        broke_off=lambda: counts.append("broke off"),
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


async def test_an_engine_without_events_is_asked_less_and_less(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    counts: list[str] = []

    enough = asyncio.Event()

    async def sleep(delay: float) -> None:
        waits.append(delay)
        if len(waits) == 8:
            enough.set()
            await asyncio.Event().wait()

    monkeypatch.setattr("agent.executor.engine.watching.asyncio.sleep", sleep)
    work = asyncio.ensure_future(watch_of(NoEngine(), counts).run())
    async with asyncio.timeout(20):
        await enough.wait()
    work.cancel()
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert counts == ["compared", "broke off"] * 8


async def test_a_stream_that_never_begins_does_not_keep_from_comparing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watching, "ENGINE_RECONCILE_S", 0.001)
    engine, counts = NoEngine(), list[str]()
    engine.hangs = True
    work = asyncio.ensure_future(watch_of(engine, counts).run())
    await until(lambda: len(counts) >= 3)
    work.cancel()
    assert set(counts) == {"compared"}


# --- ends


class OneEngine(NoEngine):
    """It has containers, by id, and is slow to say anything of those that are stuck."""

    def __init__(self, **states: dict[str, Any]) -> None:
        super().__init__()
        self.states = states
        self.stuck: set[str] = set()
        self.removed: list[str] = []
        self.rubbish: list[dict[str, Any]] = []

    async def call(self, method: str, path: str, **_: object) -> Any:
        id_ = path.removeprefix("/containers/").removesuffix("/json")
        if method == "DELETE":
            if id_ in self.stuck:
                raise Unavailable("it is stuck")
            self.removed.append(id_)
            return None
        if path == "/containers/json":
            return self.rubbish
        if id_ in self.stuck:
            raise Unavailable("it is stuck")
        if id_ in self.states:
            return {"State": self.states[id_]}
        return await super().call(method, path)


RAN = {"StartedAt": "2026-01-01T00:00:00Z", "FinishedAt": "2026-01-01T00:00:09Z", "Running": False}


def running(id_: str) -> EngineTask:
    record = Record(task_id=TaskId(id_), name="web.1", container="web.1", image="box:1")
    return EngineTask(record=record, container=id_, started=Started(at=Timestamp(1), pid=1), is_created=True)


def ends_of(engine: NoEngine, folder: Path, *tasks: EngineTask) -> Ends:
    return Ends(
        {task.record.task_id: task for task in tasks},
        Containers(cast("Engine", engine), "node", "x86_64"),
        identity=identity_of(engine, folder, tasks=len(tasks)),
        tasks_dir=folder,
        run=run,
        clock=SystemClock(),
    )


@pytest.mark.parametrize("status", ["paused", "stopping"])
def test_podman_does_not_call_running_what_has_processes(status: str) -> None:
    state = state_of({"State": {**RAN, "Status": status, "Pid": 7}})
    assert state.ended is None
    assert state.started is not None
    assert state.started.pid == 7
    assert state_of({"State": {**RAN, "Status": "exited", "ExitCode": 3}}).ended is not None


async def test_one_that_is_stuck_does_not_hide_the_ends_of_others(tmp_path: Path) -> None:
    engine = OneEngine(a={**RAN, "ExitCode": 1}, b={**RAN, "ExitCode": 2}, c={**RAN, "ExitCode": 3})
    tasks = [running(name) for name in "abc"]
    ends = ends_of(engine, tmp_path, *tasks)
    engine.stuck = {"b"}
    await ends.reconcile()
    assert [task.ended.is_set() for task in tasks] == [True, False, True]
    engine.stuck = set()  # it is looked at again and again meanwhile
    async with asyncio.timeout(20):
        await tasks[1].ended.wait()
    told = [event.exit.code for event in ends._ended]
    assert sorted(told) == [1, 2, 3]
    await ends.close()


async def test_an_end_is_told_on_a_full_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise Unavailable("No space left on device")

    monkeypatch.setattr("agent.executor.engine.records.write_ended", full)
    (tmp_path / "a").mkdir()
    task = running("a")
    ends = ends_of(OneEngine(a={**RAN, "ExitCode": 4}), tmp_path, task)
    await ends.reconcile()
    assert task.end is not None
    assert task.end.exit.code == 4
    await ends.close()


async def test_rubbish_that_does_not_go_is_tried_again(tmp_path: Path) -> None:
    engine = OneEngine()
    labels = {"io.swarmpy.task": "gone", "io.swarmpy.kind": "task"}
    engine.rubbish = [{"Id": name, "State": "created", "Labels": labels} for name in ("x", "y")]
    engine.stuck = {"x"}
    ends = ends_of(engine, tmp_path)
    await ends.reconcile()
    assert engine.removed == ["y"]
    engine.stuck = set()
    await ends.reconcile()
    assert "x" in engine.removed
    engine.removed.clear()
    await ends.reconcile()
    assert engine.removed == []  # once
    ends.sweep_again()
    await ends.reconcile()
    assert engine.removed == ["x", "y"]
    await ends.close()


async def test_who_waits_for_one_that_never_ran_hears_of_its_removal(tmp_path: Path) -> None:
    executor = EngineExecutor(tmp_path, flavour="docker", files_dir=tmp_path / "files")
    engine = OneEngine()
    for part, name in ((executor, "engine"), (executor._identity, "_engine")):
        vars(part)[name] = engine
    executor._files.prepare = lambda: None  # type: ignore[method-assign]
    record = Record(task_id=TaskId("t1"), name="web.1", container="web.1", image="box:1")
    task = EngineTask(record=record, container="c1", is_created=True)
    await executor.start_up()
    try:
        executor._tasks[TaskId("t1")] = task
        await executor.remove(TaskId("t1"))
        assert task.ended.is_set()
        assert await executor.list() == ()
    finally:
        await executor.shut_down()


async def test_memory_that_ran_out_in_a_former_container(tmp_path: Path) -> None:
    """It is nothing of the present one's, and what listened is let go."""
    (tmp_path / "memory.oom_control").touch()
    watches = OomWatches(run)
    task = running("new")
    for _ in range(2):
        fd = os.eventfd(1, os.EFD_NONBLOCK)
        watches._fds["old"] = fd
        watches._hear(task, "old", tmp_path)
        assert not task.is_out_of_memory
        (tmp_path / "memory.oom_control").unlink(missing_ok=True)
        if "old" in watches._fds:
            os.close(watches._fds.pop("old"))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
