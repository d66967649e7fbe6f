"""The page of differences is made of the table that the contract tests go by."""

from __future__ import annotations

from pathlib import Path

from oracle_differences import DIFFERENCES, Difference, page

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"


def test_the_page_is_made_of_the_table() -> None:
    assert PAGE.read_text() == page(), "run: python tests/support/oracle_differences.py docs/compatibility.md"


def test_every_difference_has_its_reason_and_stands_once() -> None:
    entries = [entry for part in DIFFERENCES.values() for entry in part]
    assert len(entries) == len(set(entries))
    assert all(len(entry.reason.split()) > 3 for entry in entries)


def test_a_star_stands_for_anything() -> None:
    entry = Difference("GET /services*", "[].Spec.*", "because")
    assert entry.covers("GET /services/$web", "[].Spec.Mode.Global")
    assert not entry.covers("POST /services/$web", "[].Spec.Mode.Global")
    assert not entry.covers("GET /services", "Spec.Mode")
