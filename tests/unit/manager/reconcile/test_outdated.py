"""Which changes of a service restart its tasks: none that only look like one."""

from __future__ import annotations

from msgspec.structs import replace
from rollout import Rollout, config, spec

from manager.api import service_plan
from swarmpy.model import forms
from swarmpy.model.specs import ContainerSpec, EndpointSpec, RestartPolicy, ServiceSpec, TaskSpec

REPLICAS = 4
BARE = spec(
    "app:1",
    replicas=REPLICAS,
    update=config(),
    task_template=TaskSpec(
        container_spec=ContainerSpec(image="app:1"), restart_policy=RestartPolicy(window=None)
    ),
    endpoint_spec=EndpointSpec(),
)
FILLED = forms.as_read(BARE)
"""As it is stored since 20.10's fields are filled in; daemons before that stored ``BARE``."""


def with_auth(given: ServiceSpec, auth: str) -> ServiceSpec:
    container = given.task_template.container_spec
    assert container is not None
    template = replace(given.task_template, container_spec=replace(container, registry_auth=auth))
    return replace(given, task_template=template)


def tasks(rollout: Rollout) -> set[str]:
    rollout.world.live()
    rollout.world.pass_time(100)
    rollout.world.live()
    found: set[str] = {task.id for task in rollout.world.running()}
    assert len(found) == REPLICAS
    return found


def test_what_is_filled_in_since_moves_no_task() -> None:
    assert BARE != FILLED
    rollout = Rollout(BARE)
    before = tasks(rollout)
    rollout.update(FILLED)
    rollout.update(replace(FILLED, labels={"a": "b"}))
    assert tasks(rollout) == before
    for _ in range(3):  # to and fro between a revision that was stored before, and one since
        rollout.do(service_plan.rollback)
        assert tasks(rollout) == before


def test_who_returns_amid_an_update_to_what_was_stored_before_keeps_its_tasks() -> None:
    rollout = Rollout(BARE)
    before = tasks(rollout)
    rollout.update(replace(FILLED, task_template=_other_image()))
    rollout.update(FILLED)
    assert tasks(rollout) == before


def test_other_credentials_restart_nothing_that_has_its_image() -> None:
    """Registries give out ones that last for hours; who deploys with them every day means no restart."""
    rollout = Rollout(with_auth(FILLED, "yesterday"))
    before = tasks(rollout)
    rollout.update(with_auth(FILLED, "today"))
    assert tasks(rollout) == before
    assert rollout.service.template_id == rollout.service.revision_id == "r2"  # whoever follows asks with it


def test_who_waits_for_an_image_gets_other_credentials() -> None:
    rollout = Rollout(FILLED)
    other = replace(FILLED, task_template=_other_image())
    rollout.update(with_auth(other, "wrong"))
    rollout.world.settle()
    rollout.update(with_auth(other, "right"))
    tasks(rollout)
    assert {task.revision_id for task in rollout.world.running()} == {"r3"}


def _other_image() -> TaskSpec:
    return replace(FILLED.task_template, container_spec=ContainerSpec(image="app:2"))
