"""What code may rely on between nodes: one suite for gRPC on loopback and for the simulated transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from transport_rig import AnyRig as Rig
from transport_rig import bare, both_rigs, ping, raft, until, within

from swarmpy import errors, limits, rpc
from swarmpy.errors import FailedPrecondition, SwarmError, Unavailable
from swarmpy.pb import (
    dispatcher_pb2,
    dispatcher_pb2_grpc,
    raft_pb2,
    streams_pb2,
    streams_pb2_grpc,
)


@pytest.fixture(params=both_rigs, ids=["grpc", "simulated"])
def rig(request: pytest.FixtureRequest) -> Rig:
    made: Rig = request.param()
    return made


CALL_S = 1.0
"""Until a call of which the test waits for the end is over: long enough that it reaches the other end."""
GRACE_S = 3.0


def frames(text: str) -> raft_pb2.RaftFrames:
    return raft_pb2.RaftFrames(frames=[raft_pb2.RaftFrame(hello=raft_pb2.RaftHello(raft_id=text))])


async def batches(count: int, size: int = 1) -> AsyncIterator[streams_pb2.LogBatch]:
    for _ in range(count):
        yield streams_pb2.LogBatch(lines=[streams_pb2.LogLine(data=b"x" * size)])


def stream_ended(rig: Rig) -> bool:
    """A servicer that reads when its client goes sees the end of the requests, or is cancelled."""
    return rig.subject.events[0] == "opened" and rig.subject.events[-1] in {"done", "cancelled"}


# --- calls


def test_every_kind_of_call(rig: Rig) -> None:
    async def scenario(rig: Rig) -> None:
        server, address = await rig.start()
        async with rig.transport.channel(rig.cluster.manager, address) as channel:
            answer = await raft(channel).Ping(raft_pb2.RaftPingRequest(), timeout=5)
            assert answer.raft_id == rig.cluster.manager.node_id
            streams: Any = streams_pb2_grpc.StreamsStub(channel)
            got = [batch async for batch in streams.SubscribeLogs(dispatcher_pb2.LogSelector(tail=5))]
            assert [batch.subscription_id for batch in got] == list("01234")
            assert (await streams.PublishLogs(batches(7))).lines == 7
            stream = raft(channel).Stream()
            for text in ("a", "b", "c"):
                await stream.write(frames(text))
                assert (await stream.read()).frames[0].hello.raft_id == text
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF
            assert await stream.read() is grpc.aio.EOF
            assert await stream.code() is grpc.StatusCode.OK
        await until(lambda: rig.subject.events == ["opened", "done"])
        await rig.at_server(server.stop(0))

    rig.run(scenario)


def test_messages_keep_their_order(rig: Rig) -> None:
    async def scenario(rig: Rig) -> None:
        server, address = await rig.start()
        async with rig.transport.channel(rig.cluster.manager, address) as channel:
            stream = raft(channel).Stream()

            async def write() -> None:
                for number in range(500):
                    await stream.write(frames(str(number)))
                await stream.done_writing()

            writing = asyncio.create_task(write())
            got = []
            while (message := await within(stream.read())) is not grpc.aio.EOF:
                got.append(message.frames[0].hello.raft_id)
            await writing
            assert got == [str(number) for number in range(500)]
        await rig.at_server(server.stop(0))

    rig.run(scenario)


def test_the_server_answers_after_half_close(rig: Rig) -> None:
    async def scenario(rig: Rig) -> None:
        server, address = await rig.start()
        rig.subject.held.set()
        async with rig.transport.channel(rig.cluster.manager, address) as channel:
            call: Any = dispatcher_pb2_grpc.DispatcherStub(channel).Session()
            assert (await call.read()).welcome.session_id == "s"
            for _ in range(3):
                await call.write(dispatcher_pb2.AgentMessage(heartbeat=dispatcher_pb2.Heartbeat()))
            await call.done_writing()
            with pytest.raises(asyncio.InvalidStateError, match="half closed"):
                await call.write(dispatcher_pb2.AgentMessage())
            assert (await call.read()).status_ack.sequence == 3
            assert await call.read() is grpc.aio.EOF
            with pytest.raises(asyncio.InvalidStateError, match="already finished"):
                await call.write(dispatcher_pb2.AgentMessage())
        await rig.at_server(server.stop(0))

    rig.run(scenario)


# --- errors


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidArgument("b"),
        errors.NotFound("service web not found"),
        errors.Retry("i", delay_s=2.5),
        errors.NotLeader(leader="abc"),
        errors.NoLeader(),
        errors.OutcomeUnknown("k ä"),
        SwarmError("l"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_servicer_raises_arrives(rig: Rig, error: SwarmError) -> None:
    async def scenario(rig: Rig) -> None:
        server, address = await rig.start()
        rig.subject.error = error

        async def unary(channel: grpc.aio.Channel) -> None:
            await raft(channel).Ping(raft_pb2.RaftPingRequest(), timeout=5)

        async def subscribe(channel: grpc.aio.Channel) -> None:
            stub: Any = streams_pb2_grpc.StreamsStub(channel)
            async for batch in stub.SubscribeLogs(dispatcher_pb2.LogSelector(tail=2)):
                received.append(len(batch.warnings))  # noqa: PERF401 - it ends with an error

        async def publish(channel: grpc.aio.Channel) -> None:
            stub: Any = streams_pb2_grpc.StreamsStub(channel)
            await stub.PublishLogs(batches(1))

        async def stream(channel: grpc.aio.Channel) -> None:
            call = raft(channel).Stream()
            await call.write(frames("a"))
            while await call.read() is not grpc.aio.EOF:
                received.append(1)

        received: list[int] = []
        async with rig.transport.channel(rig.cluster.manager, address) as channel:
            for call in (unary, subscribe, publish, stream):
                with pytest.raises(SwarmError) as caught, rpc.translate_errors():
                    await within(call(channel))
                assert type(caught.value) is type(error)
                assert str(caught.value) == str(error)
                assert getattr(caught.value, "delay_s", None) == getattr(error, "delay_s", None)
                assert getattr(caught.value, "leader", None) == getattr(error, "leader", None)
        assert len(received) == 3  # what was sent before the error is read first
        await rig.at_server(server.stop(0))

    rig.run(scenario)


def test_an_error_that_is_none_of_ours_is_unknown(rig: Rig) -> None:
    async def scenario(rig: Rig) -> None:
        server, address = await rig.start()
        rig.subject.error = ZeroDivisionError("oh")
        async with rig.transport.channel(rig.cluster.manager, address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await raft(channel).Ping(raft_pb2.RaftPingRequest(), timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNKNOWN
            assert caught.value.details() == "Unexpected <class 'ZeroDivisionError'>: oh"
            with pytest.raises(grpc.aio.AioRpcError) as missing:
                await bare(channel).unary_unary("/swarmpy.v1.Raft/Nothing")(b"", timeout=5)
            assert missing.value.code() is grpc.StatusCode.UNIMPLEMENTED
            with pytest.raises(grpc.aio.AioRpcError) as malformed:
                await bare(channel).unary_unary("/swarmpy.v1.Raft/Ping")(b"\xff\xff", timeout=5)
            assert malformed.value.code() is grpc.StatusCode.UNKNOWN
        await rig.at_server(server.stop(0))

    rig.run(scenario)


def test_a_deadline_ends_the_call_at_both_ends(rig: Rig) -> None:
    async def scenario(rig: Rig) -> None:
        server, address = await rig.start()
        async with rig.transport.channel(rig.cluster.manager, address) as channel:
            await raft(channel).Ping(raft_pb2.RaftPingRequest())  # what comes too late shall be the answer
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await raft(channel).Members(raft_pb2.RaftMembersRequest(), timeout=CALL_S)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await until(lambda: rig.subject.events == ["asked", "cancelled"])
            stream = raft(channel).Stream(timeout=CALL_S)
            with pytest.raises(grpc.aio.AioRpcError) as late:
                await stream.read()
            assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            with pytest.raises(asyncio.InvalidStateError):
                await stream.write(frames("a"))
        await rig.at_server(server.stop(0))

    rig.run(scenario)


def test_the_client_cancels(rig: Rig) -> None:
    async def scenario(rig: Rig) -> None:
        server, address = await rig.start()
        async with rig.transport.channel(rig.cluster.manager, address) as channel:
            asking = asyncio.ensure_future(raft(channel).Members(raft_pb2.RaftMembersRequest()))
            await until(lambda: rig.subject.events == ["asked"])
            asking.cancel()
            await until(lambda: rig.subject.events == ["asked", "cancelled"])
            rig.subject.events.clear()
            stream = raft(channel).Stream()
            await stream.write(frames("a"))
            await stream.read()
            reading = asyncio.create_task(stream.read())
            await asyncio.sleep(0.05)
            assert stream.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert not stream.cancel()
            assert stream.cancelled()
            assert await stream.code() is grpc.StatusCode.CANCELLED
            with pytest.raises(asyncio.InvalidStateError):
                await stream.write(frames("a"))
            await until(lambda: stream_ended(rig))
            # A reader that is cancelled takes its call with it.
            stream = raft(channel).Stream()
            reading = asyncio.create_task(stream.read())
            await asyncio.sleep(0.1)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert stream.cancelled()
        await rig.at_server(server.stop(0))

    rig.run(scenario)


def test_closing_the_channel_ends_its_calls(rig: Rig) -> None:
    async def scenario(rig: Rig) -> None:
        server, address = await rig.start()
        channel = rig.transport.channel(rig.cluster.manager, address)
        stream = raft(channel).Stream()
        await stream.write(frames("a"))
        await stream.read()
        reading = asyncio.create_task(stream.read())
        await asyncio.sleep(0.05)
        await channel.close()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await until(lambda: stream_ended(rig))
        with pytest.raises(Unavailable, match="was closed"), rpc.translate_errors():
            await raft(channel).Ping(raft_pb2.RaftPingRequest())
        await rig.at_server(server.stop(0))

    rig.run(scenario)


def test_a_server_that_stops(rig: Rig) -> None:
    """New calls are refused at once; those under way have until the grace is over."""

    async def scenario(rig: Rig) -> None:
        server, address = await rig.start()
        async with rig.transport.channel(rig.cluster.manager, address) as channel:
            stream = raft(channel).Stream()
            await stream.write(frames("a"))
            await stream.read()
            asking = asyncio.ensure_future(raft(channel).Members(raft_pb2.RaftMembersRequest()))
            await until(lambda: "asked" in rig.subject.events)
            stopping = asyncio.create_task(rig.at_server(server.stop(GRACE_S)))
            await asyncio.sleep(0.1)
            with pytest.raises(Unavailable):
                await ping(rig, address)
            rig.subject.held.set()
            assert (await within(asking)).leader == "l"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await within(stream.read())
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            await within(stopping)
            with pytest.raises(asyncio.InvalidStateError):
                await stream.write(frames("a"))
            with pytest.raises(grpc.aio.AioRpcError):
                await raft(channel).Ping(raft_pb2.RaftPingRequest(), timeout=5)
        assert stream_ended(rig)

    rig.run(scenario)


def test_a_connection_that_breaks_in_the_middle(rig: Rig) -> None:
    async def scenario(rig: Rig) -> None:
        server, address = await rig.start()
        async with (
            rig.breakable(address) as (through, break_all),
            rig.transport.channel(rig.cluster.manager, through) as channel,
        ):
            stream = raft(channel).Stream()
            await stream.write(frames("a"))
            await stream.read()
            break_all()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await within(stream.read())
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert type(rpc.error_from_rpc(caught.value)) is errors.OutcomeUnknown
            await until(lambda: stream_ended(rig))
            # The next call makes a new connection.
            answer = await raft(channel).Ping(raft_pb2.RaftPingRequest(), timeout=5, wait_for_ready=True)
            assert answer.raft_id
        await rig.at_server(server.stop(0))

    rig.run(scenario)


def test_nobody_listens(rig: Rig) -> None:
    async def scenario(rig: Rig) -> None:
        server, address = await rig.start()
        await rig.at_server(server.stop(0))
        with pytest.raises(Unavailable, match="cannot be reached: failed to connect to all addresses"):
            await ping(rig, address)
        async with rig.transport.channel(rig.cluster.manager, address) as channel:
            stream = raft(channel).Stream()
            with pytest.raises(grpc.aio.AioRpcError):
                await within(stream.write(frames("a")))
        with pytest.raises(Unavailable, match="no manager can be reached"):
            await rig.transport.fetch_chain(address)

    rig.run(scenario)


def test_a_port_in_use(rig: Rig) -> None:
    async def scenario(rig: Rig) -> None:
        server, address = await rig.start()
        with pytest.raises(FailedPrecondition, match=r"listen tcp .*: bind: address already in use"):
            await rig.start(address)
        await rig.at_server(server.stop(0))
        again, same = await rig.start(address)
        assert same == address
        await rig.at_server(again.stop(0))

    rig.run(scenario)


# --- how much


def test_a_writer_waits_for_a_reader_that_does_not_read(rig: Rig) -> None:
    """What is buffered between them is bounded, whatever the writer would like to send."""

    async def scenario(rig: Rig) -> None:
        server, address = await rig.start()
        written = 0
        async with rig.transport.channel(rig.cluster.manager, address) as channel:
            call: Any = dispatcher_pb2_grpc.DispatcherStub(channel).Session()
            await call.read()
            message = dispatcher_pb2.AgentMessage(goodbye=dispatcher_pb2.Goodbye(reason="x" * (256 << 10)))

            async def write() -> None:
                nonlocal written
                for _ in range(100):
                    await call.write(message)
                    written += 1
                await call.done_writing()

            writing = asyncio.create_task(write())
            await asyncio.sleep(1.0)
            stuck_at = written
            assert stuck_at < 90
            rig.subject.held.set()
            await within(writing)
            assert (await within(call.read())).status_ack.sequence == 100
            # And the other way.
            subscribing: Any = streams_pb2_grpc.StreamsStub(channel).SubscribeLogs(
                dispatcher_pb2.LogSelector(tail=100_000)
            )
            await subscribing.read()
            before = -1
            while before != rig.subject.batches_written:
                before = rig.subject.batches_written
                await asyncio.sleep(0.5)
            assert before < 50_000
            subscribing.cancel()
        await rig.at_server(server.stop(0))

    rig.run(scenario)


def test_a_message_that_is_too_long(rig: Rig) -> None:
    async def scenario(rig: Rig) -> None:
        server, address = await rig.start()
        async with rig.transport.channel(rig.cluster.manager, address) as channel:
            long = bytes(limits.RPC_MESSAGE_BYTES_MAX + 1)
            with pytest.raises(errors.Rejected), rpc.translate_errors():
                await bare(channel).unary_unary("/swarmpy.v1.Raft/Ping")(long, timeout=10)
            stream = bare(channel).stream_stream("/swarmpy.v1.Raft/Stream")()
            with pytest.raises(errors.OutcomeUnknown), rpc.translate_errors():
                await stream.write(long)
            assert await ping(rig, address)
        await rig.at_server(server.stop(0))

    rig.run(scenario)
