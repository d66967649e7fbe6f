"""What a task asks of the control groups, as the files to write. Pure.

Two layouts: in v1 every controller has folders and words of its own, in v2 there is one of each. A wish whose
file is not on the node rejects the task; only what docker sets by itself (as much swap as memory) is left out
there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from agent.executor.base import Launch
from agent.executor.native.devices import Rule
from swarmpy.errors import TaskRejected
from swarmpy.model.ids import SECOND_NS
from swarmpy.model.specs import Limits

_CPU_PERIOD_US = 100_000
_CPU_QUOTA_MIN_US = 1_000
_MEMORY_MIN_BYTES = 4 << 20
_SWAPPINESS_MAX = 100


@dataclass(frozen=True, kw_only=True)
class Demands:
    limits: Limits = field(default_factory=Limits)
    swap_bytes: int | None = None
    memory_swappiness: int | None = None
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    device_rules: tuple[Rule, ...] = ()

    @property
    def extra(self) -> tuple[str, ...]:
        """Controllers whose groups exist only for tasks that ask for them."""
        cpuset = ("cpuset",) if self.cpuset_cpus or self.cpuset_mems else ()
        return (*cpuset, *(("devices",) if self.device_rules else ()))


class File(NamedTuple):
    """``name`` begins with its controller's. Not required: left out where the node has no such file."""

    name: str
    value: str
    is_required: bool = True


def demands_of(launch: Launch, rules: tuple[Rule, ...]) -> Demands:
    return Demands(
        limits=launch.limits,
        swap_bytes=launch.swap_bytes,
        memory_swappiness=launch.memory_swappiness,
        cpuset_cpus=launch.spec.cpuset_cpus,
        cpuset_mems=launch.spec.cpuset_mems,
        device_rules=rules,
    )


def check(demands: Demands, *, version: int) -> None:
    limits = demands.limits
    wanted = {"memory": limits.memory_bytes, "cpu": limits.nano_cpus, "pids": limits.pids}
    for name, value in wanted.items():
        if value < 0:
            raise TaskRejected(f"a {name} limit cannot be negative, but {value} was asked for")
    if 0 < limits.memory_bytes < _MEMORY_MIN_BYTES:
        raise TaskRejected(f"invalid memory value {limits.memory_bytes}: Must be at least 4MiB")
    if demands.swap_bytes is not None and demands.swap_bytes >= 0 and not limits.memory_bytes:
        raise TaskRejected(
            "You should always set the Memory limit when using Memoryswap limit, see usage: give the service "
            "--limit-memory as well"
        )
    swappiness = demands.memory_swappiness
    if swappiness is not None and not -1 <= swappiness <= _SWAPPINESS_MAX:
        raise TaskRejected(f"Invalid value: {swappiness}, valid memory swappiness range is 0-100")
    if swappiness is not None and swappiness >= 0 and version == 2:
        raise TaskRejected(
            "memory swappiness cannot be set per task on this node: it has cgroup v2, which knows none; take "
            "it out, or place the service on nodes with cgroup v1"
        )


def files(demands: Demands, *, version: int) -> list[File]:
    """In the order in which the kernel takes them."""
    found = _memory(demands, version=version) + _cpu(demands.limits, version=version)
    if demands.limits.pids:
        found.append(File("pids.max", str(demands.limits.pids)))
    if demands.cpuset_mems:
        found.append(File("cpuset.mems", demands.cpuset_mems))
    if demands.cpuset_cpus:
        found.append(File("cpuset.cpus", demands.cpuset_cpus))
    if version == 1 and demands.device_rules:
        found.append(File("devices.deny", "a"))
        found += [File("devices.allow", text_of(rule)) for rule in demands.device_rules]
    return found


def _memory(demands: Demands, *, version: int) -> list[File]:
    memory, swap = demands.limits.memory_bytes, demands.swap_bytes
    found = []
    is_asked = swap is not None
    swap = memory if swap is None else swap
    if version == 2:
        if memory:
            found.append(File("memory.max", str(memory)))
        if memory or is_asked:
            found.append(File("memory.swap.max", "max" if swap < 0 else str(swap), is_asked))
    else:
        if memory:
            found.append(File("memory.limit_in_bytes", str(memory)))
        if memory or is_asked:
            both = "-1" if swap < 0 else str(memory + swap)
            found.append(File("memory.memsw.limit_in_bytes", both, is_asked))
        if (demands.memory_swappiness or 0) >= 0 and demands.memory_swappiness is not None:
            found.append(File("memory.swappiness", str(demands.memory_swappiness)))
    return found


def _cpu(limits: Limits, *, version: int) -> list[File]:
    if not limits.nano_cpus:
        return []
    quota = max(limits.nano_cpus * _CPU_PERIOD_US // SECOND_NS, _CPU_QUOTA_MIN_US)
    if version == 2:
        return [File("cpu.max", f"{quota} {_CPU_PERIOD_US}")]
    return [File("cpu.cfs_period_us", str(_CPU_PERIOD_US)), File("cpu.cfs_quota_us", str(quota))]


def numbers(text: str) -> frozenset[int]:
    """Of a list of processors or memory nodes, such as ``0-2,4``."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def text_of(rule: Rule) -> str:
    """A rule as the devices controller writes it."""
    major, minor = ("*" if number < 0 else str(number) for number in (rule.major, rule.minor))
    return f"{rule.kind} {major}:{minor} {rule.access}"
