"""Faults on a lab of real daemons, at random: kills, power failures, pauses and cut cables.

One fault begins each period, and as many hosts are broken at a time as ``BROKEN_MAX`` says; two managers
among them cost the quorum for a while. The seed decides what is broken and when; the kernel's timing is not
ours to repeat.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from swarmpy.lab import hosts
from swarmpy.lab.cluster import Lab
from swarmpy.lab.network import Way

PERIOD_S: Final = 1.0
BROKEN_MAX: Final = 2
LAST_LINES: Final = 80


class Fault(StrEnum):
    KILL = "daemon killed"
    POWER = "host killed"
    PAUSE = "daemon paused"
    CUT = "cable cut"
    CUT_IN = "deaf"
    CUT_OUT = "mute"


WEIGHTS: Final = {
    Fault.KILL: 10,
    Fault.POWER: 3,
    Fault.PAUSE: 4,
    Fault.CUT: 2,
    Fault.CUT_IN: 1,
    Fault.CUT_OUT: 1,
}
_WAYS: Final = {Fault.CUT: Way.BOTH, Fault.CUT_IN: Way.IN, Fault.CUT_OUT: Way.OUT}


@dataclass
class Wrecker:
    """``mark`` is a word in the command line of every task's process."""

    lab: Lab
    seed: int
    mark: str
    counts: Counter[Fault] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)
    _broken: dict[str, Fault] = field(default_factory=dict)

    def run(self, until: float) -> None:
        """Break and mend until then, then mend everything."""
        chance = random.Random(self.seed)
        while time.monotonic() < until:
            begin = time.monotonic()
            if len(self._broken) == BROKEN_MAX or (self._broken and chance.random() < 0.5):
                self._mend(chance.choice(sorted(self._broken)))
            whole = [host.name for host in self.lab.layout.hosts if host.name not in self._broken]
            name = chance.choice(whole)
            (fault,) = chance.choices(list(WEIGHTS), weights=list(WEIGHTS.values()))
            self._break(name, fault)
            # the pace of the faults, not a condition
            time.sleep(max(0.0, PERIOD_S - (time.monotonic() - begin)))
        for name in sorted(self._broken):
            self._mend(name)

    def _break(self, name: str, fault: Fault) -> None:
        host = self.lab.host(name)
        if hosts.daemon(host) is None:
            self.defects.append(f"the daemon of {name} ended by itself:\n{last_words(host.log)}")
            self.lab.start(name, wait=False)
            return
        match fault:
            case Fault.KILL:
                self._kill(name)
            case Fault.POWER:
                self.lab.kill(name, host=True)
            case Fault.PAUSE:
                self.lab.pause(name)
            case Fault.CUT | Fault.CUT_IN | Fault.CUT_OUT:
                self.lab.cut(name, _WAYS[fault])
        self._broken[name] = fault
        self.counts[fault] += 1

    def _kill(self, name: str) -> None:
        before = live_tasks(self.lab, name, self.mark)
        self.lab.kill(name)
        after = live_tasks(self.lab, name, self.mark)
        # a process that its task's end was ordered for may go at any time; all others stay
        lost = {task for task, pids in before.items() if not pids <= after.get(task, set())}
        if len(lost) > 1:
            self.defects.append(f"killing the daemon of {name} ended the processes of {lost}")

    def _mend(self, name: str) -> None:
        match self._broken.pop(name):
            case Fault.KILL | Fault.POWER:
                self.lab.start(name, wait=False)
            case Fault.PAUSE:
                self.lab.resume(name)
            case Fault.CUT | Fault.CUT_IN | Fault.CUT_OUT:
                self.lab.heal(name)


def last_words(path: Path) -> str:
    """The end of a daemon's log; a traceback is long."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-LAST_LINES:])


def live_tasks(lab: Lab, name: str, mark: str) -> dict[str, set[int]]:
    """Task ids, with the machine's pids of their processes, by the control groups of a host."""
    parent = lab.host(name).cgroup_parent
    found: dict[str, set[int]] = {}
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and mark.encode() in (folder / "cmdline").read_bytes():
                groups = (folder / "cgroup").read_text()
            else:
                continue
        except OSError:
            continue
        for line in groups.splitlines():
            path = line.split(":", 2)[2]
            if path.startswith(f"{parent}/"):
                found.setdefault(path.removeprefix(f"{parent}/").split("/")[0], set()).add(int(folder.name))
    return found


def all_live_tasks(lab: Lab, mark: str) -> dict[str, set[int]]:
    return {
        task: pids for host in lab.layout.hosts for task, pids in live_tasks(lab, host.name, mark).items()
    }
