"""A task's job as the OCI runtime specification says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agent.executor.base import ImageConfig, Launch, Sandbox
from agent.executor.native.job import HOST_NETWORK, Job, Places, plan_job
from agent.executor.native.shim.accounts import Account
from agent.executor.oci.bundle import INIT, Around, DeviceNode, cgroup_path, plan_bundle, top_of, with_account
from agent.executor.oci.monitor import command_line
from agent.executor.oci.runtimes import Runtime
from swarmpy.errors import TaskRejected
from swarmpy.model.ids import TaskId
from swarmpy.model.specs import BindOptions, ContainerSpec, Mount, TmpfsOptions, Ulimit
from swarmpy.model.states import MountType

PLACES = Places(
    folder="/tasks/t1",
    log_dir="/logs/t1",
    layers_dir="/layers",
    cgroups=["/sys/fs/cgroup/memory/swarmpy/t1"],
    oom_file="",
    hidden=["/run/swarmpy/netns"],
    given=[("/run/files/t1/secrets", "/run/secrets")],
)
SPEC = ContainerSpec(image="box:1", command=("/bin/sh", "-c", "true"))


def job_of(spec: ContainerSpec = SPEC, *, netns: str = "/run/netns/t1", image: str = "box:1") -> Job:
    return plan_job(
        Launch(
            task_id=TaskId("t1"),
            name="web.1.t1",
            spec=spec,
            image=ImageConfig(reference=image, layers=("one", "two"), env=("COLOUR=blue",)),
            sandbox=Sandbox(netns=netns, resolv_conf="/run/resolv", hosts="/run/hosts"),
        ),
        PLACES,
    )


def bundle_of(spec: ContainerSpec = SPEC, around: Around | None = None, **fields: str) -> dict[str, Any]:
    return plan_bundle(job_of(spec, **fields), around or Around(cgroup="/swarmpy/t1"), seccomp=None)


def mount_at(bundle: dict[str, Any], target: str) -> dict[str, Any]:
    return next(mount for mount in bundle["mounts"] if mount["destination"] == target)


def test_a_plain_task() -> None:
    bundle = bundle_of()
    process, linux = bundle["process"], bundle["linux"]
    assert bundle["root"] == {"path": "/tasks/t1/root", "readonly": False}
    assert process["args"] == ["/bin/sh", "-c", "true"]
    assert "COLOUR=blue" in process["env"]
    assert process["capabilities"]["bounding"] == process["capabilities"]["effective"]
    assert "CAP_SYS_ADMIN" not in process["capabilities"]["bounding"]
    assert linux["cgroupsPath"] == "/swarmpy/t1"
    assert {"type": "network", "path": "/run/netns/t1"} in linux["namespaces"]
    assert linux["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert "/proc/kcore" in linux["maskedPaths"]
    assert "/run/swarmpy/netns" not in linux["maskedPaths"]
    assert "/proc/sys" in linux["readonlyPaths"]
    assert mount_at(bundle, "/etc/resolv.conf")["source"] == "/run/resolv"
    assert "ro" in mount_at(bundle, "/run/secrets")["options"]
    assert "ro" in mount_at(bundle, "/sys")["options"]


@pytest.mark.parametrize(
    ("netns", "expected"),
    [("", [{"type": "network"}]), (HOST_NETWORK, []), ("/a", [{"type": "network", "path": "/a"}])],
)
def test_whose_network_it_has(netns: str, expected: list[dict[str, str]]) -> None:
    namespaces = bundle_of(netns=netns)["linux"]["namespaces"]
    assert [each for each in namespaces if each["type"] == "network"] == expected


def test_a_privileged_task_has_the_node() -> None:
    disk = DeviceNode(path="/dev/sda", kind="b", major=8, minor=0, mode=0o660, uid=0, gid=6)
    bundle = bundle_of(replace(SPEC, privileged=True), Around(devices={disk.path: disk}))
    linux = bundle["linux"]
    assert linux["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert [device["path"] for device in linux["devices"]] == ["/dev/sda"]
    assert linux["maskedPaths"] == linux["readonlyPaths"] == []
    assert "CAP_SYS_ADMIN" in bundle["process"]["capabilities"]["effective"]
    assert "ro" not in mount_at(bundle, "/sys")["options"]


@pytest.mark.parametrize("name", ["memory", ""])
def test_what_a_privileged_task_knows_as_the_root_of_control_groups(name: str) -> None:
    """With v2 that is its own group, where it may make others; with v1 the node's."""
    job = job_of(replace(SPEC, privileged=True)) | {"cgroup_mounts": [("/sys/fs/cgroup/swarmpy/t1", name)]}
    mount = mount_at(plan_bundle(job, Around(), seccomp=None), "/sys/fs/cgroup")
    assert mount["type"] == ("bind" if name else "cgroup")
    assert "ro" not in mount["options"]


def test_the_nodes_own_root() -> None:
    around = Around(top=("etc", "usr"), present=frozenset({"/etc/hosts"}))
    bundle = bundle_of(replace(SPEC, read_only=True), around, image="host")
    assert mount_at(bundle, "/usr")["options"] == ["rbind", "rslave", "ro"]
    targets = [mount["destination"] for mount in bundle["mounts"]]
    assert targets.index("/etc") < targets.index("/etc/hosts")
    assert "/etc/resolv.conf" not in targets  # nothing is made on the node's disk
    assert "/run/swarmpy/netns" in bundle["linux"]["maskedPaths"]
    assert top_of(["usr", "proc", "sys", "dev", "etc"]) == ("etc", "usr")


def test_an_init_has_to_be_there() -> None:
    spec = replace(SPEC, init=True)
    bundle = bundle_of(spec, Around(init="/usr/bin/tini-static"))
    assert bundle["process"]["args"][:3] == [INIT, "--", "/bin/sh"]
    assert mount_at(bundle, INIT)["source"] == "/usr/bin/tini-static"
    with pytest.raises(TaskRejected, match="install tini-static or docker-init"):
        bundle_of(spec)


def test_mounts() -> None:
    mounts = (
        Mount(type=MountType.TMPFS, target="/t", tmpfs_options=TmpfsOptions(size_bytes=4096, mode=0o700)),
        Mount(type=MountType.BIND, source="/srv", target="/b", read_only=True),
        Mount(
            type=MountType.BIND,
            source="/srv",
            target="/shared",
            bind_options=BindOptions(propagation="rshared", non_recursive=True),
        ),
    )
    bundle = bundle_of(replace(SPEC, mounts=mounts))
    assert {"mode=700", "size=4096"} <= set(mount_at(bundle, "/t")["options"])
    assert mount_at(bundle, "/b")["options"] == ["rbind", "rprivate", "nosuid", "nodev", "ro", "rro"]
    assert mount_at(bundle, "/shared")["options"] == ["bind", "rshared", "nosuid", "nodev"]
    assert bundle["linux"]["rootfsPropagation"] == "rshared"
    older = bundle_of(replace(SPEC, mounts=mounts), Around(can_seal_all=False))
    assert mount_at(older, "/b")["options"] == ["rbind", "rprivate", "nosuid", "nodev", "ro"]
    forced = replace(mounts[1], bind_options=BindOptions(read_only_force_recursive=True))
    with pytest.raises(TaskRejected, match=r"Linux 5\.12"):
        bundle_of(replace(SPEC, mounts=(forced,)), Around(can_seal_all=False))


def test_ulimits() -> None:
    ulimits = (Ulimit(name="nofile", soft=10, hard=-1),)
    assert bundle_of(replace(SPEC, ulimits=ulimits))["process"]["rlimits"] == [
        {"type": "RLIMIT_NOFILE", "soft": 10, "hard": (1 << 64) - 1}
    ]


def test_the_account_comes_last() -> None:
    bundle = bundle_of()
    whole = with_account(bundle, Account(7, 8, [8, 9], "/home/seven"))
    assert whole["process"]["user"] == {"uid": 7, "gid": 8, "additionalGids": [8, 9]}
    assert "HOME=/home/seven" in whole["process"]["env"]
    assert "user" not in bundle["process"]
    at_home = with_account(bundle_of(replace(SPEC, env=("HOME=/mine",))), Account(7, 8, [], "/home/seven"))
    assert [pair for pair in at_home["process"]["env"] if pair.startswith("HOME=")] == ["HOME=/mine"]


V1 = """\
30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw
31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
"""
V2 = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


def test_one_path_for_all_control_groups() -> None:
    assert cgroup_path(["/sys/fs/cgroup/memory/a/t1", "/sys/fs/cgroup/cpu/a/t1"], V1) == "/a/t1"
    assert cgroup_path(["/sys/fs/cgroup/a/t1"], V2) == "/a/t1"
    with pytest.raises(TaskRejected, match="begins with a slash"):
        cgroup_path(["/sys/fs/cgroup/memory/x/a/t1", "/sys/fs/cgroup/cpu/a/t1"], V1)


def test_how_conmon_is_called() -> None:

    runtime = Runtime(name="runc", path="/usr/sbin/runc", root=Path("/run/oci"))
    plain = command_line("/usr/bin/conmon", runtime, job_of(), Path("/tasks/t1"))
    assert "--bundle=/tasks/t1" in plain
    assert "--runtime-arg=--root=/run/oci" in plain
    assert not {"--terminal", "--stdin", "--leave-stdin-open"} & set(plain)
    fed = command_line("conmon", runtime, job_of(replace(SPEC, open_stdin=True)), Path("/tasks/t1"))
    assert "--stdin" in fed
    assert "--leave-stdin-open" not in fed
    both = replace(SPEC, open_stdin=True, tty=True)
    talking = command_line("conmon", runtime, job_of(both), Path("/tasks/t1"))
    assert {"--terminal", "--stdin", "--leave-stdin-open"} <= set(talking)
