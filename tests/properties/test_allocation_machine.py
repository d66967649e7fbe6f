"""Addresses, subnets and VNIs through the life of networks, services, tasks and nodes, in tiny pools.

Users make and remove networks and services, services move between networks, tasks end, nodes come, go and are
not heard of; proposals get lost, leaders change in the middle of anything. Always: nothing is held twice, and
nothing outside of what its network hands out. At rest: who waits for an address waits for one of a network
that is full, and one that was released in this term was used only when no other was free. In the end, when
all is removed, nothing is held at all.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Final

from budget import machine_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace
from world import World, make_network, make_node

from manager.allocate.blocks import BITS, IPV4, block_of, parse_address, parse_subnet, text_of
from manager.store.apply import apply_group
from manager.store.indexes import (
    NETWORKS_BY_VNI,
    NODES_BY_NETWORK,
    SERVICES_BY_ADDRESS,
    TASKS_BY_NETWORK,
    vni_of,
)
from manager.store.networking import places_of
from swarmpy.model.changes import Create, Delete, Group, Refusal
from swarmpy.model.cluster_specs import IPAMConfig
from swarmpy.model.ids import ClusterId, NetworkId, ServiceId, Timestamp
from swarmpy.model.network_rules import VXLAN_IDS_OPTION
from swarmpy.model.objects import Cluster, Kind, Network, NetworkAttachment
from swarmpy.model.specs import (
    EndpointSpec,
    Global,
    NetworkAttachmentConfig,
    PortConfig,
    Replicated,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmpy.model.states import EndpointMode, NodeState, Owner, TaskState, UpdateOrder

SERVICES: Final = ("a", "b", "c")
NODES: Final = ("n1", "n2", "n3")
NETWORKS: Final = ("net1", "net2", "net3")
AFTER_ALL_S: Final = 300.0
LAN: Final = IPAMConfig(subnet="192.168.7.0/29", auxiliary_addresses={"router": "192.168.7.3"})
RANGE: Final = IPAMConfig(subnet="192.168.8.0/28", ip_range="192.168.8.4/30", gateway="192.168.8.14")
SIX: Final = IPAMConfig(subnet="fd00:7::/125")

Held = tuple[str, str]
"""Network and address."""

configs = st.sampled_from([(), (), (LAN,), (RANGE,), (LAN, SIX), (LAN, IPAMConfig(subnet="192.168.9.0/29"))])
statics = st.sampled_from(
    [{}] * 6
    + [
        {"ipv4_address": "192.168.7.4,192.168.7.5"},
        {"ipv4_address": "192.168.8.5"},
        {"ipv4_address": "192.168.8.9,192.168.7.6"},
        {"mac_address": "02:42:c0:a8:07:04,02:aa:00:00:00:01,02:aa:00:00:00:02"},
    ]
)
wishes = st.lists(
    st.tuples(st.sampled_from(NETWORKS), statics), max_size=2, unique_by=lambda wish: wish[0]
).map(tuple)
modes = st.sampled_from([EndpointMode.VIP, EndpointMode.VIP, EndpointMode.DNSRR])


class Allocation(RuleBasedStateMachine):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.names = itertools.count(1)
        self.released: dict[Held, int] = {}
        """What was released in this term, and at which step."""
        self.step = 0
        self.known: set[Held] = set()
        self.has_lost = False

    @initialize(pool=st.sampled_from(["10.20.0.0/28", "10.20.0.0/27"]), nodes=st.integers(1, 3))
    def start(self, pool: str, nodes: int) -> None:
        cluster = Cluster(id=ClusterId("c"), default_address_pool=(pool,), subnet_size=29)
        self.world.put(cluster)
        for id_ in NODES[:nodes]:
            self.world.put(make_node(id_))

    # --- users

    @rule(
        slot=st.sampled_from(NETWORKS),
        chosen=configs,
        is_ingress=st.sampled_from([False, False, True]),
        vni=st.sampled_from(["", "", "5000"]),
    )
    def make(self, slot: str, chosen: tuple[IPAMConfig, ...], is_ingress: bool, vni: str) -> None:
        if self.find(slot) is None:
            network = make_network(
                f"{slot}x{next(self.names)}",
                *chosen,
                ingress=is_ingress,
                options={VXLAN_IDS_OPTION: vni} if vni else {},
                ipv6_enabled=SIX in chosen,
            )
            network = replace(network, spec=replace(network.spec, name=slot), created_at=Timestamp(0))
            self.try_commit(Create(object=network))

    @rule(slot=st.sampled_from(NETWORKS))
    def remove_network(self, slot: str) -> None:
        network = self.find(slot)
        if network is not None:
            self.try_commit(Delete(kind=Kind.NETWORK, id=network.id))

    @rule(
        name=st.sampled_from(SERVICES),
        count=st.integers(0, 6),
        wish=wishes,
        mode=modes,
        more=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    )
    def put(
        self,
        name: str,
        count: int,
        wish: tuple[tuple[str, dict[str, str]], ...],
        mode: EndpointMode,
        more: tuple[bool, bool, bool],
    ) -> None:
        is_global, is_start_first, has_port = more
        attachments = tuple(
            NetworkAttachmentConfig(target=network.id, driver_opts=options)
            for slot, options in wish
            if (network := self.find(slot)) is not None and not network.spec.ingress
        )
        ports = (PortConfig(target_port=80),) if has_port and mode is EndpointMode.VIP else ()
        replicated = ServiceMode(replicated=Replicated(replicas=count))
        spec = ServiceSpec(
            name=name,
            mode=ServiceMode(global_=Global()) if is_global else replicated,
            task_template=TaskSpec(networks=attachments),
            endpoint_spec=EndpointSpec(mode=mode, ports=ports),
            update_config=UpdateConfig(
                order=UpdateOrder.START_FIRST if is_start_first else UpdateOrder.STOP_FIRST
            ),
        )
        if not self.world.has_service(name):
            self.world.create_service(name, spec)
        elif bool(self.world.service(name).spec.mode.global_) == is_global:
            self.world.update_service(name, spec)
            service = self.world.service(name)
            self.world.put(replace(service, endpoint=replace(service.endpoint, ports=ports)))

    @rule(name=st.sampled_from(SERVICES))
    def remove(self, name: str) -> None:
        if self.world.has_service(name):
            self.world.delete(Kind.SERVICE, name)

    def find(self, slot: str) -> Network | None:
        found = self.world.tables.by_name(Kind.NETWORK, slot)
        assert found is None or isinstance(found, Network)
        return found

    def try_commit(self, change: Create | Delete) -> None:
        group = Group(owner=Owner.API, changes=(change,))
        outcome = apply_group(self.world.tables, group, at=self.world.now)
        if not isinstance(outcome, Refusal):
            for event in outcome:
                self.world._mark(event.old, event.new)

    # --- machines

    @rule(id_=st.sampled_from(NODES))
    def add_or_remove_node(self, id_: str) -> None:
        if self.world.has_node(id_):
            self.world.delete(Kind.NODE, id_)
        else:
            self.world.put(make_node(id_))

    @rule(id_=st.sampled_from(NODES), state=st.sampled_from([NodeState.DOWN, NodeState.READY]))
    def change_state(self, id_: str, state: NodeState) -> None:
        if self.world.has_node(id_):
            self.world.set_node_state(id_, state)

    @rule(which=st.integers(0, 5))
    def fail(self, which: int) -> None:
        running = self.world.running()
        if running:
            self.world.report(running[which % len(running)].id, TaskState.FAILED)

    @rule()
    def let_agents_work(self) -> None:
        self.world.run_agents()

    # --- the leader

    @rule()
    def one_round(self) -> None:
        if self.world.has_work():
            self.world.run_once()

    @rule()
    def settle(self) -> None:
        free = self.free_addresses()
        before = set(self.known)
        self.world.settle()
        self.check_rest(free, before)
        self.check_waiting()

    @rule(seconds=st.sampled_from([0.0, 5.0, 60.0]))
    def live(self, seconds: float) -> None:
        self.world.live(seconds)
        self.note()
        self.check_waiting()

    @rule(name=st.sampled_from(SERVICES), slot=st.sampled_from(NETWORKS))
    def race_with_users(self, name: str, slot: str) -> None:
        """While what the leader decided is on its way, a service goes, and the network that it was on."""

        def meanwhile() -> None:
            self.remove(name)
            self.remove_network(slot)

        if self.world.has_work():
            self.world.run_once(meanwhile=meanwhile)
            self.has_lost = True

    @rule()
    def lose_a_proposal(self) -> None:
        self.world.lose_once()
        self.has_lost = True

    @rule()
    def change_leader(self) -> None:
        self.world = self.world.successor()
        self.released.clear()
        self.has_lost = False

    # --- looking

    def holdings(self) -> Iterator[Held]:
        tables = self.world.tables
        for task in tables.tasks():
            if task.status.state <= TaskState.RUNNING:
                yield from _held(task.networks)
        for service in tables.services():
            for each in service.endpoint.virtual_ips:
                yield each.network_id, each.addr.partition("/")[0]
        for node in tables.nodes():
            yield from _held(node.attachments)

    def note(self) -> None:
        now = set(self.holdings())
        self.step += 1
        self.released |= dict.fromkeys(self.known - now, self.step)
        for held in now:
            self.released.pop(held, None)
        self.known = now

    def free_addresses(self) -> set[Held]:
        """What every network could still hand out."""
        self.note()
        free: set[Held] = set()
        for network in self.world.tables.networks():
            for version, address in _given_out(network):
                if (network.id, address) not in self.known and version == IPV4:
                    free.add((network.id, address))
        return free - self.spoken_for()

    def spoken_for(self) -> set[Held]:
        """What a wished MAC keeps others from."""
        return {
            (place.network_id, "192.168.7.4")
            for task in self.world.tables.tasks()
            for place in task.networks
            if place.mac == "02:42:c0:a8:07:04" and task.status.state <= TaskState.RUNNING
        }

    # --- what must hold

    def check_rest(self, free: set[Held], before: set[Held]) -> None:
        """``free``, ``before``: what was free and held before the leader decided."""
        released = dict(self.released)
        now = set(self.holdings())
        still_free = free & self.free_addresses()
        pinned = {
            (network.id, address.strip())
            for service in self.world.tables.services()
            for wish in service.spec.task_template.networks
            if (network := self.world.tables.network(NetworkId(wish.target))) is not None
            for address in wish.driver_opts.get("ipv4_address", "").split(",")
        }
        for held in sorted((now - before) & set(released) - pinned):
            better = [
                other
                for other in sorted(still_free)
                if other[0] == held[0] and released.get(other, 0) < released[held]
            ]
            assert self.has_lost or not better, f"{held} was released, and {better} were free"

    def check_waiting(self) -> None:
        free = Counter(network_id for network_id, _ in self.free_addresses())
        for task in self.world.live_tasks():
            service = self.world.tables.service(ServiceId(task.service_id))
            if task.status.state != TaskState.PENDING or service is None:
                continue
            if "could not find an available IP" in task.status.err and "all " in task.status.err:
                name = task.status.err.partition(" network ")[2].partition(":")[0]
                network = self.find(name)
                assert network is None or not free[network.id] or SIX in _configs(network), task.status.err
        for service in self.world.tables.services():
            has = {each.network_id for each in service.endpoint.virtual_ips}
            wanted = {place.network.id for place in places_of(self.world.tables, service.spec).found}
            assert has <= wanted, f"{service.id} keeps addresses in {has - wanted}"
            for wish in service.spec.task_template.networks:
                network = self.world.tables.network(NetworkId(wish.target))
                is_allocated = network is not None and network.ipam_options is not None
                mode = service.spec.endpoint_spec.mode if service.spec.endpoint_spec else ""
                if is_allocated and mode == EndpointMode.VIP and wish.target not in has:
                    assert network is not None
                    assert not free[network.id] or SIX in _configs(network)
        ingress = self.world.tables.ingress_network()
        if ingress is not None and ingress.ipam_options is not None and free[ingress.id]:
            assert SIX in _configs(ingress) or all(node.attachments for node in self.world.tables.nodes())

    @invariant()
    def nothing_is_held_twice(self) -> None:
        self.note()
        counts = Counter(self.holdings())
        assert not [held for held, count in counts.items() if count > 1]
        numbers = Counter(vni_of(network) for network in self.world.tables.networks() if vni_of(network))
        assert not [number for number, count in numbers.items() if count > 1]

    @invariant()
    def nothing_is_outside(self) -> None:
        open_addresses: dict[str, set[str]] = {}
        for network in self.world.tables.networks():
            blocks = [block_of(config) for config in _configs(network)]
            for block in blocks:
                found = open_addresses.setdefault(network.id, set())
                numbers = range(block.start, block.start + (1 << BITS[block.version] - block.prefix))
                found |= {text_of(number, block.version) for number in numbers if block.is_open(number)}
        for network_id, address in self.known:
            assert network_id not in open_addresses or address in open_addresses[network_id], address

    @invariant()
    def ours_are_apart(self) -> None:
        pool = parse_subnet("10.20.0.0/27")
        subnets = [
            parse_subnet(config.subnet)
            for network in self.world.tables.networks()
            for config in _configs(network)
        ]
        ours = [subnet for subnet in subnets if int(subnet.network_address) >> 5 == _first(pool) >> 5]
        assert len(set(ours)) == len(ours)

    def teardown(self) -> None:
        """Remove everything: nothing may be left."""
        world = self.world
        for service in list(world.tables.services()):
            world.delete(Kind.SERVICE, service.id)
        for node in list(world.tables.nodes()):
            if node.status.state != NodeState.READY:
                world.set_node_state(node.id, NodeState.READY)
        world.live(AFTER_ALL_S)
        world.assert_quiet()
        for node in list(world.tables.nodes()):
            world.delete(Kind.NODE, node.id)
        for network in list(world.tables.networks()):
            self.try_commit(Delete(kind=Kind.NETWORK, id=network.id))
        world.live(AFTER_ALL_S)
        assert not world.tables.networks()
        for index in (TASKS_BY_NETWORK, SERVICES_BY_ADDRESS, NODES_BY_NETWORK, NETWORKS_BY_VNI):
            assert world.tables._buckets[index] == {}


def _held(attachments: tuple[NetworkAttachment, ...]) -> Iterator[Held]:
    for place in attachments:
        for address in place.addresses:
            yield place.network_id, address.partition("/")[0]


def _configs(network: Network) -> tuple[IPAMConfig, ...]:
    return network.ipam_options.configs if network.ipam_options is not None else ()


def _given_out(network: Network) -> Iterator[tuple[int, str]]:
    for config in _configs(network):
        block = block_of(config)
        for number in range(block.first, block.last + 1):
            if number not in block.reserved:
                yield block.version, text_of(number, block.version)


def _first(subnet: object) -> int:
    return parse_address(str(subnet).partition("/")[0])[1]


TestAllocation = Allocation.TestCase
TestAllocation.settings = machine_settings(examples=60, steps=30)
