"""Sealing of what raft writes to disk: entries and slices of snapshots, one at a time.

The key comes in as an argument; where it lives and who may read it is decided elsewhere. Each sealed piece
carries its own nonce, so pieces may be written, cut off and rewritten in any order.
"""

from __future__ import annotations

from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from swarmpy.errors import Corrupt
from swarmpy.runtime import Entropy

KEY_BYTES = 32
_NONCE_BYTES = 12


class Sealer(Protocol):
    def seal(self, data: bytes) -> bytes: ...

    def open(self, data: bytes) -> bytes:
        """The inverse; raises ``Corrupt`` if the key is another one or the data was changed."""
        ...


class AesGcmSealer:
    """AES-256-GCM with a random nonce per piece: safe for 2^32 pieces under one key."""

    def __init__(self, key: bytes, entropy: Entropy) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a sealing key has {KEY_BYTES} bytes, got {len(key)}")
        self._aead = AESGCM(key)
        self._entropy = entropy

    def seal(self, data: bytes) -> bytes:
        nonce = self._entropy.token_bytes(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, data, None)

    def open(self, data: bytes) -> bytes:
        try:
            return self._aead.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], None)
        except (InvalidTag, ValueError) as error:
            raise Corrupt("sealed with another key, or changed since") from error


class NoSealer:
    """Leaves everything in the clear: for tests, and for measuring what sealing costs."""

    def seal(self, data: bytes) -> bytes:
        return data

    def open(self, data: bytes) -> bytes:
        return data
