"""The leader's choice of numbers for ports that users left open, while others take numbers too."""

from __future__ import annotations

from msgspec.structs import replace
from world import World

from manager.allocate.addresses import Addresses
from manager.allocate.ports import FIRST_PORT
from manager.reconcile.endpoints import Endpoints
from swarmpy.model.objects import Endpoint, Kind
from swarmpy.model.specs import PortConfig

OPEN = PortConfig(target_port=80)


def world_with_open(*ids: str) -> World:
    world = World(reconcilers=(Endpoints(Addresses()),))
    for id_ in ids:
        publish(world, id_, OPEN)
    return world


def publish(world: World, id_: str, *ports: PortConfig) -> None:
    world.put(replace(world.create_service(id_, replicas=0), endpoint=Endpoint(ports=ports)))


def number_of(world: World, id_: str) -> int:
    return world.service(id_).endpoint.ports[0].published_port


def test_a_number_that_was_taken_while_it_was_proposed_is_chosen_again() -> None:
    world = world_with_open("web")
    fixed = replace(OPEN, published_port=FIRST_PORT)
    world.run_once(meanwhile=lambda: publish(world, "rival", fixed))
    assert number_of(world, "web") == 0
    world.settle()
    assert (number_of(world, "rival"), number_of(world, "web")) == (FIRST_PORT, FIRST_PORT + 1)


def test_a_number_that_was_given_up_is_not_the_next_ones() -> None:
    world = world_with_open("web")
    world.settle()
    for later in ("second", "third"):
        world.delete(Kind.SERVICE, "web" if later == "second" else "second")
        publish(world, later, OPEN)
        world.settle()
    assert number_of(world, "third") == FIRST_PORT + 2


def test_a_new_leader_begins_after_what_it_found_in_use() -> None:
    world = world_with_open("web")
    world.settle()
    world = world.successor()
    world.settle()
    world.delete(Kind.SERVICE, "web")
    publish(world, "next", OPEN)
    world.settle()
    assert number_of(world, "next") == FIRST_PORT + 1
