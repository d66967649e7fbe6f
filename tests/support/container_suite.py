"""What tasks of every executor with processes find around them: limits, files, volumes, their root, account,
names and network.

A part of the suite of ``executor_suite``; taken by subclassing ``ContainerContract``.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from exec_suite import said
from executor_suite import DEADLINE_S, RUN_ON, Suite, Tasks, found, read_log, wait_log
from life_suite import Left, nothing_left
from log_suite import of_stream
from msgspec.structs import replace

from agent.executor.base import Executor, Launch, LaunchFile, Sandbox
from swarmpy.model.ids import TaskId
from swarmpy.model.specs import Limits, Mount, TmpfsOptions, VolumeOptions
from swarmpy.model.states import MountType

_CGROUPS = Path("/sys/fs/cgroup")
_netns_numbers = itertools.count()


def cgroup_files(pid: int, *names: str) -> list[str]:
    """What the control group files of these names hold for a process, in either version's hierarchy."""
    found = []
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        roots = [_CGROUPS / name for name in controllers.split(",")] if controllers else [_CGROUPS]
        found += [
            (root / path.lstrip("/") / name).read_text().strip()
            for root in roots
            for name in names
            if (root / path.lstrip("/") / name).is_file()
        ]
    return found


async def output(executor: Executor, launch: Launch) -> list[str]:
    """The lines of a task that ends."""
    id_ = await _end(executor, launch)
    return of_stream(await read_log(executor, id_), 1).decode().splitlines()


async def _end(executor: Executor, launch: Launch) -> TaskId:
    await executor.create(launch)
    await executor.start(launch.task_id)
    async with asyncio.timeout(DEADLINE_S):
        while (item := await found(executor, launch.task_id)) is None or item.exit is None:
            await asyncio.sleep(0.01)
    return launch.task_id


def volume(source: str, target: str, **options: object) -> Mount:
    return replace(Mount(type=MountType.VOLUME, source=source, target=target), **options)


class ContainerContract(Suite):
    """The suite."""

    @pytest.fixture
    def netns(self) -> Iterator[str]:
        """A namespace as the dataplane makes it: with an interface, before there is a task."""
        name = f"suite-{os.getpid()}-{next(_netns_numbers)}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        try:
            batch = (
                f"link add to{name[-9:]} type veth peer name eth7 netns {name}\n"
                f"link set to{name[-9:]} netns {name}\n"
            )
            subprocess.run(["ip", "-batch", "-"], input=batch.encode(), check=True)
            inside = "addr add 10.98.7.6/24 dev eth7\nlink set eth7 up\nlink set lo up\n"
            subprocess.run(["ip", "-n", name, "-batch", "-"], input=inside.encode(), check=True)
            yield f"/run/netns/{name}"
        finally:
            subprocess.run(["ip", "netns", "del", name], check=True)

    # --- limits

    async def test_limits_are_in_force(self, executor: Executor, tasks: Tasks) -> None:
        many = "i=0; while [ $i -lt 40 ]; do sleep 3600 & i=$((i+1)); done"
        script = f"sh -c '{many}'; echo refused; exec tail -f /dev/null"  # which needs no further process
        launch = await tasks.launch(1, script, cpuset_cpus="0")
        limits = Limits(memory_bytes=32 << 20, nano_cpus=250_000_000, pids=20)
        id_ = await tasks.begin(replace(launch, limits=limits))
        assert b"fork" in b"".join(line.data for line in await wait_log(executor, id_, 2))
        item = await found(executor, id_)
        assert item is not None
        memory = cgroup_files(item.pid, "memory.limit_in_bytes", "memory.max")
        assert memory == [str(32 << 20)], memory
        pids = cgroup_files(item.pid, "pids.max")
        assert pids == ["20"], pids
        period = cgroup_files(item.pid, "cpu.cfs_period_us")
        quota = cgroup_files(item.pid, "cpu.cfs_quota_us", "cpu.max")[0]
        assert int(quota.split()[0]) / int((quota.split() + period)[1]) == 0.25
        assert "Cpus_allowed_list:\t0\n" in Path(f"/proc/{item.pid}/status").read_text()
        assert 18 <= (await executor.stats(id_)).pids <= 20

    async def test_usage_is_told(self, executor: Executor, tasks: Tasks) -> None:
        work = "sleep 3600 & i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done; echo worked; "
        id_ = await tasks.run(1, work + RUN_ON)
        await wait_log(executor, id_, 1)
        stats = await executor.stats(id_)
        assert stats.cpu_ns > 0
        assert stats.memory_bytes > 0
        assert stats.pids >= 2
        full = await executor.stats(id_, is_full=True)
        assert full.cpu_ns >= stats.cpu_ns
        assert full.system_cpu_ns > full.cpu_ns
        await executor.stop(id_, signal=signal.SIGKILL, grace_s=0)
        assert (await executor.stats(id_)).memory_bytes == 0

    # --- secrets and configs

    async def test_secrets(self, executor: Executor, tasks: Tasks, data_dir: Path, left: Left) -> None:
        word = b"hush-" + os.urandom(8).hex().encode()
        secret = LaunchFile(target="/run/secrets/key", data=word, uid=1001, gid=1002, mode=0o400)
        config = LaunchFile(target="/etc/app/app.conf", data=b"plain\n", mode=0o444)
        launch = await tasks.launch(
            1, f"trap 'echo told' USR2; echo up; {RUN_ON.replace('& wait', '& wait; wait')}"
        )
        id_ = await tasks.begin(replace(launch, files=(secret, config)))
        await wait_log(executor, id_, 1)
        assert await said(executor, id_, "cat /run/secrets/key") == word
        assert await said(executor, id_, "cat /etc/app/app.conf") == b"plain\n"
        owners = await said(executor, id_, "stat -c '%u %g %a' /run/secrets/key /etc/app/app.conf")
        assert owners == b"1001 1002 400\n0 0 444\n"
        for path in ("/run/secrets/key", "/run/secrets/other", "/etc/app/app.conf"):
            refused = await said(executor, id_, f"sh -c 'echo x > {path}' 2>&1; true")
            assert b"Read-only file system" in refused
        newer = replace(secret, data=word + b"-newer", reload_signal=signal.SIGUSR2)
        longer = replace(config, data=b"plainer and longer\n")
        await executor.reload(id_, (newer, longer))
        assert await said(executor, id_, "cat /run/secrets/key /etc/app/app.conf") == (
            word + b"-newerplainer and longer\n"
        )
        assert [line.data for line in await wait_log(executor, id_, 2)] == [b"up\n", b"told\n"]
        assert not self._on_disk(data_dir, word)
        await executor.remove(id_)
        await nothing_left(data_dir, left)
        assert not self._on_disk(data_dir, word)
        places = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        own = str(data_dir.parent)  # others on this machine have tasks of the same name
        assert not [place for place in places if id_ in place and place.startswith(own)]

    @staticmethod
    def _on_disk(data_dir: Path, word: bytes) -> list[str]:
        """Files with this word on the data folder's own file system."""
        small = ["find", str(data_dir), "-xdev", "-type", "f", "-size", "-100k"]
        search = [*small, "-exec", "grep", "-laF", word.decode(), "{}", "+"]
        return subprocess.run(search, capture_output=True, text=True, check=False).stdout.split()

    # --- volumes and its root

    async def test_volumes(self, executor: Executor, tasks: Tasks) -> None:
        name = f"suite-{os.getpid()}"
        look = "cat /data/first; stat -c '%u %g %a' /data/first; readlink /data/deep/link; stat -c %u /data"
        first = await tasks.launch(
            1, f"{look}; mkdir /data/sub; echo kept > /data/sub/file", mounts=(volume(name, "/data"),)
        )
        copied = ["of the image", "1001 1001 640", "../first", "1001"]
        assert await output(executor, first) == copied
        await executor.remove(first.task_id)
        mounts = (
            volume(name, "/kept", read_only=True),
            volume(name, "/part", volume_options=VolumeOptions(subpath="sub")),
            volume("", "/data"),
            volume(f"{name}-bare", "/data/deep", volume_options=VolumeOptions(no_copy=True)),
        )
        script = (
            "cat /kept/sub/file /part/file; echo x > /kept/x || echo refused; cat /data/first; ls /data/deep"
        )
        second = await tasks.launch(2, script, mounts=mounts)
        assert await output(executor, second) == ["kept", "kept", "refused", "of the image"]
        names = {each.name for each in executor.reported_volumes()}
        assert {name, f"{name}-bare"} <= names

    async def test_its_root(self, executor: Executor, tasks: Tasks) -> None:
        size = TmpfsOptions(size_bytes=1 << 20, mode=0o1770)
        mounts = (Mount(type=MountType.TMPFS, target="/scratch", tmpfs_options=size),)
        script = (
            "touch /x || echo refused; stat -c %a /scratch; echo y > /scratch/y && cat /scratch/y;"
            " head -c 2m /dev/zero > /scratch/z || echo full; touch /dev/shm/a && echo shared"
        )
        launch = await tasks.launch(1, script, read_only=True, mounts=mounts)
        assert await output(executor, launch) == ["refused", "1770", "y", "full", "shared"]
        writable = await tasks.launch(2, "echo own > /bin/own; cat /bin/own")
        assert await output(executor, writable) == ["own"]
        fresh = await tasks.launch(3, "ls /bin/own /x /scratch 2>/dev/null; echo $?")
        assert await output(executor, fresh) == ["1"], "what a task writes is its own"

    # --- names, account, network

    async def test_who_and_where_it_is(self, executor: Executor, tasks: Tasks, image: str) -> None:
        script = "id -u; id -g; id -G; pwd; echo $OWN $HOME; hostname"
        launch = await tasks.launch(
            1, script, user="app", dir="/made/anew", env=("OWN=a b", "PATH=/bin"), groups=("more",)
        )
        launch = replace(launch, hostname="named-so")
        assert await output(executor, launch) == [
            "1001",
            "1001",
            "1001 1002",
            "/made/anew",
            "a b /data",
            "named-so",
        ]
        configured = await tasks.launch(2, image=image.replace("suite:", "suite-set:"))
        assert await output(executor, configured) == ["of the image", "1001", "/data/deep", "blue"]
        args = await tasks.launch(
            3, image=image.replace("suite:", "suite-set:"), args=("echo $COLOUR; pwd",), dir="/"
        )
        assert await output(executor, args) == ["blue", "/"]

    async def test_names_of_others(self, executor: Executor, tasks: Tasks, tmp_path: Path) -> None:
        launch = await tasks.launch(1, "cat /etc/resolv.conf /etc/hosts")
        resolv, hosts = "nameserver 127.0.0.11\noptions ndots:0\n", "127.0.0.1\tlocalhost\n10.1.2.3\tother\n"
        files = tmp_path / "resolv.conf", tmp_path / "hosts"
        for file, text in zip(files, (resolv, hosts), strict=True):
            file.write_text(text)
        sandbox = replace(launch.sandbox, resolv_conf=str(files[0]), hosts=str(files[1]))
        lines = await output(executor, replace(launch, sandbox=sandbox))
        assert lines[:2] == resolv.splitlines()
        assert [line.split() for line in lines[2:]][:2] == [["127.0.0.1", "localhost"], ["10.1.2.3", "other"]]

    async def test_the_network_that_was_made_for_it(
        self, executor: Executor, tasks: Tasks, netns: str
    ) -> None:
        launch = replace(await tasks.launch(1, "ip -o -4 addr; " + RUN_ON), sandbox=Sandbox(netns=netns))
        id_ = await tasks.begin(launch)
        shown = b"".join(line.data for line in await wait_log(executor, id_, 2)).decode()
        assert "eth7    inet 10.98.7.6/24" in shown
        assert " lo " in shown
        item = await found(executor, id_)
        assert item is not None
        assert os.stat(f"/proc/{item.pid}/ns/net").st_ino == os.stat(netns).st_ino
        assert b"10.98.7.6" in await said(executor, id_, "ip -o -4 addr")
        await executor.remove(id_)
        assert Path(netns).exists(), "the namespace is the dataplane's, and stays"
