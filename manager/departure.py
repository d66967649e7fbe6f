"""``Departure``: a manager's end of a push to one node: what to send, as the node asks for it. Without I/O.

The node decides what it lacks; here it is held to what was offered, and to a bound: a node that asks for the
same again and again, and so never comes to an end, is given up.
"""

from __future__ import annotations

from typing import NamedTuple

from swarmpy.errors import Unavailable
from swarmpy.image_push_limits import IMAGE_LACKS_MAX, IMAGE_ROUNDS_MAX
from swarmpy.model.image_offers import Answer, Offer


class Piece(NamedTuple):
    """Send ``digest`` from ``offset`` up to its end at ``size``."""

    digest: str
    offset: int
    size: int


class Departure:
    def __init__(self, offer: Offer) -> None:
        self._blobs = offer.blobs()
        self._rounds_left = len(self._blobs) // IMAGE_LACKS_MAX + 1 + len(self._blobs) * IMAGE_ROUNDS_MAX
        self.wanted_bytes = 0
        """What the node has asked for at first, as far as is known: the whole of the way."""
        self._is_asked = False

    def answered(self, answer: Answer) -> tuple[Piece, ...]:
        """Nothing to send if the node did not ask, or lacks nothing."""
        if not answer.lacks:
            return ()
        self._rounds_left -= 1
        if self._rounds_left < 0:
            raise Unavailable("the node asks for the same parts again and again: the push to it is given up")
        pieces = []
        for lack in answer.lacks:
            blob = self._blobs.get(lack.digest)
            if blob is None or not 0 <= lack.offset <= blob.size:
                raise Unavailable(
                    f"the node asks for {lack.digest} from {lack.offset} on, which is not offered"
                )
            pieces.append(Piece(blob.digest, lack.offset, blob.size))
        if not self._is_asked:
            self._is_asked = True
            self.wanted_bytes = sum(piece.size - piece.offset for piece in pieces)
        return tuple(pieces)
