"""Small clusters for tests: a store with nodes and services, and a proposer that applies at once."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from msgspec.structs import replace

from manager.proposer import RaftProposer
from manager.raft.memory import MemoryLog
from manager.store.store import Store
from swarmpy.model.changes import Batch, Change, Create, Group
from swarmpy.model.cluster_specs import NodeSpec
from swarmpy.model.ids import (
    ID_BYTES,
    SECOND_NS,
    ClusterId,
    NodeId,
    RevisionId,
    ServiceId,
    Timestamp,
    make_id,
)
from swarmpy.model.objects import (
    Cluster,
    Node,
    NodeDescription,
    NodeStatus,
    Revision,
    Service,
)
from swarmpy.model.specs import (
    ContainerSpec,
    Platform,
    Replicated,
    Resources,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
)
from swarmpy.model.states import NodeAvailability, NodeRole, NodeState, Owner
from swarmpy.runtime import Env, never

EPOCH_START = Timestamp(1_700_000_000 * SECOND_NS)


@dataclass
class ManualClock:
    """A clock that a test moves. Only ``now`` is manual where a loop measures with ``monotonic``."""

    wall: int = EPOCH_START
    elapsed_s: float = 0.0

    def now(self) -> Timestamp:
        return Timestamp(self.wall)

    def monotonic(self) -> float:
        return self.elapsed_s

    def rest(self, seconds: float) -> None:
        """Nobody waits."""

    def advance(self, seconds: float) -> None:
        self.wall += int(seconds * SECOND_NS)
        self.elapsed_s += seconds


@dataclass
class SeededEntropy:
    generator: random.Random = field(default_factory=lambda: random.Random(1))

    def token_bytes(self, n: int) -> bytes:
        return self.generator.randbytes(n)

    def uniform(self, low: float, high: float) -> float:
        return self.generator.uniform(low, high)

    def id(self) -> str:
        return make_id(self.token_bytes(ID_BYTES))


@dataclass
class Firing:
    """``Env.buggify`` with one fault point that fires so many times."""

    name: str
    left: int = 1

    def __call__(self, name: str) -> bool:
        fires = name == self.name and self.left > 0
        self.left -= fires
        return fires


def seeded_env(seed: int = 1, *, fault_point: Firing | None = None) -> Env:
    """Real clocks, seeded entropy: for tests of shells."""
    return Env(entropy=SeededEntropy(random.Random(seed)), buggify=fault_point or never)


def apply(store: Store, *changes: Change, owner: Owner = Owner.API, at: Timestamp = EPOCH_START) -> None:
    """One group, which must be accepted."""
    applied = store.apply_batch(Batch(groups=(Group(owner=owner, changes=changes),), at=at))
    assert not applied.refused, applied.refused


def memory_proposer(store: Store) -> tuple[MemoryLog, RaftProposer]:
    log = MemoryLog(store)
    return log, RaftProposer(log)


def make_node(
    name: str, *, role: NodeRole = NodeRole.WORKER, state: NodeState = NodeState.READY, cpus: int = 4
) -> Node:
    return Node(
        id=NodeId(name),
        spec=NodeSpec(role=role, availability=NodeAvailability.ACTIVE),
        role=role,
        description=NodeDescription(
            hostname=name,
            platform=Platform(architecture="x86_64", os="linux"),
            resources=Resources(nano_cpus=cpus * 10**9, memory_bytes=8 << 30),
        ),
        status=NodeStatus(state=state, addr="10.0.0.1", since=EPOCH_START),
    )


def make_service(
    name: str, *, replicas: int = 1, template: TaskSpec | None = None
) -> tuple[Service, Revision]:
    """A replicated service and its first revision; ids are made of the name."""
    spec = ServiceSpec(
        name=name,
        task_template=template or TaskSpec(container_spec=ContainerSpec(image="host", args=("true",))),
        mode=ServiceMode(replicated=Replicated(replicas=replicas)),
    )
    revision_id = RevisionId(f"{name}-r1")
    service_id = ServiceId(f"{name}-s")
    return (
        Service(id=service_id, spec=spec, revision_id=revision_id, template_id=revision_id),
        Revision(id=revision_id, service_id=service_id, number=1, spec=spec),
    )


def store_with(*, nodes: int = 3, services: tuple[tuple[Service, Revision], ...] = ()) -> Store:
    store = Store()
    apply(store, Create(object=Cluster(id=ClusterId("cluster"))))
    for number in range(1, nodes + 1):
        apply(store, Create(object=make_node(f"node-{number}")))
    for service, revision in services:
        apply(store, Create(object=service), Create(object=revision))
    return store


def scaled(service: Service, replicas: int) -> Service:
    mode = ServiceMode(replicated=Replicated(replicas=replicas))
    return replace(service, spec=replace(service.spec, mode=mode))
