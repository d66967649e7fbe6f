"""Processes of tasks as ps prints them."""

from __future__ import annotations

import subprocess
import time

from agent.executor.native import processes
from swarmpy.limits import TOP_COMMAND_BYTES_MAX
from swarmpy.model.ids import Timestamp


def test_a_long_command_line_is_shown_in_part() -> None:
    """A task may give each of a thousand processes megabytes of arguments."""
    process = subprocess.Popen(["sleep", "1000", *["0" * 100_000] * 10])
    try:
        table = processes.table([], process.pid, Timestamp(time.time_ns()))
    finally:
        process.kill()
        process.wait()
    (row,) = table.rows
    assert row[1] == str(process.pid)
    assert len(row[-1]) <= TOP_COMMAND_BYTES_MAX
