"""Between the library and the wire: the corrections that make its protocol safe.

What each correction prevents was reproduced against the library as shipped; the simulator finds it again when
one is taken out.

* Answers to appends wait for one sync of the log, carry the term they are true for, and are counted only
  in that term. Votes count once per voter, and a late refusal does not undo an agreement.
* Appends are fitted first (``append``). The commit index that comes with a piece of a snapshot is cut down
  to our own, because our tail is unverified then.
* Members that this one has not heard of yet may lead it (it may have been away for long), but get no vote
  while a leader lives. Removed members are told so and ignored.
* A leader of an older term is told the newer one; the library would leave it talking.
* Peers may forward entries of the state machine only, never membership changes.

The library's method names are its own (``addNode`` …).
"""
# ruff: noqa: N802

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from manager.raft import messages
from manager.raft.append import Append, LogView, Matched, Refused, fit
from manager.raft.codec import REGULAR_PREFIX
from manager.raft.messages import Message
from manager.raft.read_index import ReadIndex
from manager.raft.wire import Wire
from swarmpy.limits import RAFT_ANSWER_PERIOD_S, RAFT_ELECTION_MAX_S, RAFT_NACK_PERIOD_S, RAFT_NOTICE_PERIOD_S
from swarmpy.pb import raft_pb2 as pb

_MISSING_LEADER = 2
_NEVER_GRANTED = {"last_log_index": 0, "last_log_term": -1}


class Consensus(Protocol):
    """What the transport needs to know of the library's state."""

    @property
    def log(self) -> LogView: ...

    @property
    def term(self) -> int: ...

    @property
    def commit_index(self) -> int: ...

    @property
    def is_leader(self) -> bool: ...

    def now(self) -> float: ...

    @property
    def is_installing(self) -> bool:
        """Whether a snapshot received whole is about to replace log and state."""
        ...

    def sync(self) -> None:
        """Make the log durable."""
        ...

    def read_index(self, answer: Callable[[int], None]) -> None: ...

    def read_answered(self, request_id: int, index: int) -> None: ...

    def removed_here(self) -> None:
        """This member was removed from the cluster."""
        ...


class PeerTransport:
    """Stands where the library expects its own transport."""

    ready = True

    def __init__(self, wire: Wire, make_node: Callable[[str], Any], reads: ReadIndex) -> None:
        self._wire, self._make_node, self._reads = wire, make_node, reads
        self._core: Consensus
        self._nodes: dict[str, Any] = {}
        self.members: set[str] = set()
        self.removed: dict[str, None] = {}
        self.connected: set[str] = set()
        self.answered_at: dict[str, float] = {}
        self.has_new_answers = False
        self._guests: set[str] = set()
        self._is_muted = False
        self._led_at = self._noticed_at = float("-inf")
        self._waiting: list[tuple[str, Message]] = []
        self._amend: Callable[[Message], Message] | None = None
        self._sender = ""
        self._heartbeats: dict[str, int] = {}
        self._matches: dict[str, int] = {}
        self._matches_term = -1
        self._voters: set[str] = set()
        self._voters_term = -1
        self._refusals: dict[str, tuple[int, int, float]] = {}
        self._agreed: dict[str, tuple[tuple[int, int, int], float]] = {}
        self.forwarded_index = 0
        """Of the last entry that was taken in here for another member, which waits to see it applied."""
        self._on_message: Callable[[Any, Message], None]
        self._on_connected: Callable[[Any], None]
        self._on_disconnected: Callable[[Any], None]

    def attach(self, core: Consensus) -> None:
        self._core = core

    def mute(self) -> None:
        """Nothing leaves any more: the log has failed."""
        self._is_muted = True
        self._waiting.clear()

    # --- called by the library

    def setOnMessageReceivedCallback(self, callback: Callable[[Any, Message], None]) -> None:
        self._on_message = callback

    def setOnNodeConnectedCallback(self, callback: Callable[[Any], None]) -> None:
        self._on_connected = callback

    def setOnNodeDisconnectedCallback(self, callback: Callable[[Any], None]) -> None:
        self._on_disconnected = callback

    def setOnReadonlyNodeConnectedCallback(self, callback: object) -> None:
        """There are no read-only members."""

    def setOnReadonlyNodeDisconnectedCallback(self, callback: object) -> None:
        """There are no read-only members."""

    def setOnUtilityMessageCallback(self, message: str, callback: object) -> None:
        """The library's remote administration is not served."""

    def addNode(self, node: Any) -> None:
        self._nodes[node.id] = node
        self.members.add(node.id)

    def dropNode(self, node: Any) -> None:
        """No member any more, or its addition was rolled back."""
        self.members.discard(node.id)
        self._guests.discard(node.id)
        self._wire.drop(node.id)

    def destroy(self) -> None:
        """The wire is stopped by whoever started it."""

    def send(self, node: Any, message: Message) -> bool:
        peer: str = node.id
        if self._is_muted or (peer not in self.members and peer not in self._guests):
            return False
        match message["type"]:
            case "next_node_idx":
                if self._amend is not None:
                    message = self._amend(message)
                self._queue_answer(peer, message)
                return True
            case "append_entries":
                message["heartbeat"] = self._reads.heartbeat
            case "apply_command":
                return self._forward(peer, message)
            case "apply_command_response":
                self.forwarded_index = max(self.forwarded_index, message.get("log_idx", 0))
        return self._wire.send(peer, messages.to_frame(message))

    # --- called by the core

    def flush(self) -> None:
        """After a burst of messages: one sync, then all answers."""
        if not self._waiting or self._is_muted:
            return
        self._core.sync()
        waiting, self._waiting = self._waiting, []
        for peer, message in waiting:
            self._wire.send(peer, messages.to_frame(message))

    def ask_read_index(self, peer: str, request_id: int) -> bool:
        frame = pb.RaftFrame(read_request=pb.RaftReadRequest(request_id=request_id))
        return not self._is_muted and self._wire.send(peer, frame)

    def backlog(self, peer: str) -> int:
        return self._wire.backlog(peer)

    def agree_up_to(self, index: int, *, peer: str = "") -> None:
        """Tell ``peer``, or the sender of the message under way: we have everything up to ``index``."""
        self._queue_answer(peer or self._sender, _answer(next_index=index + 1, is_success=True))

    # --- called by the wire

    def peer_connected(self, peer: str) -> None:
        if peer in self.removed:
            self._wire.send(peer, pb.RaftFrame(removed=pb.RaftRemoved(raft_id=peer)))
            return
        self.connected.add(peer)
        self._on_connected(self._node(peer))

    def peer_disconnected(self, peer: str) -> None:
        self._refusals.pop(peer, None)
        self._agreed.pop(peer, None)
        if peer in self.connected:
            self.connected.discard(peer)
            self._on_disconnected(self._node(peer))

    def receive(self, peer: str, frame: pb.RaftFrame) -> None:
        """Raises ``InvalidArgument`` if the frame is malformed."""
        if self._is_muted or peer in self.removed:
            return
        match frame.WhichOneof("body"):
            case "term_notice":
                self._learn_term(peer, frame.term_notice.term)
            case "read_request":
                self._serve_read(peer, frame.read_request.request_id)
            case "read_answer":
                self._core.read_answered(frame.read_answer.request_id, frame.read_answer.index)
            case "removed":
                self._core.removed_here()
            case _:
                self._receive(peer, messages.from_frame(frame))

    # --- inside

    def _receive(self, peer: str, message: Message) -> None:
        kind = message["type"]
        if peer not in self.members and not self._is_welcome(peer, kind):
            return
        self._amend, self._sender = None, peer
        match kind:
            case "append_entries":
                if not self._accept_leader(peer, message):
                    return
            case "next_node_idx":
                if not self._count_answer(peer, message):
                    return
            case "response_vote":
                if not self._is_first_vote(peer, message["term"]):
                    return
            case "apply_command":
                if message["command"][:1] != REGULAR_PREFIX:
                    return
        self._on_message(self._node(peer), message)
        self._amend = None
        if "serialized" in message:
            # Not an agreement, only a sign of life while a snapshot is under way.
            self._queue_answer(peer, _answer(next_index=1, is_success=False))

    def _is_welcome(self, peer: str, kind: str) -> bool:
        """Whether an authenticated manager that is no member here may say this."""
        if kind not in ("append_entries", "request_vote"):
            return False
        has_leader = self._core.is_leader or self._core.now() - self._led_at < RAFT_ELECTION_MAX_S
        if kind == "request_vote" and has_leader:
            return False
        self._guests.add(peer)
        return True

    def _accept_leader(self, peer: str, message: Message) -> bool:
        now = self._core.now()
        if message["term"] < self._core.term:
            if now - self._noticed_at > RAFT_NOTICE_PERIOD_S:
                self._noticed_at = now
                self._wire.send(peer, pb.RaftFrame(term_notice=pb.RaftTermNotice(term=self._core.term)))
            return False
        self._heartbeats[peer] = message["heartbeat"]
        self._led_at = now
        if "serialized" in message:
            message["commit_index"] = self._clamp(message["commit_index"])
        else:
            self._fit(peer, message)
        return True

    def _clamp(self, commit_index: int) -> int:
        return min(commit_index, self._core.commit_index)

    def _fit(self, peer: str, message: Message) -> None:
        append = Append(
            prev_index=message["prevLogIdx"],
            prev_term=message["prevLogTerm"],
            entries=message["entries"],
            commit_index=message["commit_index"],
        )
        fitted = fit(self._core.log, append, commit_index=self._core.commit_index)
        if isinstance(fitted, Refused):
            self._amend = self._refusal(peer, message["term"], append.prev_index, fitted.next_index)
            return
        self._refusals.pop(peer, None)
        message["prevLogIdx"] = fitted.append.prev_index
        message["prevLogTerm"] = fitted.append.prev_term
        message["entries"] = fitted.append.entries
        message["commit_index"] = fitted.append.commit_index
        if isinstance(fitted, Matched):
            agreed = _answer(next_index=fitted.upto + 1, is_success=True)
            self._amend = lambda answer: answer | agreed

    def _refusal(self, peer: str, term: int, prev: int, next_index: int) -> Callable[[Message], Message]:
        known_term, known_next, at = self._refusals.get(peer, (-1, 0, 0.0))
        now = self._core.now()
        is_repeated = term == known_term and prev >= known_next and now - at < RAFT_NACK_PERIOD_S
        if is_repeated or self._core.is_installing:
            # A refusal proper would have the leader send its snapshot again.
            silent = _answer(next_index=next_index, is_success=False)
            return lambda answer: answer | silent
        self._refusals[peer] = (term, next_index, now)
        refused = _answer(next_index=next_index, is_success=False) | {"reset": True}
        return lambda answer: answer | refused

    def _count_answer(self, peer: str, message: Message) -> bool:
        term = self._core.term
        if message["term"] != term or not self._core.is_leader:
            return False
        if self._matches_term != term:
            self._matches.clear()
            self._matches_term = term
        self._reads.echo(peer, message["heartbeat"], term)
        self.answered_at[peer] = self._core.now()
        if message["success"]:
            self._matches[peer] = max(self._matches.get(peer, 0), message["next_node_idx"] - 1)
            self.has_new_answers = True
        elif message["reset"] and message["next_node_idx"] <= self._matches.get(peer, 0):
            message["reset"] = False
        return True

    def _is_first_vote(self, peer: str, term: int) -> bool:
        if self._voters_term != term:
            self._voters.clear()
            self._voters_term = term
        if peer in self._voters:
            return False
        self._voters.add(peer)
        return True

    def _learn_term(self, peer: str, term: int) -> None:
        """Let the library adopt a newer term, through a vote request that can't be granted."""
        if peer in self.members and term > self._core.term:
            self._on_message(self._node(peer), {"type": "request_vote", "term": term} | _NEVER_GRANTED)

    def _serve_read(self, peer: str, request_id: int) -> None:
        if peer not in self.members:
            return

        def answer(index: int) -> None:
            frame = pb.RaftFrame(read_answer=pb.RaftReadAnswer(request_id=request_id, index=index))
            if not self._is_muted:
                self._wire.send(peer, frame)

        self._core.read_index(answer)

    def _forward(self, peer: str, message: Message) -> bool:
        is_regular = message["command"][:1] == REGULAR_PREFIX
        if is_regular and self._wire.send(peer, messages.to_frame(message)):
            return True
        # It certainly did not leave: say so at once, so that the caller may try again.
        refusal = {
            "type": "apply_command_response",
            "request_id": message["request_id"],
            "error": _MISSING_LEADER,
        }
        self._on_message(self._node(peer), refusal)
        return False

    def _queue_answer(self, peer: str, message: Message) -> None:
        message["term"] = self._core.term
        message["heartbeat"] = self._heartbeats.get(peer, 0)
        if not self._is_repetition(peer, message):
            self._waiting.append((peer, message))

    def _is_repetition(self, peer: str, message: Message) -> bool:
        """Whether the same agreement is on its way already, and no sign of life is due."""
        if not message["success"]:
            self._agreed.pop(peer, None)
            return False
        now = self._core.now()
        agreement = message["term"], message["heartbeat"], message["next_node_idx"]
        known, at = self._agreed.get(peer, ((-1, 0, 0), now))
        if agreement == known and now - at < RAFT_ANSWER_PERIOD_S:
            return True
        self._agreed[peer] = agreement, now
        return False

    def _node(self, peer: str) -> Any:
        node = self._nodes.get(peer)
        if node is None:
            node = self._nodes[peer] = self._make_node(peer)
        return node


def _answer(*, next_index: int, is_success: bool) -> Message:
    return {
        "type": "next_node_idx",
        "next_node_idx": next_index,
        "reset": False,
        "success": is_success,
    }
