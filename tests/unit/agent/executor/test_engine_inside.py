"""Which containers our own processes may enter, and what they then are; where a container's groups lie."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from agent.executor.base import Command, NotRunning
from agent.executor.engine.attached import open_input, overlap
from agent.executor.engine.client import Engine
from agent.executor.engine.entering import ProcessFacts, job_of, write_way
from agent.executor.engine.groups import find_groups, groups_of
from agent.executor.engine.inside import Inside
from agent.executor.engine.logs import Logs
from agent.executor.engine.looking import facts_of
from agent.executor.engine.stats import read_stats
from agent.executor.engine.task import EngineTask, Record, Started
from agent.executor.native.job import CAPABILITIES
from swarmpy.errors import NotFound, Unavailable
from swarmpy.model.ids import TaskId, Timestamp
from swarmpy.runtime import SystemClock

ID = "6a" * 32
HYBRID = """\
31 24 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs rw
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
34 31 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
35 31 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
PURE = "31 24 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


def test_groups_of_docker_on_both_versions() -> None:
    memberships = (
        f"9:cpu,cpuacct:/docker/{ID}\n8:memory:/docker/{ID}\n1:name=systemd:/docker/{ID}\n0::/docker/{ID}\n"
    )
    found = find_groups(ID, mountinfo=HYBRID, memberships=memberships)
    assert found is not None
    assert found.layout.version == 1
    assert found.layout.roots["cpuacct"] == Path(f"/sys/fs/cgroup/cpu,cpuacct/docker/{ID}")
    assert Path(f"/sys/fs/cgroup/unified/docker/{ID}") in found.joined
    assert Path(f"/sys/fs/cgroup/systemd/docker/{ID}") in found.joined
    pure = find_groups(ID, mountinfo=PURE, memberships=f"0::/system.slice/docker-{ID}.scope\n")
    assert pure is not None
    assert pure.layout.version == 2
    assert pure.folders == [Path(f"/sys/fs/cgroup/system.slice/docker-{ID}.scope")]


def test_a_process_may_lie_deeper_than_its_container() -> None:
    scope = f"/machine.slice/libpod-{ID}.scope"
    found = find_groups(ID, mountinfo=PURE, memberships=f"0::{scope}/container\n")
    assert found is not None
    assert found.folders == [Path(f"/sys/fs/cgroup{scope}")]
    assert found.joined == (Path(f"/sys/fs/cgroup{scope}/container"),)


def test_others_are_not_the_containers() -> None:
    assert find_groups(ID, mountinfo=HYBRID, memberships=f"8:memory:/docker/{ID[:-1]}b\n0::/\n") is None
    assert find_groups(ID, mountinfo=PURE, memberships="0::/\n") is None
    assert groups_of(os.getpid(), ID) is None
    assert read_stats(os.getpid(), ID, is_full=True).pids == 0
    assert open_input(os.getpid(), ID) == -1


def task(**fields: Any) -> EngineTask:
    record = Record(task_id=TaskId("t1"), name="web.1", container="c", image="box:1", hostname="h", **fields)
    return EngineTask(record=record, container=ID, started=Started(at=Timestamp(1), pid=os.getpid()))


def facts(**status: str) -> ProcessFacts:
    held = {"CapBnd": "0000000000000421", "Seccomp": "2", "NoNewPrivs": "0", **status}
    return ProcessFacts(status=held, limits=[(7, 10, 20)], oom_score=0, profile="")


INSPECTED = {
    "Config": {"Env": ["A=b"], "User": "1000:5", "WorkingDir": "/srv"},
    "HostConfig": {"GroupAdd": ["7"], "SecurityOpt": None},
}


def made(inspected: dict[str, Any], found: ProcessFacts) -> Any:
    groups = find_groups(ID, mountinfo=PURE, memberships=f"0::/{ID}\n")
    assert groups is not None
    return job_of(task(), inspected, found, groups=groups)


def test_a_command_becomes_one_of_the_container() -> None:
    job = made(INSPECTED, facts())
    assert {"A=b", "HOSTNAME=h"} <= set(job["env"])
    assert (job["user"], job["workdir"], job["groups"]) == ("1000:5", "/srv", ["7"])
    assert [CAPABILITIES[number] for number in job["capabilities"]] == ["CHOWN", "KILL", "NET_BIND_SERVICE"]
    assert job["cgroups"] == [f"/sys/fs/cgroup/{ID}"]
    assert job["seccomp"]
    assert job["rlimits"] == [(7, 10, 20)]
    assert not job["no_new_privileges"]
    free = made({"HostConfig": {"SecurityOpt": ["seccomp=unconfined"]}}, facts(Seccomp="0", NoNewPrivs="1"))
    assert free["seccomp"] == ""
    assert free["no_new_privileges"]


@pytest.mark.parametrize(
    "option", ['seccomp={"defaultAction":"SCMP_ACT_ERRNO"}', "seccomp:/etc/profile.json"]
)
def test_a_filter_of_its_own_is_not_ours_to_put_on(option: str) -> None:
    assert made({"HostConfig": {"SecurityOpt": [option]}}, facts()) is None


def test_no_way_to_a_process_that_is_not_the_containers(tmp_path: Path) -> None:
    assert write_way(tmp_path / "inside", task(), INSPECTED) is None
    assert not (tmp_path / "inside").exists()


def test_what_comes_twice_from_a_terminal() -> None:
    assert overlap(b"hello\r\n", b"lo\r\nworld") == 4
    assert overlap(b"hello", b"world") == 0
    assert overlap(b"", b"x") == overlap(b"x", b"") == 0


def test_what_is_told_of_a_container() -> None:
    image = {"Id": "sha256:1", "Config": {"Cmd": ["x"], "Env": None, "User": "u"}}
    found = facts_of(task(argv=("sleep", "1")), {"SizeRw": 5, "LogPath": "/l"}, image, has_sizes=True)
    assert (found.argv, found.command, found.image_user) == (("sleep", "1"), ("x",), "u")
    assert (found.image_id, found.pid, found.size_rw, found.log_path) == ("sha256:1", os.getpid(), 5, "/l")
    gone = facts_of(task(image_id="sha256:2"), {}, {}, has_sizes=False)
    assert (gone.image_id, gone.size_rw) == ("sha256:2", -1)


async def test_a_container_that_is_not_known_yet_is_not_asked_for(tmp_path: Path) -> None:
    """After a start while the engine was away; an empty id would ask for the list of all containers."""
    record = Record(task_id=TaskId("t1"), name="n", container="c", image="i")
    task = EngineTask(record=record, started=Started(at=Timestamp(1), pid=1))

    async def run(call: Callable[[], Any]) -> Any:
        return call()

    logs: Any = None
    engine = Engine("podman", str(tmp_path / "none"))
    inside = Inside(engine, lambda _: task, logs=logs, data_dir=tmp_path, run=run, clock=SystemClock())
    with pytest.raises(Unavailable, match="has not answered yet"):
        await inside.exec(TaskId("t1"), Command(argv=("true",)))


async def test_a_container_that_an_engine_is_long_about_holds_up_no_others(tmp_path: Path) -> None:
    """Their commands and probes go on, also those that have found their way in before."""
    stuck = asyncio.Event()

    class Slow:
        flavour = "podman"

        async def call(self, method: str, path: str, **_: object) -> Any:
            if "/stuck/" in path:
                await stuck.wait()
            raise NotFound("No such container")

    def one(name: str) -> EngineTask:
        record = Record(task_id=TaskId(name), name=name, container=name, image="box:1")
        return EngineTask(record=record, container=name, started=Started(at=Timestamp(1), pid=1))

    tasks = {name: one(name) for name in ("stuck", "other")}

    async def run(call: Callable[[], Any]) -> Any:
        return call()

    inside = Inside(
        cast("Engine", Slow()),
        lambda task_id: tasks[task_id],
        logs=cast("Logs", None),
        data_dir=tmp_path,
        run=run,
        clock=SystemClock(),
    )
    waiting = asyncio.ensure_future(inside._has_way(tasks["stuck"]))
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        with pytest.raises(NotRunning):
            await inside._has_way(tasks["other"])
    assert not waiting.done()
    stuck.set()
    with pytest.raises(NotRunning):
        await waiting
