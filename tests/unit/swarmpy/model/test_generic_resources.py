"""How nodes declare resources of the user's own, and how tasks are told of theirs."""

from __future__ import annotations

import pytest

from swarmpy.errors import InvalidArgument
from swarmpy.model.generic_resources import check_wish, environment, parse
from swarmpy.model.specs import DiscreteGenericResource, GenericResource, NamedGenericResource


def discrete(kind: str, value: int) -> GenericResource:
    return GenericResource(discrete_resource_spec=DiscreteGenericResource(kind=kind, value=value))


def named(kind: str, value: str) -> GenericResource:
    return GenericResource(named_resource_spec=NamedGenericResource(kind=kind, value=value))


def test_what_a_node_may_declare() -> None:
    assert parse(["gpu=UUID1", "gpu=UUID2"]) == (named("gpu", "UUID1"), named("gpu", "UUID2"))
    assert parse(["NVIDIA-GPU=a, slots=3", "NVIDIA-GPU=b"]) == (
        named("NVIDIA-GPU", "a"),
        named("NVIDIA-GPU", "b"),
        discrete("slots", 3),
    )
    assert parse([]) == ()


@pytest.mark.parametrize(
    ("entries", "advice"),
    [
        (["gpu"], "give KIND=NAME"),
        (["gpu="], "give KIND=NAME"),
        (["=x"], "give KIND=NAME"),
        (["a b=x"], "give KIND=NAME"),
        ([""], "give KIND=NAME"),
        (["k" * 64 + "=x"], "give KIND=NAME"),
        (["slots=0"], "at least 1"),
        (["slots=99999999999999999999"], "at least 1"),
        (["gpu=A", "gpu=A"], "declared twice"),
        (["slots=1", "slots=2"], "by number and by name"),
        (["gpu=A", "gpu=1"], "by number and by name"),
        (["gpu=1", "gpu=A"], "by number and by name"),
    ],
)
def test_what_it_may_not(entries: list[str], advice: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        parse(entries)
    assert advice in str(error.value)


def test_a_task_is_told_by_kind() -> None:
    assert environment([named("gpu", "B"), discrete("slots", 2), named("gpu", "A")]) == (
        "DOCKER_RESOURCE_GPU=B,A",
        "DOCKER_RESOURCE_SLOTS=2",
    )


@pytest.mark.parametrize("wish", [named("gpu", "UUID1"), discrete("gpu", -1), discrete("", 1)])
def test_a_service_asks_by_number_only(wish: GenericResource) -> None:
    check_wish([discrete("gpu", 2)])
    with pytest.raises(InvalidArgument, match="invalid argument for resource"):
        check_wish([wish])
