"""What a task's process finds around it: name, hostname, labels, expanded templates, signals, ports.

Pure. Templates (``agent/templates.py`` has the language) are expanded in environment values, the hostname,
and a mount's source, target, labels and driver options. Their fields are swarm mode's: ``.Service.ID
.Service.Name .Service.Labels .Node.ID .Node.Hostname .Node.Platform.OS .Node.Platform.Architecture .Task.ID
.Task.Name .Task.Slot``. Anything else between ``{{`` and ``}}`` rejects the task rather than reaching it
unexpanded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from agent import templates
from agent.dataplane.base import Endpoint, HostPort, Leg, NetworkConfig
from agent.executor.base import ImageConfig, Launch, Sandbox
from swarmpy.errors import InvalidArgument, TaskRejected
from swarmpy.limits import HOST_PORT_MAX, HOST_PORT_MIN, TASK_STOP_ENDLESS_S, TASK_STOP_GRACE_S
from swarmpy.model import generic_resources, standalone
from swarmpy.model.addresses import mac_of
from swarmpy.model.container_ids import short_container_id
from swarmpy.model.defaults import is_standalone, place_text
from swarmpy.model.ids import SECOND_NS, NetworkId, NodeId, TaskId
from swarmpy.model.objects import NodeDescription, Revision, StopWish, Task
from swarmpy.model.signals import SIGTERM, signal_number
from swarmpy.model.specs import ContainerSpec, DNSConfig, Limits, Mount, PortConfig
from swarmpy.model.states import PortProtocol, PublishMode
from swarmpy.model.value import Value

_NO_NETWORKS: Mapping[NetworkId, NetworkConfig] = {}


class NodeContext(Value, frozen=True, kw_only=True):
    """The node as its tasks' templates see it."""

    node_id: NodeId
    description: NodeDescription = NodeDescription()


def task_name(task: Task, revision: Revision) -> str:
    """``<service>.<slot>.<task id>``, with the node's id as the slot of a global task; of a container that
    was started by hand, its name."""
    if is_standalone(revision.spec):
        return standalone.container_name(revision.spec)
    return f"{revision.spec.name}.{place_text(revision.spec, task)}.{task.id}"


def container_spec(revision: Revision | None) -> ContainerSpec:
    """The revision's container, empty if there is none."""
    if revision is None:
        return ContainerSpec()
    return revision.spec.task_template.container_spec or ContainerSpec()


def refusal(revision: Revision) -> str:
    """Why this node can never run tasks of the revision; empty if it can."""
    template = revision.spec.task_template
    if template.container_spec is None or template.runtime not in {"", "container"}:
        return "this node runs containers only: the service's task has no ContainerSpec"
    return ""


# --- for the dataplane


def make_endpoint(
    task: Task,
    revision: Revision,
    node: NodeContext,
    *,
    networks: Mapping[NetworkId, NetworkConfig] = _NO_NETWORKS,
) -> Endpoint:
    """What the dataplane has to know of the task. ``networks`` has those that it is on."""
    spec = container_spec(revision)
    dns = spec.dns_config or DNSConfig()
    return Endpoint(
        task_id=task.id,
        hostname=hostname(task, revision, node),
        dns=dns.nameservers,
        dns_search=dns.search,
        dns_options=dns.options,
        extra_hosts=spec.hosts,
        host_ports=host_ports(revision, task.id),
        legs=_legs(task, networks),
        mode=_mode(revision),
        isolation=spec.isolation,
    )


def _legs(task: Task, networks: Mapping[NetworkId, NetworkConfig]) -> tuple[Leg, ...]:
    """In the order in which the networks were asked for: the first is eth0.

    One that was joined later has a number of its own, past the link to the node, so that no link's name
    depends on what else has come or gone.
    """
    own = [place for place in task.networks if task.join_of(place.network_id) is None]
    numbered = [(number, place, False) for number, place in enumerate(own)]
    for place in task.places:
        join = task.join_of(place.network_id)
        if join is not None:
            numbered.append((len(own) + join.number, place, True))
    return tuple(
        Leg(
            network=networks[place.network_id],
            link=f"eth{number}",
            addresses=place.addresses,
            mac=place.mac or (mac_of(place.addresses[0]) if place.addresses else _mac_of_task(task)),
            is_joined=is_joined,
        )
        for number, place, is_joined in numbered
        if place.addresses or networks[place.network_id].is_dhcp
    )


def _mac_of_task(task: Task) -> str:
    """Where the address is not known beforehand: the same whenever it is asked for."""
    return "02:53:" + hashlib.sha256(task.id.encode()).digest()[:4].hex(":")


def _mode(revision: Revision) -> str:
    """``host`` and ``none`` are networks that each node has by itself, and stand alone."""
    spec = revision.spec
    targets = {attachment.target for attachment in (*spec.task_template.networks, *spec.networks)}
    return next((mode for mode in ("host", "none") if mode in targets), "")


def _host_mode_ports(revision: Revision) -> tuple[PortConfig, ...]:
    endpoint = revision.spec.endpoint_spec
    ports = endpoint.ports if endpoint else ()
    return tuple(port for port in ports if port.publish_mode is PublishMode.HOST)


def fixed_ports(revision: Revision | None) -> frozenset[int]:
    """Those of mode host that the service itself has chosen."""
    ports = _host_mode_ports(revision) if revision is not None else ()
    return frozenset(port.published_port for port in ports if port.published_port)


def published_ports(revision: Revision, task_id: TaskId) -> tuple[PortConfig, ...]:
    """The ports in mode host with nothing left open.

    One that the service leaves to the node follows from the task's id, so it is the same whenever it is asked
    for, also by the next daemon.
    """
    ports = _host_mode_ports(revision)
    taken = {port.published_port for port in ports}
    made = []
    for port in ports:
        number = port.published_port or _choose_port(task_id, taken)
        taken.add(number)
        made.append(replace(port, published_port=number, protocol=port.protocol or PortProtocol.TCP))
    return tuple(made)


def _choose_port(task_id: TaskId, taken: set[int]) -> int:
    count = HOST_PORT_MAX - HOST_PORT_MIN + 1
    first = int.from_bytes(hashlib.sha256(task_id.encode()).digest()[:8])
    numbers = (HOST_PORT_MIN + (first + each) % count for each in range(count))
    return next(number for number in numbers if number not in taken)


def host_ports(revision: Revision, task_id: TaskId) -> tuple[HostPort, ...]:
    return tuple(
        HostPort(
            protocol=port.protocol.value,
            published_port=port.published_port,
            target_port=port.target_port,
            host_ip=port.host_ip,
        )
        for port in published_ports(revision, task_id)
    )


# --- for the executor


def make_launch(
    task: Task, revision: Revision, node: NodeContext, *, image: ImageConfig, sandbox: Sandbox
) -> Launch:
    """All that the executor needs to run the task. Raises TaskRejected for a template that is not ours."""
    resources = revision.spec.task_template.resources
    limits = resources.limits if resources else None
    return Launch(
        task_id=task.id,
        name=task_name(task, revision),
        spec=expand_spec(task, revision, node),
        image=image,
        sandbox=sandbox,
        limits=limits or Limits(),
        swap_bytes=resources.swap_bytes if resources else None,
        memory_swappiness=resources.memory_swappiness if resources else None,
        hostname=hostname(task, revision, node),
        labels=_labels(task, revision),
    )


def hostname(task: Task, revision: Revision, node: NodeContext) -> str:
    """By default the short id of the container, as docker's."""
    wish = container_spec(revision).hostname
    own_id = task.service_id if is_standalone(revision.spec) else task.id
    return expand(wish, task, revision, node) if wish else short_container_id(own_id)


def _labels(task: Task, revision: Revision) -> dict[str, str]:
    if is_standalone(revision.spec):
        return container_spec(revision).labels
    return {
        **container_spec(revision).labels,
        "com.docker.swarm.task": "",
        "com.docker.swarm.task.id": task.id,
        "com.docker.swarm.task.name": task_name(task, revision),
        "com.docker.swarm.node.id": task.node_id,
        "com.docker.swarm.service.id": task.service_id,
        "com.docker.swarm.service.name": revision.spec.name,
    }


def expand_spec(task: Task, revision: Revision, node: NodeContext) -> ContainerSpec:
    """The container's spec with its templates expanded."""

    def filled(text: str) -> str:
        return expand(text, task, revision, node)

    spec = container_spec(revision)
    return replace(
        spec,
        env=(*(filled(item) for item in spec.env), *generic_resources.environment(task.generic_resources)),
        hostname=filled(spec.hostname),
        mounts=tuple(_expand_mount(mount, filled) for mount in spec.mounts),
    )


def _expand_mount(mount: Mount, filled: Callable[[str], str]) -> Mount:
    options = mount.volume_options
    if options is not None:
        labels = {key: filled(value) for key, value in options.labels.items()}
        driver = options.driver_config
        if driver is not None:
            driver = replace(driver, options={key: filled(value) for key, value in driver.options.items()})
        options = replace(options, labels=labels, driver_config=driver, subpath=filled(options.subpath))
    return replace(mount, source=filled(mount.source), target=filled(mount.target), volume_options=options)


def expand(text: str, task: Task, revision: Revision, node: NodeContext) -> str:
    """``text`` with its templates carried out. Raises TaskRejected for what we do not know. What somebody
    gave a container by hand is no template, whatever is in it."""
    if "{{" not in text or is_standalone(revision.spec):
        return text
    return templates.expand(text, template_fields(task, revision, node))


def template_fields(task: Task, revision: Revision, node: NodeContext) -> dict[str, Any]:
    """What templates may say, in environment, mounts, secrets and configs alike."""
    platform = node.description.platform
    return {
        "Service": {
            "ID": task.service_id,
            "Name": revision.spec.name,
            "Labels": templates.Labels(revision.spec.labels),
        },
        "Node": {
            "ID": node.node_id,
            "Hostname": node.description.hostname,
            "Platform": {"OS": platform.os, "Architecture": platform.architecture},
        },
        "Task": {"ID": task.id, "Name": task_name(task, revision), "Slot": place_text(revision.spec, task)},
    }


# --- stopping


def stop_signal(spec: ContainerSpec, image: ImageConfig | None) -> int:
    """The number of the signal that asks the task to end: the spec's, the image's, SIGTERM."""
    for name in (spec.stop_signal, image.stop_signal if image else ""):
        if name:
            return _signal_number(name)
    return SIGTERM


def _signal_number(name: str) -> int:
    try:
        return signal_number(name)
    except InvalidArgument as error:
        raise TaskRejected(str(error)) from None


def wished_signal(wish: StopWish | None, otherwise: int) -> int:
    """What a user has asked for since; the API lets no other names in than those of signals."""
    if wish is None or not wish.signal:
        return otherwise
    try:
        return signal_number(wish.signal)
    except InvalidArgument:
        return otherwise


def stop_grace_s(spec: ContainerSpec, wish: StopWish | None = None) -> float:
    """How long the task may take to end by itself. ``wish``: what its user has said since."""
    grace = spec.stop_grace_period if wish is None or wish.timeout is None else wish.timeout
    if grace is None:
        return TASK_STOP_GRACE_S
    return grace / SECOND_NS if grace >= 0 else TASK_STOP_ENDLESS_S
