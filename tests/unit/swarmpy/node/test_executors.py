"""Which executor a daemon takes: named, kept, found by probing; and what it says when it cannot have it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agent.executor.base import Capabilities, Executor, Launch, Sandbox
from agent.executor.fake import FakeExecutor, FakeMachine
from swarmpy.cli.app import main
from swarmpy.config import NodeConfig
from swarmpy.errors import Corrupt, FailedPrecondition, InvalidArgument, Unavailable
from swarmpy.model.executors import EXECUTORS
from swarmpy.model.ids import TaskId
from swarmpy.model.specs import ContainerSpec
from swarmpy.node import executors
from swarmpy.node.executors import candidates, choose, probe_all
from swarmpy.runtime import Env


class _One(FakeExecutor):
    """Usable unless it is said why not; its tasks have folders, as those of real ones."""

    def __init__(self, name: str, machine: FakeMachine, data_dir: Path, reasons: tuple[str, ...]) -> None:
        super().__init__(machine)
        self.name = name
        self._tasks_dir = data_dir / "tasks"
        self._reasons = reasons

    async def probe(self) -> Capabilities:
        if self._reasons == ("away",):
            raise Unavailable(f"{self.name} does not answer")
        return Capabilities(name=self.name, is_usable=not self._reasons, missing=self._reasons)

    async def create(self, launch: Launch) -> None:
        (self._tasks_dir / launch.task_id).mkdir(parents=True)
        await super().create(launch)

    async def remove(self, task_id: TaskId, *, keep_log: bool = False) -> None:
        assert keep_log
        await super().remove(task_id, keep_log=keep_log)
        (self._tasks_dir / task_id).rmdir()


class _Node:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.machines = {name: FakeMachine() for name in EXECUTORS}
        self.reasons: dict[str, tuple[str, ...]] = {}
        self.made: list[str] = []
        self.late = 0
        """So many of those that are made do not answer."""

    def make(self, name: str) -> Executor:
        self.made.append(name)
        if self.late:
            self.late -= 1
            return _One(name, self.machines[name], self.folder, ("away",))
        return _One(name, self.machines[name], self.folder, self.reasons.get(name, ()))

    async def choose(self, wanted: str = "") -> str:
        self.made.clear()
        return await choose(
            NodeConfig(data_dir=self.folder, executor=wanted, hostname="n1"), Env(), self.make
        )

    async def run(self, name: str, *, ends: bool) -> None:
        task_id = TaskId(f"{name}-task")
        executor = self.make(name)
        image = await executor.ensure_image("image")
        spec = ContainerSpec(image="image")
        launch = Launch(task_id=task_id, name="t", spec=spec, image=image, sandbox=Sandbox(netns=""))
        await executor.create(launch)
        await executor.start(task_id)
        if ends:
            self.machines[name].end(task_id, 0)


@pytest.fixture
def node(tmp_path: Path) -> _Node:
    return _Node(tmp_path)


def test_what_is_probed() -> None:
    assert candidates("", "") == EXECUTORS
    assert candidates("", "podman") == ("podman",)
    assert candidates("docker", "podman") == ("docker",)


async def test_the_first_that_is_usable_and_it_is_kept(node: _Node) -> None:
    node.reasons = {"native": ("No namespaces.",), "oci": ("away",)}
    assert await node.choose() == "podman"
    assert node.made == ["native", "oci", "podman"]
    node.reasons = {}
    assert await node.choose() == "podman"
    assert node.made == ["podman"], "what is kept comes before what is better"
    assert await node.choose("docker") == "docker"
    assert await node.choose() == "docker"


@pytest.mark.parametrize("wanted", ["", "podman"])
async def test_an_engine_that_comes_up_late(
    node: _Node, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    monkeypatch.setattr(executors, "ENGINE_WAIT_PERIOD_S", 0.0)
    assert await node.choose("podman") == "podman"
    node.late = 5
    assert await node.choose(wanted) == "podman"
    assert node.made == ["podman"] * 6


@pytest.mark.parametrize("used", ["podman", "oci"])
async def test_no_other_one_in_place_of_the_one_used_last(
    node: _Node, monkeypatch: pytest.MonkeyPatch, used: str
) -> None:
    monkeypatch.setattr(executors, "ENGINE_WAIT_S", 0.0)
    assert await node.choose(used) == used
    node.reasons = {used: ("away",)}
    with pytest.raises(FailedPrecondition, match=f'The executor "{used}" cannot run tasks on this machine'):
        await node.choose()
    assert await node.choose("native") == "native"


@pytest.mark.parametrize("name", EXECUTORS)
async def test_the_record_is_lost(node: _Node, name: str) -> None:
    await node.run(name, ends=False)
    place = {"native": "job.json", "oci": "bundle.json"}.get(name, "record.json")
    (node.folder / "tasks" / f"{name}-task" / place).write_text("{}")
    if place == "record.json":
        for wanted in ("", "native"):
            with pytest.raises(FailedPrecondition, match="name it, with --executor podman or docker"):
                await node.choose(wanted)
        assert await node.choose(name) == name
    else:
        with pytest.raises(FailedPrecondition, match=f'started by the executor "{name}"'):
            await node.choose("docker")
        assert await node.choose() == name


async def test_none_is_usable(node: _Node) -> None:
    node.reasons = {name: (f"{name} is broken.",) for name in EXECUTORS}
    node.reasons["oci"] = ("away",)
    with pytest.raises(FailedPrecondition) as failed:
        await node.choose()
    assert str(failed.value) == (
        "No executor can run tasks on this machine:\n  native: native is broken.\n"
        "  oci: oci does not answer\n  podman: podman is broken.\n  docker: docker is broken."
    )
    with pytest.raises(FailedPrecondition, match='The executor "podman" cannot run tasks on this machine'):
        await node.choose("podman")
    assert node.made == ["podman"]
    assert not (node.folder / "executor.json").exists()
    with pytest.raises(InvalidArgument, match="unknown executor 'rkt': give one of native, oci"):
        await node.choose("rkt")


@pytest.mark.parametrize("wanted", ["", "oci"])
async def test_tasks_are_adopted_without_a_probe(node: _Node, wanted: str) -> None:
    assert await node.choose("oci") == "oci"
    await node.run("oci", ends=False)
    node.reasons = {"oci": ("broken since",)}
    assert await node.choose(wanted) == "oci"
    assert node.made == []


async def test_a_folder_of_an_older_version(node: _Node) -> None:
    await node.run("native", ends=False)
    node.reasons = {"native": ("No namespaces.",)}
    assert await node.choose() == "native"


async def test_no_change_while_tasks_run(node: _Node) -> None:
    await node.run("native", ends=False)
    with pytest.raises(FailedPrecondition) as failed:
        await node.choose("podman")
    assert str(failed.value) == (
        '1 task on this node was started by the executor "native", and no other can take it over. Start the '
        'daemon with --executor native, run "swarmpy node drain n1", and change it then; or stay with native.'
    )
    assert await node.choose() == "native"


async def test_a_change_takes_down_what_ended_tasks_left(node: _Node) -> None:
    assert await node.choose("native") == "native"
    await node.run("native", ends=True)
    node.reasons = {"podman": ("away",)}
    with pytest.raises(FailedPrecondition, match="podman does not answer"):
        await node.choose("podman")
    assert node.machines["native"].tasks, "nothing goes as long as the other one cannot be had"
    node.reasons = {}
    assert await node.choose("podman") == "podman"
    assert not node.machines["native"].tasks
    assert list((node.folder / "tasks").iterdir()) == []
    assert not node.machines["native"].watchers, "it was shut down"


async def test_a_damaged_record(node: _Node) -> None:
    (node.folder / "executor.json").write_text("{")
    with pytest.raises(Corrupt, match=r"executor\.json is damaged"):
        await node.choose()


async def test_a_record_of_a_later_version(node: _Node) -> None:
    assert await node.choose("oci") == "oci"
    path = node.folder / "executor.json"
    path.write_bytes(json.dumps({**json.loads(path.read_bytes()), "more": 1}).encode())
    assert await node.choose() == "oci"


def test_what_a_probe_prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = (
        Capabilities(name="native", is_usable=True, missing=("No memory limits.", "No cpu limits.")),
        Capabilities(name="podman", is_usable=False, missing=("podman does not answer.",)),
    )
    monkeypatch.setattr("swarmpy.node.probe", lambda config: found)
    assert main(["daemon", "--probe"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "EXECUTOR   USABLE    NOTES",
        "native     yes       No memory limits.",
        "                     No cpu limits.",
        "podman     no        podman does not answer.",
    ]


async def test_probing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Path] = []

    def make(config: NodeConfig, env: Env, name: str) -> Executor:
        tried.append(config.data_dir)
        assert config.data_dir.is_dir()
        assert not config.userns_remap  # it is for native alone, and all are asked
        return _One(name, FakeMachine(), config.data_dir, ("away",) if name == "oci" else ())

    monkeypatch.setattr("swarmpy.node.executors.make_executor", make)
    config = NodeConfig(data_dir=tmp_path / "not" / "yet", userns_remap="default")
    found = await probe_all(config, Env())
    assert [(each.name, each.is_usable) for each in found] == [(name, name != "oci") for name in EXECUTORS]
    assert {folder.parent for folder in tried} == {tmp_path}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [each for each in EXECUTORS if each != "native"])
def test_other_ids_are_for_native_alone(tmp_path: Path, name: str) -> None:
    config = NodeConfig(data_dir=tmp_path, userns_remap="default")
    with pytest.raises(InvalidArgument, match=f'--userns-remap is for the executor "native".* has "{name}"'):
        executors.make_executor(config, Env(), name)
    with pytest.raises(InvalidArgument, match="no such user"):
        executors.make_executor(replace(config, userns_remap="swarmpy-nobody"), Env(), name)
    assert list(tmp_path.iterdir()) == []
