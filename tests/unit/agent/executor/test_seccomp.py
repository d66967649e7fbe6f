"""Filters of system calls: what the kernel is handed decides as the profile says. No kernel needed."""

from __future__ import annotations

import errno
import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.executor.native import seccomp, syscalls
from agent.executor.native.job import DEFAULT_CAPABILITIES
from agent.executor.native.seccomp import ALLOW
from swarmpy.errors import TaskRejected

X86, I386 = syscalls.of_machine("x86_64")
REFUSED = 0x50000 | errno.EPERM
MISSING = 0x50000 | errno.ENOSYS


def run(program: bytes, audit: int, number: int, *arguments: int) -> int:
    """What the kernel makes of a call."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, audit, 0, *padded)
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    at = accumulator = 0
    while True:
        operation, so, otherwise, k = code[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, k)
            case 0x54:
                accumulator &= k
            case 0x05:
                at += k
            case 0x15:
                at += so if accumulator == k else otherwise
            case 0x25:
                at += so if accumulator > k else otherwise
            case 0x35:
                at += so if accumulator >= k else otherwise
            case 0x06:
                return int(k)
            case _:
                raise AssertionError(operation)


def call(program: bytes, name: str, *arguments: int, architecture: syscalls.Architecture = X86) -> int:
    return run(program, architecture.audit, architecture.numbers[name], *arguments)


def default(*more: str) -> bytes:
    return seccomp.default_program(DEFAULT_CAPABILITIES | set(more), "x86_64")


def custom(**profile: Any) -> bytes:
    text = json.dumps({"defaultAction": "SCMP_ACT_ERRNO", **profile}).encode()
    return seccomp.custom_program(text, DEFAULT_CAPABILITIES, machine="x86_64", kernel="6.1.0-x")


@pytest.mark.parametrize("name", ["read", "write", "openat", "execve", "futex", "chroot", "ptrace", "statx"])
def test_the_default_lets_programs_work(name: str) -> None:
    assert call(default(), name) == ALLOW
    assert call(default(), name, architecture=I386) == ALLOW


@pytest.mark.parametrize(
    "name", ["keyctl", "mount", "bpf", "init_module", "reboot", "unshare", "io_uring_setup"]
)
def test_the_default_keeps_the_kernel_to_itself(name: str) -> None:
    assert call(default(), name) == REFUSED
    assert call(default(), name, architecture=I386) == REFUSED


def test_capabilities_bring_calls_back() -> None:
    assert call(default("SYS_ADMIN"), "mount") == ALLOW
    assert call(default("SYS_ADMIN"), "keyctl") == REFUSED
    assert call(default("SYS_TIME"), "clock_settime") == ALLOW
    assert call(default("SYS_ADMIN"), "clone3") == ALLOW


def test_the_default_looks_at_arguments() -> None:
    assert call(default(), "clone", 0x00010F00) == ALLOW
    assert call(default(), "clone", 0x10000000) == REFUSED
    assert call(default("SYS_ADMIN"), "clone", 0x10000000) == ALLOW
    assert call(default(), "clone3") == MISSING
    assert call(default(), "personality", 0x20000) == ALLOW
    assert call(default(), "personality", 0x40000) == REFUSED
    assert call(default(), "socket", 2) == ALLOW
    assert call(default(), "socket", 40) == REFUSED


@pytest.mark.parametrize("number", [470, 999, 0x40000000, 0xFFFFFFFF])
def test_what_is_not_known_is_missing(number: int) -> None:
    assert run(default(), X86.audit, number) == MISSING
    assert run(default(), 0xC00000B7, 63) == MISSING


def test_other_machines() -> None:
    (arm,) = syscalls.of_machine("aarch64")
    program = seccomp.default_program(DEFAULT_CAPABILITIES, "aarch64")
    assert call(program, "openat", architecture=arm) == ALLOW
    assert call(program, "keyctl", architecture=arm) == REFUSED
    assert seccomp.default_program(DEFAULT_CAPABILITIES, "sparc64") == b""


OPERATIONS = {
    "SCMP_CMP_EQ": lambda x, a, b: x == a,
    "SCMP_CMP_NE": lambda x, a, b: x != a,
    "SCMP_CMP_GT": lambda x, a, b: x > a,
    "SCMP_CMP_GE": lambda x, a, b: x >= a,
    "SCMP_CMP_LT": lambda x, a, b: x < a,
    "SCMP_CMP_LE": lambda x, a, b: x <= a,
    "SCMP_CMP_MASKED_EQ": lambda x, a, b: x & a == b,
}
words = st.sampled_from([0, 1, 2, 7, 0xFFFFFFFF, 1 << 32, (1 << 32) + 1, (3 << 32) + 7, (1 << 64) - 1])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 5), words, words), max_size=4),
    st.lists(words, min_size=6, max_size=6),
)
def test_conditions_hold_as_they_say(conditions: list[tuple[str, int, int, int]], given: list[int]) -> None:
    rule = {
        "names": ["ioctl"],
        "action": "SCMP_ACT_ALLOW",
        "args": [{"index": i, "value": a, "valueTwo": b, "op": op} for op, i, a, b in conditions],
    }
    holds = all(OPERATIONS[op](given[i], a, b) for op, i, a, b in conditions)
    assert call(custom(syscalls=[rule]), "ioctl", *given) == (ALLOW if holds else REFUSED)


@settings(max_examples=15, deadline=None)
@given(st.sets(st.sampled_from(sorted(X86.numbers))), st.sets(st.sampled_from(sorted(X86.numbers))))
def test_every_call_has_its_own_verdict(allowed: set[str], logged: set[str]) -> None:
    program = custom(
        syscalls=[
            {"names": sorted(allowed - logged), "action": "SCMP_ACT_ALLOW"},
            {"names": sorted(logged), "action": "SCMP_ACT_LOG"},
        ]
    )
    for name in X86.numbers:
        expected = 0x7FFC0000 if name in logged else ALLOW if name in allowed else REFUSED
        assert call(program, name) == expected, name


def test_a_profile_in_dockers_format() -> None:
    program = custom(
        defaultErrnoRet=38,
        archMap=[{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        syscalls=[
            {"names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW", "comment": "x"},
            {"name": "write", "action": "SCMP_ACT_ERRNO", "errnoRet": 7},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["chown"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_CHOWN"]}},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "9.9"}},
            {"names": ["kcmp"], "action": "SCMP_ACT_KILL", "excludes": {"arches": ["arm64"]}},
        ],
    )
    assert call(program, "read") == call(program, "read", architecture=I386) == ALLOW
    assert call(program, "write") == 0x50007
    assert [call(program, name) for name in ("mount", "chown", "ptrace", "kcmp")] == [
        MISSING,
        ALLOW,
        MISSING,
        0,
    ]
    assert run(custom(), I386.audit, 3) == MISSING  # an architecture that the profile does not name


def test_an_open_profile_stays_open_to_newer_calls() -> None:
    program = custom(
        defaultAction="SCMP_ACT_ALLOW", syscalls=[{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]
    )
    assert run(program, X86.audit, 5000) == ALLOW
    assert call(program, "mkdir") == REFUSED


def test_the_x32_interface_is_no_way_around_an_open_profile() -> None:
    """It has the 64-bit calls again under other numbers, of which a profile says nothing."""
    program = custom(
        defaultAction="SCMP_ACT_ALLOW",
        architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        syscalls=[{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}],
    )
    for number in (0x40000000, 0x40000000 | X86.numbers["mkdir"], 0x40000000 | X86.numbers["read"]):
        assert run(program, X86.audit, number) == MISSING
    assert call(program, "mkdir", architecture=I386) == REFUSED


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{", "decoding seccomp profile failed"),
        (b"[]", "decoding seccomp profile failed"),
        (b"{}", 'invalid seccomp action ""'),
        (b'{"defaultAction": "SCMP_ACT_NOTIFY"}', "SCMP_ACT_NOTIFY"),
        (
            b'{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "a", "names": ["b"]}]}',
            "'name' and 'names' were specified",
        ),
        (
            b'{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": '
            b'[{"name": "a", "action": "SCMP_ACT_KILL", "args": [{"index": 6}]}]}',
            "invalid seccomp condition",
        ),
    ],
)
def test_profiles_that_cannot_be(text: bytes, reason: str) -> None:
    with pytest.raises(TaskRejected, match=reason):
        seccomp.custom_program(text, DEFAULT_CAPABILITIES, machine="x86_64", kernel="6.1")


def test_a_profile_that_the_kernel_would_not_take() -> None:
    rules = [
        {
            "names": [name],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": i, "value": number} for i in range(6)],
        }
        for number, name in enumerate(sorted(X86.numbers))
    ]
    with pytest.raises(TaskRejected, match="too large"):
        custom(syscalls=rules)
