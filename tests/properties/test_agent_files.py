"""Whatever becomes of a node's tasks and its daemon: a running task's files are the data that it pins, or the
newest; the node holds what managers gave it; and a task that has files reloaded hears of each change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from agent_rig import Rig, make_revision, make_task
from budget import machine_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from msgspec.structs import replace

from agent import events
from agent.executor.fake import FakeMachine
from swarmpy.errors import Unavailable
from swarmpy.model.cluster_specs import SecretSpec
from swarmpy.model.file_versions import NEWEST, data_of
from swarmpy.model.ids import RevisionId, SecretId, TaskId
from swarmpy.model.objects import FileVersion, Revision, Secret
from swarmpy.model.specs import ContainerSpec, FileTarget, SecretReference
from swarmpy.model.states import TaskState
from swarmpy.sim.loop import SimLoop

T = TypeVar("T")
NAMES = ("one", "two")


def reference(name: str, version: int) -> SecretReference:
    how = "" if version else "HUP"
    file = FileTarget(name=name)
    return SecretReference(secret_id=name, secret_name=name, version=version, reload_signal=how, file=file)


class AgentFilesMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = SimLoop()
        self.count = 0
        self.troubles = 0
        self.is_down = False
        self.secrets = {name: Secret(id=SecretId(name), number=1, spec=_spec(name, 1)) for name in NAMES}
        self.uses: dict[TaskId, tuple[str, int]] = {}
        self.rig = self.run(self._make_rig())
        self.run(self.rig.start())

    async def _make_rig(self) -> Rig:
        return Rig(machine=FakeMachine(script=self._script))

    def _script(self, verb: str, subject: str) -> float:
        if self.troubles and verb in ("create", "reload"):
            self.troubles -= 1
            raise Unavailable(f"{verb} does not work just now")
        return 0.0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        result: T = self.loop.run_until_complete(work)
        return result

    def post(self, event: events.Event) -> None:
        if not self.is_down:
            self.run(self.rig.post(event))
            self.run(asyncio.sleep(0.01))

    @rule(name=st.sampled_from(NAMES), follows=st.booleans(), is_waiting=st.booleans())
    def assign(self, name: str, follows: bool, is_waiting: bool) -> None:
        self.count += 1
        version = NEWEST if follows else self.secrets[name].number
        revision = _revision(name, version)
        desired = TaskState.READY if is_waiting else TaskState.RUNNING
        task = make_task(self.count, revision, desired=desired)
        self.uses[task.id] = (name, version)
        if name not in self.rig.manager.files:
            self.post(self.rig.manager.put(self.secrets[name]))
        self.post(self.rig.manager.assign(task, revision=revision))

    @rule(name=st.sampled_from(NAMES))
    def put_newer_data(self, name: str) -> None:
        former = self.secrets[name]
        older = (*former.older, FileVersion(number=former.number, data=former.spec.data))
        number = former.number + 1
        self.secrets[name] = replace(former, number=number, older=older, spec=_spec(name, number))
        if name in self.rig.manager.files:
            self.post(self.rig.manager.put(self.secrets[name]))

    @precondition(lambda self: self.uses)
    @rule(pick=st.integers(0, 99))
    def let_it_run(self, pick: int) -> None:
        self.post(self.rig.manager.order(sorted(self.uses)[pick % len(self.uses)], TaskState.RUNNING))

    @precondition(lambda self: self.uses)
    @rule(pick=st.integers(0, 99))
    def release(self, pick: int) -> None:
        task_id = sorted(self.uses)[pick % len(self.uses)]
        name, _ = self.uses.pop(task_id)
        self.post(self.rig.manager.release(task_id))
        if not any(other == name for other, _ in self.uses.values()):
            self.post(self.rig.manager.take_back(self.secrets[name]))

    @rule(count=st.integers(1, 3))
    def trouble(self, count: int) -> None:
        self.troubles = count

    @precondition(lambda self: not self.is_down)
    @rule()
    def crash(self) -> None:
        self.run(self.rig.crash())
        self.is_down = True

    @precondition(lambda self: self.is_down)
    @rule()
    def come_back(self) -> None:
        self.run(self.rig.start())
        self.is_down = False

    def _wait_quiet(self) -> None:
        async def wait() -> None:
            await self.rig.wait(lambda: self.rig.core.is_idle and not self._wrong())

        try:
            self.run(wait())
        except TimeoutError:
            raise AssertionError(self._wrong() or "it is never at rest") from None

    @precondition(lambda self: not self.is_down)
    @rule()
    def all_is_right_in_the_end(self) -> None:
        self._wait_quiet()
        assert {id_ for _, id_ in self.rig.core.files.held} == set(self.rig.manager.files)

    def _wrong(self) -> list[str]:
        found = [f"{id_} is left" for id_ in self.rig.machine.tasks if id_ not in self.uses]
        for task_id, (name, version) in self.uses.items():
            task = self.rig.machine.tasks.get(task_id)
            given = [each.data for each in task.launch.files] if task is not None else []
            wanted = data_of(self.secrets[name], version)
            if given != [wanted]:
                found.append(f"{task_id} has {given}, not {wanted!r} of {name} version {version}")
        return found

    def teardown(self) -> None:
        if self.is_down:
            self.come_back()
        self.all_is_right_in_the_end()
        self.run(self.rig.crash())
        self.loop.close()


def _spec(name: str, number: int) -> SecretSpec:
    return SecretSpec(name=name, data=f"{name} {number}".encode())


def _revision(name: str, version: int) -> Revision:
    container = ContainerSpec(image="host", secrets=(reference(name, version),))
    return replace(make_revision("web", container=container), id=RevisionId(f"r-{name}-{version}"))


TestAgentFiles = AgentFilesMachine.TestCase
TestAgentFiles.settings = machine_settings(examples=40, steps=25)
