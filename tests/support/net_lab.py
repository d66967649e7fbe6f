"""A lab whose tasks are small servers that say who they are and whom they see; clients anywhere on it.

    with net_lab(managers=1, workers=3) as lab:
        lab.network("shop", "--subnet", "10.7.0.0/24")
        one, two = lab.serve("web", 2, "--network", "shop")
        assert lab.meet(one, lab.vip("web", "shop")).task in (one.id, two.id)

A client is a socket of this process in a task's namespace, a node's or the switch's: the functions of
``net_hosts`` take their paths. Hosts, daemons, rules and packets are real.
"""

from __future__ import annotations

import json
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple, Self

from lab_cli import Cli, Json, tasks_of, wait_for, wait_running
from lab_services import lab_of
from net_hosts import PATIENCE_S, Answer, Capture, ask, command_in, run_in, socket_in

from swarmpy.lab import hosts
from swarmpy.lab.layout import SWITCH

PORT: Final = 80
_ENOUGH: Final = 1_000
RESOLVER: Final = "127.0.0.11"
NETNS: Final = "run/swarmpy/netns"
_A, _PTR, _IN = 1, 12, 1
_ASK_AGAIN_S = 1.0

_SERVER: Final = """
import os, selectors, socket
name, port = os.environ["TASK"], 80
wait = selectors.DefaultSelector()
tcp, udp = (socket.socket(socket.AF_INET6, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM))
tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
for each in (tcp, udp):
    each.bind(("::", port))
    wait.register(each, selectors.EVENT_READ)
tcp.listen(1024)
def say(peer):
    return f"{name} {peer[0].removeprefix('::ffff:')} {peer[1]}".encode()
while True:
    for key, _ in wait.select():
        try:
            if key.fileobj is tcp:
                client, peer = tcp.accept()
                wait.register(client, selectors.EVENT_READ, peer)
            elif key.fileobj is udp:
                peer = udp.recvfrom(9000)[1]
                udp.sendto(say(peer), peer)
            elif key.fileobj.recv(9000):
                key.fileobj.sendall(say(key.data))
            else:
                raise ConnectionError
        except OSError:
            if key.fileobj not in (tcp, udp):
                wait.unregister(key.fileobj)
                key.fileobj.close()
"""
SERVER: Final = ("--env", "TASK={{.Task.ID}}", "host", "python3", "-ISc", _SERVER)
"""The end of a service's command line."""


@dataclass(frozen=True)
class Task:
    """A running task: ``at`` has its address by network, ``path`` is its namespace."""

    id: str
    name: str
    node: str
    path: Path
    at: dict[str, str]


class Met(NamedTuple):
    """Which task answered, whom it saw, and the client's own end as the client sees it."""

    task: str
    seen: tuple[str, int]
    local: tuple[str, int]


class NetLab(Cli):
    """The command line on a lab, and what is on its networks."""

    def network(self, name: str, *words: str) -> str:
        """A new overlay's id."""
        return self.good("network", "create", "--driver", "overlay", *words, name).strip()

    def serve(self, name: str, replicas: int, *words: str) -> list[Task]:
        """A new service of servers, all running."""
        self.create(name, "--replicas", str(replicas), "--stop-grace-period", "1s", *words, *SERVER)
        return self.wait_tasks(name, replicas)

    def wait_tasks(self, name: str, count: int, *, on: Sequence[str] = ()) -> list[Task]:
        """Until so many run and answer on their own namespace's loopback."""
        wait_running(self.lab, name, count, on=on)
        found = self.tasks(name)
        for task in found:
            wait_for(lambda path=task.path: answers(path, "127.0.0.1"), what=f"{task.name} should listen")  # type: ignore[misc]
        return found

    def tasks(self, name: str) -> list[Task]:
        """Those that should run and do, by slot."""
        rows = [t for t in tasks_of(self.lab, name) if t["DesiredState"] == "running"]
        rows = [t for t in rows if t["Status"]["State"] == "running"]
        return [self._task(name, row) for row in sorted(rows, key=lambda row: int(row.get("Slot", 0)))]

    def _task(self, service: str, row: Json) -> Task:
        at = {
            legs["Network"]["Spec"]["Name"]: legs["Addresses"][0].partition("/")[0]
            for legs in row.get("NetworksAttachments") or ()
            if legs["Addresses"]  # else the LAN gives them
        }
        id_ = row["ID"]
        slot = row.get("Slot") or row["NodeID"]
        return Task(id_, f"{service}.{slot}.{id_}", row["Node"], self.netns(row["Node"]) / id_, at)

    def netns(self, node: str) -> Path:
        """The folder of namespaces on a node."""
        return Path(f"/proc/{self.init(node)}/root") / NETNS

    def sandbox(self, node: str, network_id: str) -> Path:
        return self.netns(node) / f".net-{network_id[:12]}"

    def init(self, node: str) -> int:
        """The pid of a host's init, or of the switch's."""
        return hosts.init(self.lab.layout.switch if node == SWITCH else self.lab.host(node))

    def path(self, node: str = SWITCH) -> Path:
        """A node's own namespace, or the switch's: outside of the swarm."""
        return Path(f"/proc/{self.init(node)}/ns/net")

    def address(self, node: str) -> str:
        return self.lab.host(node).address

    @property
    def names(self) -> list[str]:
        return [host.name for host in self.lab.layout.hosts]

    def inspect(self, kind: str, name: str, *words: str, at: str = "") -> Json:
        found: Json = json.loads(self.good(kind, "inspect", *words, name, at=at))[0]
        return found

    def vip(self, service: str, network: str) -> str:
        """The service's virtual address on a network."""
        network_id = self.inspect("network", network)["Id"]
        vips = self.inspect("service", service)["Endpoint"]["VirtualIPs"]
        found = next(each["Addr"] for each in vips if each["NetworkID"] == network_id)
        return str(found).partition("/")[0]

    def ingress(self) -> dict[str, str]:
        """Each node's address on the ingress network, as its interface has it."""
        return {name: interface_address(self.path(name), "sw-ing") for name in self.names}

    def meet(
        self,
        client: Task | Path,
        address: str,
        port: int = PORT,
        *,
        kind: int = socket.SOCK_STREAM,
        source: str = "",
        timeout_s: float = 5.0,
    ) -> Met:
        """Ask once. OSError if nobody answers."""
        path = client.path if isinstance(client, Task) else client
        return told(ask(path, address, port, kind=kind, source=source, timeout_s=timeout_s))

    def meet_all(
        self, client: Task | Path, address: str, port: int = PORT, *, among: Sequence[Task]
    ) -> list[Met]:
        """New connections until each of these tasks has answered; nobody else may."""
        path = client.path if isinstance(client, Task) else client
        wanted = {task.id for task in among}

        def work() -> list[Met]:
            found: list[Met] = []
            missing = set(wanted)
            while missing:
                assert len(found) < _ENOUGH, f"of {wanted} only {wanted - missing} answered {_ENOUGH} times"
                found.append(ask_here(address, port))
                assert found[-1].task in wanted, found[-1]
                missing.discard(found[-1].task)
            return found

        return run_in(path, work)

    def capture(self, *nodes: str) -> Capture:
        """What these nodes, or all, put on the wire from now on."""
        return Capture(str(self.path()), nodes or self.names)


def told(found: Answer) -> Met:
    task, address, port = found.answer.decode().split()
    return Met(task, (address, int(port)), found.local)


def ask_here(address: str, port: int) -> Met:
    """One connection of the calling thread's own namespace."""
    with socket.create_connection((address, port), timeout=PATIENCE_S) as client:
        client.sendall(b"hello")
        return told(Answer(client.recv(4_096), client.getsockname()[:2]))


def answers(path: Path, address: str, port: int = PORT, *, timeout_s: float = 1.0) -> bool:
    try:
        return bool(ask(path, address, port, timeout_s=timeout_s).answer)
    except OSError:
        return False


def interface_address(path: Path, link: str) -> str:
    """The first IPv4 address of an interface; empty if there is none."""
    found = json.loads(command_in(path, "ip", "-4", "-json", "address", "show"))
    rows = [row for row in found if row.get("ifname") == link]
    return str(rows[0]["addr_info"][0]["local"]) if rows else ""


# --- names


def _asked(asker: socket.socket, query: bytes) -> bytes:
    asker.settimeout(_ASK_AGAIN_S)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        asker.send(query)
        try:
            return asker.recv(4_096)
        except TimeoutError:
            if time.monotonic() > deadline:
                raise


def lookup(path: Path, name: str, *, kind: int = _A) -> list[str]:
    """What the task's resolver answers over UDP, in its order: addresses, or names of a PTR query.

    Asked again as C libraries do: what is sent while no daemon runs meets silence, not an error.
    """
    number = secrets.randbits(16)
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    query = struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, kind, _IN)
    with socket_in(path, socket.SOCK_DGRAM) as asker:
        asker.connect((RESOLVER, 53))
        reply = _asked(asker, query)
    got, _, _, count, _, _ = struct.unpack_from("!6H", reply)
    assert got == number
    found, at = [], len(query)
    for _ in range(count):
        _, at = _name_at(reply, at)
        what, _, _, size = struct.unpack_from("!HHIH", reply, at)
        at += 10
        if what == kind:
            found.append(_name_at(reply, at)[0] if kind == _PTR else str(ip_address(reply[at : at + size])))
        at += size
    return found


def reverse(path: Path, address: str) -> list[str]:
    return lookup(path, f"{ip_address(address).reverse_pointer}", kind=_PTR)


def _name_at(message: bytes, at: int) -> tuple[str, int]:
    """The name there, and where it ends."""
    labels: list[str] = []
    while size := message[at]:
        if size & 0xC0:
            rest, _ = _name_at(message, int.from_bytes(message[at : at + 2]) & 0x3FFF)
            return ".".join([*labels, rest]), at + 2
        labels.append(message[at + 1 : at + 1 + size].decode())
        at += 1 + size
    return ".".join(labels), at + 1


# --- load


@dataclass
class Load:
    """New connections one after the other within a ``with``, each asked once; every failure is kept.

    ``is_patient``: one that is refused is tried again for a second. A task runs before its server listens,
    and a service without a health check cannot tell.
    """

    path: Path
    address: str
    port: int = PORT
    is_patient: bool = False
    met: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: run_in(self.path, self._work))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def count(self) -> int:
        return sum(self.met.values())

    def _work(self) -> None:
        while not self._over.wait(0.005):  # a pace that leaves the machine to the swarm
            try:
                task = self._ask()
            except (OSError, ValueError) as error:
                self.failures.append(f"after {self.count}: {error!r}")
            else:
                self.met[task] = self.met.get(task, 0) + 1

    def _ask(self) -> str:
        deadline = time.monotonic() + (1.0 if self.is_patient else 0.0)
        while True:
            try:
                return ask_here(self.address, self.port).task
            except ConnectionRefusedError:
                if time.monotonic() >= deadline:
                    raise


@dataclass
class Open:
    """A connection that stays: ``talk`` tells who is at its other end."""

    path: Path
    address: str
    port: int = PORT

    def __post_init__(self) -> None:
        self.socket = socket_in(self.path)
        self.socket.connect((self.address, self.port))
        self.task = self.talk()

    def talk(self) -> str:
        self.socket.sendall(b"hello")
        data = self.socket.recv(4_096)
        if not data:
            raise ConnectionResetError("the other end closed it")
        return data.decode().split()[0]

    def close(self) -> None:
        self.socket.close()


# --- what a host has


def belongings(lab: NetLab, node: str) -> dict[str, object]:
    """Namespaces, devices, tables and rules of a node: what is to be the same before and after."""
    path = lab.path(node)
    spaces = sorted(each.name for each in lab.netns(node).iterdir())
    return {
        "namespaces": spaces,
        "links": _links(path),
        "tables": sorted(command_in(path, "nft", "list", "tables").split("\n")),
        "elements": _elements(command_in(path, "nft", "list", "ruleset")),
        "rules": command_in(path, "ip", "rule"),
        "routes": command_in(path, "ip", "route"),
        "listening": sorted(
            line.split()[4] for line in command_in(path, "ss", "-Htuln").splitlines() if line.strip()
        ),
        "sandboxes": {name: _links(lab.netns(node) / name) for name in spaces},
    }


def _links(path: Path) -> list[str]:
    """None for a namespace that goes while one looks."""
    try:
        return sorted(row["ifname"] for row in json.loads(command_in(path, "ip", "-json", "link")))
    except AssertionError:
        if path.exists():
            raise
        return []


def _elements(ruleset: str) -> list[str]:
    """The elements of maps and sets, without handles or counters."""
    return sorted(line.strip() for line in ruleset.splitlines() if " : " in line and "type" not in line)


@contextmanager
def net_lab(*, managers: int, workers: int) -> Iterator[NetLab]:
    with lab_of(managers=managers, workers=workers) as lab:
        yield NetLab(lab)


def wait_same(ask_now: Callable[[], object], before: object, *, what: str) -> None:
    wait_for(ask_now, lambda now: now == before, what=f"{what} should be as before: {before}")
