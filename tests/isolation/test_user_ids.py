"""Tasks whose ids are others on the node: with all rights that a task can be given, they have none over it.

What is tried has every capability and no filter. A privileged container that keeps the node's ids makes the
same attempts, and there they succeed.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from box_image import run
from isolation_rig import attempts
from isolation_rig import said as said_in
from native_rig import NativeRig

from agent.dataplane.linux import namespaces, owned
from agent.executor.base import Sandbox
from agent.executor.native.id_ranges import IdRange, TaskIds
from swarmpy.model.specs import ContainerSpec, Privileges, SeccompOptions

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]
IDS = TaskIds(IdRange(700_000_000, 65_536), IdRange(710_000_000, 65_536))
ALL: dict[str, Any] = {
    "capability_add": ("ALL",),
    "privileges": Privileges(seccomp=SeccompOptions(mode="unconfined")),
}
HOST: dict[str, Any] = {"privileged": True, "userns_mode": "host"}
THE_NODES = {
    "init_module", "delete_module", "kexec_load", "reboot", "swapon", "swapoff", "acct", "syslog", "vhangup",
    "sethostname",
}  # fmt: skip
"""Calls that ask for rights over the node, whatever they are called with."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def trial_node(tmp_path_factory: pytest.TempPathFactory, trial_image: Path) -> AsyncIterator[NativeRig]:
    rig = NativeRig(tmp_path_factory.mktemp("trial-ids"), ids=IDS)
    await rig.open()
    await rig.executor.load_image(trial_image)
    yield rig
    await rig.close()


async def test_the_kernel_is_the_nodes(rig: NativeRig) -> None:
    free = await attempts(rig, "calls", **HOST)
    found = await attempts(rig, "calls", **ALL)
    refused = {name for name in THE_NODES if found[name] == "EPERM"}
    assert refused == {name for name in THE_NODES if free[name] != "ENOSYS"}
    assert not {name for name in THE_NODES if free[name] == "EPERM"}


async def test_mounts_are_the_nodes(rig: NativeRig) -> None:
    assert (await attempts(rig, "mounts", **HOST))["mount_tmpfs"] == "ok"
    found = await attempts(rig, "mounts", **ALL)
    assert {name: result for name, result in found.items() if result != "EPERM"} == {
        "unmask_kcore": "ENOENT",
        "fsconfig": "EINVAL",
        "mount_setattr": "EINVAL",
    }


async def test_a_mount_namespace_of_its_own_shows_no_more(rig: NativeRig) -> None:
    """It may make one, without the filter: what was mounted stays, and no file system is seen anew."""
    inside = (
        "busybox mount -o remount,rw /proc/sys; busybox umount /proc/sys; busybox mount -t proc p /tmp;"
        " echo x >/proc/sys/kernel/core_pattern;"
        " busybox mount -t sysfs s /tmp && echo x >/tmp/kernel/mm/transparent_hugepage/enabled && echo set;"
        " busybox mount -t tmpfs t /tmp && echo mounted"
    )
    script = (
        f"cd /bin; ./busybox unshare -m /bin/sh -c '{inside.replace('busybox', '/bin/busybox')}' 2>/dev/null"
    )
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    assert await said_in(rig, script, **ALL) == ["mounted"]
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before
    reached = await said_in(rig, f"{script}; grep -c ' /proc/sys ' /proc/self/mounts", **ALL)
    assert reached == ["mounted", "1"]


async def test_files_of_the_kernel_are_the_nodes(rig: NativeRig) -> None:
    assert (await attempts(rig, "files", **HOST))["/proc/sys/kernel/core_pattern"] == "ok"
    found = await attempts(rig, "files", **ALL)
    assert set(found.values()) <= {"EACCES", "ENOENT", "EROFS", "EPERM"}


async def test_its_network_and_no_other_is_its_own(rig: NativeRig, tmp_path: Path) -> None:
    path = tmp_path / "netns"
    owned.make(path, IDS)
    try:
        for fields, allowed in (
            ({}, {"raw", "packet", "ping"}),
            ({"user": "app"}, {"ping"}),
            ({"capability_drop": ("ALL",)}, {"ping"}),
            ({"capability_add": ("NET_ADMIN",)}, {"raw", "packet", "ping", "link_down"}),
        ):
            found = await _attempts_in(rig, path, **fields)
            rights = ("raw", "packet", "ping", "link_down", "vsock")
            assert {name: found[name] for name in rights} == {
                name: "ok" if name in allowed else "EPERM" for name in rights
            }, fields
            assert found["interface"] == "lo"
            assert found["abstract_socket"] == "ECONNREFUSED"
    finally:
        namespaces.remove(path)
    # one that was made for nobody is the node's: the same rights are worth nothing there
    found = await attempts(rig, "network", env={"ABSTRACT": "none"}, **ALL)
    assert found["raw"] == found["packet"] == found["link_down"] == "EPERM"


async def _attempts_in(rig: NativeRig, netns: Path, **fields: Any) -> dict[str, str]:
    spec = ContainerSpec(image="trial:1", args=("/escape network",), env=("ABSTRACT=none",), **fields)
    task = await run(rig, spec, "net", sandbox=Sandbox(netns=str(netns)))
    return dict(line.split(" ", 1) for line in (await rig.output(task)).splitlines())
