"""The pure parts: fitting appends, membership, read index, shapes of entries and messages."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manager.raft import codec, messages
from manager.raft.append import Append, Fits, Matched, Refused, fit
from manager.raft.codec import NO_OP_COMMAND, Change, Entry
from manager.raft.members import LAST_TEXT, QUORUM_TEXT, check_removal, make_raft_id, members_after, node_of
from manager.raft.read_index import ReadIndex
from swarmpy.errors import FailedPrecondition, InvalidArgument
from swarmpy.pb import raft_pb2 as pb


class Log:
    def __init__(self, first: int, terms: list[int]) -> None:
        self.first, self.terms = first, list(terms)

    @property
    def last(self) -> int:
        return self.first + len(self.terms) - 1

    def term_at(self, index: int) -> int:
        return self.terms[index - self.first]


def entries(start: int, terms: list[int]) -> list[Entry]:
    return [(NO_OP_COMMAND, start + i, term) for i, term in enumerate(terms)]


# --- appends


def test_new_entries_at_the_end_fit() -> None:
    append = Append(prev_index=3, prev_term=1, entries=entries(4, [2, 2]), commit_index=3)
    assert fit(Log(1, [0, 1, 1]), append, commit_index=1) == Fits(append=append)


def test_entries_that_are_there_already_do_not_cut_what_follows() -> None:
    append = Append(prev_index=1, prev_term=0, entries=entries(2, [1]), commit_index=9)
    fitted = fit(Log(1, [0, 1, 1, 2]), append, commit_index=1)
    assert isinstance(fitted, Matched)
    assert fitted.upto == 2
    assert fitted.append == Append(prev_index=4, prev_term=2, entries=[], commit_index=2)


def test_only_the_conflicting_entries_are_replaced() -> None:
    append = Append(prev_index=1, prev_term=0, entries=entries(2, [1, 3]), commit_index=1)
    fitted = fit(Log(1, [0, 1, 2, 2]), append, commit_index=1)
    assert isinstance(fitted, Fits)
    assert fitted.append == Append(prev_index=2, prev_term=1, entries=entries(3, [3]), commit_index=1)


def test_a_gap_is_refused_from_the_end_on() -> None:
    append = Append(prev_index=9, prev_term=2, entries=[], commit_index=1)
    assert fit(Log(1, [0, 1]), append, commit_index=1) == Refused(next_index=3)


def test_a_conflict_before_the_entries_goes_back_a_whole_term() -> None:
    append = Append(prev_index=5, prev_term=4, entries=[], commit_index=1)
    assert fit(Log(1, [0, 1, 2, 2, 2]), append, commit_index=1) == Refused(next_index=3)


def test_entries_below_the_snapshot_are_agreed_on_as_far_as_they_go() -> None:
    append = Append(prev_index=2, prev_term=1, entries=entries(3, [1, 1]), commit_index=9)
    fitted = fit(Log(10, [2, 2]), append, commit_index=11)
    assert isinstance(fitted, Matched)
    assert fitted.upto == 4


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_fitting_never_loses_agreement_and_never_claims_too_much(data: st.DataObject) -> None:
    shared = sorted(data.draw(st.lists(st.integers(0, 3), max_size=6)))
    top = shared[-1] if shared else 0
    mine = shared + sorted(data.draw(st.lists(st.integers(top, top + 3), max_size=5)))
    theirs = shared + sorted(data.draw(st.lists(st.integers(top + 4, top + 6), max_size=5)))
    mine, theirs = [0, *mine], [0, *theirs]
    prev = data.draw(st.integers(1, len(theirs)))
    count = data.draw(st.integers(0, len(theirs) - prev))
    append = Append(
        prev_index=prev,
        prev_term=theirs[prev - 1],
        entries=entries(prev + 1, theirs[prev : prev + count]),
        commit_index=data.draw(st.integers(1, len(theirs))),
    )
    fitted = fit(Log(1, mine), append, commit_index=1)
    agreed = 1 + len(shared)
    match fitted:
        case Refused(next_index=next_index):
            assert prev > len(mine) or mine[prev - 1] != theirs[prev - 1]
            assert 2 <= next_index <= len(mine) + 1
        case Matched(append=kept, upto=upto):
            assert upto <= agreed
            assert kept.entries == []
            assert kept.commit_index <= upto
        case Fits(append=left):
            result = mine[: left.prev_index] + [term for _, _, term in left.entries]
            assert result == theirs[: prev + count]


# --- members


def test_a_raft_id_names_its_node() -> None:
    raft_id = make_raft_id("node1", b"12345678")
    assert node_of(raft_id) == "node1"
    assert raft_id != make_raft_id("node1", b"12345679")


def test_members_follow_the_changes_after_the_start() -> None:
    def change(is_add: bool, raft_id: str, index: int) -> Entry:
        body = codec.encode_change(Change(is_add, raft_id, f"{raft_id}:1"))
        return (bytes([codec.MEMBERSHIP]) + body, index, 1)

    log = [change(False, "a", 5), change(True, "c", 6), change(False, "b", 7)]
    assert members_after({"a": "a:1", "b": "b:1"}, log, after=5) == {"a": "a:1", "c": "c:1"}


@pytest.mark.parametrize(
    ("members", "reachable", "removed", "text"),
    [
        ("a", "a", "a", LAST_TEXT),
        ("abc", "ab", "b", QUORUM_TEXT),
        ("abc", "ab", "c", None),
        ("ab", "ab", "b", None),
        ("ab", "a", "b", None),
        ("abcde", "abc", "c", QUORUM_TEXT),
        ("abcde", "abcd", "d", None),
    ],
)
def test_a_removal_must_leave_a_reachable_majority(
    members: str, reachable: str, removed: str, text: str | None
) -> None:
    if text is None:
        check_removal(members, reachable, removed)
    else:
        with pytest.raises(FailedPrecondition) as caught:
            check_removal(members, reachable, removed)
        assert str(caught.value) == text


# --- read index


def answers(reads: ReadIndex, term: int | None, others: list[str], applied: int) -> None:
    reads.finish(term=term, others=others, applied=applied)


def test_a_read_waits_for_a_majority_and_for_its_index() -> None:
    reads, got = ReadIndex(), list[int]()
    reads.begin(7, 2, got.append)
    answers(reads, 2, ["b", "c", "d", "e"], 9)
    reads.echo("b", reads.heartbeat, 2)
    answers(reads, 2, ["b", "c", "d", "e"], 9)
    assert got == []
    reads.echo("c", reads.heartbeat, 2)
    answers(reads, 2, ["b", "c", "d", "e"], 6)
    assert got == []
    answers(reads, 2, ["b", "c", "d", "e"], 7)
    assert got == [7]


def test_an_echo_from_before_the_read_or_of_another_term_proves_nothing() -> None:
    reads, got = ReadIndex(), list[int]()
    reads.begin(1, 2, got.append)
    reads.sent()
    old = reads.heartbeat
    answers(reads, None, ["b", "c"], 9)
    assert got == [0]
    reads.begin(1, 3, got.append)
    reads.echo("b", old, 3)
    answers(reads, 3, ["b", "c"], 9)
    reads.echo("b", reads.heartbeat, 2)
    answers(reads, 3, ["b", "c"], 9)
    assert got == [0]


def test_readers_before_the_next_heartbeat_share_it() -> None:
    reads, got = ReadIndex(), list[int]()
    reads.begin(1, 1, got.append)
    reads.begin(2, 1, got.append)
    assert reads.heartbeat == 1
    reads.sent()
    reads.begin(3, 1, got.append)
    assert reads.heartbeat == 2
    reads.echo("b", 1, 1)
    answers(reads, 1, ["b", "c"], 9)
    assert got == [1, 2]


def test_a_member_alone_needs_no_echo() -> None:
    reads, got = ReadIndex(), list[int]()
    reads.begin(4, 1, got.append)
    answers(reads, 1, [], 4)
    assert got == [4]


# --- shapes


def test_unknown_commands_are_refused() -> None:
    for command in (b"", b"\x03version", b"\x80\x04pickle", b"\x02garbage", b"\x02"):
        with pytest.raises(InvalidArgument):
            codec.check_command(command)
    codec.check_command(b"\x00anything")
    codec.check_command(NO_OP_COMMAND)


MESSAGES: list[dict[str, Any]] = [
    {
        "type": "append_entries",
        "term": 4,
        "commit_index": 9,
        "heartbeat": 3,
        "prevLogIdx": 8,
        "prevLogTerm": 2,
        "entries": [(b"\x00a", 9, 3), (NO_OP_COMMAND, 10, 4)],
    },
    {"type": "append_entries", "term": 4, "commit_index": 9, "heartbeat": 3, "serialized": None},
    {"type": "append_entries", "term": 4, "commit_index": 9, "heartbeat": 3, "serialized": (b"x", 5, True)},
    {
        "type": "next_node_idx",
        "term": 4,
        "heartbeat": 3,
        "next_node_idx": 12,
        "reset": True,
        "success": False,
    },
    {"type": "request_vote", "term": 4, "last_log_index": 9, "last_log_term": 3},
    {"type": "response_vote", "term": 4},
    {"type": "timeout_now", "term": 4},
    {"type": "apply_command", "command": b"\x00x", "request_id": 7},
    {"type": "apply_command_response", "request_id": 7, "log_idx": 12, "log_term": 4},
    {"type": "apply_command_response", "request_id": 7, "error": 4},
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message["type"])
def test_messages_survive_the_wire(message: dict[str, Any]) -> None:
    data = messages.to_frame(message).SerializeToString()
    assert messages.from_frame(pb.RaftFrame.FromString(data)) == message


def test_an_answer_that_says_nothing_is_no_success() -> None:
    frame = pb.RaftFrame(proposal_answer=pb.RaftProposalAnswer(request_id=7))
    assert messages.from_frame(frame)["error"] != 0


@pytest.mark.parametrize(
    "frame",
    [
        pb.RaftFrame(),
        pb.RaftFrame(append=pb.RaftAppend(terms=[1], commands=[])),
        pb.RaftFrame(append=pb.RaftAppend(terms=[1], commands=[b"\x07"])),
        pb.RaftFrame(append=pb.RaftAppend(terms=[1], commands=[b"\x02\xff"])),
    ],
)
def test_malformed_frames_are_refused(frame: pb.RaftFrame) -> None:
    with pytest.raises(InvalidArgument):
        messages.from_frame(frame)
