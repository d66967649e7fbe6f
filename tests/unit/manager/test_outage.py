"""How long there was no leader, as one manager sees it."""

from __future__ import annotations

import math

import pytest

from manager.outage import Outage
from swarmpy.limits import OUTAGE_LOOK_S, OUTAGE_SETTLED_S

SETTLED = OUTAGE_SETTLED_S


def look(outage: Outage, leader: str | None, begin: float, end: float) -> None:
    """As a manager does that is awake all the time."""
    now = begin
    while now <= end:
        outage.note(leader, now=now)
        now += OUTAGE_LOOK_S


def test_a_manager_that_was_started_anew_takes_the_outage_for_endless() -> None:
    outage = Outage()
    assert outage.seconds(now=100.0) == math.inf
    outage.note("me", now=102.0)
    assert outage.seconds(now=102.0) == math.inf


def test_one_that_joins_knows_that_there_was_a_leader() -> None:
    outage = Outage(since=100.0)
    look(outage, "a", 101.0, 103.0)
    outage.note(None, now=103.0)
    outage.note("me", now=104.0)
    assert outage.seconds(now=104.0) == 4.0


def test_the_time_between_two_leaders_counts() -> None:
    outage = Outage()
    look(outage, "a", 100.0, 100.0 + SETTLED)
    look(outage, None, 100.0 + SETTLED, 103.0 + SETTLED)
    assert outage.seconds(now=103.0 + SETTLED) == 3.0
    outage.note("me", now=105.0 + SETTLED)
    assert outage.seconds(now=106.0 + SETTLED) == 5.0


def test_a_leader_that_follows_another_at_once_ends_no_outage() -> None:
    outage = Outage()
    look(outage, "a", 100.0, 200.0)
    outage.note("me", now=200.0)
    assert outage.seconds(now=201.0) == 0.0


def test_a_leader_of_a_moment_has_not_ended_the_outage() -> None:
    outage = Outage(since=0.0)
    look(outage, None, 0.0, 60.0)
    outage.note("a", now=60.0)
    outage.note(None, now=61.0)
    outage.note("me", now=62.0)
    assert outage.seconds(now=62.0) == 62.0


def test_one_that_led_for_long_leads_anew_without_an_outage() -> None:
    """Its loops failed and began again; raft knew no other leader."""
    outage = Outage()
    look(outage, "me", 100.0, 150.0)
    assert outage.seconds(now=150.0) == 0.0


@pytest.mark.parametrize("leader", [None, "me", "b"], ids=["no leader then", "the same", "another"])
def test_one_that_was_frozen_does_not_vouch_for_the_time_that_it_missed(leader: str | None) -> None:
    outage = Outage()
    look(outage, "me", 100.0, 150.0)
    outage.note(leader, now=210.0)
    outage.note("me", now=212.0)
    assert outage.seconds(now=212.0) == (60.0 if leader == "me" else 62.0)
    look(outage, "me", 213.0, 213.0 + SETTLED)
    assert outage.seconds(now=213.0 + SETTLED) == 0.0
