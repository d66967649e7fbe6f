"""Changes amid an update, and the way back to kept revisions."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from rollout import Rollout, config, spec
from world import make_network, seconds

from manager.api import service_plan
from swarmpy.errors import FailedPrecondition, NotFound, Rejected
from swarmpy.model.cluster_specs import SecretSpec
from swarmpy.model.ids import Duration, SecretId, ServiceId
from swarmpy.model.objects import Kind, Secret
from swarmpy.model.specs import (
    ContainerSpec,
    FileTarget,
    NetworkAttachmentConfig,
    SecretReference,
    ServiceSpec,
)
from swarmpy.model.states import (
    FailureAction,
    UpdateState,
)


def canary(image: str = "b", **fields: Any) -> ServiceSpec:
    update = config(pause_after=1, **fields.pop("settings", {}))
    return spec(image, update=update, **fields)


# --- a change amid an update


def test_a_label_changes_nothing_of_an_update_that_goes_on() -> None:
    rollout = Rollout(spec("a"))
    update = config(delay=Duration(seconds(20)))
    rollout.update(spec("b", update=update))
    rollout.live(1)
    before = rollout.status
    rollout.update(spec("b", update=update, labels={"x": "y"}))
    rollout.live(1)
    assert rollout.status == before
    assert rollout.images() == ["b", "a", "a", "a"]


def test_other_settings_let_a_paused_update_begin_anew() -> None:
    rollout = Rollout(spec("a"))
    rollout.update(spec("b"))
    rollout.live(bad=("b",))
    rollout.update(spec("b", update=config(failure_action=FailureAction.CONTINUE)))
    rollout.live(60)
    assert rollout.images() == ["b"] * 4


# --- the way back


def test_rollback_to_any_kept_revision() -> None:
    rollout = Rollout(spec("a"))
    for image in ("b", "c", "d"):
        rollout.update(spec(image))
        rollout.live(30)
    rollout.do(service_plan.rollback_to, 2)
    rollout.live(30)
    assert rollout.images() == ["b"] * 4
    assert rollout.service.revision_id == "r2"
    assert rollout.service.previous_id == "r4"
    with pytest.raises(FailedPrecondition, match="service web is at revision 2 already"):
        rollout.do(service_plan.rollback_to, 2)
    with pytest.raises(NotFound, match="revision 9 of service web is not kept: give one of 1, 2, 3, 4"):
        rollout.do(service_plan.rollback_to, 9)


def test_six_revisions_are_kept() -> None:
    rollout = Rollout(spec("a"))
    for number in range(10):
        rollout.update(spec("a", labels={"n": str(number)}))
        rollout.live(10)
    numbers = sorted(each.number for each in rollout.world.tables.revisions_of(ServiceId("web")))
    assert numbers == [1, *range(6, 12)]  # tasks run the first one


SECRET = Secret(id=SecretId("s1"), spec=SecretSpec(name="key", data=b"x"))


def with_secret(image: str, **fields: Any) -> ServiceSpec:
    wish = spec(image, **fields)
    reference = SecretReference(secret_id="s1", secret_name="key", file=FileTarget(name="key"))
    container = ContainerSpec(image=image, secrets=(reference,))
    return replace(wish, task_template=replace(wish.task_template, container_spec=container))


def test_no_way_back_to_a_secret_that_is_gone() -> None:
    rollout = Rollout(spec("first"))
    rollout.world.put(SECRET)
    rollout.update(with_secret("a"))
    rollout.live(30)
    rollout.update(spec("b"))
    rollout.live(30)
    rollout.world.delete(Kind.SECRET, "s1")
    with pytest.raises(FailedPrecondition, match='to revision 2: the secret "key" that it used is gone'):
        rollout.do(service_plan.rollback)
    rollout.do(service_plan.rollback_to, 1)


def test_no_way_back_to_a_network_that_is_gone() -> None:
    rollout = Rollout(spec("first"))
    wish = spec("a")
    places = (NetworkAttachmentConfig(target="net"),)
    rollout.world.put(make_network("net"))
    rollout.update(replace(wish, task_template=replace(wish.task_template, networks=places)))
    rollout.live(30)
    rollout.update(spec("b"))
    rollout.live(30)
    rollout.world.delete(Kind.NETWORK, "net")
    with pytest.raises(Rejected, match="the network net that it used is gone"):
        rollout.do(service_plan.rollback)


def test_an_update_that_can_not_be_rolled_back_pauses_and_says_so() -> None:
    rollout = Rollout(spec("first"))
    rollout.world.put(SECRET)
    rollout.update(with_secret("a"))
    rollout.live(30)
    rollout.update(spec("bad", update=config(failure_action=FailureAction.ROLLBACK)))
    rollout.world.delete(Kind.SECRET, "s1")
    rollout.live(bad=("bad",))
    assert rollout.state() == UpdateState.PAUSED
    assert rollout.status.message == (
        'update paused: it cannot be rolled back: the secret "key" that it used is gone'
    )
    rollout.live(600, bad=("bad",))
    assert rollout.images() == ["a"] * 3


def test_a_failing_rollback_to_the_first_is_not_rolled_back() -> None:
    rollout = Rollout(spec("a"))
    rollout.update(spec("b"))
    rollout.live(30)
    rollout.do(service_plan.rollback)
    rollout.live(30, bad=("a",))
    assert rollout.state() == UpdateState.ROLLBACK_PAUSED
    assert rollout.status.message.startswith("rollback paused due to failure or early termination of task ")
