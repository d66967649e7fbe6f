"""``--autoscale``: what is sent, and what is told where it is wrong."""

from __future__ import annotations

import pytest

from swarmpy.cli.autoscale import parse
from swarmpy.cli.flags import UsageError
from swarmpy.errors import InvalidArgument
from swarmpy.model import validate
from swarmpy.model.ids import SECOND_NS
from swarmpy.model.specs import (
    Autoscale,
    ContainerSpec,
    Global,
    Limits,
    ResourceRequirements,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
)


def test_a_whole_wish() -> None:
    assert parse("min=2, max=10,cpu=60%,memory=80,down-delay=5m") == {
        "Min": 2,
        "Max": 10,
        "CpuPercent": 60,
        "MemoryPercent": 80,
        "ScaleDownDelay": 300 * SECOND_NS,
    }


@pytest.mark.parametrize("wish", ["", "min", "min=", "min=two,max=3", "least=2", "min=1,max=2,cpu=-5%"])
def test_a_slip_is_told_before_anything_is_sent(wish: str) -> None:
    with pytest.raises(UsageError, match="min=2,max=10,cpu=60%"):
        parse(wish)


def spec(wish: Autoscale, *, memory: int = 0, mode: ServiceMode | None = None) -> ServiceSpec:
    resources = ResourceRequirements(limits=Limits(memory_bytes=memory))
    template = TaskSpec(container_spec=ContainerSpec(image="host"), resources=resources)
    return ServiceSpec(name="web", task_template=template, autoscale=wish, mode=mode or ServiceMode())


def test_what_makes_sense_is_accepted() -> None:
    validate.check_service(spec(Autoscale(min=1, max=1, cpu_percent=50)))
    validate.check_service(spec(Autoscale(min=1, max=5, memory_percent=50), memory=64 << 20))


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        (Autoscale(min=0, max=5, cpu_percent=50), "min 0, max 5"),
        (Autoscale(min=6, max=5, cpu_percent=50), "min 6, max 5"),
        (Autoscale(min=1, max=10**9, cpu_percent=50), "at most"),
        (Autoscale(min=1, max=5), "say what to follow"),
        (Autoscale(min=1, max=5, cpu_percent=10**6), "not between"),
        (Autoscale(min=1, max=5, memory_percent=50), "set either"),
    ],
)
def test_what_makes_no_sense_is_refused(wish: Autoscale, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        validate.check_service(spec(wish))


def test_only_replicated_services_scale() -> None:
    with pytest.raises(InvalidArgument, match="replicated"):
        validate.check_service(
            spec(Autoscale(min=1, max=2, cpu_percent=5), mode=ServiceMode(global_=Global()))
        )
