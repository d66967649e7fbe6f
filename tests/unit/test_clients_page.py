"""docs/clients.md tells of every path of the Engine API what becomes of it."""

from __future__ import annotations

import client_table
import engine_paths


async def test_the_paths_in_the_page_are_what_the_api_says() -> None:
    answers = await engine_paths.probe()
    assert client_table.written_paths() == client_table.paths_part(answers).lstrip("\n"), client_table.HOW


async def test_what_is_not_served_has_a_reason_and_no_other() -> None:
    missing = {f"{each.method} {each.path}" for each in await engine_paths.probe() if not each.is_served}
    assert missing == set(engine_paths.NOT_SERVED)
