"""What the daemon and its user-space port say to each other, over a socket that only root can open.

One order, one answer, one connection. Whoever speaks first says how long it is: 4 bytes, then JSON.
"""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path
from typing import Final

import msgspec

from swarmpy.model.value import Value

SOCKET_NAME: Final = "port.sock"
MESSAGE_BYTES_MAX: Final = 64 << 20
_LENGTH_BYTES: Final = 4
_SOURCES: Final = ("records.py", "tunnel.py", "orders.py", "process.py", "packets.py", "../keys.py")


class Key(Value, frozen=True, kw_only=True):
    """``number``: the sender's. ``name``: a fingerprint of the secret part, safe to write down."""

    tag: int
    number: int
    material: bytes
    name: str


class Member(Value, frozen=True, kw_only=True):
    """A peer. ``sending`` None: nothing is sent to it."""

    addr: str
    sending: Key | None = None
    receiving: tuple[Key, ...] = ()


class Ask(Value, frozen=True, kw_only=True, tag="ask"):
    """Nothing is to change."""


class Stop(Value, frozen=True, kw_only=True, tag="stop"):
    """Seal no more, say how far you came, and go."""


class Configure(Value, frozen=True, kw_only=True, tag="configure"):
    """All that it is to do from now on. Keys that it has already go on counting.

    ``tags``: of the ring; keys of these are kept even if nobody uses them now.
    ``reached``: by name, how far a former process came with a key.
    """

    addr: str
    port: int
    secure_port: int
    piece_bytes: int
    is_large: bool = False
    members: tuple[Member, ...] = ()
    tags: tuple[int, ...] = ()
    reached: dict[str, int] = {}


Order = Ask | Stop | Configure


class Status(Value, frozen=True, kw_only=True):
    """``program``: the digest of what it runs. ``sending``, ``receiving``: by key, how far it has come."""

    program: str = ""
    pid: int = 0
    error: str = ""
    sending: dict[str, int] = {}
    receiving: dict[str, int] = {}
    counts: dict[str, int] = {}


def program_digest() -> str:
    """Of the code that the process runs: another digest means that it is to be replaced."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:32]


def send(connection: socket.socket, message: Order | Status) -> None:
    body = msgspec.json.encode(message)
    connection.sendall(len(body).to_bytes(_LENGTH_BYTES, "big") + body)


def receive_order(connection: socket.socket) -> Order:
    order: Order = msgspec.json.decode(_receive(connection), type=Order)
    return order


def receive_status(connection: socket.socket) -> Status:
    return msgspec.json.decode(_receive(connection), type=Status)


def _receive(connection: socket.socket) -> bytes:
    """ConnectionError if the other side ends early or says what nobody here would."""
    size = int.from_bytes(_take(connection, _LENGTH_BYTES), "big")
    if size > MESSAGE_BYTES_MAX:
        raise ConnectionError(f"a message of {size} bytes is none of ours")
    return _take(connection, size)


def _take(connection: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = connection.recv(min(size, 1 << 16))
        if not part:
            raise ConnectionError("the other side ended in the middle of a message")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
