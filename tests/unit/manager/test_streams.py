"""Streams from a client to a node and back: what they carry, and how each of the three parties ends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from agent_rig import in_virtual_time
from stream_rig import NODE, TASK, StreamRig

from agent.executor.base import Command, Output
from agent.executor.fake_exec import Reply
from manager.streams import LEADER_CHANGED, NodeStream, require
from swarmpy.errors import Conflict, InvalidArgument, NotFound, Unavailable, Unimplemented
from swarmpy.limits import STREAM_LOOK_S, STREAM_OPEN_TIMEOUT_S, STREAM_QUEUE_PARTS_MAX, STREAMS_MAX
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.pb import streams_pb2 as pb

DEADLINE_S = 60.0
EXEC = pb.ExecStart(task_id=TASK, argv=["sh"], has_input=True).SerializeToString()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


def answering(rig: StreamRig, reply: Reply) -> None:
    def answer(task_id: TaskId, command: Command) -> Reply:
        return reply

    rig.machine.answer = answer


def data(text: bytes) -> pb.StreamPart:
    return pb.StreamPart(data=pb.StreamData(data=text))


async def all_of(stream: NodeStream) -> list[pb.StreamPart]:
    found = []
    async with asyncio.timeout(DEADLINE_S):
        while (part := await stream.receive()) is not None:
            found.append(part)
    return found


@in_virtual_time
async def test_a_command_with_input_output_and_code() -> None:
    async with asyncio.TaskGroup() as tasks:
        rig = StreamRig(tasks)
        await rig.start()
        answering(rig, Reply(is_echo=True, exit_code=5, output=(Output(2, b"hello"),)))
        async with rig.streams.open(NODE, "task.exec", EXEC) as stream:
            for number in range(3 * STREAM_QUEUE_PARTS_MAX):
                await stream.send(data(b"%d" % number))
                part = require(await stream.receive())
                assert (part.data.stream, part.data.data) == (
                    (2, b"hello") if not number else (1, b"%d" % (number - 1))
                )
            await stream.send(pb.StreamPart(end_of_input=pb.StreamEndOfInput()))
            *_, last = await all_of(stream)
        assert pb.ExitResult.FromString(last.result.body).code == 5
        assert len(rig.hub) == rig.commands == 0


@in_virtual_time
async def test_a_client_that_leaves_takes_its_command_along_even_one_that_reads_nothing() -> None:
    async with asyncio.TaskGroup() as tasks:
        rig = StreamRig(tasks)
        await rig.start()
        answering(rig, Reply(takes_s=None))
        async with rig.streams.open(NODE, "task.exec", EXEC) as stream:
            (channel,) = rig.machine.tasks[TASK].channels
            channel.write = _read_nothing  # type: ignore[method-assign]
            sending = asyncio.create_task(_send_much(stream))
            await asyncio.sleep(1)
            assert not sending.done()
        sending.cancel()
        await until(lambda: rig.commands == 0)
        await until(lambda: all(each.serving.done() for each in rig.attended))


async def _read_nothing(data: bytes) -> None:
    await asyncio.Event().wait()


async def _send_much(stream: NodeStream) -> None:
    while True:
        await stream.send(data(b"x" * 1000))


@in_virtual_time
async def test_a_node_that_goes_away_is_named() -> None:
    async with asyncio.TaskGroup() as tasks:
        rig = StreamRig(tasks)
        await rig.start()
        answering(rig, Reply(takes_s=None))
        async with rig.streams.open(NODE, "task.exec", EXEC) as stream:
            rig.cut()
            with pytest.raises(Unavailable, match="the connection to node node-1 is lost"):
                await all_of(stream)
        await until(lambda: rig.commands == 0)


@in_virtual_time
async def test_the_end_of_the_term_ends_streams_and_says_so() -> None:
    async with asyncio.TaskGroup() as tasks:
        rig = StreamRig(tasks)
        await rig.start()
        answering(rig, Reply(takes_s=None))
        async with rig.streams.open(NODE, "task.attach", EXEC) as stream:
            rig.machine.write_log(TASK, b"last words")
            assert require(await stream.receive()).data.data == b"last words"
            rig.hub.close()
            with pytest.raises(Unavailable) as caught:
                await all_of(stream)
            assert str(caught.value) == LEADER_CHANGED
        await until(lambda: rig.commands == 0)
        with pytest.raises(Unavailable, match="leader of the swarm is changing"):
            await rig.streams.call(NODE, "task.top", b"")


@in_virtual_time
async def test_calls() -> None:
    async with asyncio.TaskGroup() as tasks:
        rig = StreamRig(tasks)
        await rig.start()

        async def reverse(body: bytes) -> bytes:
            return body[::-1]

        rig.server.add_calls({"test.reverse": reverse})
        assert await rig.streams.call(NODE, "test.reverse", b"abc") == b"cba"
        body = pb.TaskStart(task_id=TASK).SerializeToString()
        table = pb.ProcessTable.FromString(await rig.streams.call(NODE, "task.top", body))
        assert table.titles == ["PID", "CMD"]
        asked = pb.StatsStart(task_ids=[TASK, "another"]).SerializeToString()
        stats = pb.StatsResult.FromString(await rig.streams.call(NODE, "task.stats", asked))
        assert [(each.task_id, each.is_running, each.pids) for each in stats.tasks] == [(TASK, True, 1)]
        with pytest.raises(Unimplemented, match="does not know how to do"):
            await rig.streams.call(NODE, "test.nothing", b"")
        with pytest.raises(InvalidArgument, match="cannot be read"):
            await rig.streams.call(NODE, "task.top", b"\xff")


@in_virtual_time
async def test_refusals_keep_their_family() -> None:
    async with asyncio.TaskGroup() as tasks:
        rig = StreamRig(tasks)
        await rig.start()
        answering(rig, Reply(refusal="executable file not found in $PATH"))
        with pytest.raises(InvalidArgument, match="executable file not found"):
            async with rig.streams.open(NODE, "task.exec", EXEC):
                pass
        with pytest.raises(NotFound, match="No such container: t9"):
            async with rig.streams.open(NODE, "task.attach", pb.TaskStart(task_id="t9").SerializeToString()):
                pass
        rig.machine.end(TASK, 0)
        with pytest.raises(Conflict, match="Container t1 is not running"):
            async with rig.streams.open(NODE, "task.exec", EXEC):
                pass
        assert len(rig.hub) == 0


@in_virtual_time
async def test_nodes_that_cannot_be_asked() -> None:
    async with asyncio.TaskGroup() as tasks:
        rig = StreamRig(tasks)
        with pytest.raises(Unavailable, match="node node-9 is not available"):
            await rig.streams.call(NodeId("node-9"), "task.top", b"")
        rig.answers = False
        began = asyncio.get_running_loop().time()
        with pytest.raises(Unavailable, match="did not answer in 5 s"):
            await rig.streams.call(NODE, "task.top", b"")
        assert asyncio.get_running_loop().time() - began == pytest.approx(STREAM_OPEN_TIMEOUT_S)
        assert len(rig.hub) == 0


@in_virtual_time
async def test_a_session_that_ends_before_the_node_has_heard_is_not_waited_for() -> None:
    """A node that was promoted has a new certificate, and with it a new session, in a moment."""
    async with asyncio.TaskGroup() as tasks:
        rig = StreamRig(tasks)
        await rig.start()
        answering(rig, Reply(exit_code=0))
        rig.answers = False
        loop = asyncio.get_running_loop()
        began = loop.time()
        loop.call_later(0.5, setattr, rig, "has_session", False)
        loop.call_later(1.0, rig.renew_session)
        async with rig.streams.open(NODE, "task.exec", EXEC) as stream:
            assert loop.time() - began == pytest.approx(1.0, abs=2 * STREAM_LOOK_S)
            *_, last = await all_of(stream)
        assert last.HasField("result")
        assert len(rig.attended) == 1


@in_virtual_time
async def test_a_stream_is_attended_once_and_by_its_node() -> None:
    async with asyncio.TaskGroup() as tasks:
        rig = StreamRig(tasks)
        await rig.start()
        answering(rig, Reply(takes_s=None))
        async with rig.streams.open(NODE, "task.exec", EXEC):
            (id_,) = rig.hub._streams
            for node_id, name in ((NODE, id_), (NodeId("node-2"), id_), (NODE, "nobody's")):
                with pytest.raises(NotFound):
                    await rig.hub.attend(node_id, name, _no_parts(), _nowhere)


async def _no_parts() -> AsyncIterator[pb.StreamPart]:
    for _ in ():
        yield pb.StreamPart()


async def _nowhere(part: pb.StreamPart) -> None:
    raise AssertionError("nothing may be sent")


@in_virtual_time
async def test_streams_are_bounded() -> None:
    async with asyncio.TaskGroup() as tasks:
        rig = StreamRig(tasks)
        rig.answers = False
        opening = [asyncio.create_task(rig.streams.call(NODE, "x", b"")) for _ in range(STREAMS_MAX)]
        await until(lambda: len(rig.hub) == STREAMS_MAX)
        with pytest.raises(Unavailable, match="too many streams"):
            await rig.streams.call(NODE, "x", b"")
        await asyncio.wait(opening)
        assert all(isinstance(each.exception(), Unavailable) for each in opening)
        assert len(rig.hub) == 0
