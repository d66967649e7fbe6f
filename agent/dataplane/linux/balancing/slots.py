"""Which backend each slot of a service leads to: pure, with as few moves as a change of backends allows.

A new connection takes a slot at random, so the slots are the weights. Few backends have a slot each; many
share a power of four that is three to twenty-four times their number, so that one more or one less moves only
its own share and seldom changes how many slots there are.

What always holds of ``spread``: every slot leads to one of the backends; shares differ by one slot at most; a
slot is moved only if its backend has gone or holds more than its share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

from swarmpy.limits import VIP_SLOTS_MAX

EXACT_MAX = 8
"""Up to so many backends: a slot each."""
SIZES = (*range(1, EXACT_MAX + 1), 64, 256, 1_024, 4_096, VIP_SLOTS_MAX)
"""All numbers of slots that a service may have; the rules have a chain for each."""
_FREE = ""
_SHARE, _SHARE_MIN, _SHARE_MAX = 4, 3, 24
"""Slots per backend: at least so many at first, and between these two before the number changes."""


def slot_count(backends: int, former: int = 0) -> int:
    """How many slots so many backends share, if there were ``former`` slots before."""
    if backends <= EXACT_MAX:
        return backends
    if former > EXACT_MAX and backends * _SHARE_MIN <= former <= backends * _SHARE_MAX:
        return former
    return next((size for size in SIZES if size >= backends * _SHARE), VIP_SLOTS_MAX)


def spread(backends: Sequence[str], former: Sequence[str] = ()) -> tuple[str, ...]:
    """The slots of ``backends``, as near to ``former`` as is fair. ``backends`` are distinct.

    More backends than the largest number of slots: those in excess get none.
    """
    size = slot_count(len(backends), len(former))
    if not size:
        return ()
    standing = set(backends)
    slots = [backend if backend in standing else _FREE for backend in former[:size]]
    slots += [_FREE] * (size - len(slots))
    held = Counter(slots)
    shares = _shares(backends, held, size)
    _take_back(slots, {each: held[each] - share for each, share in shares.items() if held[each] > share})
    position = 0
    for backend, share in shares.items():
        for _ in range(share - held[backend]):
            # neighbours may be one backend's: slots are drawn at random, so it does not matter
            position = slots.index(_FREE, position)
            slots[position] = backend
    return tuple(slots)


def _shares(backends: Sequence[str], held: Counter[str], size: int) -> dict[str, int]:
    """How many slots each gets; the larger shares go to those who hold more already."""
    share, over = divmod(size, len(backends))
    rich = [backend for backend in backends if held[backend] > share]
    poor = [backend for backend in backends if held[backend] <= share]
    larger = set([*rich, *poor][:over])
    return {backend: share + (backend in larger) for backend in backends}


def _take_back(slots: list[str], excess: dict[str, int]) -> None:
    """Free as many slots as each backend holds too many."""
    for position, backend in enumerate(slots) if excess else ():
        if excess.get(backend):
            excess[backend] -= 1
            slots[position] = _FREE


def favourite(client: str, backends: Sequence[str], former: str = "") -> str:
    """The one backend of a client that sticks: the former one while it stands, else by the client's address.

    Each client ranks all backends by a hash, so the clients of a backend that goes spread over the others.
    """
    if former in backends:
        return former
    return max(backends, key=lambda backend: _rank(client, backend))


def favourites(
    count: int, backends: Sequence[str], *, former: Sequence[str] = (), among: Sequence[str] = ()
) -> tuple[str, ...]:
    """The favourite of each of so many clients, known by their numbers, whatever was before; of one backend
    at least.

    ``former``: what this said of the backends ``among``. So a change costs what it changes: who has come is
    compared with the favourite, and all are ranked only for clients whose favourite has gone.
    """
    if len(former) != count or not among:
        return tuple(favourite(str(number), backends) for number in range(count))
    standing, known = frozenset(backends), frozenset(among)
    new = [backend for backend in backends if backend not in known]
    return tuple(
        favourite(str(number), [best, *new] if best in standing else backends)
        for number, best in enumerate(former)
    )


def _rank(client: str, backend: str) -> bytes:
    return blake2b(f"{client} {backend}".encode(), digest_size=8).digest()
