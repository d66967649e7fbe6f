"""Joining a running task to a network, and taking it off again: judged and planned here, then waited for.

What is asked for is stored with the task; the leader gives it addresses (``manager/reconcile/joins.py``), the
task's agent makes the leg and says so. As docker's, a call ends once that is done; texts and codes are
docker's, also where it calls a mistake of the user's an error of the server. What is not done within
``NETWORK_JOIN_S`` is withdrawn, and the answer says what was missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Final

from msgspec.structs import replace

from manager.allocate.addresses import Addresses, NoAddress
from manager.allocate.pools import is_overlay
from manager.api.container_refs import container_name, id_of
from manager.api.context import Api
from manager.api.predefined import Predefined
from manager.store.networking import PREDEFINED_NETWORKS, Place
from manager.store.view import View
from swarmpy.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    SwarmError,
    Unavailable,
)
from swarmpy.limits import NETWORK_JOIN_S
from swarmpy.model import network_rules
from swarmpy.model.changes import Change, Update
from swarmpy.model.ids import NetworkId, TaskId
from swarmpy.model.objects import Network, NetworkJoin, Task
from swarmpy.model.specs import NetworkAttachmentConfig
from swarmpy.model.states import NodeState, TaskState
from swarmpy.model.value import Value

_FAILED: Final = (
    "attaching to network failed, make sure your network options are correct and check manager logs: "
)
_ADDRESS_OPTIONS: Final = (network_rules.IPV4_OPTION, network_rules.IPV6_OPTION)


class EndpointAddresses(Value, frozen=True, kw_only=True):
    ipv4_address: str = ""
    ipv6_address: str = ""


class EndpointSettings(Value, frozen=True, kw_only=True):
    ipam_config: EndpointAddresses = EndpointAddresses()
    aliases: tuple[str, ...] = ()
    driver_opts: dict[str, str] = {}
    mac_address: str = ""


class ContainerRequest(Value, frozen=True, kw_only=True):
    """The body of connect and disconnect. What is joined is the container's present run."""

    container: str = ""
    force: bool = False
    endpoint_config: EndpointSettings = EndpointSettings()


def wish_of(network: Network, settings: EndpointSettings) -> NetworkAttachmentConfig:
    """What is asked for as a service's spec would ask for it; docker's sentences for what cannot be."""
    wished = (settings.ipam_config.ipv4_address, settings.ipam_config.ipv6_address)
    options = dict(settings.driver_opts)
    options.update({name: text for name, text in zip(_ADDRESS_OPTIONS, wished, strict=True) if text})
    if settings.mac_address:
        options[network_rules.MAC_OPTION] = settings.mac_address
    for version, text in zip((4, 6), wished, strict=True):
        if text and not network_rules.is_address(text, version):
            raise InvalidArgument(f"invalid IPv{version} address: {text}")
        if text and not _is_inside(network, text):
            raise SwarmError(f"Invalid address {text}: It does not belong to any of this network's subnets")
    wish = NetworkAttachmentConfig(target=network.id, aliases=settings.aliases, driver_opts=options)
    network_rules.check_attachment(replace(wish, target=network.spec.name))
    return wish


def _is_inside(network: Network, text: str) -> bool:
    """As far as the network's subnets are known already."""
    options = network.ipam_options or network.spec.ipam_options
    subnets = [ip_network(config.subnet) for config in options.configs if config.subnet] if options else []
    return not subnets or any(ip_address(text) in subnet for subnet in subnets)


# --- decisions


def check_attachable(found: Network | Predefined) -> Network:
    name = found.name if isinstance(found, Predefined) else found.spec.name
    if isinstance(found, Predefined) or not found.spec.attachable:
        raise SwarmError(
            f"Could not attach to network {name}: rpc error: code = PermissionDenied desc = "
            f"network {name} not manually attachable"
        )
    if not is_overlay(found.spec):
        raise InvalidArgument(
            f"Could not attach to network {name}: a running task can be joined to overlay networks only"
        )
    return found


def join(view: View, task: Task, network: Network, wish: NetworkAttachmentConfig) -> tuple[Change, ...]:
    """The task with a place wished for in the network."""
    if task.status.state is not TaskState.RUNNING or task.desired_state > TaskState.COMPLETE:
        raise AlreadyExists(f"Container {id_of(view, task)} is not running")
    name = container_name(view, task)
    if task.join_of(network.id) is not None:
        raise AlreadyExists(f"{name} is already attached to network {network.spec.name}")
    if any(place.network_id == network.id for place in task.networks):
        raise PermissionDenied(f"endpoint with name {name} already exists in network {network.spec.name}")
    _check_mode(view, task)
    taken = {other.number for other in task.joins}
    number = next(number for number in range(1, len(taken) + 2) if number not in taken)
    return (Update(object=replace(task, joins=(*task.joins, NetworkJoin(wish=wish, number=number)))),)


def _check_mode(view: View, task: Task) -> None:
    revision = view.revision(task.revision_id)
    places = revision.spec.task_template.networks if revision is not None else ()
    own = {place.target for place in places} & PREDEFINED_NETWORKS
    if "host" in own:
        raise InvalidArgument(
            "container sharing network namespace with another container or host cannot be connected to any "
            "other network"
        )
    if "none" in own:
        raise InvalidArgument(
            "container cannot be connected to multiple networks with one of the networks in private (none) "
            "mode"
        )


def leave(task: Task, found: Network | Predefined) -> tuple[Change, ...]:
    """The task without the place that it was given, or about to leave it; nothing if it is leaving already.

    What its service gives it, it keeps: a task is as its service's spec says.
    """
    name = found.name if isinstance(found, Predefined) else found.spec.name
    known = task.join_of(found.id) if isinstance(found, Network) else None
    has_place = any(place.network_id == found.id for place in task.networks)
    if known is None and not has_place:
        raise SwarmError(f"container {task.id} is not connected to network {name}")
    if known is None:
        raise PermissionDenied(
            f"network {name} is one of the service's: take it from the service "
            f"(swarmpy service update --network-rm {name} SERVICE), which replaces its tasks"
        )
    if known.is_leaving:
        return ()
    others = tuple(each for each in task.joins if each is not known)
    joins = tuple(replace(each, is_leaving=True) if each is known else each for each in task.joins)
    return (Update(object=replace(task, joins=joins if has_place else others)),)


def lacking(view: View, task: Task, network: Network, join: NetworkJoin) -> str:
    """What a join waits for, as far as this manager knows; a sentence."""
    if not any(place.network_id == network.id for place in task.networks):
        try:
            Addresses().claims(view).attachments((Place(network, join.wish),))
        except NoAddress as error:
            return str(error)
        return "no manager has given out an address in time"
    node = view.node(task.node_id)
    name = node.description.hostname if node is not None else task.node_id
    if node is None or node.status.state is not NodeState.READY:
        return f"node {name}, which runs the task, cannot be reached"
    return task.status.places_err or f"node {name} has not set the network up in time"


# --- waiting


class Joining:
    """``connect`` and ``disconnect`` of one API server."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def connect(self, task_id: TaskId, network: Network, wish: NetworkAttachmentConfig) -> None:
        """A place that is just being left is waited for first."""

        def plan(view: View) -> tuple[Change, ...]:
            return join(view, _task(view, task_id), _network(view, network), wish)

        await self._until(task_id, lambda task: not _is_leaving(task, network.id))
        await self._api.decide(plan)
        if await self._until(task_id, lambda task: _is_joined(task, network.id)):
            task = self._api.cluster().view.task(task_id)
            if task is not None and _is_on(task, network.id):
                return
        await self._withdraw(task_id, network)

    async def _withdraw(self, task_id: TaskId, network: Network) -> None:
        reason = ""

        def plan(view: View) -> tuple[Change, ...]:
            nonlocal reason
            task, known = view.task(task_id), view.network(network.id)
            if task is None or task.status.state > TaskState.RUNNING:
                reason = f"container {task_id} has stopped"
                return ()
            join = task.join_of(network.id)
            if join is None or join.is_leaving or known is None:
                reason = f"container {task_id} was disconnected from it"
                return ()
            reason = lacking(view, task, known, join)
            return leave(task, known)

        await self._api.decide(plan)
        raise SwarmError(_FAILED + reason)

    async def disconnect(self, task_id: TaskId, found: Network | Predefined, *, is_forced: bool) -> None:
        """``is_forced``: the node is not waited for. The addresses are nobody else's until it answers."""

        def plan(view: View) -> tuple[Change, ...]:
            return leave(_task(view, task_id), found)

        await self._api.decide(plan)
        if is_forced or await self._until(task_id, lambda task: task.join_of(NetworkId(found.id)) is None):
            return
        raise SwarmError(
            f"container {task_id} is being disconnected from network {found.id}, and its node has not said "
            "yet that it is done: its address stays reserved until then"
        )

    async def _until(self, task_id: TaskId, is_so: Callable[[Task], bool]) -> bool:
        """Whether it came to be so in time; also True once the task has ended."""
        access = self._api.cluster()

        def is_decided() -> bool:
            task = access.view.task(task_id)
            return task is None or task.status.state > TaskState.RUNNING or is_so(task)

        with access.watch() as watch:
            if is_decided():
                return True
            try:
                async with asyncio.timeout(NETWORK_JOIN_S):
                    async for _ in watch:
                        if is_decided():
                            return True
            except TimeoutError:
                return False
        raise Unavailable("this node is no manager of the swarm any more: ask another one")


def _task(view: View, task_id: TaskId) -> Task:
    task = view.task(task_id)
    if task is None:
        raise NotFound(f"No such container: {task_id}")
    return task


def _network(view: View, network: Network) -> Network:
    known = view.network(network.id)
    if known is None:
        raise NotFound(f"network {network.spec.name} not found")
    return known


def _is_leaving(task: Task, network_id: NetworkId) -> bool:
    join = task.join_of(network_id)
    return join is not None and join.is_leaving


def _is_on(task: Task, network_id: NetworkId) -> bool:
    is_there = any(place.network_id == network_id for place in task.places)
    return is_there and task.status.state is TaskState.RUNNING and not task.status.places_err


def _is_joined(task: Task, network_id: NetworkId) -> bool:
    """Whether the agent has made it, or cannot; or somebody has withdrawn it."""
    join = task.join_of(network_id)
    if join is None or join.is_leaving:
        return True
    has_place = any(place.network_id == network_id for place in task.networks)
    return has_place and task.status.places_version >= task.version
