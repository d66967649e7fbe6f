"""Running tasks that were joined to networks: the leader's part."""

from __future__ import annotations

from msgspec.structs import replace
from world import World, make_network, make_node

from swarmpy.limits import ADDRESSES_RETRY_S
from swarmpy.model.changes import Group, Report, Update
from swarmpy.model.cluster_specs import IPAMConfig
from swarmpy.model.ids import TaskId
from swarmpy.model.objects import NetworkJoin, Task
from swarmpy.model.specs import NetworkAttachmentConfig, Replicated, ServiceMode
from swarmpy.model.states import Owner, TaskState

TINY = IPAMConfig(subnet="10.1.2.0/29")
"""Five addresses, .2 to .6."""


def world_of(tasks: int) -> World:
    world = World(make_network("tiny", TINY), make_node("n1"))
    world.create_service("web", replicas=tasks)
    world.live()
    assert len(world.tables.tasks()) == tasks
    return world


def task_ids(world: World) -> list[str]:
    return sorted(task.id for task in world.tables.tasks())


def task(world: World, id_: str) -> Task:
    found = world.tables.task(TaskId(id_))
    assert found is not None
    return found


def change(world: World, new: Task) -> None:
    world.apply(Group(owner=Owner.API, changes=(Update(object=new),)))


def connect(world: World, id_: str, **options: str) -> None:
    wish = NetworkAttachmentConfig(target="tiny", aliases=("nick",), driver_opts=options)
    change(world, replace(task(world, id_), joins=(NetworkJoin(wish=wish, number=1),)))


def disconnect(world: World, id_: str) -> None:
    (join,) = task(world, id_).joins
    change(world, replace(task(world, id_), joins=(replace(join, is_leaving=True),)))


def answer(world: World, id_: str, *, version: int = 0, err: str = "") -> None:
    """As the agent does that has made the task's places; ``version`` 0: the present ones."""
    status = task(world, id_).status
    version = version or task(world, id_).version
    said = replace(status, report=status.report + 1, places_version=version, places_err=err)
    world.apply(Group(owner=Owner.AGENT, changes=(Report(task_id=TaskId(id_), status=said),)))


def addresses(world: World, id_: str) -> list[str]:
    return [address for place in task(world, id_).networks for address in place.addresses]


def test_a_joined_task_gets_an_address_and_keeps_it_until_its_agent_has_let_go() -> None:
    world = world_of(1)
    (id_,) = task_ids(world)
    connect(world, id_, ipv4_address="10.1.2.5")
    world.settle()
    world.assert_quiet()
    assert addresses(world, id_) == ["10.1.2.5/29"]
    joined = task(world, id_)
    assert (joined.places, joined.places[0].aliases) == (joined.networks, ("nick",))
    answer(world, id_)
    disconnect(world, id_)
    world.settle()
    answer(world, id_, version=joined.version)  # of what was before
    world.settle()
    assert (task(world, id_).places, addresses(world, id_)) == ((), ["10.1.2.5/29"])
    answer(world, id_, err="it does not go away")
    world.settle()
    assert addresses(world, id_) == ["10.1.2.5/29"]
    answer(world, id_)
    world.settle()
    world.assert_quiet()
    assert (task(world, id_).networks, task(world, id_).joins) == ((), ())


def test_one_that_never_had_an_address_goes_at_once() -> None:
    world = world_of(1)
    (id_,) = task_ids(world)
    connect(world, id_)
    disconnect(world, id_)
    world.settle()
    assert (task(world, id_).networks, task(world, id_).joins) == ((), ())


def test_a_full_network_is_waited_for() -> None:
    world = world_of(6)
    *first, last = task_ids(world)
    for id_ in (*first, last):
        connect(world, id_)
    world.settle()
    assert [len(addresses(world, id_)) for id_ in (*first, last)] == [1] * 5 + [0]
    assert world.next_wake() == world.now + int(ADDRESSES_RETRY_S * 1e9)
    released = addresses(world, first[2])
    disconnect(world, first[2])
    answer(world, first[2])
    world.settle()
    assert addresses(world, last) == released
    world.assert_quiet()


def test_an_address_of_a_task_that_ended_is_free_and_its_successor_is_on_its_own() -> None:
    world = world_of(1)
    (id_,) = task_ids(world)
    connect(world, id_, ipv4_address="10.1.2.5")
    world.settle()
    world.report(id_, TaskState.FAILED)
    world.live(seconds_=5)
    (successor,) = [each for each in task_ids(world) if each != id_]
    assert (task(world, successor).networks, task(world, successor).joins) == ((), ())
    connect(world, successor, ipv4_address="10.1.2.5")
    world.settle()
    assert addresses(world, successor) == ["10.1.2.5/29"]


def test_a_new_leader_goes_on() -> None:
    world = world_of(2)
    one, two = task_ids(world)
    connect(world, one)
    world.settle()
    disconnect(world, one)
    answer(world, one)
    connect(world, two)
    world = world.successor()
    world.settle()
    assert (addresses(world, one), len(addresses(world, two))) == ([], 1)
    world.assert_quiet()


def test_a_service_that_waits_gets_what_is_left() -> None:
    world = world_of(5)
    for id_ in task_ids(world):
        connect(world, id_)
    world.settle()
    spec = world.service("web").spec
    template = replace(spec.task_template, networks=(NetworkAttachmentConfig(target="tiny"),))
    mode = ServiceMode(replicated=Replicated(replicas=1))
    before = set(task_ids(world))
    world.create_service("late", replace(spec, name="late", task_template=template, mode=mode))
    world.settle()
    (late,) = set(task_ids(world)) - before
    assert task(world, late).status.state is TaskState.PENDING
    released = min(before)
    disconnect(world, released)
    answer(world, released)
    disconnect(world, max(before))
    answer(world, max(before))
    world.settle()
    assert task(world, late).status.state is TaskState.ASSIGNED
