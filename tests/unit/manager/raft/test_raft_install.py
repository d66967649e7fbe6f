"""Installing a snapshot that takes long to check and decode: the member takes part, and is sent it once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from raft_rig import Rig

from manager.raft.proposer import Member
from swarmpy.limits import RAFT_ELECTION_MAX_S
from swarmpy.pb import raft_pb2 as pb

LOAD_S = 3 * RAFT_ELECTION_MAX_S


class SlowThread(Executor):
    """Runs what it is given in one go, long after."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._rig.loop.call_later(LOAD_S, lambda: future.set_result(fn(*args, **kwargs)))
        return future


async def write(rig: Rig, first: int, count: int) -> list[bytes]:
    leader = await rig.leader()
    entries = [b"%d" % number for number in range(first, first + count)]
    for entry in entries:
        await leader.propose(entry)
    return entries


def test_a_joiner_that_loads_slowly_is_sent_the_snapshot_once() -> None:
    rig = Rig(3, snapshot_entries=10)
    begun: list[str] = []

    def observe(sender: str, frame: pb.RaftFrame) -> None:
        if frame.WhichOneof("body") == "snapshot_chunk" and frame.snapshot_chunk.offset == 0:
            begun.append(sender)

    async def scenario() -> None:
        written = await write(rig, 0, 50)
        leader = await rig.leader()
        rig.observe = observe
        rig.make_thread = lambda: SlowThread(rig)
        newcomer = await rig.join("n3", leader)
        await leader.add_member(Member(raft_id="n3", address="n3:2377"))
        term = leader.status().term
        await rig.until(lambda: bool(begun))
        begun_at = rig.loop.time()
        while rig.machines["n3"].restores == 0:
            written += await write(rig, len(written), 1)
        assert rig.loop.time() - begun_at >= LOAD_S
        await rig.until(lambda: rig.machines["n3"].entries == written)
        assert len(begun) == 1, "a refusal had the leader begin anew"
        assert leader.status().term == term, "the newcomer stood for election meanwhile"
        assert newcomer.status().leader == leader.raft_id

    rig.run(scenario)


def test_a_member_that_loads_survives_a_change_of_leader() -> None:
    rig = Rig(3, snapshot_entries=10)

    async def scenario() -> None:
        written = await write(rig, 0, 50)
        leader = await rig.leader()
        rig.make_thread = lambda: SlowThread(rig)
        await rig.join("n3", leader)
        await leader.add_member(Member(raft_id="n3", address="n3:2377"))
        await rig.until(lambda: rig.logs["n3"]._core.is_installing)
        await leader.transfer_leadership()
        written += await write(rig, 50, 5)
        assert rig.machines["n3"].restores == 0, "the leader changed before it was done"
        await rig.until(lambda: rig.machines["n3"].entries == written)

    rig.run(scenario)
