"""A node's epoch: which keys it may use, and which it has used already.

A key must never count its nonces from the beginning twice (RFC 4106 §2). The kernel counts as long as a state
lives; so an epoch belongs to one life of this network namespace (its cookie is never given twice in a boot),
and a key that was used and that nobody counts with any more ends the epoch as well. So it is with keys that
others send with: whoever forgets what was taken with a key would take it twice. Used keys are written down,
as fingerprints, before they are used. The file lies where a reboot clears it.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from agent.dataplane.linux.encryption.keys import fingerprint
from swarmpy.errors import Unavailable
from swarmpy.model.value import Value

_SO_NETNS_COOKIE: Final = 71
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_EPOCH_BYTES: Final = 16


class _Ledger(Value, frozen=True, kw_only=True):
    place: str = ""
    epoch: str = ""
    used: tuple[str, ...] = ()


class Epoch:
    """``name`` is what keys are derived with. For one thread, in the node's namespace."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ledger = _Ledger()

    @property
    def name(self) -> str:
        return self._ledger.epoch

    def load(self) -> None:
        """Go on with the epoch of this life of the namespace, or begin one."""
        place = _place()
        try:
            self._ledger = msgspec.json.decode(self._path.read_bytes(), type=_Ledger)
        except (FileNotFoundError, msgspec.DecodeError):
            self._ledger = _Ledger()
        if self._ledger.place != place or not self._ledger.epoch:
            self._write(_Ledger(place=place, epoch=_fresh()))

    def was_used(self, keys: Iterable[tuple[int, bytes]]) -> bool:
        """Any of these; each with its secret's tag."""
        used = set(self._ledger.used)
        return any(_entry(tag, key) in used for tag, key in keys)

    def use(self, keys: Iterable[tuple[int, bytes]]) -> None:
        """Write down that these keys are about to be used."""
        used = tuple(dict.fromkeys((*self._ledger.used, *(_entry(tag, key) for tag, key in keys))))
        if used != self._ledger.used:
            self._write(_Ledger(place=self._ledger.place, epoch=self._ledger.epoch, used=used))

    def forget_before(self, tag: int) -> None:
        """Of keys whose secret is gone for good nothing has to be known any more: a tag never comes back."""
        used = tuple(each for each in self._ledger.used if int(each.partition(".")[0]) >= tag)
        if used != self._ledger.used:
            self._write(_Ledger(place=self._ledger.place, epoch=self._ledger.epoch, used=used))

    def end(self) -> None:
        """Begin another epoch: other keys from now on."""
        self._write(_Ledger(place=self._ledger.place, epoch=_fresh()))

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
        self._ledger = _Ledger()

    def _write(self, ledger: _Ledger) -> None:
        scratch = self._path.with_name(self._path.name + ".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_bytes(msgspec.json.encode(ledger))
            os.chmod(scratch, 0o600)
            os.replace(scratch, self._path)
        except OSError as error:
            raise Unavailable(f"cannot write {self._path}: {error.strerror}; free some space") from None
        self._ledger = ledger


def _fresh() -> str:
    return secrets.token_hex(_EPOCH_BYTES)


def _entry(tag: int, key: bytes) -> str:
    return f"{tag}.{fingerprint(key)}"


def _place() -> str:
    """The network namespace that this thread is in, and the boot that it belongs to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        cookie = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    return f"{_BOOT_ID.read_text().strip()}.{int.from_bytes(cookie, 'little')}"
