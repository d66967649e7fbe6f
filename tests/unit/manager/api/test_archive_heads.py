"""The beginning of an archive from a node, which need not be one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from manager.api import archive
from swarmpy.errors import Unavailable
from swarmpy.limits import ARCHIVE_HEAD_BYTES_MAX


@pytest.mark.parametrize("block", [bytes(1 << 16), b"x" * (1 << 16)])
async def test_what_is_no_archive_is_not_gathered_without_end(block: bytes) -> None:
    sent = 0

    async def endless() -> AsyncGenerator[bytes]:
        nonlocal sent
        while sent < 10 * ARCHIVE_HEAD_BYTES_MAX:
            sent += len(block)
            yield block

    async with aclosing(endless()) as content:
        with pytest.raises(Unavailable, match="no archive"):
            await archive._beginning(content)
    assert sent <= ARCHIVE_HEAD_BYTES_MAX + 2 * len(block)
