"""Hosts as network namespaces on a switch namespace: real packets between nodes, on one machine.

    with net_hosts(3, mtu=1500) as rig:
        one, two, three = rig.hosts                # 192.0.2.1, 192.0.2.2, 192.0.2.3
        with one.inside():                         # a thread that is started here stays there
            await backend.start_up()
        with rig.capture() as capture, EchoServer(two.path, two.address, 80):
            assert ask(one.path, two.address, 80).answer == b"hello"
            assert capture.wait_for(lambda frame: frame.ports[1] == 80)

Every namespace is held by a file descriptor of this process and by nothing else, so that whatever becomes of
a test, nothing is left of its hosts. All functions take the ``path`` of a host, or of any other namespace.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from agent.dataplane.linux import namespaces
from agent.executor.native.shim import kernel

T = TypeVar("T")

UPLINK = "eth0"
PATIENCE_S = 10.0
_SWITCH_LINK = "switch"
_ETH_P_ALL = 3
_PACKET_OUTGOING = 4
_SO_RCVBUFFORCE = 33
_CAPTURE_BYTES = 16 << 20
_FRAME_BYTES = 1 << 17
_TCP, _UDP = 6, 17


# --- inside a namespace


def run_in(path: str | Path, call: Callable[[], T]) -> T:
    """What ``call`` returns, run by a thread of its own that has moved to the namespace at ``path``."""
    results: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with open(path, "rb") as netns:
                kernel.setns(netns.fileno(), kernel.CLONE_NEWNET)
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def command_in(path: str | Path, *words: str) -> str:
    """What a program printed that ran in the namespace; an error has what it complained about."""
    done = subprocess.run(["nsenter", f"--net={path}", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}"
    return done.stdout


def start_in(path: str | Path, *words: str) -> subprocess.Popen[bytes]:
    """A program in the namespace; ending it is the caller's affair."""
    return subprocess.Popen(["nsenter", f"--net={path}", *words], stdout=subprocess.PIPE)


def socket_in(
    path: str | Path, kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET
) -> socket.socket:
    """A socket that lives in the namespace at ``path``, for use from anywhere."""
    made = run_in(path, lambda: socket.socket(family, kind))
    made.settimeout(PATIENCE_S)
    return made


def send_frames(path: str | Path, link: str, frames: Sequence[bytes]) -> None:
    """Put whole Ethernet frames on a link, whatever they claim to be."""

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((link, 0))
            for frame in frames:
                raw.send(frame)

    run_in(path, send)


def wait_until(condition: Callable[[], object], what: str, *, within_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"after {within_s} s still not: {what}"
        time.sleep(0.01)


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


# --- servers and clients


@dataclass
class EchoServer:
    """Sends back what it gets, over TCP or UDP, within a ``with``; ``seen``: the address of every client."""

    path: str | Path
    address: str
    port: int
    kind: int = socket.SOCK_STREAM
    greeting: bytes = b""
    """Sent before each answer, so that a client can tell servers apart."""
    seen: list[tuple[str, int]] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._socket = socket_in(self.path, self.kind, _family(self.address))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((self.address, self.port))
        if self.kind == socket.SOCK_STREAM:
            self._socket.listen(128)
        self._halt, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._stop)
        self._thread.join()
        os.close(self._halt)
        self._socket.close()

    def _serve(self) -> None:
        clients: dict[int, socket.socket] = {}
        while True:
            ready, _, _ = select.select([self._halt, self._socket.fileno(), *clients], [], [])
            if self._halt in ready:
                break
            for each in ready:
                if each in clients:
                    self._answer(each, clients)
                elif self.kind == socket.SOCK_STREAM:
                    client, peer = self._socket.accept()
                    self.seen.append(peer[:2])
                    clients[client.fileno()] = client
                else:
                    with suppress(OSError):  # an ICMP error of an earlier answer
                        data, peer = self._socket.recvfrom(_FRAME_BYTES)
                        self.seen.append(peer[:2])
                        self._socket.sendto(self.greeting + data, peer)
        for client in clients.values():
            client.close()

    def _answer(self, number: int, clients: dict[int, socket.socket]) -> None:
        client = clients[number]
        try:
            data = client.recv(_FRAME_BYTES)
            if data:
                client.sendall(self.greeting + data)
                return
        except OSError:
            pass  # reset: the same as the end
        del clients[number]
        client.close()


class Answer(NamedTuple):
    """What came back, and the client's own end as it saw it."""

    answer: bytes
    local: tuple[str, int]


def ask(
    path: str | Path,
    address: str,
    port: int,
    *,
    data: bytes = b"hello",
    kind: int = socket.SOCK_STREAM,
    source: str = "",
    timeout_s: float = 5.0,
) -> Answer:
    """Connect from the namespace, send, take one answer. OSError (TimeoutError too) if that does not work."""
    with socket_in(path, kind, _family(address)) as client:
        client.settimeout(timeout_s)
        if source:
            client.bind((source, 0))
        client.connect((address, port))
        client.sendall(data)
        return Answer(client.recv(_FRAME_BYTES), client.getsockname()[:2])


def is_reachable(path: str | Path, address: str, port: int, *, timeout_s: float = 0.4) -> bool:
    """Whether a TCP connection comes about; for tests that expect that it does not."""
    try:
        with socket_in(path, socket.SOCK_STREAM, _family(address)) as client:
            client.settimeout(timeout_s)
            client.connect((address, port))
    except OSError:
        return False
    return True


# --- looking at frames


@dataclass(frozen=True)
class Frame:
    """One frame as a host put it on the wire. Later fields are empty where the frame has no such thing."""

    host: str
    raw: bytes

    @property
    def ether_type(self) -> int:
        return int.from_bytes(self.raw[12:14])

    @property
    def macs(self) -> tuple[str, str]:
        """Source and destination."""
        return self.raw[6:12].hex(":"), self.raw[:6].hex(":")

    @property
    def protocol(self) -> int:
        """Of IP: 6 TCP, 17 UDP, 50 ESP. -1 if it is no IP."""
        return {0x0800: self.raw[23], 0x86DD: self.raw[20]}.get(self.ether_type, -1)

    @property
    def addresses(self) -> tuple[str, str]:
        """Source and destination."""
        if self.ether_type == 0x0800:
            return str(ip_address(self.raw[26:30])), str(ip_address(self.raw[30:34]))
        if self.ether_type == 0x86DD:
            return str(ip_address(self.raw[22:38])), str(ip_address(self.raw[38:54]))
        return "", ""

    @property
    def _transport(self) -> bytes:
        start = 14 + (self.raw[14] & 15) * 4 if self.ether_type == 0x0800 else 54
        return self.raw[start:] if self.protocol in (_TCP, _UDP) else b""

    @property
    def ports(self) -> tuple[int, int]:
        return (0, 0) if not self._transport else struct.unpack_from("!HH", self._transport)

    @property
    def payload(self) -> bytes:
        """Of UDP."""
        return self._transport[8:] if self.protocol == _UDP else b""

    @property
    def vni(self) -> int:
        """Of a VXLAN frame, taken for one whatever its port."""
        return int.from_bytes(self.payload[4:7]) if self.payload[:1] == b"\x08" else -1


class Capture:
    """All that hosts put on the wire since it was opened. Large flows overrun it."""

    def __init__(self, switch: str, hosts: Sequence[str]) -> None:
        self._hosts = frozenset(hosts)
        self._found: list[Frame] = []
        self._socket = run_in(
            switch, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        )
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _CAPTURE_BYTES)
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def frames(self) -> list[Frame]:
        """Those so far, in order."""
        with suppress(BlockingIOError):
            while True:
                raw, sender = self._socket.recvfrom(_FRAME_BYTES)
                if sender[2] != _PACKET_OUTGOING and sender[0] in self._hosts:
                    self._found.append(Frame(sender[0], raw))
        return self._found

    def wait_for(self, fits: Callable[[Frame], bool], *, within_s: float = PATIENCE_S) -> Frame:
        """The first that fits, come or to come."""
        wait_until(lambda: any(map(fits, self.frames())), "such a frame seen", within_s=within_s)
        return next(filter(fits, self._found))

    def has(self, text: bytes) -> bool:
        """Whether the bytes went over the wire as they are."""
        return any(text in frame.raw for frame in self.frames())


# --- hosts


@dataclass(frozen=True)
class Host:
    """``number`` counts from 1. ``name`` is also the name of its port on the switch."""

    number: int
    name: str
    path: Path
    address: str
    address6: str

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread is in the host's namespace, and threads that it starts are born there."""
        with namespaces.inside(self.path):
            yield

    def run(self, call: Callable[[], T]) -> T:
        return run_in(self.path, call)

    def command(self, *words: str) -> str:
        return command_in(self.path, *words)

    def set_wire(self, *, is_up: bool) -> None:
        """Pull its cable, or put it in again."""
        self.command("ip", "link", "set", UPLINK, "up" if is_up else "down")


@dataclass(frozen=True)
class Rig:
    hosts: tuple[Host, ...]
    switch: str

    def capture(self, *hosts: Host) -> Capture:
        """What these hosts, or all, put on the wire from now on."""
        return Capture(self.switch, [host.name for host in hosts or self.hosts])


@contextmanager
def fresh_namespace() -> Iterator[Path]:
    """A namespace with loopback up, that ends with the block and what is still open in it."""
    with namespaces.scratch():
        fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        path = Path(f"/proc/{os.getpid()}/fd/{fd}")
        command_in(path, "ip", "link", "set", "lo", "up")
        yield path
    finally:
        os.close(fd)


@contextmanager
def net_hosts(count: int, *, mtu: int = 1500, is_routed: bool = False) -> Iterator[Rig]:
    """Hosts with IPv4 and IPv6 on eth0, joined by a switch.

    ``is_routed``: each in a subnet of its own, joined by a router.
    """
    with ExitStack() as stack:
        switch = stack.enter_context(fresh_namespace())
        if is_routed:
            command_in(switch, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        else:
            _ip(switch, f"link add {_SWITCH_LINK} mtu {mtu} type bridge mcast_snooping 0")
            _ip(switch, f"link set {_SWITCH_LINK} up")
        hosts = tuple(
            _plug(number, stack.enter_context(fresh_namespace()), switch=switch, mtu=mtu, is_routed=is_routed)
            for number in range(1, count + 1)
        )
        yield Rig(hosts, str(switch))


def _plug(number: int, path: Path, *, switch: Path, mtu: int, is_routed: bool) -> Host:
    name = f"host{number}"
    _ip(path, f"link add {UPLINK} mtu {mtu} type veth peer name {name} mtu {mtu} netns {switch}")
    if is_routed:
        address, address6 = f"192.0.2.{4 * number + 2}", f"2001:db8:0:{number}::2"
        gateway, gateway6 = f"192.0.2.{4 * number + 1}", f"2001:db8:0:{number}::1"
        bits = 30
        _ip(switch, f"address add {gateway}/{bits} dev {name}", f"address add {gateway6}/64 dev {name} nodad")
    else:
        address, address6, bits = f"192.0.2.{number}", f"2001:db8::{number}", 24
        _ip(switch, f"link set {name} master {_SWITCH_LINK}")
    _ip(switch, f"link set {name} up")
    _ip(
        path,
        f"address add {address}/{bits} dev {UPLINK}",
        f"address add {address6}/64 dev {UPLINK} nodad",
        f"link set {UPLINK} up",
    )
    if is_routed:
        _ip(path, f"route add default via {gateway}", f"-6 route add default via {gateway6}")
    return Host(number, name, path, address, address6)


def _ip(path: Path, *lines: str) -> None:
    for line in lines:
        command_in(path, "ip", *line.split())
