"""A task is alone: it neither sees nor reaches the node's processes, sockets, networks, memory and terminals,
nor those of other tasks."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from box_image import run
from isolation_rig import attempts, said
from native_rig import NativeRig

from agent.executor.base import Command
from swarmpy.model.specs import ContainerSpec, Privileges, SeccompOptions

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]
KEYCTL = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
_IPC_CREAT = 0o1000
_IPC_RMID = 0


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the node, of root's, with a number that no process of a task has."""
    with subprocess.Popen(["sleep", "100"]) as process:
        assert process.pid > 50
        yield process
        process.kill()


async def test_processes_of_the_node(rig: NativeRig, victim: subprocess.Popen[bytes]) -> None:
    before = Path(f"/proc/{victim.pid}/limits").read_text(), os.sched_getaffinity(victim.pid)
    env = {"HOST_PID": str(victim.pid)}
    for user in ("", "app"):
        found = await attempts(rig, "processes", env=env, user=user)
        assert found.pop("processes") == "1"
        assert found.pop("kill_all") == "ok"  # its own child
        assert found.pop("migrate_pages") == "EPERM"
        assert found.pop("proc_root") == found.pop("proc_mem") == "ENOENT"
        assert len(found) == 8
        assert set(found.values()) == {"ESRCH"}, found
    assert victim.poll() is None
    assert os.getpriority(os.PRIO_PROCESS, victim.pid) == 0
    assert (Path(f"/proc/{victim.pid}/limits").read_text(), os.sched_getaffinity(victim.pid)) == before


async def test_processes_of_other_tasks(rig: NativeRig) -> None:
    """Root in one sends a signal to all that it may: none of the other's is among them."""
    other = await run(rig, ContainerSpec(image="trial:1", args=("sleep 100",)))
    await said(rig, "sleep 100 & kill -9 -1")
    task = rig.executor._tasks[other]
    assert task.exit is None
    assert task.started is not None
    assert Path(f"/proc/{task.started['pid']}").exists()


@pytest.fixture
def key() -> Iterator[int]:
    """Of shared memory, a queue and a semaphore of the node's; and a file in its shared memory."""
    key = 0x5A000000 | os.getpid() & 0xFFFF
    libc = ctypes.CDLL(None, use_errno=True)
    shm = libc.shmget(key, 4096, _IPC_CREAT | 0o666)
    queue = libc.msgget(key, _IPC_CREAT | 0o666)
    semaphore = libc.semget(key, 1, _IPC_CREAT | 0o666)
    file = Path("/dev/shm/swarmpy-isolation")
    file.write_text("of the node")
    assert min(shm, queue, semaphore) >= 0
    yield key
    libc.shmctl(shm, _IPC_RMID, None)
    libc.msgctl(queue, _IPC_RMID, None)
    libc.semctl(semaphore, 0, _IPC_RMID)
    file.unlink(missing_ok=True)


async def test_memory_that_processes_share(rig: NativeRig, key: int) -> None:
    for user in ("", "app"):
        found = await attempts(rig, "ipc", env={"KEY": str(key)}, user=user)
        assert len(found) == 5
        assert set(found.values()) == {"ENOENT"}
    other = await run(rig, ContainerSpec(image="trial:1", args=("echo mine >/dev/shm/other; sleep 100",)))
    assert await said(rig, "ls /dev/shm /dev/mqueue") == ["/dev/mqueue:", "", "/dev/shm:"]
    assert rig.executor._tasks[other].exit is None


async def test_keys_of_the_daemons_session(rig: NativeRig) -> None:
    """The default filter knows no keys; without it, a task and each command in it have their own session."""
    free = Privileges(seccomp=SeccompOptions(mode="unconfined"))
    spec = ContainerSpec(
        image="trial:1", args=("/escape keys; sleep 100",), env=("KEY=none",), privileges=free
    )
    sessions = set()
    for _ in range(2):
        task_id = await run(rig, spec)
        channel = await rig.executor.exec(task_id, Command(argv=("/escape", "keys")))
        async with asyncio.timeout(20):
            sessions.add(b"".join([part.data async for part in channel.output()]).split(b"\n")[0])
            while len(lines := await rig.log(task_id)) < 2:
                await asyncio.sleep(0.01)
        await channel.close()
        sessions.add(lines[0].data.rstrip())
    own = ctypes.CDLL(None).syscall(KEYCTL, 0, -3, 0)
    assert len(sessions) == 4
    assert f"session {own}".encode() not in sessions


async def test_the_nodes_network(rig: NativeRig) -> None:
    """NET_RAW is in docker's default set: in a network of the task's own it is harmless. AF_VSOCK talks past
    all networks to the machine that this one is a guest of."""
    name = f"swarmpy-isolation-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        for user in ("", "app"):
            found = await attempts(rig, "network", env={"ABSTRACT": name}, user=user)
            assert found["abstract_socket"] == "ECONNREFUSED"
            assert found["vsock"] == found["link_down"] == found["netlink_newlink"] == "EPERM"
            assert found["raw"] == found["packet"] == ("EPERM" if user else "ok")
            assert found["interface"] == "lo"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"\0{name}")  # on the node, it is there


async def test_terminals(rig: NativeRig) -> None:
    """A task with a terminal has its own, and no other: not that of who started the daemon."""
    lines = await said(rig, "/escape terminal", tty=True)
    # what is pushed into its own input is echoed, if the kernel still has that
    found = dict(line.strip().removeprefix("x").split(" ", 1) for line in lines)
    assert found.pop("tiocsti") in ("ok", "EIO", "EPERM")
    assert set(found.values()) <= {"ENOENT", "EPERM", "EACCES", "EIO"}
    found = await attempts(rig, "terminal")
    assert set(found.values()) == {"ENOTTY", "ENOENT"}
    assert await said(rig, "(cat </dev/tty) 2>&1 | grep -c 'No such device'") == ["1"]


async def test_nothing_of_the_daemon(rig: NativeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARMPY_CANARY", "of the daemon")
    task_id = await run(
        rig,
        ContainerSpec(image="trial:1", args=("cat /proc/*/environ /proc/*/cmdline; sleep 100",), init=True),
    )
    channel = await rig.executor.exec(
        task_id, Command(argv=("/bin/sh", "-c", "cat /proc/*/environ /proc/*/cmdline"))
    )
    async with asyncio.timeout(20):
        words = b"".join([part.data async for part in channel.output()]).decode()
    await channel.close()
    assert "SWARMPY_CANARY" not in words
    assert "python" not in words
    assert str(rig.data_dir) not in words
    # where a task's root lies on the node is in its list of mounts, as it is in docker's; nothing is there
    assert await said(rig, f"ls -d {rig.data_dir} 2>&1 | grep -c 'No such'") == ["1"]
