"""Device permissions on cgroup v2: a small program that the kernel asks for every device that is opened.

What v1's devices controller does by files of rules has no files in v2. The program goes with its group, and
leaves room for others: what an OCI runtime, or a task that runs containers of its own, attaches as well.
Whatever one of them denies is denied.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agent.executor.native import syscalls
from agent.executor.native.devices import Rule

_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_FD_BY_ID, _PROG_QUERY = 5, 8, 9, 13, 16
_PROG_TYPE_CGROUP_DEVICE: Final = 15
_ATTACH_CGROUP_DEVICE: Final = 6
_ALLOW_MULTI: Final = 2
_PROGRAMS_MAX: Final = 64
"""As many as the kernel lets a group have."""
_QUERY: Final = struct.Struct("=IIIIQII")
_KINDS: Final = {"b": 1, "c": 2}
_ACCESS: Final = {"m": 1, "r": 2, "w": 4}
_ACCESS_ALL: Final = 7
_LICENSE: Final = b"Apache-2.0\0"

_LOAD, _COPY, _SET, _AND, _SHIFT, _UNEQUAL, _EXIT = 0x61, 0xBF, 0xB7, 0x54, 0x74, 0x55, 0x95
_R_RESULT, _R_CONTEXT, _R_KIND, _R_ACCESS, _R_MAJOR, _R_MINOR, _R_SCRATCH = range(7)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def attach(group: Path, rules: Sequence[Rule]) -> None:
    """Have the group's processes, and those of groups below, open only what the rules allow, or OSError. What
    was attached to the group before is replaced."""
    folder = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        loaded = _load(program(rules))
        try:
            _replace(folder, loaded)
        finally:
            os.close(loaded)
    finally:
        os.close(folder)


def _load(instructions: bytes) -> int:
    code = ctypes.create_string_buffer(instructions)
    license_ = ctypes.create_string_buffer(_LICENSE)
    attributes = struct.pack(
        "=IIQQIIQII16s",
        *(_PROG_TYPE_CGROUP_DEVICE, len(instructions) // 8),
        *(ctypes.addressof(code), ctypes.addressof(license_)),
        *(0, 0, 0, 0, 0, b"swarmpy_devices"),
    )
    return _bpf(_PROG_LOAD, attributes)[0]


def _replace(folder: int, loaded: int) -> None:
    """The new one comes before the others go: in between, what any of them denies is denied."""
    numbers, flags = _attached(folder)
    if numbers and not flags & _ALLOW_MULTI:
        # it wants to be alone, as those of older versions do: what is attached in the same way replaces it
        _bpf(_PROG_ATTACH, struct.pack("=IIII", folder, loaded, _ATTACH_CGROUP_DEVICE, flags))
        return
    _bpf(_PROG_ATTACH, struct.pack("=IIII", folder, loaded, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI))
    for number in numbers:
        former, _ = _bpf(_PROG_FD_BY_ID, struct.pack("=III", number, 0, 0))
        try:
            _bpf(_PROG_DETACH, struct.pack("=III", folder, former, _ATTACH_CGROUP_DEVICE))
        finally:
            os.close(former)


def _attached(folder: int) -> tuple[list[int], int]:
    """The group's own programs by their numbers, and how they were attached."""
    numbers = (ctypes.c_uint32 * _PROGRAMS_MAX)()
    asked = _QUERY.pack(folder, _ATTACH_CGROUP_DEVICE, 0, 0, ctypes.addressof(numbers), _PROGRAMS_MAX, 0)
    _, answer = _bpf(_PROG_QUERY, asked)
    _, _, _, flags, _, count, _ = _QUERY.unpack(answer)
    return list(numbers[:count]), flags


def program(rules: Sequence[Rule]) -> bytes:
    """Pure: 1 for what a rule allows, else 0."""
    code = [
        _one(_LOAD, _R_KIND, _R_CONTEXT, 0, 0),
        _one(_COPY, _R_ACCESS, _R_KIND, 0, 0),
        _one(_AND, _R_KIND, 0, 0, 0xFFFF),
        _one(_SHIFT, _R_ACCESS, 0, 0, 16),
        _one(_LOAD, _R_MAJOR, _R_CONTEXT, 4, 0),
        _one(_LOAD, _R_MINOR, _R_CONTEXT, 8, 0),
    ]
    for rule in rules:
        code += _rule(rule)
    code += [_one(_SET, _R_RESULT, 0, 0, 0), _one(_EXIT, 0, 0, 0, 0)]
    return b"".join(code)


def _rule(rule: Rule) -> list[bytes]:
    """Falls out at its end if it does not fit."""
    denied = _ACCESS_ALL & ~sum(_ACCESS[letter] for letter in set(rule.access))
    tests: list[tuple[int, int]] = [(_R_KIND, _KINDS[rule.kind])]
    tests += [(_R_MAJOR, rule.major)] if rule.major >= 0 else []
    tests += [(_R_MINOR, rule.minor)] if rule.minor >= 0 else []
    code = [_one(_SET, _R_RESULT, 0, 0, 1), _one(_EXIT, 0, 0, 0, 0)]
    if denied:
        code = [
            _one(_COPY, _R_SCRATCH, _R_ACCESS, 0, 0),
            _one(_AND, _R_SCRATCH, 0, 0, denied),
            _one(_UNEQUAL, _R_SCRATCH, 0, len(code), 0),
            *code,
        ]
    for register, value in reversed(tests):
        code = [_one(_UNEQUAL, register, 0, len(code), value), *code]
    return code


def _one(operation: int, target: int, source: int, offset: int, value: int) -> bytes:
    return struct.pack("=BBhI", operation, source << 4 | target, offset, value & 0xFFFFFFFF)


def _bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    """The call's result, and the attributes as the kernel has left them."""
    machine = syscalls.of_machine(platform.machine())
    if not machine:
        raise OSError(0, f"no programs for machines of kind {platform.machine()} yet")
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = int(_libc.syscall(machine[0].numbers["bpf"], command, buffer, len(attributes)))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result, buffer.raw
