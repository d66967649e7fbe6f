"""``Arrival``: what of an offer is on a node by now, and what is still asked for. Without I/O.

Parts may be lost, doubled or late: a part counts only where the blob goes on with it, whatever else comes is
dropped, and what is missing at the sender's end is asked for again. Nothing counts as here before its digest
was found right. Who sends the same wrong things again and again is given up.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from swarmpy.errors import InvalidArgument, Unavailable
from swarmpy.image_push_limits import IMAGE_LACKS_MAX, IMAGE_ROUNDS_MAX
from swarmpy.model.image_offers import Lack, Offer, Receipt


class Write(NamedTuple):
    """Write this there. ``is_last``: then look at the blob's digest, and tell ``checked``."""

    digest: str
    offset: int
    data: bytes
    is_last: bool


class Arrival:
    """``missing``: digests that the node wants of the offer. ``begun``: how much there is of some of them, of
    an earlier try; the blobs of which all is there have been checked."""

    def __init__(self, offer: Offer, missing: Collection[str], begun: Mapping[str, int]) -> None:
        self._layers = offer.layers()
        self._sizes = {digest: blob.size for digest, blob in offer.blobs().items() if digest in missing}
        self._here = {digest: min(begun.get(digest, 0), size) for digest, size in self._sizes.items()}
        self._lacking = [digest for digest, size in self._sizes.items() if begun.get(digest) != size]
        self._to_come = frozenset(self._lacking) & self._layers.keys()
        self._asked: frozenset[str] = frozenset()
        self._barren_rounds = 0
        self._is_fruitful = True
        self.received_bytes = 0
        """Of content that was new, from this stream."""
        self._layer_bytes = 0

    @property
    def is_whole(self) -> bool:
        return not self._lacking

    def ask(self) -> tuple[Lack, ...]:
        """What to send next. Unavailable if asking has brought nothing for too long."""
        self._barren_rounds = 0 if self._is_fruitful else self._barren_rounds + 1
        if self._barren_rounds >= IMAGE_ROUNDS_MAX:
            raise Unavailable(
                f"what was sent of {self._lacking[0]} did not come whole, although it was asked for "
                f"{IMAGE_ROUNDS_MAX} times: push again"
            )
        self._is_fruitful = False
        wanted = self._lacking[:IMAGE_LACKS_MAX]
        self._asked = frozenset(wanted)
        return tuple(Lack(digest=digest, offset=self._here[digest]) for digest in wanted)

    def take(self, digest: str, offset: int, data: bytes) -> Write | None:
        """One part, which the sender did send. None: there is nothing to do about it."""
        if digest not in self._sizes:
            raise InvalidArgument(f"{digest} was sent, which nobody has asked for")
        if offset < 0 or offset + len(data) > self._sizes[digest]:
            raise InvalidArgument(f"more was sent of {digest} than the {self._sizes[digest]} bytes offered")
        here = self._here[digest]
        new = data[here - offset :] if offset <= here else b""
        is_empty = self._sizes[digest] == 0
        if digest not in self._asked or digest not in self._lacking or not (new or is_empty):
            return None
        self._here[digest] = here + len(new)
        self.received_bytes += len(new)
        if digest in self._layers:
            self._layer_bytes += len(new)
        return Write(digest, here, new, self._here[digest] == self._sizes[digest])

    def checked(self, digest: str, *, is_right: bool) -> None:
        """What the digest of a whole blob is. A wrong one is to be sent anew, all of it."""
        if is_right:
            self._lacking.remove(digest)
            self._is_fruitful = True
        else:
            self._here[digest] = 0

    def receipt(self, names: tuple[str, ...]) -> Receipt:
        return Receipt(
            names=names,
            layers_here=len(self._layers) - len(self._to_come),
            layers_sent=len(self._to_come),
            layer_bytes=self._layer_bytes,
        )
