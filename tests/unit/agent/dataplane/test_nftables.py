"""libnftables in a process that holds many files."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

import pytest
from scratch_network import scratch_network

from agent.dataplane.linux.nftables import LOW_DESCRIPTORS, Nftables
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


@pytest.mark.usefixtures("low_descriptors_taken")
def test_a_context_that_would_end_the_process_is_refused() -> None:
    with scratch_network(), pytest.raises(Unavailable, match="too many files"):
        Nftables().run("list ruleset")
