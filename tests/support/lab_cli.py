"""The command line on a lab's hosts, and conditions of services and nodes that tests wait for.

Every wait has a deadline and says at its end what was there instead.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from swarmpy.errors import SwarmError
from swarmpy.lab.cluster import Lab

DEADLINE_S: Final = 40.0
_PERIOD_S: Final = 0.1

T = TypeVar("T")
Json = dict[str, Any]


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


class Cli:
    """``cli("service", "ls")`` on the first host, ``cli("service", "ls", at="node-2")`` on another."""

    def __init__(self, lab: Lab, at: str = "node-1") -> None:
        self.lab = lab
        self.at = at

    def __call__(self, *words: str, at: str = "", text: str = "", timeout_s: float = DEADLINE_S) -> Said:
        done = self.lab.exec(at or self.at, ["swarmpy", *words], text=text, timeout_s=timeout_s)
        return Said(done.returncode, done.stdout, done.stderr)

    def good(self, *words: str, at: str = "", timeout_s: float = DEADLINE_S) -> str:
        """Its output; it must succeed."""
        said = self(*words, at=at, timeout_s=timeout_s)
        assert said.code == 0, f"swarmpy {' '.join(words)}: {said}"
        return said.out

    def bad(self, *words: str, at: str = "", code: int = 1) -> str:
        """Its error output; it must fail with this code and print nothing else."""
        said = self(*words, at=at)
        assert (said.code, said.out) == (code, ""), f"swarmpy {' '.join(words)}: {said}"
        return said.err.strip()

    def create(self, name: str, *words: str, at: str = "") -> str:
        """A service's id; without waiting for its tasks."""
        return self.good("service", "create", "--name", name, "--detach", *words, at=at).strip()

    def remove(self, *names: str) -> None:
        """Remove services and wait until no task of them is left on any node."""
        self.good("service", "rm", *names)
        wait_for(
            lambda: [t for t in tasks_of(self.lab) if t["DesiredState"] == "remove"],
            lambda left: not left,
            what=f"{names} should be gone",
        )

    def remove_all(self) -> list[str]:
        """Remove the services that are left; their names."""
        names = self.good("service", "ls", "--format", "{{.Name}}").split()
        if names:
            self.remove(*names)
        return names


def error(reason: str) -> str:
    """How the command line tells what the daemon refused."""
    return f"Error response from daemon: {reason}"


def wait_for(
    ask: Callable[[], T],
    is_right: Callable[[T], object] = bool,
    *,
    what: str = "",
    timeout_s: float = DEADLINE_S,
) -> T:
    """Ask until the answer is right, and return it. An answer that cannot be had is not right."""
    deadline = time.monotonic() + timeout_s
    last: object = None
    while True:
        try:
            answer = ask()
            if is_right(answer):
                return answer
            last = answer
        except SwarmError as trouble:
            last = trouble
        if time.monotonic() > deadline:
            raise AssertionError(f"{what or 'it should have come to be'}; last seen: {last}")
        time.sleep(_PERIOD_S)


# --- services and their tasks


def tasks_of(lab: Lab, service: str = "", *, at: str = "") -> list[Json]:
    """Tasks, the newest first, each with its node's name as ``Node``."""
    names = {node["ID"]: node["Description"]["Hostname"] for node in lab.nodes()}
    filters = {"service": [service]} if service else None
    tasks = [task | {"Node": names.get(task.get("NodeID", ""), "")} for task in lab.tasks(filters)]
    return sorted(tasks, key=lambda task: str(task["CreatedAt"]), reverse=True)


def running(lab: Lab, service: str) -> list[Json]:
    """The tasks that should run and do."""
    return [t for t in tasks_of(lab, service) if t["DesiredState"] == "running" and state(t) == "running"]


def wait_running(
    lab: Lab, service: str, count: int, *, on: Sequence[str] = (), timeout_s: float = DEADLINE_S
) -> list[Json]:
    """Until so many run; and, if nodes are given, exactly on these."""

    def is_right(tasks: list[Json]) -> bool:
        nodes = sorted(task["Node"] for task in tasks)
        return len(tasks) == count and (not on or nodes == sorted(on))

    what = f"{count} tasks of {service} should run {f'on {on}' if on else ''}"
    wait_for(lambda: running(lab, service), is_right, what=what, timeout_s=timeout_s)
    return running(lab, service)


def wait_states(
    lab: Lab, service: str, states: Sequence[str], *, timeout_s: float = DEADLINE_S
) -> list[Json]:
    """Until the service's tasks, past ones too, are in these states, in whatever order."""
    return wait_for(
        lambda: tasks_of(lab, service),
        lambda tasks: sorted(map(state, tasks)) == sorted(states),
        what=f"tasks of {service} should be {states}",
        timeout_s=timeout_s,
    )


def wait_ended(lab: Lab, service: str) -> Json:
    """The service's only task, once it has ended."""
    over = ("complete", "failed", "rejected", "shutdown")
    tasks = wait_for(
        lambda: tasks_of(lab, service),
        lambda tasks: bool(tasks) and all(state(task) in over for task in tasks),
        what=f"{service} should have ended",
    )
    assert len(tasks) == 1, tasks
    return tasks[0]


def state(task: Json) -> str:
    return str(task["Status"]["State"])


def reason(task: Json) -> str:
    return str(task["Status"].get("Err", ""))


def processes(mark: str) -> set[int]:
    """The machine's pids of processes with this word in their command line; never of ourselves."""
    found = set()
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes() if folder.name.isdigit() else b""
        except OSError:
            continue
        if mark.encode() in words and b"swarmpy" not in words and int(folder.name) != os.getpid():
            found.add(int(folder.name))
    return found


def moment(text: str) -> datetime:
    """An API time, to the microsecond."""
    head, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{head}.{(fraction + '000000')[:6]}+00:00")


# --- nodes


def node(lab: Lab, name: str) -> Json:
    found: Json = next(n for n in lab.nodes() if n["Description"]["Hostname"] == name)
    return found


def wait_node(lab: Lab, name: str, state: str) -> None:
    wait_for(
        lambda: node(lab, name)["Status"]["State"], lambda now: now == state, what=f"{name} should be {state}"
    )


def update_node(lab: Lab, name: str, *, at: str = "node-1", **changes: Any) -> None:
    """Change fields of a node's spec, as ``Availability="drain"`` or ``Labels={}``."""
    found = node(lab, name)
    target = f"/nodes/{found['ID']}/update?version={found['Version']['Index']}"
    lab.call(at, "POST", target, found["Spec"] | changes)
