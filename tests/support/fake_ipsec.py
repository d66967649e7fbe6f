"""A kernel's IPsec, and a user-space port, in memory: they carry out what they are told, and remember it."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from socket import AF_INET

from agent.dataplane.linux.encryption.userspace.orders import Configure, Status
from agent.dataplane.linux.encryption.xfrm import Policy, State, parse_policy, parse_state
from agent.dataplane.linux.netlink import Message

_SELECTOR_BYTES = 56


@dataclass
class FakeIpsec:
    """``began``: every key that a state was made with, in order."""

    found: list[State] = field(default_factory=list)
    rules: list[Policy] = field(default_factory=list)
    began: list[bytes] = field(default_factory=list)
    history: list[tuple[Policy, ...]] = field(default_factory=list)
    """The policies after each message."""

    def states(self) -> list[State]:
        return list(self.found)

    def policies(self) -> list[Policy]:
        return list(self.rules)

    def do(self, *messages: Message) -> None:
        for kind, _, body in messages:
            match kind:
                case 0x10:
                    self._add_state(body)
                case 0x11:
                    self._delete_state(body)
                case 0x19:
                    self._set_policy(body)
                case 0x14:
                    self._delete_policy(body)
                case _:
                    raise AssertionError(f"message {kind:#x} is unknown")
            self.history.append(tuple(self.rules))

    def _add_state(self, body: bytes) -> None:
        state = parse_state(body)
        assert state is not None
        if any((each.target, each.spi) == (state.target, state.spi) for each in self.found):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        self.found.append(state)
        self.began.append(state.key)

    def _delete_state(self, body: bytes) -> None:
        raw, spi, family = struct.unpack_from("=16s4sH", body)
        target = str(ip_address(raw[:4] if family == AF_INET else raw))
        same = [each for each in self.found if (each.target, each.spi) == (target, int.from_bytes(spi))]
        if not same:
            raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
        self.found.remove(same[0])

    def _set_policy(self, body: bytes) -> None:
        policy = parse_policy(body)
        assert policy is not None
        self.rules = [
            each
            for each in self.rules
            if (each.selector, each.priority) != (policy.selector, policy.priority)
        ]
        self.rules.append(policy)

    def _delete_policy(self, body: bytes) -> None:
        """The first with the same packets, whatever its priority."""
        direction = body[_SELECTOR_BYTES + 4]
        wide = body[:_SELECTOR_BYTES] + bytes(168 - _SELECTOR_BYTES)
        wide = wide[:160] + bytes([direction]) + wide[161:]
        policy = parse_policy(wide)
        assert policy is not None
        same = [each for each in self.rules if each.selector == policy.selector]
        if not same:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        self.rules.remove(same[0])


@dataclass
class FakePort:
    """A user-space port that runs or does not. ``began``: every key that it counted from 0 with."""

    is_running: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    reached: dict[str, int] = field(default_factory=dict)
    began: list[bytes] = field(default_factory=list)
    order: Configure | None = None

    def ensure(self) -> Status:
        self.is_running = True
        return self._status()

    def ask(self) -> Status | None:
        return self._status() if self.is_running else None

    def configure(self, order: Configure) -> Status:
        self.order = order
        kept = dict(self.counts)
        for member in order.members:
            for key in (*((member.sending,) if member.sending else ()), *member.receiving):
                if key.name not in kept:
                    self.began.append(key.material)
                    kept[key.name] = 0
        self.counts = kept
        return self._status()

    def die(self) -> None:
        self.is_running, self.counts = False, {}

    def _status(self) -> Status:
        return Status(sending=dict(self.counts))


def keys_of(states: Iterable[State]) -> set[bytes]:
    return {state.key for state in states}
