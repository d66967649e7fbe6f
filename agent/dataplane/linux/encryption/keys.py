"""Keys of encrypted networks: what each pair of nodes uses in each direction, derived from shared secrets.

The managers hand every node of an encrypted network the same ring of secrets. A key is derived (HKDF-SHA256,
RFC 5869) from one of them, the sender, the receiver, and the epochs of both: so no two senders ever use one
key; a sender that has lost count of its nonces (its machine was started anew) begins with another key, and so
does a receiver that no longer knows what it has taken. An SPI is made of the secret's tag and the sender's
number, and is therefore unique at every receiver.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from swarmpy.model.objects import NetworkKey

KEY_BYTES: Final = 32
SALT_BYTES: Final = 4
"""RFC 4106: the part of a nonce that is not sent."""
TAGS: Final = 255
"""Tags are told apart modulo this; a ring has a few."""
_NUMBER_BITS: Final = 24
_DERIVED_MAX: Final = 8_192
NUMBER_MAX: Final = (1 << _NUMBER_BITS) - 1


class Party(NamedTuple):
    """A node as one end of a pair. ``epoch``: fresh whenever it may have lost count of what passed."""

    node_id: str
    number: int
    epoch: str

    @property
    def is_known(self) -> bool:
        """Whether all that its keys depend on is known of it."""
        return bool(self.node_id and self.epoch and 0 < self.number <= NUMBER_MAX)


@lru_cache(maxsize=_DERIVED_MAX)
def derive(secret: bytes, sender: Party, receiver: Party, *, purpose: str, size: int) -> bytes:
    """``size`` bytes that only who knows the secret can make. Each part has its length before it."""
    ends = (sender.node_id, sender.epoch, receiver.node_id, receiver.epoch)
    parts = ("swarmpy network key 1", purpose, *ends)
    info = b"".join(len(raw).to_bytes(2, "big") + raw for raw in (part.encode() for part in parts))
    return HKDF(algorithm=SHA256(), length=size, salt=None, info=info).derive(secret)


def fingerprint(key: bytes) -> str:
    """A key's name, which tells nothing of it."""
    return hashlib.sha256(b"swarmpy used key" + key).hexdigest()[:32]


def spi(tag: int, number: int) -> int:
    """The 32-bit index of a sender's key; never below 256, which RFC 4303 reserves."""
    return (tag % TAGS + 1) << _NUMBER_BITS | number


def sending_key(ring: tuple[NetworkKey, ...]) -> NetworkKey | None:
    """The second newest: others may not have heard of the newest yet. Of a ring of one the one."""
    newest_first = sorted(ring, key=lambda key: -key.tag)
    return newest_first[min(1, len(newest_first) - 1)] if newest_first else None
