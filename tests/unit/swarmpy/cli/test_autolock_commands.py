"""``unlock``, ``unlock-key``, ``init`` and ``update --autolock``, as docker's."""

from __future__ import annotations

import io
import re

import pytest
from api_node import FakeCluster, FakeNode
from cli_run import Run
from msgspec.structs import replace

from manager.api.control import LocalState

_KEY = re.compile(r"SWMKEY-1-[A-Za-z0-9+/]{43}")


def test_the_key_is_shown_when_it_is_made_and_when_it_is_asked_for(run: Run, cluster: FakeCluster) -> None:
    assert run("unlock-key").err == "Error: no unlock key is set\n"
    assert run("unlock-key", "--rotate").err == "Error: cannot rotate because autolock is not turned on\n"
    told = run("swarm", "update", "--autolock=true").out
    (first,) = _KEY.findall(told)
    assert told.startswith(
        "Swarm updated.\nTo unlock a swarm manager after it restarts, run the `swarmpy unlock`"
    )
    assert run("unlock-key", "-q").out == f"{first}\n"
    assert first in run("unlock-key").out
    assert run("swarm", "update", "--autolock").out == "Swarm updated.\n"
    assert run("swarm", "update", "--task-history-limit", "3").out == "Swarm updated.\n"
    assert run("unlock-key", "-q").out == f"{first}\n"
    rotated = run("unlock-key", "--rotate").out
    assert rotated.startswith("Successfully rotated manager unlock key.\n\nTo unlock a swarm manager")
    (second,) = _KEY.findall(rotated)
    assert second != first
    (third,) = _KEY.findall(run("unlock-key", "--rotate", "-q").out)
    assert third not in (first, second)
    assert run("swarm", "update", "--autolock=false").out == "Swarm updated.\n"
    assert run("unlock-key").code == 1


def test_unlocking_reads_the_key_from_its_input(
    run: Run, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("unlock").err == "Error: This node is not part of a swarm\n"
    node.become_manager()
    assert run("unlock").err == "Error: swarm is not locked\n"
    node.state = replace(node.state, state=LocalState.LOCKED)
    assert "needs to be unlocked" in run("unlock-key").err
    monkeypatch.setattr("sys.stdin", io.StringIO("SWMKEY-1-abc\n"))
    assert run("unlock").code == 0
    assert node.unlocked == ["SWMKEY-1-abc"]
    assert node.state.state is LocalState.ACTIVE
