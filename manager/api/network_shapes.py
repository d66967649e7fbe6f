"""Networks as ``GET /networks`` shows them: the engine's view, made of the swarm's objects. Pure.

Docker's ``inspect`` knows what its own node knows. Here any manager tells it of the whole swarm, but for
``Containers``, which are this node's. ``Dataplane``, in a verbose inspection, is ours: how devices and tables
are called on the nodes that take part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

from manager.api.container_refs import id_of
from manager.api.docker_json import Json, rfc3339, state_name
from manager.store.view import View
from swarmpy.model import network_rules
from swarmpy.model.addresses import bare, mac_of
from swarmpy.model.cluster_specs import IPAMOptions
from swarmpy.model.defaults import (
    DATA_PATH_PORT,
    OVERLAY_DRIVER,
    is_encrypted,
    is_standalone,
    network_driver,
    place_text,
)
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.objects import Network, NetworkAttachment, Node, Service, Task
from swarmpy.model.standalone import container_name
from swarmpy.model.states import NodeState, TaskState

_NODE_DEVICES: Final = {
    "Namespace": ".net-{id:.12}",
    "Bridge": "br0",
    "Tunnel": "vx0",
    "Table": "bridge swarmpy_spoof",
}
"""On each node with a task on an overlay network. The namespace is a file in netns/ of the run folder."""
_NODE_TABLES: Final = ("inet swarmpy_guard",)
_SECURE_TABLE: Final = "inet swarmpy_secure"
"""Keeps what is not encrypted off the port of encrypted networks."""
_TASK_TABLES: Final = ("inet swarmpy_vip", "inet swarmpy_dns")
_MESH_DEVICES: Final = {"Device": "sw-ing", "Table": "inet swarmpy_mesh"}
"""On every node, for published ports."""


def network(item: Network) -> Json:
    """As in a list: without who is on it."""
    spec = item.spec
    driver = item.driver_state or spec.driver_configuration
    nothing: Json | None = {} if spec.scope == "local" else None
    return {
        "Name": spec.name,
        "Id": item.id,
        "Created": rfc3339(item.created_at),
        "Scope": spec.scope or "swarm",
        "Driver": network_driver(spec),
        "EnableIPv6": spec.ipv6_enabled,
        "IPAM": _ipam(item.ipam_options or spec.ipam_options),
        "Internal": spec.internal,
        "Attachable": spec.attachable,
        "Ingress": spec.ingress,
        "ConfigFrom": {"Network": spec.config_from},
        "ConfigOnly": spec.config_only,
        "Containers": nothing,
        "Options": (driver.options if driver is not None else {}) or nothing,
        "Labels": spec.labels or ({} if spec.ingress else nothing),
    }


def _ipam(options: IPAMOptions | None) -> Json:
    if options is None:
        return {"Driver": "default", "Options": None, "Config": []}
    config = []
    for item in options.configs:
        entry: Json = {"Subnet": item.subnet}
        if item.ip_range:
            entry["IPRange"] = item.ip_range
        if item.gateway:
            entry["Gateway"] = item.gateway
        if item.auxiliary_addresses:
            entry["AuxiliaryAddresses"] = item.auxiliary_addresses
        config.append(entry)
    return {
        "Driver": options.driver.name or "default",
        "Options": options.driver.options or None,
        "Config": config,
    }


# --- one network, inspected


def inspected(view: View, item: Network, *, node_id: NodeId, is_verbose: bool) -> Json:
    """``node_id``: the node that is asked, whose containers are shown."""
    members = [
        (task, place)
        for task in sorted(view.tasks_of_network(item.id), key=_order)
        for place in task.places
        if place.network_id == item.id and task.status.state >= TaskState.ASSIGNED
    ]
    result = network(item)
    result["Containers"] = {
        id_of(view, task): _container(view.service(task.service_id), task, place)
        for task, place in members
        if task.node_id == node_id
    } or result["Containers"]
    peers = _peers(view, item, {task.node_id for task, _ in members})
    if peers:
        result["Peers"] = [{"Name": node.description.hostname, "IP": data_path_of(node)} for node in peers]
    if is_verbose:
        result["Services"] = dict(_services(view, item, members))
        result["Dataplane"] = _dataplane(view, item)
    return result


def _order(task: Task) -> tuple[int, str, str]:
    return task.slot, task.node_id, task.id


def task_name(service: Service | None, task: Task) -> str:
    """The container's name: ``web.1.<task id>``; of a global service ``web.<node id>.<task id>``; the name
    that it was given if it was started by hand."""
    spec = service.spec if service is not None else None
    if spec is not None and is_standalone(spec):
        return container_name(spec)
    head = spec.name if spec is not None else task.service_id
    return f"{head}.{place_text(spec, task)}.{task.id}"


def data_path_of(node: Node) -> str:
    return node.description.data_path_addr or node.status.addr


def _peers(view: View, item: Network, node_ids: set[NodeId]) -> list[Node]:
    """The nodes that take part: those of its tasks; every node that is ready in the routing mesh."""
    if item.spec.ingress:
        found = [node for node in view.nodes() if node.status.state is NodeState.READY]
    else:
        found = [node for id_ in node_ids if (node := view.node(id_)) is not None]
    return sorted(found, key=lambda node: (node.description.hostname, node.id))


def _container(service: Service | None, task: Task, place: NetworkAttachment) -> Json:
    return {
        "Name": task_name(service, task),
        "EndpointID": endpoint_id(place, task.id),
        "MacAddress": _mac_of(place),
        "IPv4Address": next((address for address in place.addresses if ":" not in address), ""),
        "IPv6Address": next((address for address in place.addresses if ":" in address), ""),
    }


def endpoint_id(place: NetworkAttachment, task_id: TaskId) -> str:
    """Docker's have 64 digits; nothing is stored under it."""
    return hashlib.sha256(f"{place.network_id}.{task_id}".encode()).hexdigest()


def _mac_of(place: NetworkAttachment) -> str:
    if place.mac or not place.addresses:
        return place.mac
    return mac_of(place.addresses[0])


def _services(
    view: View, item: Network, members: list[tuple[Task, NetworkAttachment]]
) -> Iterator[tuple[str, Json]]:
    """By name. A service that is gone may still have tasks, for a moment."""
    own: dict[str, list[tuple[Task, NetworkAttachment]]] = {}
    for task, place in members:
        own.setdefault(task.service_id, []).append((task, place))
    for service in sorted(view.services_on_network(item.id), key=lambda service: service.spec.name):
        if is_standalone(service.spec):
            continue
        mine = [vip.addr for vip in service.endpoint.virtual_ips if vip.network_id == item.id and vip.addr]
        ports = service.endpoint.ports if item.spec.ingress else ()
        yield (
            service.spec.name,
            {
                # Go's way of writing that there is none, as docker has it
                "VIP": bare(mine[0]) if mine else "<nil>",
                "Ports": [f"Target: {port.target_port}, Publish: {port.published_port}" for port in ports],
                "LocalLBIndex": 0,
                "Tasks": [_backend(view, service, *member) for member in own.get(service.id, ())],
            },
        )


def _backend(view: View, service: Service, task: Task, place: NetworkAttachment) -> Json:
    node = view.node(task.node_id)
    is_leaving = task.desired_state > TaskState.COMPLETE
    return {
        "Name": task_name(service, task),
        "EndpointID": endpoint_id(place, task.id),
        "EndpointIP": bare(place.addresses[0]) if place.addresses else "",
        "Info": {
            "Host IP": data_path_of(node) if node is not None else "",
            "Node": node.description.hostname if node is not None else task.node_id,
            "State": "leaving" if is_leaving else state_name(task.status.state),
        },
    }


def _dataplane(view: View, item: Network) -> Json:
    cluster = view.cluster()
    port = (cluster.data_path_port if cluster is not None else 0) or DATA_PATH_PORT
    options = item.driver_state.options if item.driver_state is not None else {}
    result: Json = {
        "Driver": network_driver(item.spec),
        "MTU": int(options.get(network_rules.MTU_OPTION) or 0),
        "TaskTables": list(_TASK_TABLES),
    }
    if network_driver(item.spec) == OVERLAY_DRIVER:
        result["VNI"] = network_rules.vxlan_id(item.driver_state)
        # what is encrypted goes to a port of its own, so that base policies can tell the two apart
        result["DataPathPort"] = port + 1 if is_encrypted(item.spec) else port
        result["Encrypted"] = is_encrypted(item.spec)
        result["Network"] = {name: text.format(id=item.id) for name, text in _NODE_DEVICES.items()}
        result["NodeTables"] = [*_NODE_TABLES, *([_SECURE_TABLE] if is_encrypted(item.spec) else [])]
    if item.spec.ingress:
        result["Mesh"] = {
            **_MESH_DEVICES,
            "Addresses": dict(_mesh_addresses(view, item)),
        }
        result["TaskTables"] = [*_TASK_TABLES, _MESH_DEVICES["Table"]]
    return result


def _mesh_addresses(view: View, item: Network) -> Iterator[tuple[str, str]]:
    """By node, where its mesh enters the ingress network."""
    for node in sorted(view.nodes(), key=lambda node: (node.description.hostname, node.id)):
        for place in node.attachments:
            if place.network_id == item.id and place.addresses:
                yield node.description.hostname or node.id, bare(place.addresses[0])
