"""What one holder at a time may have, as committed.

* An address of a network, or a MAC that was wished for: a task from its creation to its end, a service whose
  virtual address it is, or a node that has its own place there.
* A VNI: a network. More than one network must never share a segment.
* A published port, by protocol and number, in ingress mode: a service.
* A host-mode port, by node, protocol, number and address: a task from its placement to its end, whatever is
  wished of it. This is how the scheduler counts: a task that was told to stop still has the port, so its
  successor gets another node or waits, under start-first as under stop-first.
* A named resource of a node: a task, likewise.

Cost: what an event changes of one holder, never a scan.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from swarmpy.model.defaults import publish_mode
from swarmpy.model.objects import Network, NetworkAttachment, Node, Object, Service, Task
from swarmpy.model.states import PortProtocol, PublishMode, TaskState
from swarmpy.sim.checkers.demand import Demands, is_held
from swarmpy.sim.checkers.violations import Violations

NAME: Final = "exclusive"
VXLAN_IDS_OPTION: Final = "com.docker.network.driver.overlay.vxlanid_list"
"""The option of a network's driver state that names its VNI, as docker spells it."""

Key = tuple[str, ...]
"""The kind of thing, then what names it."""


class Exclusive:
    """``demands`` is kept up to date by the caller, ahead of the tasks that need it."""

    def __init__(self, violations: Violations, demands: Demands) -> None:
        self._violations = violations
        self._demands = demands
        self._holders: dict[Key, list[str]] = {}
        self._held: dict[str, tuple[Key, ...]] = {}

    def event(self, old: Object | None, new: Object | None) -> None:
        subject = new if new is not None else old
        match subject:
            case Task():
                self.task_event(old, new)  # type: ignore[arg-type]
            case Service():
                self._hold(f"service {subject.id}", _of_service(new) if isinstance(new, Service) else ())
            case Node():
                self._hold(f"node {subject.id}", _of_places(new.attachments) if isinstance(new, Node) else ())
            case Network():
                self._hold(f"network {subject.id}", _of_network(new) if isinstance(new, Network) else ())
            case _:
                pass

    def task_event(self, old: Task | None, new: Task | None) -> None:
        """The same, for a task."""
        keys = self._of_task(new) if new is not None else ()
        subject = new if new is not None else old
        if subject is not None and (keys or subject.id in self._held):
            self._hold(subject.id, keys)

    def _of_task(self, task: Task) -> tuple[Key, ...]:
        demand = self._demands.get(task.revision_id)
        if (demand is None or not demand.host_ports) and not task.networks and not task.generic_resources:
            return ()
        if task.status.state > TaskState.RUNNING:
            return ()
        keys = _of_places(task.networks)
        if not is_held(task):
            return keys
        keys = (*keys, *_of_resources(task))
        if demand is None:
            return keys
        ports: list[Key] = [
            ("host port", task.node_id, protocol, f"{address}:{number}" if address else str(number))
            for protocol, number, address in demand.host_ports
        ]
        return (*keys, *ports)

    def _hold(self, holder: str, keys: tuple[Key, ...]) -> None:
        before = self._held.get(holder, ())
        if keys == before:
            return
        for key in before:
            if key not in keys:
                holders = self._holders[key]
                holders.remove(holder)
                if not holders:
                    del self._holders[key]
        for key in keys:
            if key not in before:
                others = self._holders.setdefault(key, [])
                if others:
                    what = " ".join(key)
                    self._violations.add(NAME, f"{what} is held twice", by=holder, too=", ".join(others))
                others.append(holder)
        if keys:
            self._held[holder] = keys
        else:
            self._held.pop(holder, None)


def _of_resources(task: Task) -> tuple[Key, ...]:
    return tuple(
        ("resource", task.node_id, named.kind, named.value)
        for resource in task.generic_resources
        if (named := resource.named_resource_spec) is not None
    )


def _of_places(attachments: Iterable[NetworkAttachment]) -> tuple[Key, ...]:
    keys: list[Key] = []
    for attachment in attachments:
        keys += [("address", attachment.network_id, _bare(address)) for address in attachment.addresses]
        if attachment.mac:
            keys.append(("MAC", attachment.network_id, attachment.mac))
    return tuple(keys)


def _of_service(service: Service) -> tuple[Key, ...]:
    addresses: list[Key] = [
        ("address", each.network_id, _bare(each.addr)) for each in service.endpoint.virtual_ips if each.addr
    ]
    ports: list[Key] = [
        ("published port", port.protocol or PortProtocol.TCP, str(port.published_port))
        for port in service.endpoint.ports
        if port.published_port and publish_mode(port) == PublishMode.INGRESS
    ]
    return tuple(dict.fromkeys((*addresses, *ports)))


def _of_network(network: Network) -> tuple[Key, ...]:
    if network.driver_state is None:
        return ()
    numbers = network.driver_state.options.get(VXLAN_IDS_OPTION, "")
    return tuple(("VNI", number.strip()) for number in numbers.split(",") if number.strip())


def _bare(address: str) -> str:
    """Without the prefix's length."""
    return address.partition("/")[0]
