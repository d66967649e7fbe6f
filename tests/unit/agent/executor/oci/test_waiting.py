"""Waiting for conmon: with more descriptors than select(2) knows, and for one that is slow to listen."""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.executor.native.folders import TaskState
from agent.executor.native.shim.supervise import process_start
from agent.executor.oci import attached, monitor
from agent.executor.oci.attached import TaskInput
from agent.executor.oci.executor import OciExecutor
from agent.executor.oci.records import Made
from swarmpy.errors import Unavailable

HIGH = 1_500
"""A descriptor of a daemon with many tasks."""


@pytest.fixture
def high() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * HIGH), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def lifted(fd: int) -> int:
    found = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH)
    os.close(fd)
    return found


def made_of(pid: int) -> Made:
    start = process_start(pid)
    return Made(
        conmon=pid,
        conmon_start=start,
        pid=pid,
        pid_start=start,
        stdin=0,
        runtime="runc",
        is_apart=False,
        at=0,
    )


def test_an_answer_on_a_high_descriptor(high: None) -> None:
    read, write = os.pipe()
    read = lifted(read)
    os.write(write, b'{"data": 7}\n')
    assert monitor._read_line(read, time.monotonic() + 20) == b'{"data": 7}\n'
    with pytest.raises(Unavailable, match="did not make the task"):
        monitor._read_line(read, time.monotonic())
    os.close(write)
    assert monitor._read_line(read, time.monotonic() + 20) == b""
    os.close(read)


def test_a_conmon_is_killed_by_a_high_descriptor(high: None, monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen(["sleep", "600"])
    reaper = threading.Thread(target=child.wait)
    reaper.start()
    monkeypatch.setattr("agent.executor.native.process.open_pidfd", lambda pid: lifted(os.pidfd_open(pid)))
    monitor.kill(made_of(child.pid))
    reaper.join(20)
    assert child.returncode == -9


async def test_input_waits_for_a_conmon_that_is_slow_to_listen(tmp_path: Path) -> None:
    """Not the loop, and not for ever."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(str(tmp_path / "attach"))
    listening.listen(0)
    waiting = [attached._connect(tmp_path)]  # the queue is full
    task_input = TaskInput(tmp_path, made_of(os.getpid()), is_terminal=True, is_fed=True)

    async def run(call: Callable[[], Any]) -> Any:
        return await asyncio.to_thread(call)

    work = asyncio.ensure_future(task_input.write(b"hello", run=run))
    await asyncio.sleep(0)
    assert not work.done()
    taken = [listening.accept()[0]]
    taken.append((await asyncio.to_thread(listening.accept))[0])
    async with asyncio.timeout(20):
        await work
    assert taken[1].recv(100) == b"hello"
    task_input.leave()
    late = TaskInput(tmp_path, made_of(os.getpid()), is_terminal=True, is_fed=True)
    late.leave()
    await late.write(b"lost", run=run)
    assert late._socket is None
    for each in (*waiting, *taken, listening):
        each.close()


async def test_a_conmon_that_never_listens_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attached, "INPUT_CLOSE_TIMEOUT_S", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(tmp_path / "attach"))
        listening.listen(0)
        with attached._connect(tmp_path), pytest.raises(BlockingIOError):
            await asyncio.to_thread(attached._connect, tmp_path)


def test_one_that_cannot_be_cleared_away_does_not_keep_the_others_from_being_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a start that was broken off; who starts or removes that task tries again."""
    executor = OciExecutor(tmp_path, cgroup_parent="/none")
    for name in ("a", "b"):
        (tmp_path / "tasks" / name).mkdir(parents=True)
        (tmp_path / "tasks" / name / "job.json").write_text("{}")
    recovered = TaskState(shim=7, started=None, ended=None)

    def recover(task_id: str) -> TaskState:
        if task_id == "a":
            raise Unavailable("process 9 does not die")
        return recovered

    monkeypatch.setattr(executor.life, "recover", recover)
    monkeypatch.setattr(executor._cgroups, "task_ids", set)
    monkeypatch.setattr(executor._files, "task_ids", set)
    assert dict(executor._scan()) == {"a": TaskState(shim=0, started=None, ended=None), "b": recovered}
