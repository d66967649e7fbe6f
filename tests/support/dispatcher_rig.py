"""The leader's end of sessions in a test: a dispatcher on a store, agents that say what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from clusters import Firing, memory_proposer, seeded_env

from manager.dispatcher import Dispatcher
from manager.proposer import Proposer
from manager.store.store import Store
from swarmpy import codec
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import NodeDescription, TaskStatus
from swarmpy.model.states import NodeState, TaskState
from swarmpy.pb import dispatcher_pb2 as pb

DEADLINE_S: Final = 20.0
NODE: Final = NodeId("node-1")


class ScriptedAgent:
    """An agent's stream: what it says, and what it was told. While ``reads`` is clear it takes no message."""

    def __init__(self, dispatcher: Dispatcher, node_id: NodeId = NODE) -> None:
        self.says: asyncio.Queue[pb.AgentMessage | None] = asyncio.Queue()
        self.told: list[pb.ManagerMessage] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.call = asyncio.create_task(
            dispatcher.serve(node_id, "10.9.9.9", messages=self._messages(), send=self._take)
        )

    async def _messages(self) -> AsyncIterator[pb.AgentMessage]:
        while (message := await self.says.get()) is not None:
            yield message

    async def _take(self, message: pb.ManagerMessage) -> None:
        await self.reads.wait()
        self.told.append(message)

    def hello(self, addr: str = "") -> None:
        description = codec.to_pb(NodeDescription(hostname="h1"))
        self.says.put_nowait(
            pb.AgentMessage(hello=pb.Hello(description=description, incarnation="i", advertise_addr=addr))
        )

    def report(self, sequence: int, *statuses: tuple[str, TaskState]) -> None:
        update = pb.StatusUpdate(sequence=sequence)
        for task_id, state in statuses:
            update.statuses.add(task_id=task_id, status=codec.to_pb(TaskStatus(state=state)))
        self.says.put_nowait(pb.AgentMessage(statuses=update))

    def of_kind(self, kind: str) -> list[pb.ManagerMessage]:
        return [message for message in self.told if message.WhichOneof("message") == kind]


@asynccontextmanager
async def dispatching(
    store: Store, *, proposer: Proposer | None = None, fault_point: Firing | None = None
) -> AsyncIterator[Dispatcher]:
    """A dispatcher at work, which must not have ended by itself. No proposer: one that applies at once."""
    if proposer is None:
        log, proposer = memory_proposer(store)
        await log.start()
    dispatcher = Dispatcher(store, proposer, seeded_env(fault_point=fault_point), epoch=1)
    running = asyncio.create_task(dispatcher.run())
    try:
        yield dispatcher
        assert not running.done(), running.exception()
    finally:
        running.cancel()
        await asyncio.wait([running])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


def state_of(store: Store, node_id: NodeId = NODE) -> NodeState:
    node = store.node(node_id)
    assert node is not None
    return node.status.state
