"""Networks of tasks whose ids are others on the node: they belong to the task, as docker's do."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from box_image import box, run
from native_rig import NativeRig
from scratch_network import scratch_network

from agent.dataplane.base import Endpoint
from agent.dataplane.linux import namespaces, owned
from agent.dataplane.linux.backend import LinuxBackend
from agent.executor.base import Command, Sandbox
from agent.executor.native.executor import NativeExecutor
from agent.executor.native.id_ranges import IdRange, TaskIds
from swarmpy.errors import Unavailable
from swarmpy.model.ids import TaskId

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]

IDS = TaskIds(IdRange(700_000_000, 65_536), IdRange(710_000_000, 65_536))
OTHERS = TaskIds(IdRange(720_000_000, 65_536), IdRange(720_000_000, 65_536))
PING = "/bin/busybox ping -c 1 -W 5"
CHANGE = "/bin/busybox ip link set eth0 mtu 1000 && echo done"


@pytest.fixture(autouse=True)
def node() -> Iterator[None]:
    with scratch_network():
        yield


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[LinuxBackend]:
    backend = LinuxBackend(run_dir=tmp_path / "run", ids=IDS)
    await backend.start_up()
    yield backend
    await backend.destroy()
    await backend.shut_down()


@pytest.fixture
async def rig(tmp_path: Path, backend: LinuxBackend, box_image: Path) -> AsyncIterator[NativeRig]:
    rig = NativeRig(tmp_path)
    await reopen(rig, backend, IDS)
    await rig.executor.load_image(box_image)
    yield rig
    await rig.close()


async def reopen(rig: NativeRig, backend: LinuxBackend, ids: TaskIds | None) -> None:
    await rig.executor.shut_down()
    rig.executor = NativeExecutor(
        rig.data_dir, cgroup_parent=rig.parent, hidden=(backend.netns_dir,), ids=ids
    )
    await rig.open()


async def attached(backend: LinuxBackend, name: str) -> Sandbox:
    return await backend.attach(Endpoint(task_id=TaskId(name)))


async def heard(rig: NativeRig, sandbox: Sandbox, script: str, **fields: object) -> str:
    return await rig.output(await run(rig, box(script, **fields), sandbox=sandbox))


async def test_pings(rig: NativeRig, backend: LinuxBackend) -> None:
    """By raw sockets, as root may by default; those for everybody are there as well."""
    sandbox = await attached(backend, "one")
    ping = f"{PING} $(/bin/busybox ip route | /bin/busybox awk '/default/ {{print $3}}')"
    assert "1 packets received" in await heard(rig, sandbox, ping)
    assert "1 packets received" not in await heard(rig, sandbox, ping, capability_drop=("NET_RAW",))
    with namespaces.inside(Path(sandbox.netns)):
        groups = Path("/proc/sys/net/ipv4/ping_group_range").read_text().split()
    assert groups == ["0", "2147483647"]


async def test_its_capabilities_hold_in_it(rig: NativeRig, backend: LinuxBackend) -> None:
    sandbox = await attached(backend, "one")
    assert "done" not in await heard(rig, sandbox, CHANGE)
    assert "done" in await heard(rig, sandbox, CHANGE, capability_add=("NET_ADMIN",))
    assert "done" not in await heard(rig, sandbox, CHANGE, capability_add=("NET_ADMIN",), user="1001")
    task = await run(rig, box("sleep 100"), sandbox=sandbox)
    for is_privileged in (False, True):
        command = Command(argv=("/bin/sh", "-c", CHANGE), is_privileged=is_privileged)
        channel = await rig.executor.exec(task, command)
        async for _ in channel.output():
            pass
        assert (await channel.exit_code() == 0) is is_privileged
    # a container with the node's ids has power over it too
    said = await heard(rig, sandbox, f"cat /proc/self/uid_map; {CHANGE}", privileged=True, userns_mode="host")
    assert said.split() == ["0", "0", "4294967295", "done"]


async def test_they_hold_nowhere_else(rig: NativeRig, backend: LinuxBackend) -> None:
    """Each task has a user namespace of its own, below the node's: no other task's network is its own."""
    one, other = await attached(backend, "one"), await attached(backend, "other")
    owners = []
    for sandbox in (one, other):
        await run(rig, box("sleep 100", capability_add=("NET_ADMIN",)), sandbox=sandbox)
    for found in await rig.executor.list():
        status = Path(f"/proc/{found.pid}/status").read_text()
        assert f"Uid:\t{IDS.users.first}" in status
        assert f"Gid:\t{IDS.groups.first}" in status
        owners.append(os.stat(f"/proc/{found.pid}/ns/user").st_ino)
    assert len({*owners, os.stat("/proc/self/ns/user").st_ino}) == 3


async def test_a_kernel_that_makes_none(backend: LinuxBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said why, nothing stays, and the next try makes it."""
    program = owned._PROGRAM
    for broken, why in (
        ("import os; os.write(1, b'No space')", "No space"),
        ("pass", "its process has died"),
    ):
        monkeypatch.setattr(owned, "_PROGRAM", broken)
        with pytest.raises(Unavailable, match=f"cannot be made .{why}.*max_user_namespaces"):
            await attached(backend, "one")
        assert await backend.list() == ()
        assert not namespaces.is_live(backend.netns_dir / "one")
    monkeypatch.setattr(owned, "_PROGRAM", program)
    assert namespaces.is_live(Path((await attached(backend, "one")).netns))


async def test_it_outlives_the_daemon(rig: NativeRig, backend: LinuxBackend, tmp_path: Path) -> None:
    """The next daemon takes over what stands, and a task that is made in it then has it as its own."""
    sandbox = await attached(backend, "one")
    before = os.stat(sandbox.netns).st_ino
    successor = LinuxBackend(run_dir=tmp_path / "run", ids=IDS)
    await successor.start_up()
    try:
        sandbox = await attached(successor, "one")
        assert os.stat(sandbox.netns).st_ino == before
        assert "done" in await heard(rig, sandbox, CHANGE, capability_add=("NET_ADMIN",))
    finally:
        await successor.shut_down()
        await backend.start_up()


@pytest.mark.parametrize("ids", [OTHERS, None])
async def test_one_that_was_made_for_other_ids_is_not_taken_over(
    rig: NativeRig, backend: LinuxBackend, ids: TaskIds | None
) -> None:
    """The setting has changed between a network and its task. What the task may then not do is no more."""
    sandbox = await attached(backend, "one")
    await reopen(rig, backend, ids)
    said = await heard(rig, sandbox, f"cat /proc/self/uid_map; {CHANGE}", capability_add=("NET_ADMIN",))
    if ids is None:
        assert said.split() == ["0", "0", "4294967295", "done"]
    else:
        first, *_ = said.splitlines()
        assert first.split() == ["0", str(OTHERS.users.first), "65536"]
        assert "done" not in said
