"""Where managers are, and in which order to ask them for a session.

The order: whom we were last told of as leader, then the others in rotation, so that one that does not
answer, or knows no leader, is asked last the next time.
"""

from __future__ import annotations

from collections.abc import Iterable

from swarmpy.limits import SESSION_LOST_SUSPECT_S, SESSION_SUSPECT_S


class Managers:
    """Known addresses, ``host:port``. No I/O, no clock."""

    def __init__(self, addresses: Iterable[str] = ()) -> None:
        self._addresses = list(dict.fromkeys(address for address in addresses if address))
        self._suspected: dict[str, float] = {}

    @property
    def addresses(self) -> tuple[str, ...]:
        """All of them, the one to ask first at the front."""
        return tuple(self._addresses)

    def in_turn(self, now: float) -> list[str]:
        """In which order to ask; those that were just lost come last, for they may cost a timeout."""
        return sorted(self._addresses, key=lambda address: self.is_suspect(address, now))

    def learn(self, addresses: Iterable[str]) -> bool:
        """Take the cluster's own list; True if that changed anything. An empty list is not believed."""
        told = list(dict.fromkeys(address for address in addresses if address))
        if not told or set(told) == set(self._addresses):
            return False
        kept = [address for address in self._addresses if address in told]
        self._addresses = kept + [address for address in told if address not in kept]
        return True

    def add(self, address: str) -> None:
        """A manager that is not on the list may still be one: of the join, or just promoted."""
        if address and address not in self._addresses:
            self._addresses.append(address)

    def prefer(self, address: str) -> bool:
        """Ask this one first; True if that is new."""
        self._suspected.pop(address, None)
        if self._addresses[:1] == [address]:
            return False
        self._addresses = [address, *(other for other in self._addresses if other != address)]
        return True

    def defer(self, address: str) -> None:
        """Ask this one last."""
        if address in self._addresses:
            self._addresses.remove(address)
            self._addresses.append(address)

    def suspect(self, address: str, now: float) -> None:
        """It did not answer: for a while do not believe others that it leads."""
        self.defer(address)
        self._suspected[address] = now + SESSION_SUSPECT_S

    def lost(self, address: str, now: float) -> None:
        """Its session broke: the same, but only until others would have noticed that it has gone."""
        self.defer(address)
        self._suspected[address] = now + SESSION_LOST_SUSPECT_S

    def trust_all(self) -> None:
        """Forget all suspicion: something has changed."""
        self._suspected.clear()

    def is_suspect(self, address: str, now: float) -> bool:
        return self._suspected.get(address, now) > now
