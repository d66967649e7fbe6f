"""System call filters: a profile in docker's format, or the default one, as a program for the kernel. Pure.

The default profile is said the short way round: everything that the kernel has, but for what only its owner
should ask of it. Some of that comes back with the capability that it belongs to, as in docker's own default.
What is newer than our tables counts as missing (ENOSYS), so that programs fall back to what they used before.

A program is a search tree over the call's number, so a call costs some ten steps. A profile that refers to
calls that the machine does not have is fine: such rules mean nothing here.
"""

from __future__ import annotations

import errno
import platform
import re
import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import msgspec

from agent.executor.native import syscalls
from agent.executor.native.syscalls import Architecture
from swarmpy.errors import TaskRejected
from swarmpy.limits import SECCOMP_INSTRUCTIONS_MAX

ALLOW: Final = 0x7FFF0000
KILL_PROCESS: Final = 0x80000000
_ERRNO: Final = 0x00050000
_ACTIONS: Final = {
    "SCMP_ACT_KILL": 0,
    "SCMP_ACT_KILL_THREAD": 0,
    "SCMP_ACT_KILL_PROCESS": KILL_PROCESS,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": _ERRNO,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": ALLOW,
}
_WITH_NUMBER: Final = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
_MISSING: Final = _ERRNO | errno.ENOSYS
_REFUSED: Final = _ERRNO | errno.EPERM

_ARCHITECTURES: Final = {
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
}
_X32: Final = 0x40000000
"""From here on x86_64 has all of its calls again, for programs with short pointers: no rule is of these."""
_GO_NAMES: Final = {"x86_64": "amd64", "aarch64": "arm64"}

_NEVER: Final = """
_sysctl add_key afs_syscall bdflush break create_module file_setattr ftime get_kernel_syms getpmsg gtty idle
io_uring_enter io_uring_register io_uring_setup kexec_file_load kexec_load keyctl lock lsm_set_self_attr
migrate_pages move_pages mpx nfsservctl pivot_root prof profil putpmsg query_module request_key security stty
swapoff swapon sysfs tuxcall ulimit uselib userfaultfd ustat vm86 vm86old vserver
"""
_WITH: Final = {
    "BPF": "bpf",
    "DAC_READ_SEARCH": "open_by_handle_at",
    "PERFMON": "perf_event_open",
    "SYS_ADMIN": "bpf clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr "
    "move_mount open_tree open_tree_attr perf_event_open quotactl quotactl_fd setdomainname sethostname "
    "setns syslog umount umount2 unshare",
    "SYS_BOOT": "reboot",
    "SYS_CHROOT": "chroot",
    "SYS_MODULE": "delete_module finit_module init_module",
    "SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "SYS_PACCT": "acct",
    "SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "SYS_RAWIO": "ioperm iopl",
    "SYS_TIME": "clock_settime clock_settime64 settimeofday stime",
    "SYS_TTY_CONFIG": "vhangup",
    "SYSLOG": "syslog",
}
"""Calls that come with a capability."""
_NEW_NAMESPACES: Final = 0x7E020000
"""The flags of clone(2) that make one."""
_PERSONALITIES: Final = (0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)
_AF_VSOCK: Final = 40
"""Talks to the machine that this one is a guest of, past every network namespace."""


class _Struct(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    pass


class Condition(_Struct, frozen=True, kw_only=True):
    index: int = 0
    value: int = 0
    value_two: int = 0
    op: str = "SCMP_CMP_EQ"


class _When(_Struct, frozen=True, kw_only=True):
    caps: tuple[str, ...] | None = None
    arches: tuple[str, ...] | None = None
    min_kernel: str = ""


class _Rule(_Struct, frozen=True, kw_only=True):
    names: tuple[str, ...] | None = None
    name: str = ""
    action: str = ""
    errno_ret: int | None = None
    args: tuple[Condition, ...] | None = None
    includes: _When | None = None
    excludes: _When | None = None


class _Family(_Struct, frozen=True, kw_only=True):
    architecture: str = ""
    sub_architectures: tuple[str, ...] | None = None


class _Profile(_Struct, frozen=True, kw_only=True):
    default_action: str = ""
    default_errno_ret: int | None = None
    architectures: tuple[str, ...] | None = None
    arch_map: tuple[_Family, ...] | None = None
    syscalls: tuple[_Rule, ...] | None = None


Verdict = tuple[tuple[Condition, ...], int]
"""Under these conditions, all of them, this is what the kernel does."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What one machine's filter decides. A call's first verdict that fits counts, else ``default``."""

    default: int
    calls: dict[str, tuple[Verdict, ...]]
    architectures: tuple[Architecture, ...]


@lru_cache(maxsize=64)
def default_program(capabilities: frozenset[str], machine: str = platform.machine()) -> bytes:
    """The default filter for a task with these capabilities. Empty on a machine that we have no table of."""
    architectures = syscalls.of_machine(machine)
    return _program(default_rules(capabilities, architectures)) if architectures else b""


def default_rules(capabilities: frozenset[str], architectures: tuple[Architecture, ...]) -> Rules:
    refused = {name for names in (_NEVER, *_WITH.values()) for name in names.split()}
    refused -= {name for capability in capabilities for name in _WITH.get(capability, "").split()}
    every = {name for architecture in architectures for name in architecture.numbers}
    calls: dict[str, tuple[Verdict, ...]] = dict.fromkeys(every - refused, (((), ALLOW),))
    calls["personality"] = tuple(((Condition(value=value),), ALLOW) for value in _PERSONALITIES)
    calls["socket"] = (((Condition(value=_AF_VSOCK, op="SCMP_CMP_NE"),), ALLOW),)
    if "SYS_ADMIN" not in capabilities:
        calls["clone"] = (((Condition(value=_NEW_NAMESPACES, op="SCMP_CMP_MASKED_EQ"),), ALLOW),)
        # its flags lie in memory, where no filter can look: the C library falls back to clone
        calls["clone3"] = (((), _MISSING),)
    return Rules(default=_REFUSED, calls=calls, architectures=architectures)


@lru_cache(maxsize=64)
def custom_program(
    text: bytes,
    capabilities: frozenset[str],
    *,
    machine: str = platform.machine(),
    kernel: str = platform.release(),
) -> bytes:
    """A filter from a profile in docker's format. TaskRejected if it cannot be understood."""
    return _program(custom_rules(text, capabilities, machine=machine, kernel=kernel))


def custom_rules(text: bytes, capabilities: frozenset[str], *, machine: str, kernel: str) -> Rules:
    try:
        profile = msgspec.json.decode(text, type=_Profile)
    except (msgspec.DecodeError, RecursionError) as error:
        raise TaskRejected(f"decoding seccomp profile failed: {error}") from None
    default = _action(profile.default_action, profile.default_errno_ret)
    calls: dict[str, list[Verdict]] = {}
    for rule in profile.syscalls or ():
        if rule.name and rule.names:
            raise TaskRejected("'name' and 'names' were specified in the seccomp profile, use either")
        if not _applies(rule, capabilities, machine=machine, kernel=kernel):
            continue
        verdict = (_checked(rule.args or ()), _action(rule.action, rule.errno_ret))
        for name in (rule.name,) if rule.name else rule.names or ():
            calls.setdefault(name, []).append(verdict)
    return Rules(
        default=default,
        # what holds under conditions goes before what holds anyway
        calls={name: tuple(sorted(of, key=lambda verdict: not verdict[0])) for name, of in calls.items()},
        architectures=_chosen(profile, machine),
    )


def _action(name: str, number: int | None) -> int:
    if name not in _ACTIONS:
        raise TaskRejected(f'invalid seccomp action "{name}": give one of {", ".join(_ACTIONS)}')
    if name not in _WITH_NUMBER:
        return _ACTIONS[name]
    return _ACTIONS[name] | ((errno.EPERM if number is None else number) & 0xFFFF)


def _checked(conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
    for condition in conditions:
        if condition.op not in _COMPARE or not 0 <= condition.index <= 5:
            raise TaskRejected(
                f'invalid seccomp condition: operator "{condition.op}" on argument {condition.index}'
            )
    return conditions


def _applies(rule: _Rule, capabilities: frozenset[str], *, machine: str, kernel: str) -> bool:
    held = {f"CAP_{name}" for name in capabilities}
    arch = _GO_NAMES.get(machine, machine)
    if (when := rule.includes) is not None:
        if when.caps and not set(when.caps) <= held:
            return False
        if when.arches and arch not in when.arches:
            return False
        if when.min_kernel and _release(kernel) < _release(when.min_kernel):
            return False
    if (when := rule.excludes) is not None:
        if when.caps and set(when.caps) & held:
            return False
        if when.arches and arch in when.arches:
            return False
        if when.min_kernel and _release(kernel) >= _release(when.min_kernel):
            return False
    return True


def _release(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def _chosen(profile: _Profile, machine: str) -> tuple[Architecture, ...]:
    """The machine's own architecture always; others if the profile names them."""
    known = syscalls.of_machine(machine)
    if not known:
        raise TaskRejected(f"seccomp profiles are not supported on machines of kind {machine} yet")
    names = set(profile.architectures or ())
    for family in profile.arch_map or ():
        if _ARCHITECTURES.get(family.architecture) == known[0].audit:
            names.update(family.sub_architectures or ())
    wanted = {_ARCHITECTURES[name] for name in names if name in _ARCHITECTURES}
    return (known[0], *(other for other in known[1:] if other.audit in wanted))


# --- the kernel's program

_LOAD, _AND, _JUMP, _RETURN = 0x20, 0x54, 0x05, 0x06
_EQUAL, _GREATER, _AT_LEAST = 0x15, 0x25, 0x35
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16
_FAR: Final = 255
"""As far as a conditional jump goes."""

Instruction = tuple[int, int, int, int]
"""Code, how far to jump if it is so, and if not, and the operand."""
_Leaf = int | tuple[Verdict, ...]


def _program(rules: Rules) -> bytes:
    sections = [_section(rules, architecture) for architecture in rules.architectures]
    head: list[Instruction] = [(_LOAD, 0, 0, _ARCH_AT)]
    distance = 2 * (len(sections) - 1) + 1
    for architecture, section in zip(rules.architectures, sections, strict=True):
        head += [(_EQUAL, 0, 1, architecture.audit), (_JUMP, 0, 0, distance)]
        distance += len(section) - 2
    instructions = [*head, (_RETURN, 0, 0, _MISSING), *(one for section in sections for one in section)]
    if len(instructions) > SECCOMP_INSTRUCTIONS_MAX:
        raise TaskRejected(
            f"the seccomp profile is too large: it makes {len(instructions)} instructions, and the kernel "
            f"takes {SECCOMP_INSTRUCTIONS_MAX}"
        )
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


def _section(rules: Rules, architecture: Architecture) -> list[Instruction]:
    named = {
        number: rules.calls[name] for name, number in architecture.numbers.items() if name in rules.calls
    }
    leaves: list[tuple[int, _Leaf]] = []
    for number in range(architecture.last + 1):
        leaf = _simple(named.get(number, ()), rules.default)
        if not leaves or leaves[-1][1] != leaf:
            leaves.append((number, leaf))
    is_open = rules.default in (ALLOW, _ACTIONS["SCMP_ACT_LOG"])
    leaves.append((architecture.last + 1, rules.default if is_open else _MISSING))
    if is_open and architecture.audit == _ARCHITECTURES["SCMP_ARCH_X86_64"]:
        leaves.append((_X32, _MISSING))
    return [(_LOAD, 0, 0, _NUMBER_AT), *_tree(leaves, rules.default)]


def _simple(verdicts: tuple[Verdict, ...], default: int) -> _Leaf:
    if not verdicts:
        return default
    return verdicts[0][1] if not verdicts[0][0] else verdicts


def _tree(leaves: list[tuple[int, _Leaf]], default: int) -> list[Instruction]:
    if len(leaves) == 1:
        return _leaf(leaves[0][1], default)
    middle = len(leaves) // 2
    low, high = _tree(leaves[:middle], default), _tree(leaves[middle:], default)
    start = leaves[middle][0]
    if len(low) <= _FAR:
        return [(_AT_LEAST, len(low), 0, start), *low, *high]
    return [(_AT_LEAST, 0, 1, start), (_JUMP, 0, 0, len(low)), *low, *high]


def _leaf(leaf: _Leaf, default: int) -> list[Instruction]:
    if isinstance(leaf, int):
        return [(_RETURN, 0, 0, leaf)]
    code: list[Instruction] = []
    for conditions, action in leaf:
        code += _when(conditions, [(_RETURN, 0, 0, action)])
    return [*code, (_RETURN, 0, 0, default)]


def _when(conditions: Iterable[Condition], then: list[Instruction]) -> list[Instruction]:
    """``then`` if all conditions hold, else past it. Built from the last one, so that distances are known."""
    code = then
    for condition in reversed(tuple(conditions)):
        code = [*_compare(condition, len(code)), *code]
    return code


def _compare(condition: Condition, past: int) -> list[Instruction]:
    """Falls through if the condition holds, else jumps ``past`` what follows."""
    low_at = _ARGUMENTS_AT + 8 * condition.index
    low: Instruction = (_LOAD, 0, 0, low_at)
    high: Instruction = (_LOAD, 0, 0, low_at + 4)
    high_value, low_value = _halves(condition.value)
    match condition.op:
        case "SCMP_CMP_EQ":
            return [high, (_EQUAL, 0, past + 2, high_value), low, (_EQUAL, 0, past, low_value)]
        case "SCMP_CMP_NE":
            return [high, (_EQUAL, 0, 2, high_value), low, (_EQUAL, past, 0, low_value)]
        case "SCMP_CMP_MASKED_EQ":
            high_two, low_two = _halves(condition.value_two)
            return [
                high,
                (_AND, 0, 0, high_value),
                (_EQUAL, 0, past + 3, high_two),
                low,
                (_AND, 0, 0, low_value),
                (_EQUAL, 0, past, low_two),
            ]
    last, is_below = _COMPARE[condition.op]
    if is_below:  # that is: not at least, or not greater
        return [
            high,
            (_GREATER, past + 3, 0, high_value),
            (_EQUAL, 0, 2, high_value),
            low,
            (last, past, 0, low_value),
        ]
    return [
        high,
        (_GREATER, 3, 0, high_value),
        (_EQUAL, 0, past + 2, high_value),
        low,
        (last, 0, past, low_value),
    ]


_COMPARE: Final[dict[str, tuple[int, bool]]] = {
    "SCMP_CMP_EQ": (_EQUAL, False),
    "SCMP_CMP_NE": (_EQUAL, True),
    "SCMP_CMP_MASKED_EQ": (_EQUAL, False),
    "SCMP_CMP_GT": (_GREATER, False),
    "SCMP_CMP_GE": (_AT_LEAST, False),
    "SCMP_CMP_LT": (_AT_LEAST, True),
    "SCMP_CMP_LE": (_GREATER, True),
}
"""The comparison of the lower half, and whether the condition is that it does not hold."""


def _halves(value: int) -> tuple[int, int]:
    return value >> 32 & 0xFFFFFFFF, value & 0xFFFFFFFF
