"""What end-to-end tests do with a service on a lab: create, scale, count, wait. Each wait has a deadline."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from swarmpy.errors import SwarmError
from swarmpy.lab.cluster import Lab

DEADLINE_S: Final = 40.0
_numbers = itertools.count(1)


def new_name() -> str:
    """A lab's name that no run beside this one uses."""
    return f"t{os.getpid()}-{next(_numbers)}"


def lab_of(*, managers: int, workers: int, has_swarm: bool = True) -> Lab:
    """A lab of the test's own; use it in a ``with`` statement."""
    return Lab.up(managers=managers, workers=workers, name=new_name(), has_swarm=has_swarm)


class SleepService:
    """A service whose tasks sleep for a time that no other service has, so its processes can be counted."""

    def __init__(self, lab: Lab, name: str, *, entry: str = "node-1") -> None:
        self.lab = lab
        self.name = name
        self.entry = entry
        self.token = f"{os.getpid()}.{next(_numbers)}"

    def spec(self, replicas: int) -> dict[str, Any]:
        return {
            "Name": self.name,
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": "host",
                    "Command": ["sleep", f"1000{self.token}"],
                    "StopGracePeriod": 1_000_000_000,
                }
            },
            "Mode": {"Replicated": {"Replicas": replicas}},
        }

    def create(self, replicas: int) -> None:
        self.lab.call(self.entry, "POST", "/services/create", self.spec(replicas))
        self.wait_running(replicas)

    def scale(self, replicas: int) -> None:
        service = self.lab.call(self.entry, "GET", f"/services/{self.name}")
        version = service["Version"]["Index"]
        self.lab.call(
            self.entry, "POST", f"/services/{service['ID']}/update?version={version}", self.spec(replicas)
        )

    def remove(self) -> None:
        self.lab.call(self.entry, "DELETE", f"/services/{self.name}")
        self.lab.wait(
            lambda: not self.processes(), timeout_s=DEADLINE_S, explain=lambda: f"left: {self.processes()}"
        )

    def running(self) -> dict[str, str]:
        """Task id -> hostname, of the tasks that should run and do."""
        names = {node["ID"]: node["Description"]["Hostname"] for node in self.lab.nodes()}
        tasks = self.lab.tasks({"service": [self.name], "desired-state": ["running"]})
        return {task["ID"]: names[task["NodeID"]] for task in tasks if task["Status"]["State"] == "running"}

    def wait_running(self, replicas: int, *, away_from: Collection[str] = ()) -> dict[str, str]:
        """Until so many tasks run, none of them on these nodes. They are returned as ``running`` does."""
        found: dict[str, str] = {}

        def is_so() -> bool:
            nonlocal found
            try:
                found = self.running()
            except SwarmError:  # a leader is being elected
                return False
            return len(found) == replicas and not set(found.values()) & set(away_from)

        self.lab.wait(is_so, timeout_s=DEADLINE_S, explain=lambda: f"{replicas} should run, but: {found}")
        return found

    def wait_processes(self, count: int) -> set[int]:
        """Until exactly so many processes are alive, wherever: neither lost nor doubled."""
        self.lab.wait(
            lambda: len(self.processes()) == count,
            timeout_s=DEADLINE_S,
            explain=lambda: f"{count} processes should be alive, but: {self.processes()}",
        )
        return self.processes()

    def processes(self) -> set[int]:
        """The machine's pids of the tasks' processes, on all hosts."""
        found = set()
        for folder in Path("/proc").iterdir():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0") if folder.name.isdigit() else []
            except OSError:
                continue
            if words[:2] == [b"sleep", f"1000{self.token}".encode()]:
                found.add(int(folder.name))
        return found


def refusal(lab: Lab, node: str, body: dict[str, Any]) -> str:
    """What a node's daemon says when it refuses to create a service."""
    reply = lab.request(node, "POST", "/services/create", body)
    assert not reply.is_ok, reply
    return reply.message
