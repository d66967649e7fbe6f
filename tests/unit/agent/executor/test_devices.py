"""Device files: which a task gets, and the ways in which the kernel is told what may be done with them."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.executor.native import demands, device_filter, devices
from agent.executor.native.demands import Demands
from agent.executor.native.devices import DeviceFile, Rule
from swarmpy.errors import TaskRejected
from swarmpy.model.specs import ContainerSpec, Device, DeviceRequest, Limits

A = DeviceFile("/dev/a", "c", 10, 1)
B = DeviceFile("/dev/sub/b", "b", 8, 2)
LIMITS = Limits(memory_bytes=100)


def test_targets_and_rules() -> None:
    spec = ContainerSpec(
        devices=(
            Device(path_on_host="/dev/a", cgroup_permissions="r"),
            Device(path_on_host="/dev/sub", path_in_container="/dev/x"),
            Device(path_on_host="/dev/sub/"),
        )
    )
    plan = devices.plan(spec, {"/dev/a": (A,), "/dev/sub": (B,), "/dev/sub/": (B,)}, ())
    assert [(one["source"], one["target"]) for one in plan.devices] == [
        ("/dev/a", "/dev/a"),
        ("/dev/sub/b", "/dev/x/b"),
        ("/dev/sub/b", "/dev/sub/b"),
    ]
    assert set(plan.rules) - set(devices.EVERY_TASK) == {Rule("c", 10, 1, "r"), Rule("b", 8, 2, "rwm")}
    assert devices.plan(ContainerSpec(), {}, ()).rules == ()
    one = ContainerSpec(devices=spec.devices[:1], privileged=True)
    assert devices.plan(one, {"/dev/a": (A,)}, ()).rules == ()  # it may open all, whatever it names


def test_gpus_of_other_makers_are_told_apart_by_their_render_nodes() -> None:
    gpus = tuple(
        DeviceFile(f"/dev/{name}", "c", 226, number)
        for number, name in enumerate(("kfd", "dri/card0", "dri/renderD128", "dri/renderD129"))
    )
    chosen, env = devices.choose_gpus(DeviceRequest(count=1, capabilities=("gpu",)), gpus)
    assert [one.path for one in chosen] == ["/dev/kfd", "/dev/dri/card0", "/dev/dri/renderD128"]
    assert env == {}


def test_too_many() -> None:
    many = tuple(DeviceFile(f"/dev/sub/{number}", "c", 1, number) for number in range(300))
    with pytest.raises(TaskRejected, match="at most 256"):
        devices.plan(ContainerSpec(devices=(Device(path_on_host="/dev/sub"),)), {"/dev/sub": many}, ())


def test_rules_in_the_words_of_version_one() -> None:
    found = demands.files(Demands(device_rules=(Rule("c", 136, -1, "rw"), Rule("b", 8, 2, "m"))), version=1)
    assert [tuple(file[:2]) for file in found] == [
        ("devices.deny", "a"),
        ("devices.allow", "c 136:* rw"),
        ("devices.allow", "b 8:2 m"),
    ]


@pytest.mark.parametrize(
    ("fields", "version", "expected"),
    [
        ({"limits": LIMITS}, 1, [("memory.memsw.limit_in_bytes", "200", False)]),
        ({"limits": LIMITS}, 2, [("memory.swap.max", "100", False)]),
        (
            {"limits": LIMITS, "swap_bytes": 7},
            1,
            [("memory.memsw.limit_in_bytes", "107", True)],
        ),
        ({"limits": LIMITS, "swap_bytes": 7}, 2, [("memory.swap.max", "7", True)]),
        (
            {"limits": LIMITS, "swap_bytes": -1},
            1,
            [("memory.memsw.limit_in_bytes", "-1", True)],
        ),
        ({"swap_bytes": -1}, 2, [("memory.swap.max", "max", True)]),
        ({"memory_swappiness": 0}, 1, [("memory.swappiness", "0", True)]),
        ({"memory_swappiness": -1}, 1, []),
        (
            {"cpuset_cpus": "0-1", "cpuset_mems": "0"},
            2,
            [("cpuset.mems", "0", True), ("cpuset.cpus", "0-1", True)],
        ),
    ],
)
def test_limits_as_files(
    fields: dict[str, object], version: int, expected: list[tuple[str, str, bool]]
) -> None:
    found = demands.files(Demands(**fields), version=version)  # type: ignore[arg-type]
    assert [tuple(file) for file in found if "limit_in_bytes" not in file.name or "memsw" in file.name][
        -len(expected) or len(found) :
    ] == expected


def test_swappiness_is_not_for_version_two() -> None:
    with pytest.raises(TaskRejected, match="cgroup v2, which knows none"):
        demands.check(Demands(memory_swappiness=5), version=2)
    demands.check(Demands(memory_swappiness=-1), version=2)


# --- version two: a program


def judge(program: bytes, kind: str, major: int, minor: int, access: str) -> int:
    """What the kernel makes of it."""
    code = [struct.unpack_from("=BBhI", program, at) for at in range(0, len(program), 8)]
    letters = sum({"m": 1, "r": 2, "w": 4}[letter] for letter in access)
    context = {0: {"b": 1, "c": 2}[kind] | letters << 16, 4: major, 8: minor}
    registers = [0] * 11
    at = 0
    while True:
        operation, pair, offset, value = code[at]
        target, source = pair & 15, pair >> 4
        at += 1
        match operation:
            case 0x61:
                registers[target] = context[offset]
            case 0xBF:
                registers[target] = registers[source]
            case 0xB7:
                registers[target] = value
            case 0x54:
                registers[target] &= value
            case 0x74:
                registers[target] >>= value
            case 0x55:
                at += offset if registers[target] != value else 0
            case 0x95:
                return registers[0]
            case _:
                raise AssertionError(operation)


rules = st.builds(
    Rule,
    st.sampled_from("bc"),
    st.sampled_from([-1, 1, 8, 10]),
    st.sampled_from([-1, 0, 3]),
    st.sampled_from(["r", "w", "m", "rw", "rm", "rwm"]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(rules, max_size=5), rules, st.sampled_from(["r", "w", "m", "rw", "wm", "rwm"]))
def test_the_program_judges_as_the_rules_say(found: list[Rule], asked: Rule, access: str) -> None:
    major, minor = max(asked.major, 0), max(asked.minor, 0)
    allowed = any(
        rule.kind == asked.kind
        and rule.major in (-1, major)
        and rule.minor in (-1, minor)
        and set(access) <= set(rule.access)
        for rule in found
    )
    assert judge(device_filter.program(found), asked.kind, major, minor, access) == allowed


UNIFIED = [
    root
    for root in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
    if (root / "cgroup.controllers").exists()
]


@pytest.fixture
def group() -> Iterator[Path]:
    folder = UNIFIED[0] / f"swarmpy-test-devices-{os.getpid()}"
    folder.mkdir()
    yield folder
    with contextlib.suppress(OSError):
        folder.rmdir()


on_version_two = pytest.mark.skipif(os.geteuid() != 0 or not UNIFIED, reason="needs root and cgroup v2")
NULL, ZERO = Rule("c", 1, 3, "rwm"), Rule("c", 1, 5, "rwm")


def opens(group: Path, *names: str) -> list[str]:
    """Which of these devices a process in the group can open."""
    script = f"echo $$ >{group}/cgroup.procs; for n; do (: </dev/$n) 2>&- && echo $n; done; true"
    words = ["sh", "-c", script, "sh", *names]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout.split()


def attach_with(group: Path, flags: int, *rules: Rule) -> None:
    """As another program than ours does."""
    folder = os.open(group, os.O_RDONLY)
    loaded = device_filter._load(device_filter.program(rules))
    try:
        device_filter._bpf(8, struct.pack("=IIII", folder, loaded, 6, flags))
    finally:
        os.close(loaded)
        os.close(folder)


@pytest.mark.root
@on_version_two
def test_an_oci_runtime_attaches_its_own_beside_ours(group: Path) -> None:
    device_filter.attach(group, (NULL, ZERO))
    attach_with(group, 2, NULL)
    assert opens(group, "null", "zero") == ["null"]
    device_filter.attach(group, (ZERO,))  # as a task is created again: nothing of before is left
    assert opens(group, "null", "zero") == ["zero"]


@pytest.mark.root
@on_version_two
def test_what_an_older_version_attached_is_replaced(group: Path) -> None:
    attach_with(group, 0, NULL)
    for _ in range(2):
        device_filter.attach(group, (ZERO,))
        assert opens(group, "null", "zero") == ["zero"]


@pytest.mark.root
@on_version_two
def test_the_kernel_takes_the_program(group: Path, tmp_path: Path) -> None:
    os.mknod(tmp_path / "full", stat.S_IFCHR | 0o666, os.makedev(1, 7))
    for _ in range(2):  # attached again, it takes the place of the former one
        device_filter.attach(group, (Rule("c", 1, 3, "rwm"), Rule("c", 1, 7, "r")))
    script = (
        f"echo $$ >{group}/cgroup.procs; : <>/dev/null && echo null; : </dev/full && echo read;"
        "(: >/dev/full) || echo refused; (: </dev/zero) || echo other"
    )
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False, timeout=20)
    assert done.stdout.split() == ["null", "read", "refused", "other"]
