"""The search for an order: finds it where there is one, and says so where there is none."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from client_histories import Maker, create, read, remove, update
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmpy.sim.checkers import Checkers
from swarmpy.sim.checkers.history import Operation, Outcome, Refused, Seen, Verb
from swarmpy.sim.checkers.linearizable import Verdict, check_history, check_name

UNKNOWN = Outcome.UNKNOWN


def verdict(*operations: Operation, steps: int = 100_000, may_roll_back: bool = False) -> Verdict:
    return check_name("s", operations, steps=steps, may_roll_back=may_roll_back).verdict


FINE: dict[str, list[Operation]] = {
    "nothing": [],
    "a whole life": [
        read(0),
        create(1, "i1", "a"),
        read(2, "i1", 5, "a"),
        update(3, "i1", 5, "b"),
        read(4, "i1", 6, "b"),
        remove(5, "i1"),
        read(6),
        create(7, "i2", "c"),
        read(8, "i2", 9, "c"),
    ],
    "the cluster writes too": [create(1, "i1", "a"), read(2, "i1", 5, "a"), read(3, "i1", 9, "a")],
    "a read during a write sees either": [
        create(1, "i1", "a"),
        read(2, "i1", 5, "a"),
        update(3, "i1", 5, "b", returned_at=6.0),
        read(4, "i1", 6, "b"),
        read(7, "i1", 6, "b"),
    ],
    "an unknown write that took effect late": [
        create(1, "i1", "a"),
        update(2, "i1", 5, "b", outcome=UNKNOWN),
        read(3, "i1", 5, "a"),
        read(20, "i1", 6, "b"),
    ],
    "an unknown write that never did": [
        create(1, "i1", "a"),
        remove(2, "i1", outcome=UNKNOWN),
        read(20, "i1", 5, "a"),
    ],
    "an unknown create that did": [create(1, "", "a", outcome=UNKNOWN), read(2, "i1", 5, "a")],
    "refusals": [
        create(1, "i1", "a"),
        create(2, "", "b", outcome=Outcome.REFUSED, refused=Refused.EXISTS),
        remove(3, "i1"),
        update(4, "i1", 5, "c", outcome=Outcome.REFUSED, refused=Refused.MISSING),
    ],
    "updated by an id that was removed": [
        create(1, "i1", "a"),
        remove(2, "i1"),
        create(3, "i2", "b"),
        update(4, "i1", 5, "c", outcome=Outcome.REFUSED, refused=Refused.MISSING),
    ],
}

BROKEN: dict[str, list[Operation]] = {
    "stale read after an update": [
        create(1, "i1", "a"),
        read(2, "i1", 5, "a"),
        update(3, "i1", 5, "b"),
        read(4, "i1", 5, "a"),
    ],
    "stale read after a newer read": [
        create(1, "i1", "a"),
        update(2, "i1", 5, "b", returned_at=9.0),
        read(3, "i1", 6, "b"),
        read(4, "i1", 5, "a"),
    ],
    "a version that goes back": [create(1, "i1", "a"), read(2, "i1", 9, "a"), read(3, "i1", 5, "a")],
    "lost update": [
        create(1, "i1", "a"),
        read(2, "i1", 5, "a"),
        update(3, "i1", 5, "b", returned_at=4.0),
        update(3, "i1", 5, "c", returned_at=4.0),
    ],
    "lost create": [create(1, "i1", "a"), read(2)],
    "double create": [create(1, "i1", "a"), create(2, "i2", "b")],
    "double create at the same time": [create(1, "i1", "a"), create(1, "i2", "b")],
    "removed twice": [create(1, "i1", "a"), remove(2, "i1"), remove(3, "i1")],
    "back after its removal": [create(1, "i1", "a"), remove(2, "i1"), read(3, "i1", 5, "a")],
    "another one of the name appears": [create(1, "i1", "a"), read(2, "i9", 5, "a")],
    "seen before it was made": [read(1, "i1", 5, "a"), create(2, "i1", "a")],
    "a refused write is seen": [
        create(1, "i1", "a"),
        update(2, "i1", 5, "b", outcome=Outcome.REFUSED),
        read(3, "i1", 6, "b"),
    ],
    "an unknown write took effect twice": [
        create(1, "", "a", outcome=UNKNOWN),
        read(2, "i1", 5, "a"),
        remove(3, "i1"),
        read(4, "i2", 9, "a"),
    ],
    "refused as taken where there is none": [
        create(2, "", "b", outcome=Outcome.REFUSED, refused=Refused.EXISTS)
    ],
    "refused as missing where there is one": [
        create(1, "i1", "a"),
        remove(2, outcome=Outcome.REFUSED, refused=Refused.MISSING),
    ],
}


@pytest.mark.parametrize("name", FINE)
def test_histories_that_have_an_order(name: str) -> None:
    assert verdict(*FINE[name]) is Verdict.OK


@pytest.mark.parametrize("name", BROKEN)
def test_histories_that_have_none(name: str) -> None:
    result = check_name("s", BROKEN[name])
    assert result.verdict is Verdict.VIOLATED
    assert result.last


def test_a_rollback_by_the_cluster_is_fine_only_where_it_may_happen() -> None:
    history = [
        create(1, "i1", "a"),
        read(2, "i1", 5, "a"),
        update(3, "i1", 5, "b"),
        read(4, "i1", 6, "b"),
        read(5, "i1", 9, "a"),
    ]
    assert verdict(*history) is Verdict.VIOLATED
    assert verdict(*history, may_roll_back=True) is Verdict.OK
    stale = [*history[:4], read(5, "i1", 5, "a")]
    assert verdict(*stale, may_roll_back=True) is Verdict.VIOLATED


def test_a_service_goes_back_to_any_spec_that_it_had_and_to_no_other() -> None:
    history = [
        create(1, "i1", "a"),
        read(2, "i1", 5, "a"),
        update(3, "i1", 5, "b"),
        update(4, "i1", 6, "c"),
        read(5, "i1", 9, "a"),
        read(6, "i1", 11, "c"),
        remove(7, "i1"),
        create(8, "i2", "d"),
    ]
    assert verdict(*history, may_roll_back=True) is Verdict.OK
    assert verdict(*history[:5], read(6, "i1", 8, "c"), may_roll_back=True) is Verdict.VIOLATED
    assert verdict(*history, read(9, "i2", 20, "a"), may_roll_back=True) is Verdict.VIOLATED


def test_a_list_is_a_read_of_every_name() -> None:
    def listing(at: float, *seen: Seen) -> Operation:
        return Operation(verb=Verb.LIST, called_at=at, returned_at=at + 0.5, seen=seen)

    made = create(1, "i1", "a")
    there = Seen(name="s", id="i1", version=5, mark="a")
    assert [each.verdict for each in check_history([made, listing(2, there)])] == [Verdict.OK]
    assert [each.verdict for each in check_history([made, listing(2)])] == [Verdict.VIOLATED]
    ghost = Seen(name="ghost", id="i2", version=5, mark="a")
    results = {each.name: each.verdict for each in check_history([made, listing(2, there, ghost)])}
    assert results == {"s": Verdict.OK, "ghost": Verdict.VIOLATED}


def hard() -> list[Operation]:
    """Many unknown writes, each of which fits nearly everywhere, and a last read that none explains."""
    unknown = [update(2, "i1", 1000 + number, f"u{number}", outcome=UNKNOWN) for number in range(40)]
    return [create(1, "i1", "a"), *unknown, read(3, "i1", 5000, "nowhere")]


def test_a_search_that_is_too_long_is_undecided_and_no_pass() -> None:
    assert verdict(*hard(), steps=2_000) is Verdict.UNDECIDED
    checkers = Checkers(lambda: 0.0)
    for operation in [*hard(), *(replace(each, name="other") for each in FINE["a whole life"])]:
        checkers.operation(operation)
    checkers._options = replace(checkers._options, search_steps=2_000)
    summary = checkers.final({})
    assert summary.undecided == ("s",)
    assert not summary.is_clean


def test_a_history_that_was_cut_is_undecided() -> None:
    checkers = Checkers(lambda: 0.0)
    checkers.history._limit = 3
    for operation in FINE["a whole life"]:
        checkers.operation(operation)
    assert checkers.final({}).undecided == ("",)


def test_the_facade_names_the_service() -> None:
    checkers = Checkers(lambda: 0.0)
    for operation in BROKEN["lost update"]:
        checkers.operation(operation)
    assert not checkers.final({}).is_clean
    (violation,) = checkers.violations
    assert violation.sentence == "no order explains what clients were told of service s"
    assert "mark='b'" in dict(violation.facts)["stuck_at"] or "mark='c'" in dict(violation.facts)["stuck_at"]


# --- properties


def made(seed: int, *, names: int = 3, count: int = 60, concurrency: float = 4.0) -> list[Operation]:
    return Maker(Random(seed), names=names, concurrency=concurrency).history(count)


@given(seed=st.integers(0, 2**32), concurrency=st.sampled_from([0.1, 1.0, 4.0, 10.0]))
@settings(max_examples=60, deadline=None)
def test_histories_that_have_an_order_by_construction_pass(seed: int, concurrency: float) -> None:
    history = made(seed, concurrency=concurrency)
    assert {each.verdict for each in check_history(history)} <= {Verdict.OK}


@given(seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=60, deadline=None)
def test_mutations_that_leave_no_order_fail(seed: int, data: st.DataObject) -> None:
    """Sequential histories, so that each mutation is certainly wrong: a read of what was overwritten, the
    same update twice, a second create, a service that is there after its removal."""
    history = Maker(Random(seed), names=1, concurrency=0.0, unknown=0.0).history(40)
    oks = [index for index, each in enumerate(history) if each.outcome is Outcome.OK]
    writes = [index for index in oks if history[index].verb is not Verb.READ]
    if not writes:
        return
    index = data.draw(st.sampled_from(writes))
    broken = [*history[: index + 1], _contradiction(history[: index + 1]), *history[index + 1 :]]
    assert check_name("s0", history).verdict is Verdict.OK
    assert check_name("s0", broken).verdict is Verdict.VIOLATED


def _contradiction(history: list[Operation]) -> Operation:
    last = history[-1]
    at = last.returned_at + 0.5
    match last.verb:
        case Verb.CREATE:
            return replace(last, id="other", called_at=at, returned_at=at)
        case Verb.UPDATE:
            return replace(last, mark="lost", called_at=at, returned_at=at)
        case _:
            ghost = Seen(name="s0", id=last.id, version=10**6, mark="ghost")
            return Operation(verb=Verb.READ, name="s0", seen=(ghost,), called_at=at, returned_at=at)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_a_stale_read_fails(seed: int) -> None:
    history = Maker(Random(seed), names=1, concurrency=0.0, unknown=0.0).history(40)
    reads = [each for each in history if each.verb is Verb.READ and each.seen]
    for old in reads:
        later = [
            each
            for each in history
            if each.called_at > old.called_at and each.outcome is Outcome.OK and each.verb is Verb.UPDATE
        ]
        if later:
            at = later[0].returned_at + 0.5
            stale = replace(old, called_at=at, returned_at=at)
            broken = sorted([*history, stale], key=lambda each: each.called_at)
            assert check_name("s0", broken).verdict is Verdict.VIOLATED
