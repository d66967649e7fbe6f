"""docs/clients.md says what these tests show."""

from __future__ import annotations

import client_table
import pytest


def test_the_page_says_what_the_tests_show(request: pytest.FixtureRequest) -> None:
    """Of the clients that this run has tests of. A version of a client that is not on this machine stays in
    the page as it was last seen."""
    here = client_table.declared(request.session.items)
    written = client_table.written_rows()
    assert [row for row in here if row not in written] == [], client_table.HOW
    clients = {row.client for row in here}
    if _is_whole(request):
        assert [row for row in written if row.client in clients and row not in here] == [], client_table.HOW


def _is_whole(request: pytest.FixtureRequest) -> bool:
    """Whether every file of this folder was collected, with nothing left out by name."""
    folder = request.path.parent
    collected = {item.path for item in request.session.items}
    config = request.config
    is_chosen = config.getoption("keyword") or config.getoption("markexpr") or "::" in "".join(config.args)
    return not is_chosen and collected >= set(folder.glob("test_*.py"))
