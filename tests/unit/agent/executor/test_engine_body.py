"""The order for a container, out of a launch: what engines are told, and what they are not asked to do."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from msgspec.structs import replace

from agent.executor.base import ImageConfig, Launch, Sandbox
from agent.executor.engine import pause, states
from agent.executor.engine.body import Around, container_body, container_name, pause_body
from agent.executor.engine.client import Flavour, flavour_of, message_of, speak
from agent.executor.engine.containers import digest_of, listed
from agent.executor.engine.watching import events_of
from agent.executor.native.job import HOST_NETWORK
from swarmpy.errors import TaskRejected
from swarmpy.model.ids import TaskId, Timestamp
from swarmpy.model.objects import NodeVolume
from swarmpy.model.specs import (
    AppArmorOptions,
    BindOptions,
    ContainerSpec,
    Device,
    Healthcheck,
    Limits,
    Mount,
    Privileges,
    SeccompOptions,
    SELinuxContext,
    TmpfsOptions,
    Ulimit,
    VolumeOptions,
)
from swarmpy.model.states import MountType

AROUND = Around(folder="/n/tasks/t1", node="key", cgroup_version=1, ulimits=(("nofile", 1024),))
IMAGE = ImageConfig(
    reference="web:1",
    digest="sha256:ab",
    entrypoint=("/run",),
    command=("serve",),
    env=("A=1", "B=2"),
    user="app",
)
FLAVOURS: tuple[Flavour, ...] = ("podman", "docker")


def launch(**spec: Any) -> Launch:
    return Launch(
        task_id=TaskId("t1"),
        name="web.1.t1",
        spec=ContainerSpec(image="web:1", **spec),
        image=IMAGE,
        sandbox=Sandbox(netns="/run/net/t1", resolv_conf="/n/resolv", hosts="/n/hosts"),
        hostname="h1",
    )


def host_config(flavour: Flavour = "docker", around: Around = AROUND, **spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = container_body(launch(**spec), flavour, around)["HostConfig"]
    return found


@pytest.mark.parametrize(
    ("spec", "argv"),
    [
        ({}, ["/run", "serve"]),
        ({"args": ("-v",)}, ["/run", "-v"]),
        ({"command": ("/sh",)}, ["/sh"]),
        ({"command": ("/sh",), "args": ("-c", "x")}, ["/sh", "-c", "x"]),
    ],
)
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_command_line_leaves_nothing_to_the_image(
    flavour: Flavour, spec: dict[str, Any], argv: list[str]
) -> None:
    body = container_body(launch(**spec), flavour, AROUND)
    assert (body["Entrypoint"], body["Cmd"]) == (argv, [])


def test_what_it_is_made_of() -> None:
    body = container_body(launch(env=("A=3", "B"), dir="/w", groups=("7",), tty=True), "docker", AROUND)
    assert body["Image"] == "sha256:ab"
    assert body["User"] == "app"
    assert body["WorkingDir"] == "/w"
    assert "A=3" in body["Env"]
    assert body["Env"][-1] == "B"  # taken away: docker would add the image's otherwise
    assert "TERM=xterm" in body["Env"]
    assert body["HostConfig"]["GroupAdd"] == ["7"]
    assert body["Labels"] == {
        "io.swarmpy.task": "t1",
        "io.swarmpy.kind": "task",
        "io.swarmpy.node": "key",
    }
    with pytest.raises(TaskRejected, match="Podman cannot take variables of an image away \\(B\\)"):
        container_body(launch(env=("B",)), "podman", AROUND)


def test_labels_of_users_do_not_make_it_anothers() -> None:
    body = container_body(launch(labels={"io.swarmpy.node": "other", "x": "y"}), "docker", AROUND)
    assert body["Labels"]["io.swarmpy.node"] == "key"
    assert body["Labels"]["x"] == "y"


def test_health_is_the_agents_affair() -> None:
    checked = replace(launch(), image=replace(IMAGE, healthcheck=Healthcheck(test=("CMD", "true"))))
    assert container_body(checked, "docker", AROUND)["Healthcheck"] == {"Test": ["NONE"]}
    assert "Healthcheck" not in container_body(launch(), "podman", AROUND)


def test_networks() -> None:
    alone = replace(launch(), sandbox=Sandbox(netns=""))
    hosts = replace(launch(), sandbox=Sandbox(netns=HOST_NETWORK))
    for flavour in FLAVOURS:
        assert container_body(alone, flavour, AROUND)["HostConfig"]["NetworkMode"] == "none"
        assert container_body(hosts, flavour, AROUND)["HostConfig"]["NetworkMode"] == "host"
        assert container_body(hosts, flavour, AROUND)["Hostname"] == "h1"
    podman = container_body(launch(), "podman", AROUND)
    assert podman["HostConfig"]["NetworkMode"] == "ns:/run/net/t1"
    assert podman["Hostname"] == "h1"
    docker = container_body(launch(), "docker", AROUND)
    assert docker["HostConfig"]["NetworkMode"] == "container:web.1.t1.pause"
    assert "Hostname" not in docker  # docker takes the pause container's, and refuses another
    holder = pause_body(launch(), AROUND, image=pause.IMAGE)
    assert holder["Hostname"] == "h1"
    assert holder["HostConfig"]["CapAdd"] == ["SYS_ADMIN"]
    assert holder["HostConfig"]["Mounts"][0]["Source"] == "/run/net/t1"
    with pytest.raises(TaskRejected, match="not allowed in host network namespace"):
        container_body(replace(hosts, spec=replace(hosts.spec, sysctls={"net.a": "1"})), "docker", AROUND)


def test_names() -> None:
    assert container_name(launch()) == "web.1.t1"
    assert container_name(replace(launch(), name="mine")) == "mine.t1"
    assert container_name(replace(launch(), name="/odd name/.t1")) == "odd-name-.t1"


@pytest.mark.parametrize(
    ("spec", "docker", "podman"),
    [
        ({"user": "root"}, None, (["AUDIT_WRITE", "MKNOD", "NET_RAW"], [])),
        ({"user": "1001"}, None, ([], [])),
        ({"user": "1001", "capability_add": ("CAP_NET_ADMIN",)}, None, (["NET_ADMIN"], [])),
        ({"user": "0:0", "capability_drop": ("ALL",)}, ([], ["ALL"]), None),
        (
            {"capability_add": ("ALL",), "capability_drop": ("CHOWN",)},
            (["ALL"], ["CHOWN"]),
            (["ALL"], ["CHOWN"]),
        ),
        ({"capability_drop": ("ALL",), "capability_add": ("KILL",)}, (["KILL"], ["ALL"]), None),
    ],
)
def test_capabilities(spec: dict[str, Any], docker: Any, podman: Any) -> None:
    for flavour, wanted in (("docker", docker), ("podman", podman)):
        found = host_config(flavour, **spec)  # type: ignore[arg-type]
        if wanted is not None:
            assert (found["CapAdd"], found["CapDrop"]) == wanted
    dropped = host_config("podman", user="0", capability_drop=("ALL",))
    assert dropped["CapAdd"] == []
    assert {"CHOWN", "KILL", "SYS_CHROOT", "MKNOD"} <= set(dropped["CapDrop"])
    assert "CapAdd" not in host_config(privileged=True)
    with pytest.raises(TaskRejected, match="invalid capability"):
        host_config(capability_add=("NOPE",))


def test_security() -> None:
    def options(flavour: Flavour, **wish: Any) -> list[str]:
        found: list[str] = host_config(flavour, privileges=Privileges(**wish))["SecurityOpt"]
        return found

    assert options("docker") == []
    assert options("docker", no_new_privileges=True) == ["no-new-privileges:true"]
    assert options("docker", seccomp=SeccompOptions(mode="unconfined")) == ["seccomp=unconfined"]
    custom = SeccompOptions(mode="custom", profile=b'{"defaultAction":"x"}')
    assert options("docker", seccomp=custom) == ['seccomp={"defaultAction":"x"}']
    assert options("podman", seccomp=custom) == ["seccomp=/n/tasks/t1/seccomp.json"]
    assert options("docker", app_armor=AppArmorOptions(mode="disabled")) == ["apparmor=unconfined"]
    assert options("docker", selinux_context=SELinuxContext(disable=True)) == ["label=disable"]
    assert options("podman", selinux_context=SELinuxContext(type="t")) == ["label=type:t"]
    with pytest.raises(TaskRejected, match="AppArmor is not enabled"):
        options("docker", app_armor=AppArmorOptions(mode="mine"))
    with pytest.raises(TaskRejected, match="for Windows nodes"):
        host_config(isolation="hyperv")


def test_other_ids_are_the_engines_affair_and_may_be_left() -> None:
    assert "UsernsMode" not in host_config("docker")
    assert host_config("docker", userns_mode="host")["UsernsMode"] == "host"


def test_limits() -> None:
    limited = replace(
        launch(shm_size=1 << 20, cpuset_cpus="0", ulimits=(Ulimit(name="RLIMIT_CORE", soft=1, hard=2),)),
        limits=Limits(memory_bytes=64 << 20, nano_cpus=500_000_000, pids=10),
        swap_bytes=32 << 20,
    )
    found = container_body(limited, "podman", AROUND)["HostConfig"]
    assert (found["Memory"], found["MemorySwap"]) == (64 << 20, 96 << 20)
    assert (found["NanoCpus"], found["PidsLimit"], found["ShmSize"]) == (500_000_000, 10, 1 << 20)
    assert found["Ulimits"] == [
        {"Name": "core", "Soft": 1, "Hard": 2},
        {"Name": "nofile", "Soft": 1024, "Hard": 1024},
    ]
    assert host_config("docker")["Ulimits"] == []
    assert host_config("docker")["PidsLimit"] == -1  # podman has a bound of its own otherwise
    endless = container_body(replace(limited, swap_bytes=-1), "docker", AROUND)["HostConfig"]
    assert endless["MemorySwap"] == -1
    with pytest.raises(TaskRejected, match="at least 4MiB"):
        container_body(replace(limited, limits=Limits(memory_bytes=1)), "docker", AROUND)


def test_mounts() -> None:
    volume = NodeVolume(name="v", driver="local", mountpoint="/n/volumes/v/_data")
    nfs = NodeVolume(
        name="w", driver="local", mountpoint="/n/volumes/w/_data", options={"type": "nfs", "device": "x"}
    )
    around = Around(
        folder="/n/tasks/t1",
        node="key",
        volumes={"v": volume, "w": nfs},
        given=(("/mem/t1/secrets", "/run/secrets"),),
    )
    part = VolumeOptions(subpath="s")
    mounts = (
        Mount(
            type=MountType.BIND,
            source="/a",
            target="/b",
            read_only=True,
            bind_options=BindOptions(non_recursive=True),
        ),
        Mount(type=MountType.VOLUME, source="v", target="/v"),
        Mount(type=MountType.VOLUME, source="v", target="/p", volume_options=part),
        Mount(type=MountType.VOLUME, source="v", target=f"/{'q/' * 300}", volume_options=part),
        Mount(type=MountType.VOLUME, source="w", target="/w"),
        Mount(type=MountType.TMPFS, target="/t", tmpfs_options=TmpfsOptions(size_bytes=9, mode=0o700)),
        Mount(type=MountType.BIND, source="/mine", target="/etc/hosts"),
    )
    found = {mount["Target"]: mount for mount in host_config("docker", around, mounts=mounts)["Mounts"]}
    assert found["/b"]["ReadOnly"]
    assert found["/b"]["BindOptions"] == {"Propagation": "rprivate", "NonRecursive": True}
    assert found["/v"]["Source"] == "/n/volumes/v/_data"
    sources = [mount.get("Source", "") for mount in found.values()]
    parts = {place for place in sources if place.startswith("/n/tasks/t1/parts/")}
    assert len(parts) == 3
    assert max(len(name) for place in parts for name in place.split("/")) <= 255
    assert found["/w"]["Source"] == "/n/tasks/t1/parts/volume-1"
    assert found["/t"]["TmpfsOptions"] == {"SizeBytes": 9, "Mode": 0o700}
    assert found["/etc/hosts"]["Source"] == "/mine"  # the user's, not ours
    assert found["/etc/resolv.conf"]["Source"] == "/n/resolv"
    assert found["/run/secrets"] == {
        "Type": "bind",
        "Source": "/mem/t1/secrets",
        "Target": "/run/secrets",
        "ReadOnly": True,
        "BindOptions": {"Propagation": "rprivate"},
    }
    with pytest.raises(TaskRejected, match="do not mount images"):
        host_config(mounts=(Mount(type=MountType.IMAGE, source="web:1", target="/i"),))
    with pytest.raises(TaskRejected, match="have a comma"):
        host_config("podman", mounts=(Mount(type=MountType.BIND, source="/a,b", target="/b"),))


def test_devices_and_the_nodes_own_root() -> None:
    found = host_config(devices=(Device(path_on_host="/dev/x", cgroup_permissions="r"),))
    assert found["Devices"] == [
        {"PathOnHost": "/dev/x", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}
    ]
    with pytest.raises(TaskRejected, match="place the service on"):
        container_body(replace(launch(), image=ImageConfig(reference="host")), "docker", AROUND)


def test_the_same_order_has_the_same_digest() -> None:
    one, two = (container_body(launch(), "docker", AROUND) for _ in range(2))
    assert digest_of(one) == digest_of(two)
    assert digest_of(container_body(launch(tty=True), "docker", AROUND)) != digest_of(one)


# --- answers


RAN = {"StartedAt": "2026-11-22T00:00:01.5Z", "FinishedAt": "2026-11-22T02:00:03+02:00"}


def test_states() -> None:
    assert states.state_of({"State": {"StartedAt": "0001-01-01T00:00:00Z", "ExitCode": 127}}).started is None
    running = states.state_of({"State": {**RAN, "Running": True, "Pid": 7}})
    assert running.is_running
    assert running.started is not None
    assert (running.started.pid, running.started.at % 10**9) == (7, 500_000_000)
    ended = states.state_of({"State": {**RAN, "Running": False, "ExitCode": 137, "OOMKilled": True}})
    assert ended.ended is not None
    assert (ended.ended.exit.code, ended.ended.exit.is_oom_killed) == (137, True)
    assert ended.ended.exit.at - running.started.at == 1_500_000_000
    assert states.time_of("nonsense") == Timestamp(0)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('exec: "x": executable file not found in $PATH: unknown', 127),
        ("crun: executable file `x` not found in $PATH: No such file or directory", 127),
        ('exec: "/etc": permission denied', 126),
        ("exec /x: exec format error", 126),
        ("device or resource busy", 128),
    ],
)
def test_why_it_did_not_start(text: str, code: int) -> None:
    assert states.start_exit_code(text) == code


def test_what_engines_say() -> None:
    assert speak({"ApiVersion": "1.41", "MinAPIVersion": "1.12"}) == "1.41"
    assert speak({"ApiVersion": "1.52", "MinAPIVersion": "1.44"}) == "1.44"
    assert speak({"ApiVersion": "1.40", "MinAPIVersion": "1.24"}) == "1.40"
    assert speak({}) == "1.41"
    assert flavour_of({"Components": [{"Name": "Podman Engine"}]}) == "podman"
    assert flavour_of({"Components": [{"Name": "Engine"}, {"Name": "containerd"}]}) == "docker"
    assert message_of(b'{"message":"no"}') == "no"
    assert message_of(b'{"cause":"why","message":""}') == "why"
    assert message_of(b"plain text\n") == "plain text"
    answer: list[dict[str, Any]] = [
        {"Id": "1", "Labels": {"io.swarmpy.task": "t"}},
        {"Id": "2", "Labels": None},
    ]
    assert listed(answer) == []


async def test_events_in_pieces() -> None:
    async def pieces() -> Any:
        for piece in (b'{"Action":"d', b'ie"}\nnonsense\n[1]\n{"Action":', b'"start"}\n'):
            yield piece

    assert [event["Action"] async for event in events_of(pieces())] == ["die", "start"]


# --- the pause image


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_pause_image(machine: str) -> None:
    program = pause.program(machine)
    assert program.startswith(b"\x7fELF\x02\x01\x01")
    assert program.endswith(pause.NETNS.encode() + b"\0")
    size = int.from_bytes(program[64 + 32 : 64 + 40], "little")
    assert size == len(program)  # all of the file is what is loaded
    assert pause.archive(machine) == pause.archive(machine)
    assert pause.image_id(machine).startswith("sha256:")
    assert (
        hashlib.sha256(pause.archive("x86_64")).digest() != hashlib.sha256(pause.archive("aarch64")).digest()
    )
