"""Ids of containers follow from those of tasks, and lead back to them, beginnings too."""

from __future__ import annotations

from string import ascii_lowercase, digits

from hypothesis import given
from hypothesis import strategies as st

from swarmpy.model.container_ids import ID_DIGITS, container_id, object_prefix, short_container_id

IDS = st.text(digits + ascii_lowercase, min_size=25, max_size=25)


@given(IDS, IDS)
def test_ids_are_as_clients_expect_them_and_never_an_objects_own(one: str, other: str) -> None:
    made = container_id(one)
    assert len(made) == ID_DIGITS == 64
    assert set(made) <= set("0123456789abcdef")
    assert made.startswith(short_container_id(one))
    assert (made == container_id(other)) == (one == other)
    assert not one.startswith(made[:25])
    assert not short_container_id(one).isdigit(), "a name of digits alone is an address to many programs"


@given(IDS, st.integers(0, 64))
def test_a_beginning_leads_to_the_beginning_of_the_objects_id(one: str, length: int) -> None:
    beginning = object_prefix(container_id(one)[:length])
    assert beginning is not None
    assert one.startswith(beginning)
    assert len(beginning) == min(length // 2, 25)


def test_what_begins_no_containers_id() -> None:
    for text in ("web", "xyz", "ff", "3" * 65, "w.1", "3é", "74"):
        assert object_prefix(text) is None, text
