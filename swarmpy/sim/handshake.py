"""TLS without bytes: whether the two ends of a connection take each other's certificates.

As with the real one: a client's certificate must be one of the server's bundle (a join token's) or be issued
by an authority in it; a server's must be issued by one of the client's roots and name the role that is
expected; intermediates that are shown may lead there; each end judges validity by its own wall clock. That an
end has the key of what it shows is taken for granted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarmpy import pki
from swarmpy.errors import SwarmError
from swarmpy.model.ids import Timestamp
from swarmpy.pki import Role, Subject, Validity

if TYPE_CHECKING:
    from swarmpy.sim.connection import End

CERTIFICATE_BYTES = 1_000
"""What a certificate in a handshake counts for."""

_Verdict = tuple[Subject, Validity] | None


class Verdicts:
    """Remembers which certificate goes with which bundle: signatures are checked once per pair."""

    def __init__(self) -> None:
        self._issued: dict[tuple[bytes, bytes], _Verdict] = {}
        self._parts: dict[bytes, tuple[bytes, ...]] = {}
        self._roles: dict[bytes, Role | None] = {}

    def split(self, pem: bytes) -> tuple[bytes, ...]:
        """Each certificate of a bundle."""
        parts = self._parts.get(pem)
        if parts is None:
            parts = self._parts[pem] = pki.split_pem(pem) if pem else ()
        return parts

    def leaf(self, pem: bytes) -> bytes:
        """The first certificate of a chain, normalised."""
        return self.split(pem)[0]

    def chain(self, pem: bytes) -> bytes:
        """All that is shown, normalised."""
        return b"".join(self.split(pem))

    def role_of(self, leaf: bytes) -> Role | None:
        """What a certificate says its owner is; None if it says nothing of the kind."""
        if leaf not in self._roles:
            try:
                self._roles[leaf] = pki.read_certificate(leaf)[0].role
            except SwarmError:
                self._roles[leaf] = None
        return self._roles[leaf]

    def is_client_welcome(self, chain: bytes, bundle: bytes, now: Timestamp) -> bool:
        if chain in self.split(bundle):
            return True  # a join token's certificate: no clock takes part in joining by token
        verdict = self._verdict(chain, bundle)
        return verdict is not None and verdict[1].holds_at(now)

    def is_server_trusted(self, chain: bytes, roots: bytes, now: Timestamp) -> bool:
        verdict = self._verdict(chain, roots)
        return verdict is not None and verdict[1].holds_at(now)

    def _verdict(self, chain: bytes, roots: bytes) -> _Verdict:
        key = (chain, roots)
        if key in self._issued:
            return self._issued[key]
        try:
            _, validity = pki.read_certificate(chain)
            # signatures only: when it holds is asked every time
            found: _Verdict = pki.verify_certificate(chain, roots, validity.not_before)
        except SwarmError:
            found = None
        self._issued[key] = found
        return found


def show(end: End, pem: bytes) -> None:
    """Show certificates to the other end."""
    if end.peer is not None and not end.is_broken:
        end.out.send(_shown, (end.peer, pem), CERTIFICATE_BYTES)


def _shown(packet: tuple[End, bytes]) -> None:
    """Runs in the process that is shown them."""
    end, pem = packet
    if end.owner is not None and not end.is_broken:
        end.owner.shown(end, pem)
