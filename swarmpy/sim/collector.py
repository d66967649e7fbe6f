"""Python's garbage collector during a simulated run: rarely, since it looks at all that a swarm is made of.

Most of what a run makes lives as long as its host, or dies without the collector's help. With Python's own
settings the collector takes a third of the time of a run with a thousand nodes.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

OBJECTS_NEW = 50_000
"""Python's own is 700."""
YOUNG_ROUNDS = 20
MIDDLE_ROUNDS = 50


@contextmanager
def rare_collections() -> Iterator[None]:
    """What is there already is not looked at meanwhile."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS_NEW, YOUNG_ROUNDS, MIDDLE_ROUNDS)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
