"""Keys that detach, and sums of usage: what exec, attach and stats decide by themselves."""

from __future__ import annotations

import pytest

from swarmpy.cli.terminal import DetachKeys
from swarmpy.cli.top import total as total_of
from swarmpy.cli.top import usage_of
from swarmpy.client import Json


@pytest.mark.parametrize(
    ("typed", "sent", "is_over"),
    [
        ([b"abc"], b"abc", False),
        ([b"a\x10\x11b"], b"a", True),
        ([b"a\x10", b"\x11"], b"a", True),
        ([b"a\x10", b"b"], b"a\x10b", False),
        ([b"\x10", b"\x10", b"\x11"], b"\x10", True),
    ],
)
def test_keys_that_detach(typed: list[bytes], sent: bytes, is_over: bool) -> None:
    keys = DetachKeys()
    got, ended = b"", False
    for each in typed:
        passed, ended = keys.take(each)
        got += passed
    assert (got, ended) == (sent, is_over)


def figures(cpu_ns: int, at: int) -> Json:
    return {
        "name": "/web.1.t1",
        "cpu_stats": {"cpu_usage": {"total_usage": cpu_ns}, "system_cpu_usage": at * 2, "online_cpus": 2},
        "memory_stats": {"usage": 1 << 20, "limit": 4 << 20},
        "pids_stats": {"current": 3},
        "networks": {"all": {"rx_bytes": 10, "tx_bytes": 20}},
    }


def test_usage_is_a_rate_and_adds_up() -> None:
    one = usage_of(figures(1_500_000_000, 2_000_000_000), figures(0, 1_000_000_000), name="web.1")
    assert one.cpu_percent == pytest.approx(150)
    assert usage_of(figures(5, 5), None, name="web.1").cpu_percent == 0
    both = total_of([one, one], name="web", id_="s1").row()
    assert both["CPUPerc"] == "300.00%"
    assert both["MemUsage"] == "2MiB / 8MiB"
    assert (both["MemPerc"], both["NetIO"], both["PIDs"]) == ("25.00%", "20B / 40B", "6")
