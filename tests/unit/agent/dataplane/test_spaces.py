"""Doors into many namespaces at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from scratch_network import scratch_network

from agent.dataplane.linux import namespaces, spaces
from agent.dataplane.linux.spaces import NamespaceSpace, OpenContexts

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]


def open_files() -> int:
    links = (Path(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd"))
    return sum(link.is_symlink() and os.readlink(link) != os.devnull for link in links)


def test_contexts_of_many_spaces_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nftables can use 1,024 descriptors, and a node may have as many tasks; each is reached all the same."""
    monkeypatch.setattr(spaces, "NFT_CONTEXTS_MAX", 2)
    contexts = OpenContexts()
    paths = [tmp_path / f"space{number}" for number in range(4)]
    with scratch_network():
        before = open_files()
        made = [NamespaceSpace(path, contexts=contexts) for path in paths]
        try:
            for path in paths:
                namespaces.make(path).close()
            for number, space in enumerate(made):
                space.nft.run(f"add table inet table{number}")
            assert open_files() == before + 2
            for number, space in enumerate(made):
                assert space.nft.run("list tables").split() == ["table", "inet", f"table{number}"]
            made[2].nft.run("list tables")
            made[0].nft.run("list tables")  # in place of the last but two: the fourth
            assert open_files() == before + 2
            made[2].close()
            assert open_files() == before + 1
        finally:
            for space in made:
                space.close()
            for path in paths:
                namespaces.remove(path)
        assert open_files() == before
