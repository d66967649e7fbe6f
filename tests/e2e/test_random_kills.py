"""Daemons are killed at random for half a minute while services are created, removed and scaled.

Afterwards every acknowledged write holds, all managers agree, what is wanted runs and nothing else does. The
seed of the kills is printed; the kernel's and the network's timing are not ours to repeat.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from lab_cli import tasks_of, wait_for
from lab_services import lab_of

from swarmpy.errors import SwarmError
from swarmpy.lab import hosts
from swarmpy.lab.cluster import Lab
from swarmpy.limits import LAB_POLL_S

DURATION_S: Final = 25.0
PERIOD_S: Final = 1.0
DEAD_MAX: Final = 2
"""Daemons that are dead at a time; two managers among them cost the quorum for a while."""
WRITERS: Final = 3
SETTLE_S: Final = 60.0
MARK: Final = f"8000{os.getpid()}"
_numbers = itertools.count(1)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with lab_of(managers=3, workers=2) as lab:
        yield lab


def spec(name: str, replicas: int) -> dict[str, Any]:
    container = {"Image": "host", "Command": ["sleep", MARK], "StopGracePeriod": 1_000_000_000}
    return {
        "Name": name,
        "TaskTemplate": {"ContainerSpec": container},
        "Mode": {"Replicated": {"Replicas": replicas}},
    }


@dataclass
class History:
    """What was asked for and what was answered. ``created``: name to id, as acknowledged."""

    created: dict[str, str] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    uncertain: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    defects: list[str] = field(default_factory=list)


class Writer(threading.Thread):
    """Creates services at random managers, and removes some of its own. Each call has a timeout."""

    def __init__(self, lab: Lab, seed: int, until: float) -> None:
        super().__init__()
        self.lab = lab
        self.random = random.Random(seed)
        self.until = until
        self.history = History()

    def run(self) -> None:
        while time.monotonic() < self.until:
            living = [host.name for host in self.lab.layout.managers if hosts.daemon(host) is not None]
            if not living or not is_listening(self.lab, at := self.random.choice(living)):
                time.sleep(LAB_POLL_S)
                continue
            if self.history.created and self.random.random() < 0.25:
                self._remove(at)
            else:
                self._create(at)

    def _create(self, at: str) -> None:
        name = f"s{next(_numbers)}"
        replicas = 1 if self.random.random() < 0.2 else 0
        try:
            reply = self.lab.request(at, "POST", "/services/create", spec(name, replicas), timeout_s=5.0)
        except SwarmError:
            self.history.uncertain.add(name)
            return
        if reply.is_ok:
            self.history.created[name] = reply.body["ID"]
        elif reply.status == 503:
            is_certain = "does not have a leader" in reply.message
            (self.history.refused if is_certain else self.history.uncertain).add(name)
        else:
            self.history.defects.append(f"create {name} at {at}: {reply}")

    def _remove(self, at: str) -> None:
        name = self.random.choice(sorted(self.history.created))
        try:
            reply = self.lab.request(at, "DELETE", f"/services/{name}", timeout_s=5.0)
        except SwarmError:
            self.history.uncertain.add(name)
            del self.history.created[name]
            return
        if reply.is_ok or reply.status == 404:
            if reply.status == 404:
                self.history.defects.append(f"{name} is not there at {at}, though it was acknowledged")
            del self.history.created[name]
            self.history.removed.add(name)
        elif reply.status == 503:
            self.history.uncertain.add(name)
            del self.history.created[name]
        else:
            self.history.defects.append(f"remove {name} at {at}: {reply}")


def is_listening(lab: Lab, name: str) -> bool:
    """Whether a request could be sent at all; what could not is no uncertain write."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(lab.host(name).socket)) == 0


def wreck(lab: Lab, seed: int, until: float) -> int:
    """Kill a random daemon every second, start another that is dead; the number of kills."""
    chance = random.Random(seed)
    dead: list[str] = []
    kills = 0
    while time.monotonic() < until:
        begin = time.monotonic()
        if len(dead) == DEAD_MAX or (dead and chance.random() < 0.5):
            name = dead.pop(chance.randrange(len(dead)))
            lab.start(name, wait=False)
        alive = [host.name for host in lab.layout.hosts if hosts.daemon(host) is not None]
        name = chance.choice(alive)
        before = live_tasks(lab, name)
        lab.kill(name)
        # a process that its task's end was ordered for may go at any time; all others stay
        lost = {task for task, pids in before.items() if not pids <= live_tasks(lab, name).get(task, set())}
        assert len(lost) <= 1, f"killing the daemon of {name} ended the processes of {lost}"
        dead.append(name)
        kills += 1
        time.sleep(max(0.0, PERIOD_S - (time.monotonic() - begin)))  # the pace of the kills, not a condition
    for name in dead:
        lab.start(name, wait=False)
    return kills


def live_tasks(lab: Lab, name: str) -> dict[str, set[int]]:
    """Task ids, with the machine's pids of their processes, by the control groups of a host."""
    parent = lab.host(name).cgroup_parent
    found: dict[str, set[int]] = {}
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and MARK.encode() in (folder / "cmdline").read_bytes():
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


def all_live_tasks(lab: Lab) -> dict[str, set[int]]:
    return {task: pids for host in lab.layout.hosts for task, pids in live_tasks(lab, host.name).items()}


def test_nothing_acknowledged_is_lost_and_nothing_unwanted_is_left(lab: Lab) -> None:
    seed = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
    print(f"SEED={seed}")
    lab.call("node-1", "POST", "/services/create", spec("steady", 10))
    wait_for(lambda: len(all_live_tasks(lab)) == 10, what="ten tasks should run")
    first = all_live_tasks(lab)
    until = time.monotonic() + DURATION_S
    writers = [Writer(lab, seed + number, until) for number in range(1, WRITERS + 1)]

    for writer in writers:
        writer.start()
    kills = wreck(lab, seed, until)
    for writer in writers:
        writer.join()
    for host in lab.layout.hosts:
        if hosts.daemon(host) is None:
            lab.start(host.name, wait=False)
    lab.wait_ready(timeout_s=SETTLE_S)

    created = {name: id_ for writer in writers for name, id_ in writer.history.created.items()}
    removed = {name for writer in writers for name in writer.history.removed}
    uncertain = {name for writer in writers for name in writer.history.uncertain}
    refused = {name for writer in writers for name in writer.history.refused}
    print(
        f"{kills} kills, {len(created)} created, {len(removed)} removed, {len(uncertain)} uncertain, ", end=""
    )
    print(f"{len(refused)} refused")
    assert [defect for writer in writers for defect in writer.history.defects] == []
    assert kills >= DURATION_S / PERIOD_S / 2
    assert len(created) >= 20, "the load was too small to say anything"
    check_services(lab, created, gone=removed | refused, uncertain=uncertain)
    check_tasks(lab, first)


def check_services(lab: Lab, created: dict[str, str], *, gone: set[str], uncertain: set[str]) -> None:
    """Each acknowledged service is there once, under its id, on every manager.

    What was removed, or refused for want of a leader, is not.
    """
    lists = [
        sorted(
            (each["Spec"]["Name"], each["ID"], each["Version"]["Index"])
            for each in lab.call(at, "GET", "/services")
        )
        for at in (host.name for host in lab.layout.managers)
    ]
    assert lists[0] == lists[1] == lists[2]
    names = [name for name, _, _ in lists[0]]
    assert len(set(names)) == len(names)
    assert set(created.items()) <= {(name, id_) for name, id_, _ in lists[0]}
    assert not gone & set(names)
    assert set(names) <= set(created) | uncertain | {"steady"}


def check_tasks(lab: Lab, first: dict[str, set[int]]) -> None:
    """What is wanted runs, once and on the right host, nothing else does, and what has run on is the same."""
    services = lab.call("node-1", "GET", "/services")
    wanted = {each["ID"]: each["Spec"]["Mode"]["Replicated"]["Replicas"] for each in services}

    def is_settled() -> list[str]:
        """What is still wrong."""
        wrong = []
        tasks = [task for task in tasks_of(lab) if task["DesiredState"] == "running"]
        running = [task for task in tasks if task["Status"]["State"] == "running"]
        for id_, replicas in wanted.items():
            count = sum(task["ServiceID"] == id_ for task in running)
            if count != replicas:
                wrong.append(f"{count} of {replicas} tasks of {id_} run")
        on_hosts = {(host.name, task) for host in lab.layout.hosts for task in live_tasks(lab, host.name)}
        in_store = {(task["Node"], task["ID"]) for task in running}
        wrong += [f"orphan {task} on {name}" for name, task in sorted(on_hosts - in_store)]
        wrong += [f"{task} does not run on {name}" for name, task in sorted(in_store - on_hosts)]
        return wrong

    wait_for(is_settled, lambda wrong: wrong == [], what="desired should be running", timeout_s=SETTLE_S)
    now = all_live_tasks(lab)
    for task in first.keys() & now.keys():
        assert now[task] == first[task], f"task {task} was started again"
    ends = {
        task["Status"].get("Err", "")
        for task in tasks_of(lab)
        if task["Status"]["State"] in ("failed", "rejected")
    }
    assert ends == set(), "no task has come to grief by itself"
