"""``NodeKeys``: the key of a manager's raft log, and how it and the node's private key lie on disk.

Without autolock both lie there in the clear. With it, ``raft.key`` is sealed with the cluster's unlock key,
which is in the store alone, and the private key with the raft key. So **one file decides** whether the node
is locked and what opens it: it is replaced whole, always before the private key, so that after a crash at any
point the old or the new unlock key opens everything. Whoever changes it has the private key written anew.

A worker has no raft key, and its private key is in the clear. What is here only happens to a manager's.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Final

from manager.api.context import LOCKED
from swarmpy.errors import Corrupt, Unauthenticated, Unavailable
from swarmpy.pki import Identity, Role, unlock
from swarmpy.runtime import Env

RAFT_KEY_BYTES: Final = 32
RAFT_KEY_NAME: Final = "raft.key"
_SEALED: Final = b"SwarmPy sealed key\n"
_ABOUT_RAFT_KEY: Final = b"key of the raft log"
_ABOUT_PRIVATE_KEY: Final = b"private key of the node"


class NodeKeys:
    """One node's, from the daemon's start to its end. Each method is one step, or one write."""

    def __init__(self, env: Env, folder: Path) -> None:
        self._env = env
        self._path = folder / RAFT_KEY_NAME
        self._raft_key: bytes | None = None
        self._unlock_key = b""
        self._locked = b""
        """What is on disk, while it can't be opened."""

    # --- what is there

    def load(self) -> None:
        """Read what is on disk; ``is_locked`` afterwards if that can't be used yet."""
        self._raft_key, self._unlock_key, self._locked = None, b"", b""
        if not self._env.disk.exists(self._path):
            return
        data = self._env.disk.read(self._path)
        if is_wrapped(data):
            self._locked = data
        elif len(data) == RAFT_KEY_BYTES:
            self._raft_key = data
        else:
            raise Corrupt(f"{self._path} is damaged: it holds no key of a raft log")

    @property
    def is_there(self) -> bool:
        """Whether this node is, or was, a manager."""
        return self._env.disk.exists(self._path)

    @property
    def is_locked(self) -> bool:
        """Whether the unlock key is needed to go on."""
        return bool(self._locked)

    @property
    def unlock_key(self) -> bytes:
        """What opens what is on disk; empty: nothing is needed, or the node is locked."""
        return self._unlock_key

    def unlock(self, text: str) -> None:
        """Open what is locked. InvalidArgument or Unauthenticated if the key does not."""
        key = unlock.parse_unlock_key(text)
        if self.is_locked:
            self._raft_key = self._unwrap(key, self._locked, _ABOUT_RAFT_KEY)
            self._unlock_key, self._locked = key, b""

    def raft_key(self) -> bytes:
        """The key that seals this node's raft log. A new one is on disk only after ``set_unlock_key``."""
        if self.is_locked:
            raise Unavailable(LOCKED)
        if self._raft_key is None:
            self._raft_key = self._env.entropy.token_bytes(RAFT_KEY_BYTES)
        return self._raft_key

    # --- what is to be

    def set_unlock_key(self, unlock_key: bytes) -> None:
        """From now on this opens what is on disk; empty: nothing is needed. The private key comes after it.

        After an OSError all is as it was.
        """
        key = self.raft_key()
        data = self._wrap(unlock_key, key, _ABOUT_RAFT_KEY) if unlock_key else key
        self._env.disk.make_dirs(self._path.parent)
        self._env.disk.write_atomic(self._path, data, mode=0o600)
        self._unlock_key = unlock_key

    def forget(self) -> None:
        """Remove the key of a log that is gone. Only when no private key is sealed with it."""
        self._env.disk.remove(self._path)
        self._raft_key, self._unlock_key, self._locked = None, b"", b""

    # --- the private key (``agent.identity.KeyGuard``)

    def wrap(self, identity: Identity) -> bytes:
        """The private key as it is to be on disk. A worker could not ask anybody for the unlock key."""
        if not self._unlock_key or identity.role is not Role.MANAGER:
            return identity.key
        return self._wrap(self.raft_key(), identity.key, _ABOUT_PRIVATE_KEY)

    def unwrap(self, data: bytes) -> bytes:
        """The private key that was read. Unavailable while it can't be known; Corrupt if it never can."""
        if not is_wrapped(data):
            return data
        if self.is_locked:
            raise Unavailable(LOCKED)
        try:
            return self._unwrap(self._raft_key or b"", data, _ABOUT_PRIVATE_KEY)
        except Unauthenticated:
            raise Corrupt(f"{self._path} is missing, or not the key that the private key needs") from None

    # --- inside

    def _wrap(self, key: bytes, data: bytes, about: bytes) -> bytes:
        nonce = self._env.entropy.token_bytes(unlock.NONCE_BYTES)
        return _SEALED + base64.b64encode(unlock.seal(key, data, about=about, nonce=nonce))

    def _unwrap(self, key: bytes, data: bytes, about: bytes) -> bytes:
        try:
            sealed = base64.b64decode(data.removeprefix(_SEALED), validate=True)
        except ValueError as error:
            raise Corrupt(f"a sealed key beside {self._path} is damaged: {error}") from error
        return unlock.unseal(key, sealed, about=about)


def is_wrapped(data: bytes) -> bool:
    """Whether this is a sealed key, as it is on disk."""
    return data.startswith(_SEALED)
