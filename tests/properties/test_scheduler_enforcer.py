"""What the scheduler places, the constraint enforcer keeps: asked about the same cluster they agree.

If they did not, a task would be placed and turned down for ever, without a delay, since it did nothing wrong.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from world import GIB, START, World, make_node

from manager.reconcile.enforcer import ConstraintEnforcer
from manager.schedule.nodes import LoadCache
from manager.schedule.scheduler import place
from swarmpy.model.changes import Report
from swarmpy.model.defaults import update_config
from swarmpy.model.ids import RevisionId, ServiceId, TaskId
from swarmpy.model.objects import Node, Revision, Service, Task, TaskStatus, UpdateStatus
from swarmpy.model.specs import (
    ContainerSpec,
    DiscreteGenericResource,
    GenericResource,
    NamedGenericResource,
    Placement,
    ResourceRequirements,
    Resources,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmpy.model.states import TaskState, UpdateState

CPU = 10**9
STATES = (*[UpdateState.PAUSED] * 4, UpdateState.UPDATING, UpdateState.ROLLBACK_STARTED)
CONSTRAINTS = (
    "node.labels.az==1",
    "node.labels.az in (1, 2)",
    "node.labels.az != 2",
    "exists(node.labels.az)",
)


def named(value: str) -> GenericResource:
    return GenericResource(named_resource_spec=NamedGenericResource(kind="gpu", value=value))


def counted(kind: str, value: int) -> GenericResource:
    return GenericResource(discrete_resource_spec=DiscreteGenericResource(kind=kind, value=value))


def resources(*generic: tuple[GenericResource, ...]) -> st.SearchStrategy[Resources]:
    return st.builds(
        Resources,
        nano_cpus=st.sampled_from([CPU, 0, 3 * CPU]),
        memory_bytes=st.sampled_from([0, GIB, 3 * GIB]),
        generic_resources=st.sampled_from(generic),
    )


DECLARED = resources((), (named("g1"),), (named("g1"), named("g2")), (named("g2"), named("g3")))
ASKED = resources((), (), (), (counted("gpu", 1),), (counted("gpu", 2),))


@st.composite
def declaring(draw: st.DrawFn, node: Node) -> Node:
    labels = draw(st.sampled_from([{}, {"az": "1"}, {"az": "2"}]))
    description = replace(node.description, resources=draw(DECLARED))
    return replace(node, spec=replace(node.spec, labels=labels), description=description)


@st.composite
def specs(draw: st.DrawFn) -> ServiceSpec:
    template = TaskSpec(
        container_spec=ContainerSpec(image=draw(st.sampled_from(["one", "two"]))),
        placement=Placement(constraints=draw(st.sampled_from([(), *((each,) for each in CONSTRAINTS)]))),
        resources=ResourceRequirements(reservations=draw(ASKED)),
    )
    update = UpdateConfig(pause_after=draw(st.integers(0, 1)))
    return ServiceSpec(name="web", task_template=template, update_config=update)


def wanted(number: int, revision: str) -> Task:
    return Task(
        id=TaskId(f"t{number}"),
        service_id=ServiceId("web"),
        slot=number,
        revision_id=RevisionId(revision),
        desired_state=TaskState.RUNNING,
    )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """A service of two revisions, perhaps held between them, on nodes that have changed since."""
    world = World(*[draw(declaring(make_node(name))) for name in ("n1", "n2", "n3")], reconcilers=())
    former, latest = draw(specs()), draw(specs())
    for name, spec in (("former", former), ("latest", latest)):
        world.put(Revision(id=RevisionId(name), service_id=ServiceId("web"), spec=spec))
    state = draw(st.sampled_from(STATES))
    service = Service(
        id=ServiceId("web"),
        spec=latest,
        revision_id=RevisionId("latest"),
        template_id=RevisionId("latest"),
        previous_id=RevisionId("former"),
        update_status=None if state is None else UpdateStatus(state=state),
    )
    world.put(service)
    for number in range(draw(st.integers(0, 4))):
        placed = place(world.tables, [wanted(number, "former")], START)[0]
        desired = draw(st.sampled_from([TaskState.RUNNING, TaskState.SHUTDOWN]))
        if placed.node_id:
            status = TaskStatus(state=TaskState.RUNNING, timestamp=START)
            world.put(replace(placed, status=status, desired_state=desired))
    for name in ("n1", "n2", "n3"):
        world.put(draw(declaring(world.node(name))))
    return world


@given(world=worlds(), number=st.integers(1, 4))
def test_the_enforcer_keeps_what_the_scheduler_places(world: World, number: int) -> None:
    service = world.service("web")
    follows = RevisionId("former") if is_held_back(service) else service.template_id
    placed = place(world.tables, [wanted(10 + each, follows) for each in range(number)], START)
    for task in placed:
        world.put(task)
    enforcer = ConstraintEnforcer(LoadCache())
    rejected = {
        change.task_id
        for node in ("n1", "n2", "n3")
        for group in enforcer.reconcile(world.tables, node, START).groups
        for change in group.changes
        if isinstance(change, Report)
    }
    assert not rejected.intersection(task.id for task in placed)


def is_held_back(service: Service) -> bool:
    """Whether a task of the former revision is followed by one like it."""
    status, has_pause = service.update_status, update_config(service.spec).pause_after > 0
    if status is None:
        return has_pause
    return status.state == UpdateState.PAUSED or (status.state == UpdateState.UPDATING and has_pause)
