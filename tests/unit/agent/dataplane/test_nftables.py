"""libnftables in a process that holds many files."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

import pytest
from scratch_network import scratch_network

from agent.dataplane.linux import nftables
from agent.dataplane.linux.nftables import LOW_DESCRIPTORS, LowDescriptors, Nftables
from swarmpy.errors import Unavailable

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]


@pytest.fixture
def low_descriptors_taken() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * LOW_DESCRIPTORS), hard))
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(LOW_DESCRIPTORS)]
    yield
    for fd in taken:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_context_that_would_end_the_process_is_refused(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(nftables, "_descriptors", LowDescriptors(0))
    request.getfixturevalue("low_descriptors_taken")
    with scratch_network(), pytest.raises(Unavailable, match="too many files"):
        Nftables().run("list ruleset")


def test_descriptors_are_held_for_contexts(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Whoever opens a thousand files after the first context leaves room for others."""
    monkeypatch.setattr(nftables, "_descriptors", LowDescriptors(40))
    with scratch_network():
        contexts = [Nftables()]
        request.getfixturevalue("low_descriptors_taken")
        contexts += [Nftables() for _ in range(20)]
        for _ in range(3):  # what is closed comes back to where it was
            contexts.pop().close()
            contexts.append(Nftables())
            contexts[-1].run("list ruleset")
        for context in contexts:
            context.close()
