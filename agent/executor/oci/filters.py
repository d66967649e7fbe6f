"""System call filters in the OCI's words: the same rules that native makes a program of. Pure."""

from __future__ import annotations

import platform
from typing import Any, Final

from agent.executor.native import seccomp, syscalls
from agent.executor.native.seccomp import Rules, Verdict
from swarmpy.model.specs import ContainerSpec, Privileges

_ACTION_MASK: Final = 0xFFFF0000
_ACTIONS: Final = {
    0x80000000: "SCMP_ACT_KILL_PROCESS",
    0x00000000: "SCMP_ACT_KILL_THREAD",
    0x00030000: "SCMP_ACT_TRAP",
    0x00050000: "SCMP_ACT_ERRNO",
    0x7FF00000: "SCMP_ACT_TRACE",
    0x7FFC0000: "SCMP_ACT_LOG",
    0x7FFF0000: "SCMP_ACT_ALLOW",
}
_WITH_NUMBER: Final = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
_ARCHITECTURES: Final = {
    0xC000003E: "SCMP_ARCH_X86_64",
    0x40000003: "SCMP_ARCH_X86",
    0xC00000B7: "SCMP_ARCH_AARCH64",
}


def plan_filter(
    spec: ContainerSpec, capabilities: frozenset[str], machine: str = platform.machine()
) -> dict[str, Any] | None:
    """None: no filter. The words of ``spec`` were checked by ``confine``, which reads them alike."""
    wish = (spec.privileges or Privileges()).seccomp
    mode = wish.mode if wish else ""
    if mode == "custom" and wish is not None:
        rules = seccomp.custom_rules(wish.profile, capabilities, machine=machine, kernel=platform.release())
        return filter_of(rules)
    architectures = syscalls.of_machine(machine)
    if mode == "unconfined" or spec.privileged or not architectures:
        return None
    return filter_of(seccomp.default_rules(capabilities, architectures))


def filter_of(rules: Rules) -> dict[str, Any]:
    """Calls that are treated alike share an entry: the runtime reads it at every start."""
    alike: dict[tuple[Verdict, ...], list[str]] = {}
    for name, verdicts in rules.calls.items():
        alike.setdefault(verdicts, []).append(name)
    return {
        **_action(rules.default, "defaultAction", "defaultErrnoRet"),
        "architectures": [_ARCHITECTURES[each.audit] for each in rules.architectures],
        "syscalls": [
            {"names": sorted(names), **_action(action, "action", "errnoRet"), **_arguments(conditions)}
            for verdicts, names in alike.items()
            for conditions, action in verdicts
            if conditions or action != rules.default  # what goes without saying is refused by runtimes
        ],
    }


def _action(number: int, name: str, with_number: str) -> dict[str, Any]:
    action = _ACTIONS[number & _ACTION_MASK]
    if action not in _WITH_NUMBER:
        return {name: action}
    return {name: action, with_number: number & ~_ACTION_MASK}


def _arguments(conditions: tuple[seccomp.Condition, ...]) -> dict[str, Any]:
    if not conditions:
        return {}
    return {
        "args": [
            {"index": each.index, "value": each.value, "valueTwo": each.value_two, "op": each.op}
            for each in conditions
        ]
    }
