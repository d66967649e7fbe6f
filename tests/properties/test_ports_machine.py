"""Published ports through the life of services: nothing is held twice, what has a number keeps it.

Users create, change, roll back and remove services by the API's own plans; the leader fills in what they left
open; leaders change, and each begins with the stored objects alone.
"""

from __future__ import annotations

import itertools
from collections import Counter
from contextlib import suppress

import pytest
from budget import machine_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace
from world import World, make_network, make_node

from manager.allocate.pools import ingress_spec
from manager.allocate.ports import FIRST_PORT, LAST_PORT
from manager.api import service_plan
from manager.store.apply import apply_group
from manager.store.draft import Draft
from swarmpy.errors import Rejected
from swarmpy.model.changes import Change, Create, Delete, Group, Refusal
from swarmpy.model.ids import NetworkId, ServiceId
from swarmpy.model.objects import Kind, Network, Service
from swarmpy.model.specs import (
    ContainerSpec,
    EndpointSpec,
    PortConfig,
    Replicated,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmpy.model.states import FailureAction, Owner, PortProtocol, PublishMode

NAMES = ("a", "b", "c", "d")
Holding = tuple[PortProtocol, int]

ports = st.builds(
    PortConfig,
    target_port=st.sampled_from([80, 81, 82]),
    published_port=st.sampled_from([0, 0, 0, 8080, FIRST_PORT, FIRST_PORT + 1, LAST_PORT]),
    protocol=st.sampled_from([PortProtocol.TCP, PortProtocol.TCP, PortProtocol.UDP]),
    publish_mode=st.sampled_from([PublishMode.INGRESS] * 3 + [PublishMode.HOST]),
)
endpoints = st.lists(ports, max_size=3, unique_by=lambda port: (port.protocol, port.target_port)).map(tuple)


def is_open(port: PortConfig) -> bool:
    return port.publish_mode == PublishMode.INGRESS and not port.published_port


class Publishing(RuleBasedStateMachine):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        ingress = Network(id=NetworkId("ingress"), spec=ingress_spec())
        self.world.apply(Group(owner=Owner.API, changes=(Create(object=ingress),)))
        self.is_settled = False
        self.numbers = itertools.count(1)
        self.known: dict[tuple[str, PortProtocol, int], int] = {}
        """The numbers that the leader chose, by service, protocol and target."""
        self.given: set[Holding] = set()
        """What this leader gave out so far, held still or not."""

    def find(self, name: str) -> Service | None:
        found = self.world.tables.by_name(Kind.SERVICE, name)
        assert found is None or isinstance(found, Service)
        return found

    def commit(self, *changes: Change) -> None:
        self.world.apply(Group(owner=Owner.API, changes=changes))
        self.note_change()

    def note_change(self) -> None:
        """Whoever gives a port up, or asks by number for what its other port has, loses the number."""
        self.is_settled = False
        for key, number in list(self.known.items()):
            service = self.world.tables.service(ServiceId(key[0]))
            wishes = asked(service) if service is not None else ()
            is_wished = any((wish.protocol, wish.target_port) == key[1:] for wish in wishes if is_open(wish))
            is_claimed = any((wish.protocol, wish.published_port) == (key[1], number) for wish in wishes)
            if is_claimed or not is_wished:
                del self.known[key]

    # --- users

    @rule(name=st.sampled_from(NAMES), wanted=endpoints, count=st.integers(0, 1))
    def put(self, name: str, wanted: tuple[PortConfig, ...], count: int) -> None:
        made = self.plan(name, wanted, count)
        if made:
            self.commit(*made)

    def plan(self, name: str, wanted: tuple[PortConfig, ...], count: int) -> tuple[Change, ...]:
        """What a manager proposes on the present state; nothing if it refuses."""
        template = TaskSpec(container_spec=ContainerSpec(image="host"))
        spec = ServiceSpec(
            name=name,
            mode=ServiceMode(replicated=Replicated(replicas=count)),
            task_template=template,
            endpoint_spec=EndpointSpec(ports=wanted),
        )
        number, view, service = next(self.numbers), Draft(self.world.tables), self.find(name)
        try:
            accepted = service_plan.accept(view, spec, of=service)
        except Rejected:
            self.check_is_taken(wanted, service)
            return ()
        if service is None:
            return service_plan.create(
                view, accepted, service_id=f"{name}{number}", revision_id=f"r{number}", now=self.world.now
            )
        return service_plan.update(
            view,
            service,
            accepted,
            base_version=service.version,
            revision_id=f"r{number}",
            now=self.world.now,
        )

    @rule(names=st.lists(st.sampled_from(NAMES), min_size=2, max_size=2), first=endpoints, second=endpoints)
    def two_managers(
        self, names: list[str], first: tuple[PortConfig, ...], second: tuple[PortConfig, ...]
    ) -> None:
        """Both decide on the same state, and neither knows of the other's proposal."""
        plans = [self.plan(name, wanted, 0) for name, wanted in zip(names, (first, second), strict=True)]
        if plans[0]:
            self.commit(*plans[0])
        if not plans[1]:
            return
        outcome = apply_group(self.world.tables, Group(owner=Owner.API, changes=plans[1]), at=self.world.now)
        if isinstance(outcome, Refusal):
            assert plans[0]
            is_clash = outcome.reason.startswith("port '") and outcome.code == "INVALID_ARGUMENT"
            assert is_clash or names[0] == names[1], outcome.reason
            assert not is_clash or self.is_wished_twice(first, second), outcome.reason
            return
        for event in outcome:
            self.world._mark(event.old, event.new)
        self.note_change()

    @staticmethod
    def is_wished_twice(first: tuple[PortConfig, ...], second: tuple[PortConfig, ...]) -> bool:
        holdings = [{(port.protocol, port.published_port) for port in each} for each in (first, second)]
        return any(number for _, number in holdings[0] & holdings[1])

    @rule(name=st.sampled_from(NAMES), wanted=endpoints)
    def race_with_the_leader(self, name: str, wanted: tuple[PortConfig, ...]) -> None:
        """While the leader's choice of numbers is under way another manager commits a service."""
        if self.world.has_work():
            self.world.run_once(meanwhile=lambda: self.put(name, wanted, 0))

    def check_is_taken(self, wanted: tuple[PortConfig, ...], of: Service | None) -> None:
        """Refused, so a number is wished twice: in the spec itself, or by another service."""
        others = [each for each in self.world.tables.services() if of is None or each.id != of.id]
        taken = [port for each in others for port in each.endpoint.ports]
        fixed = [(port.protocol, port.published_port) for port in wanted if port.published_port]
        held = {(port.protocol, port.published_port) for port in taken}
        assert len(set(fixed)) < len(fixed) or held.intersection(fixed)

    @rule(name=st.sampled_from(NAMES))
    def roll_back(self, name: str) -> None:
        service = self.find(name)
        if service is not None and service.previous_id:
            view, now = self.world.tables, self.world.now
            with suppress(Rejected):  # another service may have the ports by now
                self.commit(*service_plan.rollback(view, service, base_version=service.version, now=now))

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name: str) -> None:
        service = self.find(name)
        if service is not None:
            self.commit(Delete(kind=Kind.SERVICE, id=service.id))

    # --- the leader

    @rule()
    def settle(self) -> None:
        self.world.settle()
        self.is_settled = True
        self.note_numbers()

    @rule()
    def change_leader(self) -> None:
        self.settle()
        self.world = self.world.successor()
        self.given.clear()

    def note_numbers(self) -> None:
        now: dict[tuple[str, PortProtocol, int], int] = {}
        for service in self.world.tables.services():
            for wish, port in zip(asked(service), service.endpoint.ports, strict=True):
                if is_open(wish):
                    assert FIRST_PORT <= port.published_port <= LAST_PORT
                    now[service.id, port.protocol, port.target_port] = port.published_port
        for key, number in now.items():
            if key in self.known:
                assert self.known[key] == number, f"{key} had {self.known[key]} and now has {number}"
            else:
                assert (key[1], number) not in self.given, f"{key} got {number}, which was just given up"
                self.given.add((key[1], number))
        self.known = now

    # --- what must hold

    @invariant()
    def nothing_is_held_twice(self) -> None:
        ingress: Counter[Holding] = Counter()
        host: dict[Holding, set[str]] = {}
        for service in self.world.tables.services():
            for port in service.endpoint.ports:
                if port.published_port and port.publish_mode == PublishMode.INGRESS:
                    ingress[port.protocol, port.published_port] += 1
                elif port.published_port:
                    host.setdefault((port.protocol, port.published_port), set()).add(service.id)
        assert not [holding for holding, count in ingress.items() if count > 1]
        assert not set(ingress) & set(host)

    @invariant()
    def what_users_chose_is_what_they_have(self) -> None:
        for service in self.world.tables.services():
            for wish, port in zip(asked(service), service.endpoint.ports, strict=True):
                assert replace(port, published_port=wish.published_port) == wish
                assert is_open(wish) or port.published_port == wish.published_port

    @invariant()
    def nobody_waits_once_it_is_quiet(self) -> None:
        if self.is_settled:
            ports = [port for each in self.world.tables.services() for port in each.endpoint.ports]
            assert not [port for port in ports if is_open(port)]
            self.world.assert_quiet()


def asked(service: Service) -> tuple[PortConfig, ...]:
    return service.spec.endpoint_spec.ports if service.spec.endpoint_spec is not None else ()


TestPublishing = Publishing.TestCase
TestPublishing.settings = machine_settings(examples=60, steps=25)


# --- found by the machine


@pytest.mark.parametrize("is_rollback", [False, True], ids=["update", "rollback"])
def test_a_service_that_gets_another_port_keeps_the_number_of_the_first(*, is_rollback: bool) -> None:
    machine = Publishing()
    first = PortConfig(target_port=80, protocol=PortProtocol.TCP, publish_mode=PublishMode.INGRESS)
    machine.put("b", (replace(first, target_port=81),), 0)
    machine.put("a", (first,), 0)
    machine.settle()
    before = endpoint(machine, "a")
    machine.put("a", (replace(first, target_port=82), first), 0)
    if is_rollback:
        machine.roll_back("a")
    machine.settle()
    assert set(before) <= set(endpoint(machine, "a"))


def test_a_rollback_does_not_take_a_port_that_another_service_has_now() -> None:
    machine = Publishing()
    fixed = PortConfig(
        target_port=80, published_port=8080, protocol=PortProtocol.TCP, publish_mode=PublishMode.INGRESS
    )
    machine.put("a", (fixed,), 0)
    machine.put("a", (), 0)
    machine.put("b", (fixed,), 0)
    machine.roll_back("a")
    machine.nothing_is_held_twice()


def test_an_automatic_rollback_brings_the_old_ports_back() -> None:
    world = World(make_node("n1"), make_network("ingress", ingress=True))
    old, new = (
        ServiceSpec(
            name="a",
            mode=ServiceMode(replicated=Replicated(replicas=1)),
            task_template=TaskSpec(container_spec=ContainerSpec(image=f"image-{port}")),
            endpoint_spec=EndpointSpec(ports=(PortConfig(target_port=80, published_port=port),)),
            update_config=UpdateConfig(failure_action=FailureAction.ROLLBACK),
        )
        for port in (8080, 9090)
    )
    view = Draft(world.tables)
    made = service_plan.create(view, old, service_id="a", revision_id="r1", now=world.now)
    world.apply(Group(owner=Owner.API, changes=made))
    world.live(60)
    changed = service_plan.update(
        view,
        world.service("a"),
        new,
        base_version=world.service("a").version,
        revision_id="r2",
        now=world.now,
    )
    world.apply(Group(owner=Owner.API, changes=changed))
    world.live(60, may_run=lambda task: task.revision_id == "r1")
    assert world.service("a").revision_id == "r1"
    assert [port.published_port for port in world.service("a").endpoint.ports] == [8080]


def endpoint(machine: Publishing, name: str) -> tuple[tuple[int, int], ...]:
    service = machine.find(name)
    assert service is not None
    stored = machine.world.tables.service(ServiceId(service.id))
    assert stored is not None
    return tuple((port.target_port, port.published_port) for port in stored.endpoint.ports)
