"""Slots behind a virtual address: fair whatever happened before, and moved no more than must be."""

from __future__ import annotations

from collections import Counter

from budget import machine_settings
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.dataplane.base import Balancer
from agent.dataplane.linux.balancing import rules
from agent.dataplane.linux.balancing.rules import ServiceSlots
from agent.dataplane.linux.balancing.slots import EXACT_MAX, SIZES, favourite, favourites, slot_count, spread
from agent.dataplane.linux.elements import Element, difference
from swarmpy.limits import VIP_SLOTS_MAX


def backends(count: int, start: int = 0) -> list[str]:
    return [f"10.0.{number // 250}.{number % 250 + 1}" for number in range(start, start + count)]


def shares(slots: tuple[str, ...], among: list[str]) -> list[int]:
    held = Counter(slots)
    assert set(held) <= set(among)
    return [held[each] for each in among]


sizes = st.integers(min_value=1, max_value=150)
pools = st.sets(st.integers(min_value=0, max_value=199), max_size=120).map(
    lambda chosen: [backends(200)[number] for number in sorted(chosen)]
)


@given(pools, st.lists(st.sampled_from([*backends(200), "10.9.9.9"]), max_size=300))
@example(backends(1_000), ["10.9.9.9"] * 4_096)
def test_any_former_slots_become_fair(among: list[str], former: list[str]) -> None:
    slots = spread(among, former)
    assert len(slots) in (0, *SIZES)
    assert len(slots) == slot_count(len(among), len(former))
    if among:
        counts = shares(slots, among)
        assert max(counts) - min(counts) <= 1
        assert min(counts) >= 1
        assert spread(among, slots) == slots, "what is fair stays as it is"


@given(sizes, st.integers(min_value=0))
@example(1_000, 7)
def test_one_more_takes_its_share_and_one_less_leaves_it(count: int, choice: int) -> None:
    among = backends(count)
    slots = spread(among)
    newcomer = "10.0.200.1"
    more = spread([*among, newcomer], slots)
    if len(more) == len(slots):
        moved = [after for before, after in zip(slots, more, strict=True) if before != after]
        assert moved == [newcomer] * Counter(more)[newcomer]
    gone = among[choice % count]
    less = spread([each for each in among if each != gone], slots)
    if len(less) == len(slots):
        left = [before for before, after in zip(slots, less, strict=True) if before != after]
        assert left == [gone] * Counter(slots)[gone]


@given(st.integers(min_value=1, max_value=EXACT_MAX - 1), st.integers(min_value=0))
def test_among_few_one_slot_moves(count: int, choice: int) -> None:
    among = backends(count)
    slots = spread(among)
    assert spread([*among, "10.0.200.1"], slots)[:count] == slots
    gone = among[choice % count]
    less = spread([each for each in among if each != gone], slots)
    assert sum(before != after for before, after in zip(slots, less, strict=False)) <= 1


@given(st.integers(min_value=0, max_value=5_000), st.sampled_from((0, *SIZES)))
def test_there_are_enough_slots_but_not_too_many(count: int, former: int) -> None:
    size = slot_count(count, former)
    assert size in (0, *SIZES)
    if count > EXACT_MAX:
        assert size == VIP_SLOTS_MAX or 3 * count <= size <= 24 * count
    else:
        assert size == count


def test_a_backend_that_comes_and_goes_does_not_change_how_many_slots_there_are() -> None:
    slots = spread(backends(64))
    for count in (65, 64, 65, 64, 80, 64):
        slots = spread(backends(count), slots)
        assert len(slots) == 256


def test_more_backends_than_slots_is_fine() -> None:
    among = [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(VIP_SLOTS_MAX + 10)]
    assert set(Counter(spread(among)).values()) == {1}


# --- clients that stick


@given(pools, pools, st.integers(min_value=0, max_value=99))
def test_a_favourite_lasts_while_it_stands(before: list[str], after: list[str], client: int) -> None:
    if before and after:
        first = favourite(f"10.1.0.{client}", before)
        second = favourite(f"10.1.0.{client}", after, first)
        assert first in before
        assert second in after
        assert second == first or first not in after


@given(pools, pools)
def test_favourites_are_the_same_whatever_was_before(before: list[str], after: list[str]) -> None:
    """A node that follows a change comes to what another one finds that starts with it."""
    if before and after:
        known = favourites(16, before)
        assert favourites(16, after, former=known, among=before) == favourites(16, after)


def test_favourites_are_spread_evenly_and_over_all_that_are_left() -> None:
    among = backends(10)
    chosen = {client: favourite(f"10.1.{client // 250}.{client % 250}", among) for client in range(1_000)}
    counts = Counter(chosen.values())
    assert set(counts) == set(among)
    assert max(counts.values()) < 2 * min(counts.values())
    left = [each for each in among if each != among[0]]
    moved = Counter(
        favourite(f"10.1.{client // 250}.{client % 250}", left)
        for client, backend in chosen.items()
        if backend == among[0]
    )
    assert set(moved) == set(left)


# --- elements

addresses = st.sampled_from(["10.0.0.2", "10.0.0.3", "fd00::2", "fd00::3"])
members = st.sampled_from([*backends(20, 10), *(f"fd00::1:{number}" for number in range(1, 12))])
balancers = st.builds(
    Balancer,
    vips=st.sets(addresses, min_size=1).map(lambda chosen: tuple(sorted(chosen))),
    backends=st.sets(members).map(lambda chosen: tuple(sorted(chosen))),
    is_sticky=st.booleans(),
)


class ElementsMachine(RuleBasedStateMachine):
    """A namespace to which only the steps of a service are sent always has what they amount to."""

    def __init__(self) -> None:
        super().__init__()
        self.service: ServiceSlots | None = None
        self.kernel: dict[Element, bytes] = {}

    @rule(balancer=st.none() | balancers)
    def change(self, balancer: Balancer | None) -> None:
        former = self.service.slots if self.service else {}
        now = rules.place(balancer, former) if balancer else None
        removed, added = rules.step(self.service, now, (4, 6))
        assert removed.items() <= self.kernel.items(), "the kernel refuses to remove what is not there"
        for key in removed:
            del self.kernel[key]
        assert not added.keys() & self.kernel.keys(), "and to add what is there"
        self.kernel.update(added)
        self.service = now

    @invariant()
    def it_is_as_if_written_at_once(self) -> None:
        wished = rules.elements_of(self.service, (4, 6)) if self.service else {}
        assert self.kernel == wished

    @invariant()
    def slots_are_found_again(self) -> None:
        if self.service is not None:
            for vip in self.service.balancer.vips:
                version = rules.version_of(vip)
                assert rules.slots_in(self.kernel, vip) == self.service.slots.get(version, ())


TestElements = ElementsMachine.TestCase
TestElements.settings = machine_settings(examples=40, steps=15)


def test_a_task_without_ipv6_is_told_nothing_of_it() -> None:
    service = rules.place(Balancer(vips=("10.0.0.2", "fd00::2"), backends=("10.0.0.9", "fd00::9")), {})
    assert {each.map for each in rules.elements_of(service, (4,))} == {"ip_vips", "ip_slots"}
    assert "ip6" not in rules.ruleset((4,))


@given(balancers, balancers)
def test_a_difference_leads_from_one_to_the_other(former: Balancer, now: Balancer) -> None:
    before = rules.elements_of(rules.place(former, {}), (4, 6))
    after = rules.elements_of(rules.place(now, {}), (4, 6))
    removed, added = difference(before, after)
    rest = {key: value for key, value in before.items() if key not in removed}
    assert {**rest, **added} == after
    assert difference(after, after) == ({}, {})
