"""What tasks of one node have to share: slots for being started, the node's ports, requests for images.

All are claims by task id. Who has to wait is remembered, and named again when there may be room.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from agent.dataplane.base import HostPort
from swarmpy.errors import TaskRejected
from swarmpy.model.host_ports import BoundPort, is_clash
from swarmpy.model.ids import TaskId


class Slots:
    """At most ``size`` tasks at a time; the others wait in the order in which they came."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.holders: set[TaskId] = set()
        self.waiting: dict[TaskId, None] = {}

    def take(self, task_id: TaskId) -> bool:
        if task_id in self.holders:
            return True
        if len(self.holders) >= self.size:
            self.waiting[task_id] = None
            return False
        self.waiting.pop(task_id, None)
        self.holders.add(task_id)
        return True

    def free(self, task_id: TaskId) -> list[TaskId]:
        """Give up the slot or the wait for one; returns who should try now."""
        was_here = task_id in self.holders or task_id in self.waiting
        self.holders.discard(task_id)
        self.waiting.pop(task_id, None)
        return list(self.waiting)[: self.size - len(self.holders)] if was_here else []


class Ports:
    """The node's own ports. A port is free again once the dataplane has let go of it."""

    def __init__(self) -> None:
        self.owners: dict[BoundPort, TaskId] = {}
        self._waiting: dict[TaskId, None] = {}

    def claim(
        self, task_id: TaskId, ports: Sequence[HostPort], *, fixed: Collection[int] | None = None
    ) -> bool:
        """Claim all of the ports; False while another task has one of them.

        Those that are not ``fixed`` follow from the task's id. To wait for one of them might be for long,
        while another task would have another: TaskRejected.
        """
        keys = [(port.protocol, port.published_port, port.host_ip) for port in ports]
        others = [key for key, owner in self.owners.items() if owner != task_id]
        taken = [key for key in keys if any(is_clash(key, other) for other in others)]
        for protocol, number, _ in taken:
            if fixed is not None and number not in fixed:
                raise TaskRejected(
                    f"port {number}/{protocol} of this node is in use; another task has another"
                )
        if taken:
            self._waiting[task_id] = None
            return False
        self.owners.update(dict.fromkeys(keys, task_id))
        return True

    def free(self, task_id: TaskId) -> list[TaskId]:
        """Give up the task's ports; returns who should try now."""
        self._waiting.pop(task_id, None)
        held = [key for key, owner in self.owners.items() if owner == task_id]
        if not held:
            return []
        for key in held:
            del self.owners[key]
        waiting = list(self._waiting)
        self._waiting.clear()
        return waiting


class Images:
    """Requests for images under way: one per image, however many tasks wait for it."""

    def __init__(self) -> None:
        self._attempts: dict[str, int] = {}
        self._waiting: dict[str, dict[TaskId, None]] = {}

    @property
    def is_busy(self) -> bool:
        return bool(self._attempts)

    def want(self, reference: str, task_id: TaskId, attempt: int) -> bool:
        """Wait for the image; True if it has to be asked for, with this attempt number."""
        self._waiting.setdefault(reference, {})[task_id] = None
        return self._attempts.setdefault(reference, attempt) == attempt

    def settle(self, reference: str, attempt: int) -> list[TaskId]:
        """The request has come to an end; returns who waits for it, nobody if it is an old one."""
        if self._attempts.get(reference) != attempt:
            return []
        del self._attempts[reference]
        return list(self._waiting.pop(reference))
