"""Which images a node gives up by itself, and which it never does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.executor.base import ImageConfig
from agent.executor.images.collection import (
    Candidate,
    Disk,
    Reason,
    Rules,
    is_fetchable,
    plan_collection,
)
from agent.executor.images.records import ImageRecord, StoredImage
from swarmpy.image_limits import IMAGE_GC_FRESH_S
from swarmpy.model.ids import SECOND_NS, Duration, Timestamp

DAY = 86_400
NOW = Timestamp(1_000 * DAY * SECOND_NS)
EMPTY, FULL = Disk(1_000, 100), Disk(1_000, 900)
RULES = Rules(Duration(14 * DAY * SECOND_NS), 85, 75)


def image(
    id_: str, *, unused_s: int, is_needed: bool = False, is_fetchable: bool = True, **parts: int
) -> Candidate:
    last_used = Timestamp(NOW - unused_s * SECOND_NS)
    return Candidate(id_, last_used, is_needed, is_fetchable, parts or {id_: 100})


def gone(*images: Candidate, rules: Rules = RULES, disk: Disk = EMPTY, needed: tuple[str, ...] = ()) -> str:
    found = plan_collection(images, rules=rules, disk=disk, now=NOW, needed_parts=needed)
    return " ".join(f"{victim.id}:{victim.reason}" for victim in found)


def test_what_is_old_goes() -> None:
    assert gone(image("a", unused_s=13 * DAY), image("b", unused_s=14 * DAY)) == "b:age"
    assert gone(image("b", unused_s=90 * DAY), rules=RULES._replace(age=Duration(0))) == ""
    assert gone(image("b", unused_s=90 * DAY, is_needed=True)) == ""
    assert gone(image("b", unused_s=90 * DAY, is_fetchable=False)) == ""


def test_a_full_disk_is_freed_until_it_is_full_no_more() -> None:
    images = [image(name, unused_s=(5 - number) * DAY) for number, name in enumerate("abcd")]
    assert gone(*images, disk=FULL) == "a:disk b:disk"
    assert gone(*images, disk=Disk(1_000, 849)) == ""
    assert gone(*images, disk=FULL, rules=RULES._replace(high_percent=0)) == ""
    assert gone(image("a", unused_s=IMAGE_GC_FRESH_S - 1), disk=FULL) == ""


def test_what_is_shared_frees_nothing() -> None:
    shared = image("a", unused_s=5 * DAY, base=100, a=10)
    images = (shared, image("b", unused_s=4 * DAY, base=100, b=60), image("c", unused_s=3 * DAY))
    assert gone(*images, disk=FULL) == "a:disk b:disk"
    assert gone(*images, disk=FULL, needed=("base",)) == "a:disk b:disk c:disk"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("r/a:1", "r/a@sha256:0"), True),
        (("r/a@sha256:0",), True),
        (("r/a:1",), False),
        (("r/a:1", "r/a@sha256:0", "mine:1"), False),
        ((), False),
    ],
)
def test_what_can_be_fetched_again(names: tuple[str, ...], expected: bool) -> None:
    record = ImageRecord(config=ImageConfig(reference=""))
    assert is_fetchable(StoredImage(record, names, NOW)) is expected


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        st.text("abcdef", min_size=1, max_size=3),
        st.integers(NOW - 60 * DAY * SECOND_NS, NOW + DAY * SECOND_NS).map(Timestamp),
        st.booleans(),
        st.booleans(),
        st.dictionaries(st.sampled_from("wxyz"), st.just(100)),
    ),
    unique_by=lambda image: image.id,
    max_size=8,
)
ALL_RULES = st.builds(
    lambda days, high, below: Rules(Duration(days * DAY * SECOND_NS), high, max(high - below, 0)),
    st.integers(0, 30),
    st.integers(0, 100),
    st.integers(0, 100),
)


@given(CANDIDATES, ALL_RULES, st.integers(0, 1_000))
def test_what_never_goes(images: list[Candidate], rules: Rules, used: int) -> None:
    disk = Disk(1_000, used)
    by_id = {image.id: image for image in images}
    victims = plan_collection(images, rules=rules, disk=disk, now=NOW)
    left_parts = {part for image in images for part in image.parts}
    is_full = rules.high_percent and used * 100 >= 1_000 * rules.high_percent
    freed = 0
    for victim in victims:
        image = by_id.pop(victim.id)
        assert image.is_fetchable
        assert not image.is_needed
        unused_ns = NOW - image.last_used
        if victim.reason is Reason.AGE:
            assert rules.age
            assert unused_ns >= rules.age
        else:
            assert unused_ns >= IMAGE_GC_FRESH_S * SECOND_NS
            assert is_full
            assert used - freed > 1_000 * rules.low_percent // 100  # no more than is asked for
        still = {part for other in by_id.values() for part in other.parts}
        freed += sum(image.parts[part] for part in left_parts - still)
        left_parts = still
    # longest unused first, and nothing that is too old is left
    assert [victim.last_used for victim in victims] == sorted(victim.last_used for victim in victims)
    for image in by_id.values():
        if rules.age and NOW - image.last_used >= rules.age:
            assert image.is_needed or not image.is_fetchable
