"""Lab: a whole swarm on one machine, each node a host in namespaces of its own.

The one entry for the command line, the demo, end-to-end tests and benches. It holds no state beyond the
lab's layout: another process may kill, cut or heal at the same time, and what ``status`` tells was just
asked of the kernel and of the daemons.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from swarmpy.errors import AlreadyExists, FailedPrecondition, SwarmError, Unavailable
from swarmpy.lab import engine_http, hosts, layout, process
from swarmpy.lab.engine_http import Refused, Reply
from swarmpy.lab.layout import DAEMON_COMMAND, SWARM_PORT, SWITCH, Host, Layout
from swarmpy.lab.limits import (
    LAB_DAEMON_START_TIMEOUT_S,
    LAB_PARALLEL_MAX,
    LAB_READY_TIMEOUT_S,
    LAB_REQUEST_TIMEOUT_S,
    LAB_STATUS_TIMEOUT_S,
)
from swarmpy.lab.network import Way


class Daemon(StrEnum):
    """What the kernel says about a host's daemon."""

    RUNNING = "running"
    PAUSED = "paused"
    DEAD = "dead"
    OFF = "off"


class HostStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``dev status``. What the swarm says is None when no daemon answers."""

    name: str
    address: str
    daemon: Daemon
    pid: int | None
    cut: Way | None
    role: str | None
    is_leader: bool
    state: str | None
    tasks: int | None


class Lab:
    def __init__(self, plan: Layout) -> None:
        self.layout = plan

    # --- coming and going

    @classmethod
    def up(
        cls,
        *,
        managers: int = 3,
        workers: int = 2,
        name: str = "lab",
        daemon_command: Sequence[str] = DAEMON_COMMAND,
        executors: Mapping[str, str] | None = None,
        has_swarm: bool = True,
    ) -> Lab:
        """Make hosts, start their daemons and, unless told otherwise, the swarm; return when ready.

        Whatever fails or interrupts, nothing stays behind.
        """
        plan = layout.plan_lab(
            name=name,
            managers=managers,
            workers=workers,
            daemon_command=tuple(daemon_command),
            executors=executors,
        )
        process.check_tools()
        layout.STATE_ROOT.mkdir(mode=0o700, exist_ok=True)
        try:
            plan.folder.mkdir(mode=0o700)
        except FileExistsError:
            raise AlreadyExists(
                f'There is a lab "{name}" already; remove it with "swarmpy dev down --name {name}" '
                "or choose another --name."
            ) from None
        lab = cls(plan)
        try:
            lab._build()
            if has_swarm:
                lab.make_swarm()
        except BaseException:
            hosts.remove(name)
            raise
        return lab

    @classmethod
    def open(cls, name: str = "lab") -> Lab:
        """A lab that is up."""
        process.check_tools()
        return cls(layout.load(name))

    @staticmethod
    def remove(name: str = "lab") -> bool:
        """Take away a lab in any state. False if there was none."""
        layout.check_name(name)
        process.check_tools()
        return hosts.remove(name)

    @staticmethod
    def names() -> list[str]:
        """Every lab on this machine, whole or not."""
        process.check_tools()
        return layout.names()

    def down(self) -> None:
        hosts.remove(self.layout.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def _build(self) -> None:
        hosts.clear_data(self.layout)
        hosts.start_switch(self.layout)
        for host in self.layout.hosts:
            hosts.prepare(self.layout, host)
        layout.save(self.layout)
        hosts.power_on(self.layout, self.layout.hosts)
        with ThreadPoolExecutor(LAB_PARALLEL_MAX) as pool:  # some have engines to wait for
            list(pool.map(partial(hosts.start_daemon, self.layout), self.layout.hosts))
        for host in self.layout.hosts:
            self._wait_daemon(host)

    def make_swarm(self) -> None:
        """init on the first host, join on the others, wait until all are ready."""
        first, *others = self.layout.hosts
        self.call(first.name, "POST", "/swarm/init", _addresses(first))
        tokens = self.call(first.name, "GET", "/swarm")["JoinTokens"]

        def join(host: Host) -> None:
            token = tokens["Manager" if host.is_manager else "Worker"]
            body = _addresses(host) | {"RemoteAddrs": [first.listen], "JoinToken": token}
            try:
                self.call(host.name, "POST", "/swarm/join", body)
            except SwarmError as error:
                raise Unavailable(
                    f"{host.name} could not join: {error}\nThe end of its log:\n{process.tail(host.log)}"
                ) from error

        with ThreadPoolExecutor(LAB_PARALLEL_MAX) as pool:
            list(pool.map(join, others))
        self.wait_ready()

    def wait_ready(self, *, timeout_s: float = LAB_READY_TIMEOUT_S) -> None:
        """Until every node is ready, every manager reachable and one of them leads."""
        self.wait(
            lambda: not self._unready(),
            timeout_s=timeout_s,
            explain=lambda: "The swarm is not complete: " + "; ".join(self._unready()),
        )

    def _unready(self) -> list[str]:
        """What is still missing, by what a live manager says."""
        try:
            nodes = {node["Description"]["Hostname"]: node for node in self.nodes()}
        except SwarmError as error:
            return [str(error)]
        missing = []
        for host in self.layout.hosts:
            node = nodes.get(host.name, {})
            state = node.get("Status", {}).get("State", "not there")
            manager = node.get("ManagerStatus") or {}
            if state != "ready":
                missing.append(f"{host.name} is {state}")
            elif node["Spec"]["Role"] == "manager" and manager.get("Reachability") != "reachable":
                missing.append(f"{host.name} is not reachable as a manager")
        if not any((node.get("ManagerStatus") or {}).get("Leader") for node in nodes.values()):
            missing.append("no manager leads")
        return missing

    # --- faults

    def kill(self, name: str, *, host: bool = False) -> None:
        """kill -9 of the daemon alone; with ``host`` a power failure: every process, and the link."""
        if host:
            hosts.power_off(self.layout, self.host(name))
        else:
            hosts.kill_daemon(self.host(name))

    def start(self, name: str, *, wait: bool = True) -> None:
        """Bring back a daemon that was killed or stopped; and its host first, if that is off."""
        host = self.host(name)
        if process.init_pid(host) is None:
            hosts.power_on(self.layout, [host])
        hosts.start_daemon(self.layout, host)
        if wait:
            self._wait_daemon(host)

    def stop(self, name: str) -> bool:
        """End the daemon in good order. False if it had to be killed."""
        return hosts.stop_daemon(self.host(name))

    def restart(self, name: str) -> None:
        if hosts.daemon(self.host(name)) is not None:
            self.stop(name)
        self.start(name)

    def pause(self, name: str) -> None:
        hosts.signal_daemon(self.host(name), signal.SIGSTOP)

    def resume(self, name: str) -> None:
        hosts.signal_daemon(self.host(name), signal.SIGCONT)

    def cut(self, name: str, way: Way = Way.BOTH) -> None:
        hosts.cut(self.layout, self.host(name), way)

    def heal(self, name: str) -> None:
        hosts.heal(self.layout, self.host(name))

    # --- asking

    def host(self, name: str) -> Host:
        return self.layout.host(name)

    def docker_host(self, name: str) -> str:
        return f"unix://{self.host(name).socket}"

    def log(self, name: str) -> Path:
        return self.host(name).log

    def exec_argv(self, name: str, argv: Sequence[str]) -> list[str]:
        """A command line for this machine that runs ``argv`` on a host, or on the switch."""
        host = self.layout.switch if name == SWITCH else self.host(name)
        return process.enter_argv(hosts.init(host), argv)

    def exec(
        self,
        name: str,
        argv: Sequence[str],
        *,
        timeout_s: float | None = LAB_REQUEST_TIMEOUT_S,
        text: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host and return what it printed; a failure of the command is not an error."""
        return subprocess.run(
            self.exec_argv(name, argv),
            input=text,
            capture_output=True,
            text=True,
            check=False,
            env=process.environment(),
            timeout=timeout_s,
        )

    def request(
        self,
        name: str,
        method: str,
        target: str,
        body: Any = None,
        *,
        timeout_s: float = LAB_REQUEST_TIMEOUT_S,
    ) -> Reply:
        """One Engine API request to a node's daemon; an error status is an ordinary Reply."""
        return engine_http.request(self.host(name).socket, method, target, body, timeout_s=timeout_s)

    def call(
        self,
        name: str,
        method: str,
        target: str,
        body: Any = None,
        *,
        timeout_s: float = LAB_REQUEST_TIMEOUT_S,
    ) -> Any:
        """The same, returning the body; an error status is raised as Refused, in the daemon's words."""
        reply = self.request(name, method, target, body, timeout_s=timeout_s)
        if not reply.is_ok:
            raise Refused(reply.message, reply)
        return reply.body

    def nodes(self, *, timeout_s: float = LAB_STATUS_TIMEOUT_S) -> list[dict[str, Any]]:
        """GET /nodes of the first manager that answers."""
        nodes: list[dict[str, Any]] = self._ask_anyone("/nodes", timeout_s=timeout_s)
        return nodes

    def tasks(
        self, filters: dict[str, list[str]] | None = None, *, timeout_s: float = LAB_STATUS_TIMEOUT_S
    ) -> list[dict[str, Any]]:
        """GET /tasks of the first manager that answers."""
        query = "?" + urllib.parse.urlencode({"filters": json.dumps(filters)}) if filters else ""
        tasks: list[dict[str, Any]] = self._ask_anyone("/tasks" + query, timeout_s=timeout_s)
        return tasks

    def leader(self) -> str:
        """The name of the host whose manager leads."""
        for node in self.nodes():
            if (node.get("ManagerStatus") or {}).get("Leader"):
                return str(node["Description"]["Hostname"])
        raise Unavailable("No manager leads at the moment.")

    def wait(
        self,
        condition: Callable[[], bool],
        *,
        timeout_s: float,
        explain: Callable[[], str] = lambda: "It did not come to be.",
    ) -> float:
        """Poll until it is so and return the seconds it took; Unavailable, explained, at the deadline."""
        begin = time.monotonic()
        if not process.wait_until(condition, timeout_s=timeout_s):
            raise Unavailable(f"{explain()} (waited {timeout_s:.0f} s)")
        return time.monotonic() - begin

    def status(self) -> list[HostStatus]:
        nodes, tasks = self._swarm_view()
        rows = []
        for host in self.layout.hosts:
            node = nodes.get(host.name)
            state, running = self._daemon_state(host)
            rows.append(
                HostStatus(
                    name=host.name,
                    address=host.address,
                    daemon=state,
                    pid=running.pid if running else None,
                    cut=hosts.cut_way(host),
                    role=node["Spec"]["Role"] if node else None,
                    is_leader=bool(node and (node.get("ManagerStatus") or {}).get("Leader")),
                    state=node["Status"]["State"] if node else None,
                    tasks=None if tasks is None or node is None else tasks.get(node["ID"], 0),
                )
            )
        return rows

    def _swarm_view(self) -> tuple[dict[str, dict[str, Any]], dict[str, int] | None]:
        """Nodes by hostname and running tasks by node id, as far as a manager tells."""
        try:
            nodes = {node["Description"]["Hostname"]: node for node in self.nodes()}
        except SwarmError:
            return {}, None
        try:
            tasks = self.tasks({"desired-state": ["running"]})
        except SwarmError:
            return nodes, None
        counts: dict[str, int] = {}
        for task in tasks:
            if task["Status"]["State"] == "running":
                counts[task["NodeID"]] = counts.get(task["NodeID"], 0) + 1
        return nodes, counts

    def _daemon_state(self, host: Host) -> tuple[Daemon, process.Running | None]:
        if process.init_pid(host) is None:
            return Daemon.OFF, None
        running = hosts.daemon(host)
        letter = process.state_letter(running) if running else None
        if letter is None:
            return Daemon.DEAD, None
        return (Daemon.PAUSED if letter in "Tt" else Daemon.RUNNING), running

    def _ask_anyone(self, target: str, *, timeout_s: float) -> Any:
        """Ask the hosts in turn, managers with a network first. Paused ones would never answer."""
        last: SwarmError = FailedPrecondition("No daemon of the lab is running.")
        for host in self._answering():
            try:
                return self.call(host.name, "GET", target, timeout_s=timeout_s)
            except SwarmError as error:
                last = error
        raise last

    def _answering(self) -> Iterable[Host]:
        running = [h for h in self.layout.hosts if self._daemon_state(h)[0] is Daemon.RUNNING]
        return sorted(
            running, key=lambda host: (hosts.cut_way(host) is not None, not host.is_manager, host.number)
        )

    def _wait_daemon(self, host: Host) -> None:
        """Until the daemon answers; it is over at once if it has died."""

        def is_decided() -> bool:
            return hosts.daemon(host) is None or _answers(host)

        process.wait_until(is_decided, timeout_s=LAB_DAEMON_START_TIMEOUT_S)
        if not _answers(host):
            what = "ended" if hosts.daemon(host) is None else "does not answer"
            raise Unavailable(
                f"The daemon of {host.name} {what}; the end of its log:\n{process.tail(host.log)}"
            )


def _answers(host: Host) -> bool:
    try:
        return engine_http.request(host.socket, "GET", "/_ping", timeout_s=LAB_STATUS_TIMEOUT_S).is_ok
    except Unavailable:
        return False


def _addresses(host: Host) -> dict[str, Any]:
    return {"ListenAddr": f"0.0.0.0:{SWARM_PORT}", "AdvertiseAddr": host.listen}
