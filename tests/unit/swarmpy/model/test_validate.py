"""Spec validation, as far as the API's tests do not show it: random text, bounds, refusal without a hang."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.errors import InvalidArgument
from swarmpy.limits import REPLICAS_MAX
from swarmpy.model import validate
from swarmpy.model.ids import Duration
from swarmpy.model.specs import (
    ConfigReference,
    ContainerSpec,
    FileTarget,
    Healthcheck,
    Mount,
    Replicated,
    SecretReference,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
)
from swarmpy.model.states import MountType


def service(container: ContainerSpec | None = None, name: str = "web") -> ServiceSpec:
    return ServiceSpec(
        name=name, task_template=TaskSpec(container_spec=container or ContainerSpec(image="host"))
    )


@given(st.text(max_size=80))
def test_names_are_dns_labels(name: str) -> None:
    is_good = re.fullmatch(r"[a-zA-Z0-9]([a-zA-Z0-9_-]*[a-zA-Z0-9])?", name) and len(name) <= 63
    try:
        validate.check_name(name)
    except InvalidArgument:
        assert not is_good
    else:
        assert is_good


@pytest.mark.parametrize(
    "image",
    [
        "host",
        "host:latest",
        "app:1.2-rc.1",
        "library/app",
        "registry:5000/team/app:v1",
        "10.0.0.1:5000/a__b",
        "localhost/a",
        "a@sha256:" + "0" * 64,
        "ghcr.io/Team-X/".lower() + "app",
        "[::1]:5000/app",
    ],
)
def test_good_images(image: str) -> None:
    validate.check_service(service(ContainerSpec(image=image)))


@pytest.mark.parametrize(
    "image", ["", " ", "a b", "App", "a:", "a:b:c", "/a", "a/", "a//b", "-a", "a@sha256:00", "a" * 600, "ä"]
)
def test_bad_images(image: str) -> None:
    with pytest.raises(
        InvalidArgument, match=r"image reference must be provided|is not a valid repository/tag"
    ):
        validate.check_service(service(ContainerSpec(image=image)))


@pytest.mark.parametrize(
    "text", ["a" * 62 + "!", "a-" * 31, "a" * 511 + "!", ("a." * 255) + "!", "/a" * 255 + "!"]
)
def test_hostile_texts_take_no_time(text: str) -> None:
    begin = time.process_time()
    for spec in (service(name=text[:63]), service(ContainerSpec(image=text))):
        try:
            validate.check_service(spec)
        except InvalidArgument:
            pass
    assert time.process_time() - begin < 1


def test_replicas_have_bounds() -> None:
    for count in (None, 0, 1, REPLICAS_MAX):
        validate.check_replicas(count)
    for count in (-1, REPLICAS_MAX + 1, 10**9):
        with pytest.raises(InvalidArgument, match="Number of replicas must be"):
            validate.check_service(
                ServiceSpec(
                    name="web",
                    task_template=service().task_template,
                    mode=ServiceMode(replicated=Replicated(replicas=count)),
                )
            )


@pytest.mark.parametrize(
    ("container", "words"),
    [
        (ContainerSpec(image="a", env=("=x",)), "invalid environment variable: =x"),
        (
            ContainerSpec(image="a", mounts=(Mount(type=MountType.BIND, source="/a", target="b"),)),
            "absolute path: b",
        ),
        (
            ContainerSpec(image="a", mounts=(Mount(type=MountType.BIND, source="a", target="/b"),)),
            "absolute path: a",
        ),
        (
            ContainerSpec(image="a", mounts=(Mount(type=MountType.TMPFS, source="x", target="/b"),)),
            "must be empty",
        ),
        (ContainerSpec(image="a", mounts=(Mount(target="/b"),)), "type must be specified"),
        (
            ContainerSpec(image="a", healthcheck=Healthcheck(retries=-1)),
            "Retries in HealthConfig cannot be negative",
        ),
        (
            ContainerSpec(image="a", healthcheck=Healthcheck(interval=Duration(999_999))),
            "ContainerSpec: Interval in HealthConfig cannot be less than 1ms",
        ),
        (
            ContainerSpec(image="a", healthcheck=Healthcheck(start_interval=Duration(-1))),
            "StartInterval in HealthConfig cannot be less than 1ms",
        ),
        (
            ContainerSpec(image="a", healthcheck=Healthcheck(test=("CDM", "a"))),
            "must begin with NONE, CMD or CMD-SHELL, not with 'CDM'",
        ),
        (
            ContainerSpec(image="a", healthcheck=Healthcheck(test=("CMD",))),
            "Test in HealthConfig has no command after CMD",
        ),
        (
            ContainerSpec(image="a", healthcheck=Healthcheck(test=("CMD-SHELL", ""))),
            "Test in HealthConfig has no command after CMD-SHELL",
        ),
        (
            ContainerSpec(image="a", readiness=Healthcheck(test=("CMD", "a\0b"))),
            "Test in Readiness has a NUL character",
        ),
        (
            ContainerSpec(image="a", readiness=Healthcheck(retries=2)),
            "Readiness needs a Test",
        ),
        (ContainerSpec(image="a", secrets=(SecretReference(),)), "malformed secret reference"),
        (ContainerSpec(image="a", configs=(ConfigReference(config_id="x"),)), "malformed config reference"),
        (
            ContainerSpec(
                image="a",
                secrets=(
                    SecretReference(secret_id="1", secret_name="one", file=FileTarget(name="t")),
                    SecretReference(secret_id="2", secret_name="two", file=FileTarget(name="t")),
                ),
            ),
            "secret references 'one' and 'two' have a conflicting target: 't'",
        ),
    ],
)
def test_bad_containers(container: ContainerSpec, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        validate.check_service(service(container))


def test_a_service_needs_a_container() -> None:
    with pytest.raises(InvalidArgument, match="TaskSpec: missing runtime"):
        validate.check_service(ServiceSpec(name="web"))
