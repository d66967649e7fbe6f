"""The three shapes of an entry's command: a no-op, bytes of the state machine, a membership change.

The first byte is the library's command type. Everything else is refused before it reaches the log, so
nothing that arrives from a peer is ever interpreted further.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from swarmpy.errors import InvalidArgument
from swarmpy.pb import raft_pb2 as pb

REGULAR = 0
NO_OP = 1
MEMBERSHIP = 2

NO_OP_COMMAND = bytes([NO_OP])
REGULAR_PREFIX = bytes([REGULAR])
_MEMBERSHIP_PREFIX = bytes([MEMBERSHIP])

Entry = tuple[bytes, int, int]
"""Command, index, term: the order that the library uses."""


@dataclass(frozen=True)
class Change:
    """A membership change."""

    is_add: bool
    raft_id: str
    address: str


def encode_change(change: Change) -> bytes:
    """The command without its type byte."""
    op = pb.RaftMembership.OP_ADD if change.is_add else pb.RaftMembership.OP_REMOVE
    member = pb.RaftMember(raft_id=change.raft_id, address=change.address)
    return pb.RaftMembership(op=op, member=member).SerializeToString(deterministic=True)


def membership_command(change: Change) -> bytes:
    """A change as the log holds it."""
    return _MEMBERSHIP_PREFIX + encode_change(change)


def decode_change(body: bytes) -> Change:
    """Raises ``InvalidArgument`` unless ``body`` is a membership change."""
    try:
        message = pb.RaftMembership.FromString(body)
    except DecodeError as error:
        raise InvalidArgument("a membership entry of the raft log does not parse") from error
    if message.op == pb.RaftMembership.OP_UNSPECIFIED or not message.member.raft_id:
        raise InvalidArgument("a membership entry of the raft log names no change or no member")
    return Change(message.op == pb.RaftMembership.OP_ADD, message.member.raft_id, message.member.address)


def change_of(command: bytes) -> Change | None:
    """The membership change in a command, or None if it is something else."""
    return decode_change(command[1:]) if command[:1] == _MEMBERSHIP_PREFIX else None


def check_command(command: bytes) -> None:
    """Raises ``InvalidArgument`` unless the command has one of the three shapes."""
    kind = command[0] if command else None
    if kind == MEMBERSHIP:
        decode_change(command[1:])
    elif kind not in (REGULAR, NO_OP):
        raise InvalidArgument(f"a raft entry of kind {kind} is unknown here: is every manager up to date?")
