"""What is sent when: news of commits that may wait for company, and answers that would only repeat."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from manager.raft.read_index import ReadIndex
from manager.raft.replication import Replication
from manager.raft.transport import PeerTransport
from swarmpy.limits import RAFT_ANSWER_PERIOD_S, RAFT_COMMIT_NOTICE_S

PEER = "peer"


class FakeWire:
    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, peer: str, frame: Any) -> bool:
        self.sent.append(frame)
        return True

    def backlog(self, peer: str) -> int:
        return 0

    def drop(self, peer: str) -> None:
        pass


class FakeCore:
    """A follower in term 1, as its transport sees it."""

    def __init__(self) -> None:
        self.term, self.time = 1, 100.0
        self.syncs = 0

    def now(self) -> float:
        return self.time

    def sync(self) -> None:
        self.syncs += 1


def make_transport(core: FakeCore, wire: FakeWire) -> PeerTransport:
    transport = PeerTransport(wire, lambda raft_id: SimpleNamespace(id=raft_id), ReadIndex())  # type: ignore[arg-type]
    transport.attach(core)  # type: ignore[arg-type]
    transport.setOnNodeConnectedCallback(lambda node: None)
    transport.setOnNodeDisconnectedCallback(lambda node: None)
    transport.addNode(SimpleNamespace(id=PEER))
    return transport


def answer(transport: PeerTransport, next_index: int, *, is_success: bool = True) -> None:
    message = {
        "type": "next_node_idx",
        "next_node_idx": next_index,
        "reset": not is_success,
        "success": is_success,
    }
    transport.send(SimpleNamespace(id=PEER), message)
    transport.flush()


def test_an_answer_that_repeats_waits_until_a_sign_of_life_is_due() -> None:
    core, wire = FakeCore(), FakeWire()
    transport = make_transport(core, wire)
    answer(transport, 5)
    answer(transport, 5)
    assert len(wire.sent) == 1
    answer(transport, 6)
    assert len(wire.sent) == 2
    core.time += 2 * RAFT_ANSWER_PERIOD_S
    answer(transport, 6)
    assert len(wire.sent) == 3


def test_refusals_new_terms_and_new_connections_are_always_answered() -> None:
    core, wire = FakeCore(), FakeWire()
    transport = make_transport(core, wire)
    answer(transport, 5, is_success=False)
    answer(transport, 5, is_success=False)
    assert len(wire.sent) == 2
    answer(transport, 5)
    core.term = 2
    answer(transport, 5)
    assert len(wire.sent) == 4
    transport.peer_connected(PEER)
    transport.peer_disconnected(PEER)
    answer(transport, 5)
    assert len(wire.sent) == 5


def make_replication(journal: Any, transport: PeerTransport) -> Replication:
    return Replication(journal, None, transport, batch_bytes=1)  # type: ignore[arg-type]


def test_entries_are_news_at_once_and_commits_after_a_while() -> None:
    journal = SimpleNamespace(last=7)
    replication = make_replication(journal, make_transport(FakeCore(), FakeWire()))
    replication.begin_round(6, 10.0)
    assert not replication.has_news(6, 10.0)
    assert not replication.has_news(7, 10.0 + RAFT_COMMIT_NOTICE_S / 2)
    assert replication.has_news(7, 10.0 + 2 * RAFT_COMMIT_NOTICE_S)
    journal.last = 8
    assert replication.has_news(6, 10.0)


def test_a_follower_that_waits_for_what_it_forwarded_hears_at_once() -> None:
    wire = FakeWire()
    transport = make_transport(FakeCore(), wire)
    replication = make_replication(SimpleNamespace(last=7), transport)
    replication.begin_round(6, 10.0)
    transport.send(
        SimpleNamespace(id=PEER),
        {"type": "apply_command_response", "request_id": 1, "log_idx": 7, "log_term": 1},
    )
    assert replication.has_news(7, 10.0)
    replication.begin_round(7, 10.0)
    assert not replication.has_news(7, 10.0)
