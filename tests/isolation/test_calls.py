"""What a task may ask of the kernel: nothing that is the node's, by whichever of its interfaces.

The same attempts are made in a privileged task, where the filter is off and all rights are held: what fails
there in the same way would prove nothing.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from isolation_rig import attempts, said
from native_rig import NativeRig

from swarmpy.model.specs import Privileges

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]
WHO: tuple[dict[str, Any], ...] = (
    {},
    {"user": "app"},
    {"user": "app", "privileges": Privileges(no_new_privileges=True)},
    {"init": True},
)
WANTING = {"adjtimex": "EFAULT", "name_to_handle": "ENOENT", "chroot": "ENOENT"}
"""Let through, as docker does: here with arguments that lead nowhere. A clock is set by none of them."""
KINDS = ("user", "mnt", "pid", "net", "uts", "ipc", "cgroup")


async def test_the_kernel_is_the_nodes(rig: NativeRig) -> None:
    """Keys, modules, tracing, clocks, swap, quotas, restarts, file handles, hostnames."""
    privileged = await attempts(rig, "calls", privileged=True)
    assert {name for name, result in privileged.items() if result == "EPERM"} == set()
    for fields in WHO:
        found = await attempts(rig, "calls", **fields)
        assert {name: result for name, result in found.items() if result != "EPERM"} == WANTING, fields


async def test_mounts_are_as_they_were_made(rig: NativeRig) -> None:
    for fields in WHO:
        found = await attempts(rig, "mounts", **fields)
        assert len(found) == 17
        assert set(found.values()) == {"EPERM"}, fields


async def test_a_capability_brings_its_calls_and_no_others(rig: NativeRig) -> None:
    found = await attempts(rig, "calls", capability_add=("SYS_PTRACE",))
    assert (found["kcmp"], found["pidfd_getfd"]) == ("ok", "EBADF")
    assert found["keyctl"] == found["bpf"] == found["reboot"] == "EPERM"
    found = await attempts(rig, "calls", capability_add=("DAC_READ_SEARCH",))
    assert {name for name, result in found.items() if result != "EPERM"} == set(WANTING)


async def test_namespaces_are_as_they_were_made(rig: NativeRig) -> None:
    """None is made anew, a user namespace above all, in which the task would have all capabilities; none is
    entered. ``clone3`` is missing, since its flags cannot be looked at: programs go back to ``clone``."""
    privileged = await attempts(rig, "namespaces", privileged=True)
    assert {privileged[f"unshare_{kind}"] for kind in KINDS} == {"ok"}
    for fields in WHO:
        found = await attempts(rig, "namespaces", **fields)
        assert len(found) == 3 * len(KINDS) + 3
        assert found.pop("clone3_user") == "ENOSYS"
        assert set(found.values()) == {"EPERM"}, fields


async def test_capabilities_never_grow(rig: NativeRig) -> None:
    for fields in WHO:
        found = await attempts(rig, "rights", **fields)
        del found["securebits"]  # root's to set, with SETPCAP of docker's default set; it gives nothing
        assert len(found) == 13
        assert set(found.values()) == {"EPERM"}, fields


@pytest.mark.parametrize("program", ["/escape-suid", "/escape-caps"])
async def test_a_file_gives_no_more_than_the_task_may_have(rig: NativeRig, program: str) -> None:
    """Set-uid programs work, as in docker, up to the bounding set; a file's capabilities beyond it do not."""
    script = f"{program} calls; {program} rights; {program} mounts"
    lines = await said(rig, script, user="app")
    found = dict(line.split(" ", 1) for line in lines if not line.startswith("/bin/sh"))
    found.pop("securebits", None)
    refused = {name: result for name, result in found.items() if name not in WANTING}
    # what asks for more than may be had is not executed at all
    assert (program == "/escape-caps") == (not refused)
    assert set(refused.values()) <= {"EPERM"}
    bounded = await said(rig, "grep CapBnd /proc/self/status", user="app")
    assert bounded == ["CapBnd:\t00000000a80425fb"]


async def test_other_interfaces_of_the_machine_are_no_way_around(rig: NativeRig) -> None:
    """32-bit calls have their own numbers, and x32 the 64-bit ones with a mark."""
    if os.uname().machine != "x86_64":
        return  # no other machine has another interface that its filter knows
    privileged = await attempts(rig, "abi", privileged=True)
    assert privileged["32_getpid"] == "ok"
    assert "EPERM" not in {privileged[name] for name in ("32_mount", "32_keyctl", "32_unshare", "32_vsock")}
    for fields in WHO:
        found = await attempts(rig, "abi", **fields)
        assert found.pop("32_getpid") == "ok"
        ours = {name: result for name, result in found.items() if name.startswith("32_")}
        assert len(ours) == 8
        assert set(ours.values()) == {"EPERM"}, fields
        others = {result for name, result in found.items() if name not in ours}
        assert others == {"ENOSYS"}, fields
