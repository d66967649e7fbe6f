"""The library's messages (dicts) as frames of the peer stream, and back.

Everything that a peer may send is named here field by field, so a message from outside can have no other
shape than one that the library expects.
"""

from __future__ import annotations

from typing import Any

from manager.raft.codec import Entry, check_command
from swarmpy.errors import InvalidArgument
from swarmpy.pb import raft_pb2 as pb

Message = dict[str, Any]

_UNKNOWN_OUTCOME = 7
"""The library's code; an answer that says nothing must not pass for success."""


def to_frame(message: Message) -> pb.RaftFrame:
    """The frame for a message that the library or the transport sends."""
    match message["type"]:
        case "append_entries":
            return _append_frame(message)
        case "next_node_idx":
            answer = pb.RaftAppendAnswer(
                term=message["term"],
                heartbeat=message["heartbeat"],
                next_index=message["next_node_idx"],
                is_reset=message["reset"],
                is_success=message["success"],
            )
            return pb.RaftFrame(append_answer=answer)
        case "request_vote":
            request = pb.RaftVoteRequest(
                term=message["term"],
                last_index=message["last_log_index"],
                last_term=message["last_log_term"],
            )
            return pb.RaftFrame(vote_request=request)
        case "response_vote":
            return pb.RaftFrame(vote=pb.RaftVote(term=message["term"]))
        case "timeout_now":
            return pb.RaftFrame(timeout_now=pb.RaftTimeoutNow(term=message["term"]))
        case "apply_command":
            proposal = pb.RaftProposal(command=message["command"], request_id=message["request_id"])
            return pb.RaftFrame(proposal=proposal)
        case "apply_command_response":
            answer_ = pb.RaftProposalAnswer(
                request_id=message["request_id"],
                index=message.get("log_idx", 0),
                term=message.get("log_term", 0),
                error=message.get("error", 0),
            )
            return pb.RaftFrame(proposal_answer=answer_)
    raise AssertionError(f"the library sends an unknown message: {message['type']}")


def from_frame(frame: pb.RaftFrame) -> Message:
    """The library's message in a frame; raises ``InvalidArgument`` if there is none or it is malformed."""
    match frame.WhichOneof("body"):
        case "append":
            return _append_message(frame.append)
        case "snapshot_chunk":
            return _chunk_message(frame.snapshot_chunk)
        case "append_answer":
            answer = frame.append_answer
            return {
                "type": "next_node_idx",
                "term": answer.term,
                "heartbeat": answer.heartbeat,
                "next_node_idx": answer.next_index,
                "reset": answer.is_reset,
                "success": answer.is_success,
            }
        case "vote_request":
            return {
                "type": "request_vote",
                "term": frame.vote_request.term,
                "last_log_index": frame.vote_request.last_index,
                "last_log_term": frame.vote_request.last_term,
            }
        case "vote":
            return {"type": "response_vote", "term": frame.vote.term}
        case "timeout_now":
            return {"type": "timeout_now", "term": frame.timeout_now.term}
        case "proposal":
            proposal = frame.proposal
            return {
                "type": "apply_command",
                "command": proposal.command,
                "request_id": proposal.request_id,
            }
        case "proposal_answer":
            return _proposal_answer(frame.proposal_answer)
    raise InvalidArgument("a raft peer sent an unknown message: is every manager up to date?")


def _append_frame(message: Message) -> pb.RaftFrame:
    if "serialized" in message:
        chunk = pb.RaftSnapshotChunk(
            term=message["term"],
            commit_index=message["commit_index"],
            heartbeat=message["heartbeat"],
        )
        if message["serialized"] is not None:
            data, offset, is_last = message["serialized"]
            chunk.data, chunk.offset, chunk.is_last = data, offset, is_last
        return pb.RaftFrame(snapshot_chunk=chunk)
    entries: list[Entry] = message["entries"]
    append = pb.RaftAppend(
        term=message["term"],
        commit_index=message["commit_index"],
        heartbeat=message["heartbeat"],
        prev_index=message["prevLogIdx"],
        prev_term=message["prevLogTerm"],
        terms=[term for _, _, term in entries],
        commands=[command for command, _, _ in entries],
    )
    return pb.RaftFrame(append=append)


def _append_message(append: pb.RaftAppend) -> Message:
    if len(append.terms) != len(append.commands):
        raise InvalidArgument("a raft peer sent entries without terms")
    entries: list[Entry] = []
    for index, (command, term) in enumerate(
        zip(append.commands, append.terms, strict=True), start=append.prev_index + 1
    ):
        check_command(command)
        entries.append((command, index, term))
    return {
        "type": "append_entries",
        "term": append.term,
        "commit_index": append.commit_index,
        "heartbeat": append.heartbeat,
        "prevLogIdx": append.prev_index,
        "prevLogTerm": append.prev_term,
        "entries": entries,
    }


def _chunk_message(chunk: pb.RaftSnapshotChunk) -> Message:
    has_data = chunk.HasField("data")
    return {
        "type": "append_entries",
        "term": chunk.term,
        "commit_index": chunk.commit_index,
        "heartbeat": chunk.heartbeat,
        "serialized": (chunk.data, chunk.offset, chunk.is_last) if has_data else None,
    }


def _proposal_answer(answer: pb.RaftProposalAnswer) -> Message:
    message: Message = {"type": "apply_command_response", "request_id": answer.request_id}
    if answer.index:
        return message | {"log_idx": answer.index, "log_term": answer.term}
    return message | {"error": answer.error or _UNKNOWN_OUTCOME}
