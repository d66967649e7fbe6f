"""What clients see of a container in a list: docker's summary, field for field. Pure.

What the store does not know, the container's node has told (``ContainerFacts``); of a node that was not
asked, or did not answer, what follows from the spec is shown.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from manager.api.container_refs import ContainerRef, ContainerState, name_of
from manager.api.container_status import Condition, condition_of, status_text
from manager.api.docker_json import Json
from manager.api.network_shapes import endpoint_id
from manager.api.predefined import PREDEFINED
from manager.store.view import View
from swarmpy.errors import Conflict
from swarmpy.model.addresses import mac_of
from swarmpy.model.container_ids import SHORT_ID_CHARS
from swarmpy.model.containers import ContainerFacts, ContainerMount
from swarmpy.model.ids import SECOND_NS, Timestamp
from swarmpy.model.objects import NetworkAttachment, Task
from swarmpy.model.specs import ContainerSpec, Mount, PortConfig
from swarmpy.model.states import MountType, PortProtocol

NODE_LABEL: Final = "com.docker.swarm.node.id"
_MODES: Final = ("host", "none")


class AskedFor:
    """What the client asked for when it made a container by hand; of a task, nothing."""

    def __init__(self, request: bytes) -> None:
        try:
            found = msgspec.json.decode(request) if request else {}
        except msgspec.DecodeError:
            found = {}
        self.config: dict[str, Any] = found if isinstance(found, dict) else {}
        host = self.config.get("HostConfig")
        self.host: dict[str, Any] = host if isinstance(host, dict) else {}

    @property
    def stdin_once(self) -> bool:
        return bool(self.config.get("StdinOnce"))

    @property
    def network_mode(self) -> str:
        return str(self.host.get("NetworkMode") or "")


def asked_for(container: ContainerRef) -> AskedFor:
    return AskedFor(container.standalone.request if container.is_by_hand else b"")


def spec_of(view: View, container: ContainerRef) -> ContainerSpec:
    """As its present run has it, or its next will."""
    if container.service is not None:
        found = container.service.spec.task_template.container_spec
    else:
        assert container.task is not None
        revision = view.revision(container.task.revision_id)
        found = revision.spec.task_template.container_spec if revision is not None else None
    return found if found is not None else ContainerSpec()


def running_task(container: ContainerRef) -> Task:
    """Whose processes there are. Conflict, in docker's words, if there are none."""
    task = container.task
    if task is None or not task.node_id or condition_of(container, None).state is not ContainerState.RUNNING:
        raise Conflict(f"Container {container.id} is not running")
    return task


def labels_of(view: View, container: ContainerRef, *, has_node: bool = False) -> dict[str, str]:
    """Of a task's container also those that swarm mode gives it. ``has_node``: say on which node it is."""
    labels = dict(spec_of(view, container).labels)
    task = container.task
    if container.is_by_hand or task is None:
        return {**labels, NODE_LABEL: container.node_id} if has_node else labels
    service = view.service(task.service_id)
    return {
        **labels,
        NODE_LABEL: task.node_id,
        "com.docker.swarm.service.id": task.service_id,
        "com.docker.swarm.service.name": service.spec.name if service is not None else "",
        "com.docker.swarm.task": "",
        "com.docker.swarm.task.id": task.id,
        "com.docker.swarm.task.name": name_of(view, container),
    }


def created_at(container: ContainerRef) -> Timestamp:
    if container.service is not None:
        return container.service.created_at
    assert container.task is not None
    return container.task.created_at


def argv_of(spec: ContainerSpec, facts: ContainerFacts | None) -> list[str]:
    if facts is not None and facts.argv:
        return list(facts.argv)
    return [*spec.command, *spec.args]


def summary(
    view: View, container: ContainerRef, facts: ContainerFacts | None, *, now: Timestamp, has_node: bool
) -> Json:
    """One row of ``GET /containers/json``. ``has_node``: of a list of the whole swarm (ours)."""
    spec, condition = spec_of(view, container), condition_of(container, facts)
    row: Json = {
        "Id": container.id,
        "Names": [f"/{name_of(view, container)}"],
        "Image": str(asked_for(container).config.get("Image") or spec.image),
        "ImageID": facts.image_id if facts is not None else "",
        "Command": " ".join(_quoted(word) for word in argv_of(spec, facts)),
        "Created": created_at(container) // SECOND_NS,
        "Ports": [port for each in ports_of(container, condition) for port in _listed(each)],
        "Labels": labels_of(view, container, has_node=has_node),
        "State": condition.state.value,
        "Status": status_text(condition, now),
        "HostConfig": {"NetworkMode": network_mode(view, container)},
        "NetworkSettings": {"Networks": networks_of(view, container, condition, is_listed=True)},
        "Mounts": mounts_of(view, container, facts),
    }
    if facts is not None and facts.size_root >= 0:
        if facts.size_rw:
            row["SizeRw"] = facts.size_rw
        row["SizeRootFs"] = facts.size_root
    if has_node:
        node = view.node(container.node_id)
        name = node.description.hostname if node is not None else ""
        row["Node"] = {"ID": container.node_id, "Name": name or container.node_id}
    return row


def _quoted(word: str) -> str:
    return shlex.quote(word) if not word or any(sign.isspace() or sign in "'\"" for sign in word) else word


# --- networks


def network_mode(view: View, container: ContainerRef) -> str:
    asked = asked_for(container).network_mode
    return asked or _own_mode(view, container) or "default"


def _own_mode(view: View, container: ContainerRef) -> str:
    """``host`` or ``none`` if it is in one of these."""
    template = None
    if container.service is not None:
        template = container.service.spec.task_template
    elif container.task is not None and (revision := view.revision(container.task.revision_id)) is not None:
        template = revision.spec.task_template
    targets = {wish.target for wish in template.networks} if template is not None else set()
    return next((mode for mode in _MODES if mode in targets), "")


def networks_of(view: View, container: ContainerRef, condition: Condition, *, is_listed: bool) -> Json:
    """By name. An endpoint is there while the container runs; a list leaves its aliases out."""
    task, found = container.task, {}
    is_on = condition.state is ContainerState.RUNNING
    for place in task.places if task is not None else ():
        network = view.network(place.network_id)
        if network is not None:
            aliases = [*place.aliases, container.id[:SHORT_ID_CHARS]]
            found[network.spec.name] = _endpoint(
                container,
                place,
                network_id=network.id,
                is_on=is_on,
                aliases=None if is_listed else aliases,
            )
    if found:
        return found
    mode = _own_mode(view, container) or "bridge"
    addresses = task.status.addresses if task is not None and mode == "bridge" else ()
    place = NetworkAttachment(addresses=tuple(addresses))
    network_id = PREDEFINED[mode].id if condition.state is not ContainerState.CREATED else ""
    return {mode: _endpoint(container, place, network_id=network_id, is_on=is_on, aliases=None)}


def _endpoint(
    container: ContainerRef,
    place: NetworkAttachment,
    *,
    network_id: str,
    is_on: bool,
    aliases: list[str] | None,
) -> Json:
    shown = [ipaddress.ip_interface(address) for address in place.addresses if is_on]
    four = next((each for each in shown if each.version == 4), None)
    six = next((each for each in shown if each.version == 6), None)
    asked = {"IPv4Address": str(four.ip)} if four is not None and place.network_id else None
    mac = place.mac or (mac_of(place.addresses[0]) if place.addresses else "")
    task_id = container.task.id if container.task is not None else ""
    return {
        "IPAMConfig": asked if not container.is_by_hand else None,
        "Links": None,
        "Aliases": aliases,
        "NetworkID": network_id,
        "EndpointID": endpoint_id(place, task_id) if is_on else "",  # type: ignore[arg-type]
        "Gateway": "",
        "IPAddress": str(four.ip) if four is not None else "",
        "IPPrefixLen": four.network.prefixlen if four is not None else 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": str(six.ip) if six is not None else "",
        "GlobalIPv6PrefixLen": six.network.prefixlen if six is not None else 0,
        "MacAddress": mac if is_on else "",
        "DriverOpts": None,
    }


# --- ports


def ports_of(container: ContainerRef, condition: Condition) -> tuple[PortConfig, ...]:
    """Those that its node has opened for it, while it runs."""
    task = container.task
    status = task.status.port_status if task is not None else None
    return status.ports if status is not None and condition.state is ContainerState.RUNNING else ()


def protocol_of(port: PortConfig) -> str:
    return port.protocol.value if port.protocol is not PortProtocol.UNSPECIFIED else PortProtocol.TCP.value


def host_ips(port: PortConfig) -> tuple[str, ...]:
    return (port.host_ip,) if port.host_ip else ("0.0.0.0", "::")


def _listed(port: PortConfig) -> Iterator[Json]:
    for ip in host_ips(port):
        yield {
            "IP": ip,
            "PrivatePort": port.target_port,
            "PublicPort": port.published_port,
            "Type": protocol_of(port),
        }


# --- mounts


def mounts_of(view: View, container: ContainerRef, facts: ContainerFacts | None) -> list[Json]:
    """As its node has made them, or as its spec wishes."""
    if facts is not None:
        return [_mount(each) for each in facts.mounts]
    node = view.node(container.node_id)
    volumes = node.description.volumes if node is not None else ()
    places = {volume.name: volume.mountpoint for volume in volumes}
    return [_mount(_wished(each, places)) for each in spec_of(view, container).mounts]


def _wished(mount: Mount, places: Mapping[str, str]) -> ContainerMount:
    is_volume = mount.type is MountType.VOLUME
    return ContainerMount(
        type=mount.type.value,
        name=mount.source if is_volume else "",
        source=places.get(mount.source, "") if is_volume else mount.source,
        target=mount.target,
        is_read_only=mount.read_only,
        propagation=mount.bind_options.propagation if mount.bind_options is not None else "",
    )


def _mount(mount: ContainerMount) -> Json:
    shape: Json = {"Type": mount.type}
    if mount.type == "volume":
        shape["Name"] = mount.name
    shape["Source"] = mount.source
    shape["Destination"] = mount.target
    if mount.type == "volume":
        shape["Driver"] = "local"
    shape["Mode"] = "z" if mount.type == "volume" else ""
    shape["RW"] = not mount.is_read_only
    shape["Propagation"] = mount.propagation or ("rprivate" if mount.type == "bind" else "")
    return shape
