"""``swarmpy backup``, ``restore`` and ``recover``, against a node that is served in this process."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest
from api_node import FIRST, FakeCluster, FakeNode
from cli_run import Run

from manager.api.control import RecoverRequest
from manager.backup import Reader
from swarmpy.errors import NoLeader
from swarmpy.model.ids import NodeId
from swarmpy.model.states import NodeRole


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def slices_in(data: bytes) -> bytes:
    reader = Reader()
    slices = reader.feed(data)
    reader.finish()
    return b"".join(slices)


def test_a_backup_is_readable_by_its_owner_alone_and_says_so(
    run: Run, cluster: FakeCluster, tmp_path: Path
) -> None:
    target = tmp_path / "swarm.backup"
    said = run("backup", str(target))
    assert said.code == 0, said
    assert said.out.startswith(f"Backup of swarm {cluster.store.cluster().id} at version ")  # type: ignore[union-attr]
    assert "WARNING: the file is not encrypted" in said.err
    assert mode_of(target) == 0o600
    assert [path.name for path in tmp_path.iterdir() if "backup" in path.name] == ["swarm.backup"]
    assert b"PRIVATE KEY" in target.read_bytes()


def test_a_sealed_backup_says_nothing_without_its_passphrase(
    run: Run, node: FakeNode, cluster: FakeCluster, tmp_path: Path
) -> None:
    plain, sealed, words = tmp_path / "plain", tmp_path / "sealed", tmp_path / "words"
    words.write_text("correct horse battery\nand what follows\n")
    assert run("backup", str(plain)).code == 0
    said = run("backup", "--passphrase-file", str(words), str(sealed))
    assert (said.code, said.err) == (0, "")
    assert b"PRIVATE KEY" not in sealed.read_bytes()

    node.state = type(node.state)()
    said = run("restore", str(sealed))
    assert said.code == 1
    assert f"{sealed} cannot be restored: the backup is sealed with a passphrase" in said.err
    wrong = tmp_path / "wrong"
    wrong.write_text("something else\n")
    assert "is not the one that" in run("restore", "--passphrase-file", str(wrong), str(sealed)).err
    assert node.restored == []
    said = run("restore", "--passphrase-file", str(words), str(sealed), "--advertise-addr", "10.0.0.9")
    assert said.code == 0, said
    ((request, data),) = node.restored
    assert request.advertise_addr == "10.0.0.9"
    assert b"PRIVATE KEY" in data
    assert (
        data[data.index(b"PRIVATE KEY") :][:100]
        == plain.read_bytes()[plain.read_bytes().index(b"PRIVATE KEY") :][:100]
    )


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:-1], "is not complete"),
        (lambda data: data[: len(data) // 2], "is not complete"),
        (lambda data: b"", "is no backup|is not complete"),
        (lambda data: b"#!/bin/sh\necho this is not a backup at all\n", "no backup made by"),
        (lambda data: data + b"x", "goes on after its end"),
        (lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:], "is damaged at byte"),
    ],
)
def test_what_is_no_whole_backup_is_refused_by_name_and_nothing_is_sent(
    run: Run, node: FakeNode, cluster: FakeCluster, tmp_path: Path, damage: object, words: str
) -> None:
    target = tmp_path / "swarm.backup"
    run("backup", str(target))
    target.write_bytes(damage(target.read_bytes()))  # type: ignore[operator]
    node.state = type(node.state)()
    said = run("restore", str(target))
    assert said.code == 1
    assert said.err.startswith(f"Error: {target} cannot be restored: ")
    assert any(each in said.err for each in words.split("|")), said
    assert node.restored == []


def test_a_backup_that_cannot_be_had_leaves_no_file(run: Run, cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.barrier_error = NoLeader()
    target = tmp_path / "swarm.backup"
    target.write_text("the last one")
    assert "does not have a leader" in run("backup", str(target)).err
    assert target.read_text() == "the last one"
    assert run("--stale", "backup", str(target)).code == 0
    said = run("backup", str(tmp_path / "no" / "such" / "folder"))
    assert said.code == 1
    said = run("backup", "--data-dir", str(tmp_path / "nothing"), str(target))
    assert "there is nothing to back up" in said.err


def test_a_node_in_a_swarm_restores_nothing(
    run: Run, node: FakeNode, cluster: FakeCluster, tmp_path: Path
) -> None:
    target = tmp_path / "swarm.backup"
    run("backup", str(target))
    assert "already part of a swarm" in run("restore", str(target)).err
    assert node.restored == []


def test_recover_asks_says_what_is_lost_and_refuses_while_there_is_a_quorum(
    run: Run, node: FakeNode, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = run("recover", "--yes")
    assert said.code == 1
    assert "have a quorum" in said.err
    assert run("recover", "--force").code == 0
    assert node.recovered.pop() == RecoverRequest(force=True)

    cluster.barrier_error = NoLeader()
    for number in (2, 3):
        cluster.add_node(NodeId(f"n{number}" + "a" * 23), f"node-{number}", role=NodeRole.MANAGER)
    own, *others = cluster.members
    cluster.members = (own, *(replace(member, is_reachable=False) for member in others))
    said = run("recover")
    assert said.code == 2
    assert "give --yes instead" in said.err
    assert "only manager of the swarm" in said.out
    assert "node-2" in said.out
    assert "node-1" not in said.out
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda prompt: "n")
    assert run("recover").code == 1
    assert node.recovered == []
    monkeypatch.setattr("builtins.input", lambda prompt: "y")
    said = run("recover", "--advertise-addr", "10.0.0.7")
    assert said.code == 0
    assert f"current node ({FIRST}) is now its only manager" in said.out
    assert node.recovered == [RecoverRequest(advertise_addr="10.0.0.7")]
