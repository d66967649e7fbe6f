"""What the making and the removal of a network change in the store. Pure.

A network is stored as it was asked for; its subnets and its number come from the leader a moment later
(``manager/allocate/pools.py``). Every network is the swarm's: a network of one node alone would be no use,
since what runs on nodes are services' tasks.

A configuration-only network is a set of settings. What is made from it has a copy of them.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from manager.allocate import pools
from manager.api import texts
from manager.api.lookup import find_or_none
from manager.api.predefined import PREDEFINED
from manager.store.view import View
from swarmpy.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unimplemented,
)
from swarmpy.model import network_rules, validate
from swarmpy.model.changes import Change, Create, Delete
from swarmpy.model.cluster_specs import IPAMConfig, IPAMOptions, NetworkSpec
from swarmpy.model.defaults import OVERLAY_DRIVER
from swarmpy.model.ids import NetworkId
from swarmpy.model.objects import Kind, Network
from swarmpy.model.specs import Driver
from swarmpy.model.states import TaskState
from swarmpy.model.value import Value

DRIVERS: Final = frozenset(
    {OVERLAY_DRIVER, "bridge", "nat", "macvlan", "transparent", "ipvlan", "l2bridge", "l2tunnel"}
)
"""Which of the nodes' own ones a node can do, it finds out itself; its tasks say so."""
SINGLE_DRIVERS: Final = frozenset({"host", "null"})
SWARM_SCOPE: Final = "swarm"
LOCAL_SCOPE: Final = "local"
_RESERVED_NAMES: Final = frozenset({"none", "default"})


class IPAM(Value, frozen=True, kw_only=True):
    driver: str = ""
    options: dict[str, str] = {}
    config: tuple[IPAMConfig, ...] = ()


class ConfigReference(Value, frozen=True, kw_only=True):
    network: str = ""


class NetworkRequest(Value, frozen=True, kw_only=True):
    """The body of ``POST /networks/create``. Names are unique, so ``CheckDuplicate`` changes nothing."""

    name: str = ""
    driver: str = ""
    scope: str = ""
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    ipam: IPAM | None = None
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigReference = ConfigReference()
    options: dict[str, str] = {}
    labels: dict[str, str] = {}


def create(view: View, wish: NetworkRequest, network_id: str) -> tuple[Change, ...]:
    spec = _accept(view, wish)
    return (Create(object=Network(id=NetworkId(network_id), spec=spec)),)


def _accept(view: View, wish: NetworkRequest) -> NetworkSpec:
    """The spec as it will be stored, or docker's sentence."""
    _check_new_name(view, wish.name)
    _check_scope(wish)
    spec = _settings(wish) if wish.config_only else _spec(view, wish)
    driver = spec.ipam_options.driver.name if spec.ipam_options is not None else ""
    try:
        network_rules.check_ipam(spec.ipam_options, has_ipv6=spec.ipv6_enabled or spec.config_only)
    except InvalidArgument as error:
        # the engine looks at subnets itself, drivers are looked up by its managers
        raise (texts.invalid(error) if driver in str(error).split() else error) from None
    try:
        validate.check_name(spec.name)
        network_rules.check_network_flags(spec)
    except InvalidArgument as error:
        raise texts.invalid(error) from None
    network_rules.check_driver(spec.driver_configuration)
    network_rules.check_dhcp(spec)
    if not spec.config_only:
        pools.check_network(spec)  # else it would be stored and never get what it needs
    if spec.ingress and (other := view.ingress_network()) is not None:
        raise texts.exists(f"ingress network ({other.id}) is already present")
    _check_vxlan_id(view, spec)
    return spec


def _check_new_name(view: View, name: str) -> None:
    if not name:
        raise InvalidArgument("invalid name: name is empty")
    if name in _RESERVED_NAMES:
        raise PermissionDenied(f"operation is not permitted on predefined {name} network ")
    if name in PREDEFINED or view.by_name(Kind.NETWORK, name) is not None:
        raise AlreadyExists(f"network with name {name} already exists")


def _check_scope(wish: NetworkRequest) -> None:
    """Whether there can be a network of that driver in that scope."""
    driver = wish.driver or OVERLAY_DRIVER
    if wish.config_only:
        if wish.scope or wish.ingress or wish.internal or wish.attachable:
            raise PermissionDenied(
                "configuration network can only contain network specific fields. Network operator fields "
                "like [ ingress | internal | attachable | scope ] are not supported."
            )
        if wish.config_from.network:
            raise PermissionDenied("a configuration network cannot depend on another configuration network")
        return
    if driver in SINGLE_DRIVERS:
        raise PermissionDenied(f'only one instance of "{driver}" network is allowed')
    if driver not in DRIVERS:
        raise NotFound(f'plugin "{driver}" not found')
    if wish.ingress and driver != OVERLAY_DRIVER:
        raise PermissionDenied("Ingress network can only be global scope network")
    if driver == OVERLAY_DRIVER and wish.scope == LOCAL_SCOPE:
        raise PermissionDenied("cannot downgrade network scope for overlay networks")
    if driver != OVERLAY_DRIVER and wish.scope != SWARM_SCOPE:
        raise Unimplemented(
            f"a {driver} network of this node alone would have no members, since what runs here are the "
            "tasks of services: give it the swarm's scope (--scope swarm), and every node makes its own; or "
            "make it an overlay (--driver overlay)"
        )
    if not wish.enable_ipv4:
        raise InvalidArgument("IPv4 cannot be disabled in a Swarm scoped network")


def _settings(wish: NetworkRequest) -> NetworkSpec:
    """Of a configuration-only network."""
    return NetworkSpec(
        name=wish.name,
        labels=wish.labels,
        driver_configuration=Driver(name="null", options=wish.options),
        ipv6_enabled=wish.enable_ipv6,
        ipam_options=_ipam(wish.ipam),
        scope=LOCAL_SCOPE,
        config_only=True,
    )


def _spec(view: View, wish: NetworkRequest) -> NetworkSpec:
    spec = NetworkSpec(
        name=wish.name,
        labels=wish.labels,
        driver_configuration=Driver(name=wish.driver or OVERLAY_DRIVER, options=wish.options),
        ipv6_enabled=wish.enable_ipv6,
        internal=wish.internal,
        attachable=wish.attachable,
        ingress=wish.ingress,
        ipam_options=_ipam(wish.ipam),
        scope=SWARM_SCOPE,
    )
    source = wish.config_from.network
    if not source:
        return spec
    if wish.options:
        raise PermissionDenied(
            "network driver options are not supported if the network depends on a configuration network"
        )
    if wish.enable_ipv6 or (wish.ipam is not None and wish.ipam.config):
        raise PermissionDenied(
            "user specified configurations are not supported if the network depends on a configuration "
            "network"
        )
    found = find_or_none(view, Network, source)
    if found is None:
        raise NotFound(f"network {source} not found")
    if not found.spec.config_only:
        raise PermissionDenied(f'network "{found.spec.name}" is not a configuration network')
    settings = found.spec
    return replace(
        spec,
        driver_configuration=Driver(name=_driver(spec), options=_options(settings)),
        ipv6_enabled=settings.ipv6_enabled,
        ipam_options=settings.ipam_options,
        config_from=settings.name,
    )


def _ipam(wish: IPAM | None) -> IPAMOptions | None:
    if wish is None or not (wish.driver or wish.options or wish.config):
        return None
    return IPAMOptions(driver=Driver(name=wish.driver, options=wish.options), configs=wish.config)


def _driver(spec: NetworkSpec) -> str:
    return spec.driver_configuration.name if spec.driver_configuration is not None else ""


def _options(spec: NetworkSpec) -> dict[str, str]:
    return spec.driver_configuration.options if spec.driver_configuration is not None else {}


def _check_vxlan_id(view: View, spec: NetworkSpec) -> None:
    number = network_rules.vxlan_id(spec.driver_configuration)
    if not number or spec.config_only:
        return
    wished = (other for other in view.networks() if _wished_vxlan_id(other) == number)
    for other in (*view.networks_with_vni(number), *wished):
        raise FailedPrecondition(f"the VXLAN id {number} is network {other.spec.name}'s: choose another")


def _wished_vxlan_id(network: Network) -> int:
    return network_rules.vxlan_id(network.spec.driver_configuration)


# --- removal


def remove(view: View, network: Network) -> tuple[Change, ...]:
    """The rest of who uses it is checked when the change is applied."""
    if network.spec.ingress:
        users = sorted(service.id for service in view.services_in_ingress())
        if users:
            raise texts.precondition(
                f"ingress network cannot be removed because service {users[0]} depends on it"
            )
    if any(other.spec.config_from == network.spec.name for other in view.networks()):
        raise PermissionDenied(f'configuration network "{network.spec.name}" is in use')
    return (Delete(kind=Kind.NETWORK, id=network.id),)


def is_being_released(view: View, id_: NetworkId) -> bool:
    """Whether only tasks hold it whose services are gone, and which have not been told to leave yet."""
    holders = [task for task in view.tasks_of_network(id_) if task.desired_state <= TaskState.RUNNING]
    return bool(holders) and all(
        task.service_id and view.service(task.service_id) is None for task in holders
    )


def unused(view: View) -> list[Network]:
    """Networks that nobody is on and nothing depends on, by name; settings and the ingress network stay."""
    found = [
        network
        for network in view.networks()
        if not network.spec.ingress
        and not network.spec.config_only
        and not view.services_on_network(network.id)
        and not view.tasks_of_network(network.id)
    ]
    return sorted(found, key=lambda network: network.spec.name)
