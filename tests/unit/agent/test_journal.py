"""The journal keeps what it was given, whole rounds only, and survives damage and a full disk."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
from pathlib import Path

import pytest
from agent_rig import make_revision, make_task
from msgspec.structs import replace

from agent.events import (
    DropDiscovery,
    DropRevision,
    DropTask,
    Record,
    SaveDiscovery,
    SaveRevision,
    SaveStatus,
    SaveTask,
    StoredTask,
)
from agent.journal import Content, Journal
from swarmpy.errors import Corrupt, DiskFailed, Unavailable
from swarmpy.model.cluster_specs import NetworkSpec
from swarmpy.model.discovery import (
    EndpointState,
    NetworkEndpoint,
    NetworkService,
    NetworkSettings,
    NodePeer,
    RecordKind,
)
from swarmpy.model.ids import NetworkId, NodeId, ServiceId, TaskId
from swarmpy.model.objects import Network, NetworkKey, TaskStatus
from swarmpy.model.states import TaskState

WEB = make_revision()
TASK = make_task(1, WEB)
PLACES = 120
STATUS = TaskStatus(state=TaskState.RUNNING, report=3, message="started")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent" / "agent.db"


def test_keeps_what_it_was_given(path: Path) -> None:
    journal = Journal(path)
    assert journal.load() == Content()
    journal.commit([SaveRevision(WEB), SaveTask(TASK, False, 15), SaveStatus(TASK.id, STATUS)])
    journal.commit([SaveTask(TASK, True, 9)])
    journal.save_managers(["m2:2377", "m1:2377"])
    # Without closing: as after kill -9.
    assert Journal(path).load() == Content(
        tasks=(StoredTask(task=TASK, status=STATUS, is_released=True, stop_signal=9),),
        revisions=(WEB,),
        managers=("m2:2377", "m1:2377"),
    )
    journal.commit([DropTask(TASK.id), DropRevision(WEB.id)])
    assert Journal(path).load() == Content(managers=("m2:2377", "m1:2377"))


def test_keeps_what_is_known_of_networks(path: Path) -> None:
    network = Network(id=NetworkId("net1"), spec=NetworkSpec(name="net"))
    settings = NetworkSettings(data_path_port=4789, keys=(NetworkKey(tag=1, secret=b"s"),))
    peer = NodePeer(node_id=NodeId("n2"), addr="192.0.2.2")
    service = NetworkService(network_id=network.id, service_id=ServiceId("web"), name="web")
    endpoint = NetworkEndpoint(network_id=network.id, task_id=TaskId("t1"), addresses=("10.0.0.2/24",))
    records = (endpoint, peer, service, settings)
    journal = Journal(path)
    journal.commit([SaveDiscovery(each) for each in (network, *records)])
    kept = Journal(path).load()
    assert kept == Content(networks=(network,), discovery=records)
    lost = replace(endpoint, state=EndpointState.LOST)
    drop = [DropDiscovery(None, network.id), DropDiscovery(RecordKind.PEER, "n2")]
    journal.commit([*drop, SaveDiscovery(lost)])
    assert Journal(path).load() == Content(discovery=(lost, service, settings))


def test_a_changed_row_of_a_network_is_noticed(path: Path) -> None:
    journal = Journal(path)
    journal.commit([SaveDiscovery(NodePeer(node_id=NodeId("n2"), addr="192.0.2.2"))])
    journal.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE discovery SET id = 'n3'")
        connection.commit()
    assert Journal(path).load() == Content()
    assert path.with_suffix(".damaged").exists()


def test_a_destroyed_journal_leaves_no_file(path: Path) -> None:
    journal = Journal(path)
    journal.commit([SaveTask(TASK, False, 15)])
    journal.destroy()
    assert list(path.parent.iterdir()) == []
    assert Journal(path).load() == Content()


def test_a_round_is_kept_whole_or_not_at_all(path: Path) -> None:
    journal = Journal(path)
    broken: list[Record] = [SaveRevision(WEB), SaveTask(TASK, False, "x" * 3)]  # type: ignore[arg-type]
    broken.append(None)  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        journal.commit(broken)
    assert journal.load() == Content()
    journal.commit([SaveRevision(WEB)])
    assert journal.load().revisions == (WEB,)


def test_the_round_before_a_start_is_synced_and_no_other(path: Path) -> None:
    journal = Journal(path)
    starting = SaveStatus(TASK.id, TaskStatus(state=TaskState.STARTING))
    rounds: list[tuple[list[Record], int]] = [
        ([SaveTask(TASK, False, 15)], 1),
        ([SaveRevision(WEB), starting], 2),
        ([SaveStatus(TASK.id, STATUS)], 1),
    ]
    for records, level in rounds:
        journal.commit(records)
        assert journal._connection.execute("PRAGMA synchronous").fetchone() == (level,)


def test_a_damaged_file_is_put_aside(path: Path) -> None:
    journal = Journal(path)
    journal.commit([SaveTask(TASK, False, 15)])
    journal.close()
    path.write_bytes(b"not a database at all" * 1000)
    again = Journal(path)
    assert again.load() == Content()
    again.commit([SaveTask(TASK, False, 15)])
    assert path.with_suffix(".damaged").exists()


def test_a_damaged_record_is_put_aside(path: Path) -> None:
    journal = Journal(path)
    journal.commit([SaveTask(TASK, False, 15)])
    journal.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE task SET task = x'ffffffff'")
    connection.close()
    again = Journal(path)
    assert again.load() == Content()
    assert path.with_suffix(".damaged").exists()


def test_a_flipped_bit_is_never_served(path: Path) -> None:
    """All is there as it was, or the file is put aside or refused; a manager's address may be a wrong one."""
    journal = Journal(path)
    tasks = [make_task(number, WEB) for number in range(1, 4)]
    journal.commit([SaveRevision(WEB), *(SaveTask(task, False, 15) for task in tasks)])
    journal.commit([SaveStatus(tasks[0].id, STATUS), SaveTask(tasks[1], True, 9)])
    journal.checkpoint()
    journal.close()
    whole = path.read_bytes()
    used = [place for place in range(len(whole)) if whole[place] or place % 97 == 0]
    content = Journal(path).load()
    assert len(content.tasks) == 3
    aside = 0
    for place in random.Random(5).sample(used, PLACES):
        for leftover in path.parent.iterdir():
            leftover.unlink()
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with contextlib.suppress(Corrupt, DiskFailed), contextlib.closing(Journal(path)) as again:
            found = again.load()
            assert found in (content, Content()), place
            aside += found == Content()
    assert aside > PLACES // 4


def test_a_newer_file_is_not_touched(path: Path) -> None:
    Journal(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(Corrupt, match="newer version"):
        Journal(path)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_full_disk_at_the_start_is_no_damage(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "small", str(tmp_path)], check=True)
    try:
        path = tmp_path / "agent.db"
        journal = Journal(path)
        journal.commit([SaveTask(TASK, False, 15)])
        journal.close()
        filler = tmp_path / "filler"
        with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        with pytest.raises(DiskFailed, match=r"agent\.db cannot be opened: .*; free or repair the disk"):
            Journal(path).load()
        filler.unlink()
        assert [stored.task for stored in Journal(path).load().tasks] == [TASK]
        assert not path.with_suffix(".damaged").exists()
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_full_disk_is_passing_trouble(path: Path) -> None:
    journal = Journal(path)
    journal._connection.execute("PRAGMA max_page_count=8")
    records = [SaveTask(make_task(number, WEB), False, 15) for number in range(1, 2000)]
    with pytest.raises(Unavailable, match="cannot be written"):
        journal.commit(records)
    count = len(journal.load().tasks)
    journal._connection.execute("PRAGMA max_page_count=100000")
    journal.commit([SaveTask(make_task(5000, WEB), False, 15)])
    assert len(journal.load().tasks) == count + 1


def test_checkpoints_fold_the_file_in(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.journal.JOURNAL_CHECKPOINT_COMMITS", 10)
    journal = Journal(path)
    due = 0
    for number in range(1, 26):
        journal.commit([SaveTask(make_task(number, WEB), False, 15)])
        if journal.claim_checkpoint():
            journal.checkpoint()
            due += 1
    assert due == 2
    assert path.stat().st_size > 4096
    assert len(Journal(path).load().tasks) == 25
