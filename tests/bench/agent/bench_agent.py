"""How long one node takes: from assignments to RUNNING reported, and from orders to everything gone.

A real agent with the native executor and the Linux backend, in a network namespace of its own; only the
manager is pretended. Needs root. Prints medians.

    unshare --net python tests/bench/agent/bench_agent.py [ROUNDS]
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))

from agent_rig import make_revision, make_task
from fake_link import FakeLink

from agent.agent import Agent, AgentConfig, wipe
from agent.dataplane.linux.backend import LinuxBackend
from agent.describe import describe
from agent.executor.native.executor import NativeExecutor
from agent.journal import JOURNAL_NAME, Journal
from swarmpy import codec, log
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Task
from swarmpy.model.specs import ContainerSpec
from swarmpy.model.states import TaskState
from swarmpy.pb import dispatcher_pb2 as pb
from swarmpy.pb import types_pb2
from swarmpy.runtime import Env

SLEEPER = ("/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done")
REVISION = make_revision(container=ContainerSpec(image="host", command=SLEEPER))


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.link = FakeLink(["m:1"], leader="m:1", acknowledges=True)
        config = AgentConfig(node_id=NodeId("node1"), managers=("m:1",), describe=describe)
        self.agent = Agent(
            config,
            env=Env(),
            link=self.link,
            executor=self.make_executor(),
            backend=self.make_backend(),
            journal=self.open_journal(),
        )
        self.chain = 0
        self.count = 0
        self.told: dict[str, int] = {}

    def make_executor(self) -> NativeExecutor:
        return NativeExecutor(self.folder, cgroup_parent=f"/swarmpy-bench-{os.getpid()}")

    def open_journal(self) -> Journal:
        return Journal(self.folder / "agent" / JOURNAL_NAME)

    def make_backend(self) -> LinuxBackend:
        return LinuxBackend(run_dir=self.folder / "run")

    def say(self, *items: Task | pb.Removal, is_complete: bool = False) -> None:
        kind = pb.AssignmentUpdate.COMPLETE if is_complete else pb.AssignmentUpdate.INCREMENTAL
        update = pb.AssignmentUpdate(type=kind, applies_to=self.chain, results_in=self.chain + 1)
        self.chain += 1
        codec.write_pb(REVISION, update.changes.add().revision)
        for item in items:
            change = update.changes.add()
            if isinstance(item, Task):
                codec.write_pb(item, change.task)
            else:
                change.removal.CopyFrom(item)
        self.link.sessions[-1].say(pb.ManagerMessage(assignments=update))

    def reached(self, tasks: list[Task], state: TaskState) -> bool:
        runs = self.agent.core.runs
        stream = self.link.sessions[-1]
        for status in stream.statuses():
            self.told[status.task_id] = status.status.state
        stream.heard.clear()
        return all(self.told.get(task.id) == int(state) and task.id in runs for task in tasks)

    async def wait(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(120):
            while not condition():
                await asyncio.sleep(0.002)

    async def round(self, size: int) -> tuple[float, float, float]:
        tasks = [make_task(self.count + n, REVISION) for n in range(1, size + 1)]
        self.count += size
        began = time.monotonic()
        self.say(*tasks)
        await self.wait(lambda: self.reached(tasks, TaskState.RUNNING))
        running = time.monotonic()
        removals = [pb.Removal(kind=types_pb2.KIND_TASK, id=task.id) for task in tasks]
        orders = [make_task(int(task.id, 36), REVISION, desired=TaskState.REMOVE) for task in tasks]
        self.say(*orders)
        await self.wait(lambda: self.reached(tasks, TaskState.SHUTDOWN))
        stopped = time.monotonic()
        self.say(*removals)
        await self.wait(lambda: not self.agent.core.runs)
        gone = time.monotonic()
        return running - began, stopped - running, gone - running


async def main(rounds: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="swarmpy-bench-"))
    bench = Bench(folder)
    try:
        work = asyncio.create_task(bench.agent.run())
        while not bench.link.sessions:
            if work.done():
                await work
            await asyncio.sleep(0.01)
        bench.say(is_complete=True)
        for size in (1, 10, 100):
            measured = [await bench.round(size) for _ in range(rounds)]
            up, stop, gone = (statistics.median(column) for column in zip(*measured, strict=True))
            print(f"{size:4} tasks: running {up:.3f} s, shut down {stop:.3f} s, all gone {gone:.3f} s")
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await wipe(bench.make_executor(), bench.make_backend(), bench.open_journal())
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    log.configure("warning")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
