"""A service that is changed as the API changes it, in a world, and what became of its update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from world import World, make_node

from manager.api import service_plan
from swarmpy.model import forms
from swarmpy.model.changes import Change, Group
from swarmpy.model.objects import Service, Task, UpdateStatus
from swarmpy.model.specs import (
    ContainerSpec,
    Replicated,
    ResourceRequirements,
    Resources,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmpy.model.states import (
    Owner,
    UpdateState,
)

NODES = ("n1", "n2", "n3")


def spec(image: str, *, replicas: int = 4, memory: int = 0, **fields: Any) -> ServiceSpec:
    update = fields.pop("update", None)
    template = TaskSpec(
        container_spec=ContainerSpec(image=image),
        resources=ResourceRequirements(reservations=Resources(memory_bytes=memory)),
    )
    known: dict[str, Any] = {
        "name": "web",
        "mode": ServiceMode(replicated=Replicated(replicas=replicas)),
        "task_template": template,
        "update_config": update,
    }
    return ServiceSpec(**{**known, **fields})


def config(**fields: Any) -> UpdateConfig:
    return UpdateConfig(**{"parallelism": 1, **fields})


class Rollout:
    """A world with the service ``web``, changed as the API changes it."""

    def __init__(self, before: ServiceSpec) -> None:
        self.world = World(*[make_node(name) for name in NODES])
        self.numbers = iter(range(2, 100))
        now = self.world.now
        made = service_plan.create(self.world.tables, before, service_id="web", revision_id="r1", now=now)
        self.commit(made)
        self.world.live()
        self.world.pass_time(100)

    @property
    def service(self) -> Service:
        return self.world.service("web")

    @property
    def status(self) -> UpdateStatus:
        status = self.service.update_status
        assert status is not None
        return status

    def state(self) -> UpdateState:
        return self.status.state

    def commit(self, changes: tuple[Change, ...]) -> None:
        if changes:
            self.world.apply(Group(owner=Owner.API, changes=changes))

    def update(self, spec: ServiceSpec) -> None:
        """``spec`` is filled in as the API does; the one that the service was made with is as it came."""
        spec = forms.as_read(spec)
        name, version = f"r{next(self.numbers)}", self.service.version
        view, now = self.world.tables, self.world.now
        changes = service_plan.update(
            view, self.service, spec, base_version=version, revision_id=name, now=now
        )
        self.commit(changes)

    def do(self, what: Callable[..., tuple[Change, ...]], *numbers: int) -> None:
        version, now = self.service.version, self.world.now
        self.commit(what(self.world.tables, self.service, *numbers, base_version=version, now=now))

    def images(self) -> list[str]:
        """Of what runs, by slot or node."""
        running = sorted(self.world.running(), key=lambda task: (task.slot, task.node_id, task.version))
        return [self.image_of(task) for task in running]

    def image_of(self, task: Task) -> str:
        revision = self.world.tables.revision(task.revision_id)
        assert revision is not None
        assert revision.spec.task_template.container_spec is not None
        return revision.spec.task_template.container_spec.image

    def live(self, amount: float = 0.0, *, bad: tuple[str, ...] = ()) -> None:
        self.world.live(amount, may_run=lambda task: self.image_of(task) not in bad)
