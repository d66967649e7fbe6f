"""The agent's session: finding the leader, keeping the stream, and what goes over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from agent_rig import DEADLINE_S, FakeManager, in_virtual_time, loop_env, make_revision, make_task
from clusters import Firing
from fake_link import HEARTBEAT_S, FakeLink

from agent.agent import Agent, AgentConfig
from agent.dataplane.fake import FakeBackend, FakeNetwork
from agent.executor.fake import Behaviour, FakeExecutor, FakeMachine
from agent.journal import IN_MEMORY, Journal
from swarmpy import codec
from swarmpy.errors import PermissionDenied, SwarmError
from swarmpy.limits import DISCONNECT_GRACE_S
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.objects import Node, NodeDescription, Revision, Task, TaskStatus
from swarmpy.model.states import NodeRole, TaskState
from swarmpy.pb import dispatcher_pb2 as pb
from swarmpy.pb import types_pb2
from swarmpy.runtime import never

WEB = make_revision()
THREE = ["m1:2377", "m2:2377", "m3:2377"]


@dataclass
class Site:
    """One agent among fake managers."""

    link: FakeLink
    machine: FakeMachine = field(default_factory=FakeMachine)
    network: FakeNetwork = field(default_factory=FakeNetwork)
    journal: Journal = field(default_factory=lambda: Journal(IN_MEMORY))
    notices: list[tuple[Node, bytes]] = field(default_factory=list)
    removals: list[str] = field(default_factory=list)
    hostname: str = "host1"
    buggify: Callable[[str], bool] = never
    chain: int = 0

    def make_agent(self, managers: tuple[str, ...] = ("m1:2377",)) -> Agent:
        async def on_node(node: Node, root_ca: bytes) -> None:
            self.notices.append((node, root_ca))

        config = AgentConfig(
            node_id=NodeId("node1"),
            managers=managers,
            describe=lambda: NodeDescription(hostname=self.hostname),
        )
        return Agent(
            config,
            env=replace(loop_env(), buggify=self.buggify),
            link=self.link,
            executor=FakeExecutor(self.machine),
            backend=FakeBackend(self.network),
            on_node=on_node,
            on_removed=self.removals.append,
            journal=self.journal,
        )

    @asynccontextmanager
    async def running(self, managers: tuple[str, ...] = ("m1:2377",)) -> AsyncIterator[Agent]:
        agent = self.make_agent(managers)
        work = asyncio.create_task(agent.run())
        try:
            yield agent
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    def assign(self, *items: Task | Revision, is_complete: bool = True) -> None:
        update = pb.AssignmentUpdate(
            type=pb.AssignmentUpdate.COMPLETE if is_complete else pb.AssignmentUpdate.INCREMENTAL,
            applies_to=self.chain,
            results_in=self.chain + 1,
        )
        self.chain += 1
        for item in items:
            change = update.changes.add()
            codec.write_pb(item, change.task if isinstance(item, Task) else change.revision)
        self.link.sessions[-1].say(pb.ManagerMessage(assignments=update))


async def wait(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.001)


def now() -> float:
    return asyncio.get_running_loop().time()


# --- finding the leader


@in_virtual_time
async def test_follows_a_redirect() -> None:
    site = Site(FakeLink(THREE, leader="m3:2377"))
    began = now()
    async with site.running() as agent:
        await wait(lambda: agent.manager_addr == "m3:2377")
        assert now() - began < 0.01
        assert agent.managers[0] == "m3:2377"
        hello = site.link.sessions[0].heard[0].hello
        assert hello.description.hostname == "host1"
        assert hello.incarnation


@in_virtual_time
async def test_skips_managers_that_do_not_answer() -> None:
    site = Site(FakeLink(THREE, leader="m3:2377", dead={"m1:2377"}))
    began = now()
    async with site.running(tuple(THREE)) as agent:
        await wait(lambda: agent.manager_addr != "")
        assert now() - began < 1.1
        assert site.link.dialled == ["m1:2377", "m2:2377", "m3:2377"]


@in_virtual_time
async def test_a_leader_change_costs_little() -> None:
    """The leader dies; the others still take it for the leader, then know of none, then elect one."""
    site = Site(FakeLink(list(THREE), leader="m1:2377"))
    async with site.running(tuple(THREE)) as agent:
        await wait(lambda: agent.manager_addr == "m1:2377")
        await asyncio.sleep(10)
        site.link.leader, site.link.told_leader = "", "m1:2377"
        site.link.dead.add("m1:2377")
        site.link.sessions[-1].cut()
        await asyncio.sleep(0.4)
        site.link.told_leader = ""
        await asyncio.sleep(1.0)
        site.link.leader, site.link.told_leader = "m3:2377", None
        elected = now()
        await wait(lambda: agent.manager_addr == "m3:2377")
        assert now() - elected < 0.35
        assert site.link.dialled.count("m1:2377") <= 2


@in_virtual_time
async def test_a_stream_that_broke_under_a_healthy_leader_is_back_before_the_node_is_down() -> None:
    site = Site(FakeLink(list(THREE), leader="m1:2377"))
    async with site.running(tuple(THREE)):
        await asyncio.sleep(10)
        site.link.sessions[-1].cut()
        await asyncio.sleep(DISCONNECT_GRACE_S / 2)
        assert len(site.link.sessions) == 2


@in_virtual_time
async def test_a_long_outage_costs_few_dials() -> None:
    site = Site(FakeLink([], leader=""))
    async with site.running(("m1:2377",)) as agent:
        await asyncio.sleep(600)
        assert len(site.link.dialled) < 160
        assert "nobody listens" in agent.error


@in_virtual_time
async def test_a_nudge_ends_the_wait() -> None:
    site = Site(FakeLink([]))
    async with site.running(tuple(THREE)) as agent:
        await asyncio.sleep(600)
        site.link.managers, site.link.leader = THREE, "m2:2377"
        agent.reconnect("the identity was renewed")
        await asyncio.sleep(0.01)
        assert agent.manager_addr == "m2:2377"


@in_virtual_time
async def test_a_session_that_ends_at_once_is_not_hammered() -> None:
    site = Site(FakeLink(THREE, leader="m1:2377"))
    async with site.running():
        for _ in range(2000):
            await asyncio.sleep(0.03)
            if site.link.sessions and not site.link.sessions[-1].is_closed:
                site.link.sessions[-1].end()
        assert len(site.link.sessions) < 120


@in_virtual_time
async def test_a_manager_that_breaks_costs_a_session_and_no_more() -> None:
    site = Site(FakeLink(THREE, leader="m1:2377"))
    async with site.running() as agent:
        for number, error in enumerate([SwarmError("internal error"), PermissionDenied("removed")], start=1):
            await wait(lambda count=number: len(site.link.sessions) == count)  # type: ignore[misc]
            await asyncio.sleep(5)
            site.link.sessions[-1].cut(error)
        await wait(lambda: len(site.link.sessions) == 3)
        assert agent.manager_addr == "m1:2377"


@in_virtual_time
async def test_a_fault_point_costs_a_session_and_no_more() -> None:
    site = Site(FakeLink(["m1:2377"], leader="m1:2377"), buggify=Firing("session.ends"))
    async with site.running() as agent:
        await wait(lambda: agent.manager_addr != "")
        site.assign()
        await wait(lambda: len(site.link.sessions) == 2 and agent.manager_addr != "")
        site.assign()
        await asyncio.sleep(5)
        assert len(site.link.sessions) == 2


@in_virtual_time
async def test_managers_are_remembered() -> None:
    site = Site(FakeLink(THREE, leader="m1:2377"))
    async with site.running() as agent:
        await wait(lambda: agent.manager_addr != "")
        peers = [pb.ManagerPeer(node_id=f"n{i}", addr=addr) for i, addr in enumerate(THREE)]
        site.link.sessions[-1].say(pb.ManagerMessage(managers=pb.ManagerList(managers=peers)))
        await wait(lambda: set(agent.managers) == set(THREE))
    site.link.dead.add("m1:2377")
    site.link.leader = "m2:2377"
    async with site.running() as agent:
        await wait(lambda: agent.manager_addr == "m2:2377")


@in_virtual_time
async def test_being_refused_is_told() -> None:
    site = Site(FakeLink(THREE, leader="m1:2377", refusing={"m1:2377"}))
    async with site.running() as agent:
        await wait(lambda: agent.error != "")
        assert agent.error == "this node may not do that"


# --- what goes over a session


def _reported(site: Site, task_id: TaskId) -> list[int]:
    return [
        status.status.state
        for stream in site.link.sessions
        for status in stream.statuses()
        if status.task_id == task_id
    ]


@in_virtual_time
async def test_a_quick_start_is_one_status() -> None:
    site = Site(FakeLink(THREE, leader="m1:2377"))
    async with site.running():
        await wait(lambda: bool(site.link.sessions))
        task = make_task(1, WEB)
        site.assign(WEB, task)
        began = now()
        await wait(lambda: bool(_reported(site, task.id)))
        assert now() - began < 0.02
        assert _reported(site, task.id) == [types_pb2.TASK_STATE_RUNNING]


@in_virtual_time
async def test_a_slow_start_tells_its_steps() -> None:
    machine = FakeMachine(script=lambda verb, subject: 1.0 if verb == "ensure_image" else 0.0)
    site = Site(FakeLink(THREE, leader="m1:2377"), machine=machine)
    async with site.running():
        await wait(lambda: bool(site.link.sessions))
        task = make_task(1, WEB)
        site.assign(WEB, task)
        await wait(lambda: types_pb2.TASK_STATE_RUNNING in _reported(site, task.id))
        assert _reported(site, task.id) == [types_pb2.TASK_STATE_PREPARING, types_pb2.TASK_STATE_RUNNING]


@in_virtual_time
async def test_a_new_session_hears_what_it_does_not_know() -> None:
    machine = FakeMachine(plan=lambda launch: Behaviour(run_s=10.0, exit_code=1))
    site = Site(FakeLink(THREE, leader="m1:2377"), machine=machine)
    async with site.running() as agent:
        await wait(lambda: bool(site.link.sessions))
        task = make_task(1, WEB)
        site.assign(WEB, task)
        await wait(lambda: bool(_reported(site, task.id)))
        site.link.leader = ""
        site.link.sessions[-1].cut()
        await wait(lambda: agent.core.runs[task.id].status.state is TaskState.FAILED)
        site.link.leader = "m2:2377"
        await wait(lambda: agent.manager_addr == "m2:2377")
        site.assign(WEB, task)
        await wait(lambda: bool(site.link.sessions[-1].statuses()))
        (told,) = site.link.sessions[-1].statuses()
        assert told.status.state == types_pb2.TASK_STATE_FAILED
        assert told.status.err == "task: non-zero exit (1)"
        assert machine.starts == {task.id: 1}

        # What the manager knows already is not told again.
        known = codec.from_pb(TaskStatus, told.status)
        site.link.sessions[-1].cut()
        await wait(lambda: len(site.link.sessions) == 3)
        site.assign(WEB, Task(**{**{f: getattr(task, f) for f in task.__struct_fields__}, "status": known}))
        await asyncio.sleep(5)
        assert site.link.sessions[-1].statuses() == []


@in_virtual_time
async def test_a_gap_starts_a_new_session() -> None:
    site = Site(FakeLink(THREE, leader="m1:2377"))
    async with site.running() as agent:
        await wait(lambda: bool(site.link.sessions))
        site.assign(WEB)
        site.assign(make_task(1, WEB), is_complete=False)
        site.chain += 1
        lost = make_task(2, WEB)
        site.assign(lost, is_complete=False)
        await wait(lambda: len(site.link.sessions) == 2)
        assert lost.id not in agent.core.runs
        site.assign(WEB, make_task(1, WEB), lost)
        await wait(lambda: lost.id in agent.core.runs)
        assert site.machine.starts[make_task(1, WEB).id] == 1


@in_virtual_time
async def test_unacknowledged_statuses_are_bounded_and_merged() -> None:
    machine = FakeMachine(script=lambda verb, subject: 0.05 if verb == "start" else 0.0)
    site = Site(FakeLink(THREE, leader="m1:2377"), machine=machine)
    async with site.running():
        await wait(lambda: bool(site.link.sessions))
        tasks = [make_task(n, WEB) for n in range(1, 301)]
        site.assign(WEB, *tasks)
        await asyncio.sleep(30)
        stream = site.link.sessions[-1]
        assert stream.kinds().count("statuses") == 8
        for sequence in range(1, 9):
            stream.say(pb.ManagerMessage(status_ack=pb.StatusAck(sequence=sequence)))
        await asyncio.sleep(1)
        last = {status.task_id: status.status.state for status in stream.statuses()}
        assert set(last.values()) == {types_pb2.TASK_STATE_RUNNING}
        assert len(last) == 300


@in_virtual_time
async def test_heartbeats_and_changed_descriptions() -> None:
    site = Site(FakeLink(THREE, leader="m1:2377"))
    async with site.running():
        await wait(lambda: bool(site.link.sessions))
        stream = site.link.sessions[-1]
        await asyncio.sleep(HEARTBEAT_S * 20)
        assert 18 <= stream.kinds().count("heartbeat") <= 23
        site.hostname = "renamed"
        await asyncio.sleep(HEARTBEAT_S * 1.2)
        (told,) = [message.description for message in stream.heard if message.HasField("description")]
        assert told.hostname == "renamed"


@in_virtual_time
async def test_notices_reach_their_listener() -> None:
    site = Site(FakeLink(THREE, leader="m1:2377"))
    async with site.running():
        await wait(lambda: bool(site.link.sessions))
        notice = pb.NodeNotice(root_ca=b"pem")
        codec.write_pb(Node(id=NodeId("node1"), role=NodeRole.MANAGER), notice.node)
        site.link.sessions[-1].say(pb.ManagerMessage(node=notice))
        await wait(lambda: bool(site.notices))
        node, root_ca = site.notices[0]
        assert node.role is NodeRole.MANAGER
        assert root_ca == b"pem"


@in_virtual_time
async def test_stop_says_goodbye_and_leaves_tasks() -> None:
    site = Site(FakeLink(THREE, leader="m1:2377"))
    agent = site.make_agent()
    work = asyncio.create_task(agent.run())
    await wait(lambda: bool(site.link.sessions))
    task = make_task(1, WEB)
    site.assign(WEB, task)
    await wait(lambda: bool(_reported(site, task.id)))
    agent.stop("restarting")
    await work
    stream = site.link.sessions[-1]
    assert stream.heard[-1].goodbye.reason == "restarting"
    assert stream.is_finished
    assert stream.is_closed
    assert site.machine.tasks[task.id].exit is None


@pytest.mark.parametrize("steps", range(8))
@in_virtual_time
async def test_it_stops_also_if_its_session_ends_at_the_same_moment(steps: int) -> None:
    """The group of a session's tasks must not swallow that the session was told to stop."""
    site = Site(FakeLink(THREE, leader="m1:2377"))
    agent = site.make_agent()
    work = asyncio.create_task(agent.run())
    await wait(lambda: bool(agent.manager_addr))
    site.link.sessions[-1].end()
    for _ in range(steps):
        await asyncio.sleep(0)
    agent.stop("test", is_returning=False)
    async with asyncio.timeout(DEADLINE_S):
        await work


@in_virtual_time
async def test_who_leaves_for_good_says_no_goodbye_so_that_nobody_waits_for_its_return() -> None:
    site = Site(FakeLink(THREE, leader="m1:2377"))
    agent = site.make_agent()
    work = asyncio.create_task(agent.run())
    await wait(lambda: bool(site.link.sessions))
    agent.stop("the node leaves the swarm", is_returning=False)
    await work
    stream = site.link.sessions[-1]
    assert not any(message.HasField("goodbye") for message in stream.heard)
    assert stream.is_closed


@in_virtual_time
async def test_who_was_removed_hears_of_it_and_who_is_refused_is_not_removed() -> None:
    site = Site(FakeLink(THREE, refusing={"m1:2377"}, removed={"m2:2377"}))
    async with site.running(("m1:2377",)):
        await wait(lambda: len(site.link.dialled) > 3)
        assert site.removals == []
    async with site.running(("m1:2377", "m2:2377")):
        await wait(lambda: bool(site.removals))
        assert site.removals[0] == "this node was removed from the swarm"


# --- logs


def _subscribe(site: Site, id_: str, *task_ids: TaskId, follow: bool = False) -> None:
    selector = pb.LogSelector(task_ids=task_ids, follow=follow, stdout=True, stderr=True, tail=-1)
    request = pb.LogSubscription(subscription_id=id_, selector=selector)
    site.link.sessions[-1].say(pb.ManagerMessage(log_subscription=request))


@in_virtual_time
async def test_logs_are_published() -> None:
    output = tuple(b"line %d\n" % n for n in range(1200))
    machine = FakeMachine(plan=lambda launch: Behaviour(output=output))
    site = Site(FakeLink(THREE, leader="m1:2377"), machine=machine)
    async with site.running():
        await wait(lambda: bool(site.link.sessions))
        task = make_task(1, WEB)
        site.assign(WEB, task)
        await wait(lambda: bool(_reported(site, task.id)))
        _subscribe(site, "s1", task.id, TaskId("unknown"))
        await wait(lambda: len(site.link.lines()) == 1200)
        assert site.link.lines() == list(output)
        assert site.link.logs[0].subscription_id == "s1"
        assert not site.link.logs[0].lines, "the first batch only says that we are there"
        line = site.link.logs[1].lines[0]
        assert (line.task_id, line.node_id, line.service_id) == (task.id, "node1", "service-web")
        assert max(len(batch.lines) for batch in site.link.logs) <= 500


@in_virtual_time
async def test_followed_logs_end_when_closed() -> None:
    machine = FakeMachine(plan=lambda launch: Behaviour(output=(b"one\n",)))
    site = Site(FakeLink(THREE, leader="m1:2377"), machine=machine)
    async with site.running():
        await wait(lambda: bool(site.link.sessions))
        task = make_task(1, WEB)
        site.assign(WEB, task)
        await wait(lambda: bool(_reported(site, task.id)))
        _subscribe(site, "s1", task.id, follow=True)
        await wait(lambda: site.link.lines() == [b"one\n"])
        machine.write_log(task.id, b"two\n")
        await wait(lambda: site.link.lines() == [b"one\n", b"two\n"])
        close = pb.LogSubscription(subscription_id="s1", close=True)
        site.link.sessions[-1].say(pb.ManagerMessage(log_subscription=close))
        await asyncio.sleep(0.1)
        machine.write_log(task.id, b"three\n")
        await asyncio.sleep(1)
        assert site.link.lines() == [b"one\n", b"two\n"]
        assert not site.link.sessions[-1].is_closed


@in_virtual_time
async def test_a_slow_log_reader_holds_only_its_own_log_up() -> None:
    output = tuple(b"line %d\n" % n for n in range(5000))
    machine = FakeMachine(plan=lambda launch: Behaviour(output=output))
    site = Site(FakeLink(THREE, leader="m1:2377", log_room=asyncio.Semaphore(2)), machine=machine)
    async with site.running():
        await wait(lambda: bool(site.link.sessions))
        task = make_task(1, WEB)
        site.assign(WEB, task)
        await wait(lambda: bool(_reported(site, task.id)))
        _subscribe(site, "s1", task.id)
        await asyncio.sleep(5)
        assert len(site.link.lines()) <= 500
        second = make_task(2, WEB)
        site.assign(second, is_complete=False)
        await wait(lambda: bool(_reported(site, second.id)))
        site.link.sessions[-1].cut()  # the session's end takes the blocked stream with it
        await wait(lambda: len(site.link.sessions) == 2)


def test_the_fake_manager_is_the_drivers_reports() -> None:
    """The rig of the other tests keeps the session's promise: statuses only grow."""
    manager = FakeManager()
    task = make_task(1, WEB)
    manager.assign(task, revision=WEB)
    manager.report(task.id, TaskStatus(state=TaskState.RUNNING, report=2))
    manager.report(task.id, TaskStatus(state=TaskState.STARTING, report=3))
    assert manager.state(task.id) is TaskState.RUNNING
