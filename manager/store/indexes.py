"""The declared indexes: for each kind of object, under which keys it can be found besides its id.

An index is a function from an object to its keys; ``Tables`` and ``Draft`` keep what follows from it. Nothing
here is stored: after a restart the same functions build the same indexes from the objects.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from swarmpy.model.defaults import port_protocol, publish_mode
from swarmpy.model.file_versions import references_of as references_in_spec
from swarmpy.model.file_versions import target_of
from swarmpy.model.network_rules import VXLAN_IDS_OPTION
from swarmpy.model.objects import Kind, Network, NetworkAttachment, Node, Revision, Service, Task
from swarmpy.model.specs import ServiceSpec
from swarmpy.model.states import PortProtocol, PublishMode, TaskState

Keys = tuple[str, ...]

ANY_KEY = ""
"""The one key of an index that only tells whether an object belongs to it."""

"""The option of a network's driver state that names its VNI, as docker spells it."""
_DERIVED_MAC = re.compile("02:42" + ":([0-9a-f]{2})" * 4)
"""MACs that follow from an IPv4 address."""

NAMED_KINDS = (Kind.NETWORK, Kind.SECRET, Kind.CONFIG, Kind.VOLUME, Kind.SERVICE)


@dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """``keys`` gives an object's keys, each at most once."""

    name: str
    kind: Kind
    keys: Callable[[Any], Keys]


def name_key(name: str) -> str:
    """Names differ if they differ in more than case: they end up in DNS."""
    return name.casefold()


def is_unplaced(task: Task) -> bool:
    """Stored as NEW or PENDING, and still wished to run."""
    return task.status.state < TaskState.ASSIGNED and task.desired_state <= TaskState.COMPLETE


def reference_key(kind: Kind, id_: str) -> str:
    return f"{kind.value}:{id_}"


def references_of(service: Service) -> Keys:
    """What a service can't do without: a network's key is its id or its name, as the spec has it."""
    keys = [(Kind.NETWORK, target) for target in network_targets(service.spec)]
    container = service.spec.task_template.container_spec
    if container is not None:
        keys += [(Kind.SECRET, reference.secret_id) for reference in container.secrets]
        keys += [(Kind.CONFIG, reference.config_id) for reference in container.configs]
    keys += [(Kind.REVISION, id_) for id_ in revision_ids(service)]
    return tuple(dict.fromkeys(reference_key(kind, id_) for kind, id_ in keys))


def files_of(revision: Revision) -> Keys:
    """The secrets and configs that tasks of a revision get."""
    keys = [reference_key(*target_of(reference)) for reference in references_in_spec(revision.spec)]
    return tuple(dict.fromkeys(keys))


def port_key(protocol: PortProtocol, number: int, mode: PublishMode) -> str:
    return f"{protocol.value}:{number}:{mode.value}"


def published_by(service: Service) -> Keys:
    """The ports of the service's endpoint that have a number."""
    keys = [
        port_key(port_protocol(port), port.published_port, publish_mode(port))
        for port in service.endpoint.ports
        if port.published_port
    ]
    return tuple(dict.fromkeys(keys))


def holder_key(network_id: str, address: str) -> str:
    """``address`` without prefix, or a MAC."""
    return f"{network_id} {address}"


def held_by(attachments: Iterable[NetworkAttachment]) -> Keys:
    """For each network its id, and a key for each address there.

    A MAC of our own form stands for an address, so who wishes for it holds that address as well.
    """
    keys: list[str] = []
    for attachment in attachments:
        network_id = attachment.network_id
        keys.append(network_id)
        keys += [f"{network_id} {address.partition('/')[0]}" for address in attachment.addresses]
        if mac := attachment.mac:
            keys.append(holder_key(network_id, mac))
            if address := address_in(mac):
                keys.append(holder_key(network_id, address))
    return tuple(dict.fromkeys(keys)) if len(keys) > 2 else tuple(keys)


def address_in(mac: str) -> str:
    """The IPv4 address that a MAC of our own form stands for, else nothing. Never raises, as no key may."""
    found = _DERIVED_MAC.fullmatch(mac)
    return ".".join(str(int(part, 16)) for part in found.groups()) if found is not None else ""


def held_by_task(task: Task) -> Keys:
    """What a task holds until it has ended."""
    return held_by(task.networks) if task.networks and task.status.state <= TaskState.RUNNING else ()


def held_by_node(node: Node) -> Keys:
    return held_by(node.attachments)


def held_by_service(service: Service) -> Keys:
    """The same for the virtual addresses of a service's endpoint."""
    keys: list[str] = []
    for each in service.endpoint.virtual_ips:
        keys.append(each.network_id)
        if each.addr:
            keys.append(holder_key(each.network_id, each.addr.partition("/")[0]))
    return tuple(dict.fromkeys(keys))


def vni_of(network: Network) -> int:
    """The network's VXLAN number; 0 while it has none."""
    state = network.driver_state
    text = state.options.get(VXLAN_IDS_OPTION, "") if state is not None else ""
    return int(text) if text.isdecimal() else 0


def network_targets(spec: ServiceSpec) -> Keys:
    return tuple(attachment.target for attachment in (*spec.task_template.networks, *spec.networks))


def revision_ids(service: Service) -> Keys:
    return tuple(id_ for id_ in (service.revision_id, service.template_id, service.previous_id) if id_)


def awaited_by(service: Service) -> Keys:
    """The names of the services that the service's first tasks wait for."""
    return tuple(dict.fromkeys(name_key(each.service) for each in service.spec.depends_on))


def _name_keys(named: Any) -> Keys:
    return (name_key(named.spec.name),)


def _task_service(task: Task) -> Keys:
    return (task.service_id,)


def _task_node(task: Task) -> Keys:
    return (task.node_id,) if task.node_id else ()


def _task_revision(task: Task) -> Keys:
    return (task.revision_id,)


def _task_unplaced(task: Task) -> Keys:
    return (ANY_KEY,) if is_unplaced(task) else ()


def _task_joined(task: Task) -> Keys:
    return (ANY_KEY,) if task.joins and task.status.state <= TaskState.RUNNING else ()


def _service_ingress(service: Service) -> Keys:
    endpoint = service.spec.endpoint_spec
    ports = endpoint.ports if endpoint is not None else ()
    return (ANY_KEY,) if any(publish_mode(port) is PublishMode.INGRESS for port in ports) else ()


def _network_ingress(network: Network) -> Keys:
    return (ANY_KEY,) if network.spec.ingress else ()


def _network_vni(network: Network) -> Keys:
    vni = vni_of(network)
    return (str(vni),) if vni else ()


def _node_manager(node: Node) -> Keys:
    return (ANY_KEY,) if node.manager_status is not None else ()


def _revision_service(revision: Revision) -> Keys:
    return (revision.service_id,)


TASKS_BY_SERVICE = Index(name="tasks by service", kind=Kind.TASK, keys=_task_service)
TASKS_BY_NODE = Index(name="tasks by node", kind=Kind.TASK, keys=_task_node)
TASKS_BY_REVISION = Index(name="tasks by revision", kind=Kind.TASK, keys=_task_revision)
UNPLACED_TASKS = Index(name="unplaced tasks", kind=Kind.TASK, keys=_task_unplaced)
JOINED_TASKS = Index(name="joined tasks", kind=Kind.TASK, keys=_task_joined)
TASKS_BY_NETWORK = Index(name="tasks by network and by address", kind=Kind.TASK, keys=held_by_task)
NODES_BY_NETWORK = Index(name="nodes by network and by address", kind=Kind.NODE, keys=held_by_node)
MANAGER_NODES = Index(name="manager nodes", kind=Kind.NODE, keys=_node_manager)
REVISIONS_BY_SERVICE = Index(name="revisions by service", kind=Kind.REVISION, keys=_revision_service)
REVISIONS_BY_FILE = Index(name="revisions by secret and config", kind=Kind.REVISION, keys=files_of)
SERVICES_BY_REFERENCE = Index(name="services by reference", kind=Kind.SERVICE, keys=references_of)
SERVICES_BY_PORT = Index(name="services by published port", kind=Kind.SERVICE, keys=published_by)
SERVICES_BY_ADDRESS = Index(
    name="services by network and by virtual address", kind=Kind.SERVICE, keys=held_by_service
)
SERVICES_BY_DEPENDENCY = Index(name="services by dependency", kind=Kind.SERVICE, keys=awaited_by)
SERVICES_IN_INGRESS = Index(name="services in ingress", kind=Kind.SERVICE, keys=_service_ingress)
INGRESS_NETWORKS = Index(name="ingress networks", kind=Kind.NETWORK, keys=_network_ingress)
NETWORKS_BY_VNI = Index(name="networks by VNI", kind=Kind.NETWORK, keys=_network_vni)
NAMES = {kind: Index(name=f"{kind.value} names", kind=kind, keys=_name_keys) for kind in NAMED_KINDS}

INDEXES = (
    TASKS_BY_SERVICE,
    TASKS_BY_NODE,
    TASKS_BY_REVISION,
    UNPLACED_TASKS,
    JOINED_TASKS,
    TASKS_BY_NETWORK,
    NODES_BY_NETWORK,
    MANAGER_NODES,
    REVISIONS_BY_SERVICE,
    REVISIONS_BY_FILE,
    SERVICES_BY_REFERENCE,
    SERVICES_BY_PORT,
    SERVICES_BY_ADDRESS,
    SERVICES_BY_DEPENDENCY,
    SERVICES_IN_INGRESS,
    INGRESS_NETWORKS,
    NETWORKS_BY_VNI,
    *NAMES.values(),
)
INDEXES_OF = {kind: tuple(index for index in INDEXES if index.kind is kind) for kind in Kind}
