"""The library is the one that was examined, byte for byte, and nothing of it unpickles."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pysyncobj.syncobj as library
import pytest

from manager.raft import syncobj
from manager.raft.syncobj import RaftNode, check_library

EXAMINED = "e8bdf06797085d734df86e24ab4802fe"


def test_the_source_is_the_examined_one() -> None:
    source = Path(library.__file__).read_bytes()
    assert hashlib.sha256(source).hexdigest()[:32] == EXAMINED, (
        "pysyncobj has changed: read again what manager/raft/syncobj.py replaces, then run the simulator"
    )


def test_the_check_at_start_passes_and_notices_what_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    check_library()
    monkeypatch.setattr(library, "VERSION", "0.4.0")
    monkeypatch.delattr(library, "createJournal")
    monkeypatch.delattr(library.SyncObj, "_SyncObj__sendAppendEntries")
    with pytest.raises(AssertionError, match=r"version is 0\.4\.0.*createJournal is gone.*sendAppendEntries"):
        check_library()


def test_nothing_is_pickled() -> None:
    with pytest.raises(AssertionError, match="encodes an unknown value"):
        syncobj._ShapesOnly.dumps({"any": "thing"})


def test_members_are_hashed_alike_in_every_process() -> None:
    assert hash(RaftNode("n0")) == 2625528954
    assert RaftNode("n0", "a:1") == RaftNode("n0", "b:1")
