"""Rare collections end with the run that they are for."""

from __future__ import annotations

import gc

import pytest

from swarmpy.sim.collector import OBJECTS_NEW, rare_collections


def test_the_collector_is_as_before_afterwards() -> None:
    before = gc.get_threshold()

    def run() -> None:
        with rare_collections():
            assert gc.get_threshold()[0] == OBJECTS_NEW
            assert gc.get_freeze_count() > 0
            raise KeyError

    with pytest.raises(KeyError):
        run()
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
