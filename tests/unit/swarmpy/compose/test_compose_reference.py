"""docs/compose.md says what the code does."""

from __future__ import annotations

from pathlib import Path

from swarmpy.compose.reference import MARKER, reference
from swarmpy.compose.runnable import MISSING
from swarmpy.compose.tables import TABLES

PAGE = Path(__file__).parents[4] / "docs" / "compose.md"


def test_the_table_of_keys_is_up_to_date() -> None:
    _, _, shown = PAGE.read_text(encoding="utf-8").partition(MARKER)
    assert shown.strip() == reference().strip(), "run: python -m swarmpy.compose.reference docs/compose.md"


def test_every_key_is_in_the_table() -> None:
    shown = reference()
    assert all(f"`{name}`" in shown for table in TABLES.values() for name in table)


def test_tables_and_keys_name_each_other() -> None:
    named = {key.table for table in TABLES.values() for key in table.values() if key.table}
    assert named == set(TABLES) - {"document"}
    assert {key.removeprefix("deploy.") for key in MISSING} <= {*TABLES["service"], *TABLES["deploy"]}
