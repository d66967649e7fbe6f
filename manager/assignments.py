"""What one node should hold, and what to send it so that it does.

``NodeAssignments`` remembers what a session's agent has been told and turns "these tasks may have changed"
into the smallest list of changes. It is pure: the dispatcher feeds it and numbers its messages.

A node gets its own tasks (all that are stored, so that it keeps the logs of ended ones), each revision once
and only while one of its tasks needs it, and secrets and configs only while a task that uses them may still
run, and of those only the data that it uses (``file_needs``). A network is held until its last task there has
ended; the ingress network always. Before anything that needs it comes what it needs: a network's records
before the task that is on it. A task's status is never echoed to the agent that reported it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from manager.discovery import RecordBook, RecordKey
from manager.file_needs import FileNeeds, file_needs_of
from manager.node_records import NodeRecords, RecordItem
from manager.store.view import View
from swarmpy.model.defaults import is_encrypted
from swarmpy.model.file_versions import Pin
from swarmpy.model.ids import NetworkId, NodeId, TaskId
from swarmpy.model.objects import Config, Kind, Network, Revision, Secret, Task
from swarmpy.model.states import TaskState
from swarmpy.model.value import Value

Assignable = Task | Revision | Secret | Config | Network


class Removed(Value, frozen=True, kw_only=True):
    """The node should no longer hold this."""

    kind: Kind
    id: str


Item = Assignable | Removed | RecordItem

_Token = tuple[object, ...]
"""What must differ for a thing to be sent again: its version, a task's wish, whether it was given up; of a
secret or config, which of its data the node needs."""


class NodeAssignments:
    """What one session's agent holds. ``book`` is shared by all sessions of a dispatcher."""

    def __init__(self, node_id: NodeId, book: RecordBook | None = None) -> None:
        self.node_id = node_id
        self._book = book if book is not None else RecordBook()
        self._forget()

    def _forget(self) -> None:
        self._sent: dict[tuple[Kind, str], _Token] = {}
        self._needs: dict[TaskId, frozenset[tuple[Kind, str]]] = {}
        self._users: dict[tuple[Kind, str], int] = {}
        self._files = FileNeeds()
        self._records = NodeRecords(self.node_id, self._book)
        self._ingress_id: NetworkId | None = None
        self._encrypted: set[NetworkId] = set()

    @property
    def networks(self) -> Iterable[NetworkId]:
        """Those that the node holds; whatever changes there concerns it."""
        return self._records.networks

    def complete(self, view: View) -> list[Item]:
        """Everything, as after a reconnect; forgets what was sent before."""
        self._forget()
        items: list[Item] = list(self._records.start(view))
        items.extend(self._follow_ingress(view))
        items.extend(self.changes(view, [task.id for task in view.tasks_of_node(self.node_id)]))
        return items

    def changes(self, view: View, task_ids: Iterable[TaskId]) -> list[Item]:
        """What to send now that these tasks may have changed; dependencies come before their task."""
        items: list[Item] = []
        for task_id in task_ids:
            task = view.task(task_id)
            if task is None or task.node_id != self.node_id or task.status.state < TaskState.ASSIGNED:
                items.extend(self._drop(view, task_id))
            else:
                items.extend(self._hold(view, task))
        return items

    def refreshed(self, view: View, key: tuple[Kind, str]) -> list[Item]:
        """What to send now that a shared object (secret, config, network) may have changed."""
        items: list[Item] = []
        if key[0] is Kind.NETWORK:
            items.extend(self._follow_ingress(view))
        if self._users.get(key):
            items.extend(self._send_shared(view, key))
        return items

    def records(self, view: View, keys: Iterable[RecordKey]) -> list[Item]:
        """What to send now that these records of networks may have changed."""
        return [item for key in keys for item in self._records.refresh(view, key)]

    def _follow_ingress(self, view: View) -> Iterator[Item]:
        """The ingress network may have been made, or made anew, or removed."""
        ingress = view.ingress_network()
        ingress_id = ingress.id if ingress is not None else None
        if ingress_id == self._ingress_id:
            return
        former, self._ingress_id = self._ingress_id, ingress_id
        if ingress_id is not None:
            yield from self._use(view, (Kind.NETWORK, ingress_id))
        if former is not None:
            yield from self._release(view, [(Kind.NETWORK, former)])
        yield from self._widen(view)

    def _hold(self, view: View, task: Task) -> Iterator[Item]:
        # given up by the manager: the agent has not heard of that, and a wish may take its time
        is_given_up = task.status.state in (TaskState.REJECTED, TaskState.ORPHANED)
        token = (task.version, int(task.desired_state), is_given_up)
        needs = needs_of(view, task)
        before = self._needs.get(task.id, frozenset())
        self._needs[task.id] = needs
        yield from self._follow_files(view, task.id, file_needs_of(view, task))
        if needs != before:
            for key in sorted(needs - before):
                yield from self._use(view, key)
            yield from self._widen(view)
        if self._sent.get((Kind.TASK, task.id)) != token:
            self._sent[(Kind.TASK, task.id)] = token
            yield task
        if needs != before:
            yield from self._release(view, before - needs)
            yield from self._widen(view)

    def _drop(self, view: View, task_id: TaskId) -> Iterator[Item]:
        if self._sent.pop((Kind.TASK, task_id), None) is not None:
            yield Removed(kind=Kind.TASK, id=task_id)
        needs = self._needs.pop(task_id, frozenset())
        yield from self._follow_files(view, task_id, frozenset())
        yield from self._release(view, needs)
        if needs:
            yield from self._widen(view)

    def _follow_files(self, view: View, task_id: TaskId, pins: frozenset[Pin]) -> Iterator[Item]:
        """Other data may be needed of what the node holds already; the rest comes and goes with its users."""
        for key in self._files.note(task_id, pins):
            if self._users.get(key):
                yield from self._send_shared(view, key)

    def _use(self, view: View, key: tuple[Kind, str]) -> Iterator[Item]:
        self._users[key] = self._users.get(key, 0) + 1
        yield from self._send_shared(view, key)
        if key[0] is Kind.NETWORK and self._users[key] == 1:
            network_id = NetworkId(key[1])
            network = view.network(network_id)
            if network is not None and is_encrypted(network.spec):
                self._encrypted.add(network_id)
            yield from self._records.hold(view, network_id)

    def _widen(self, view: View) -> Iterator[Item]:
        """Traffic of any node may come to tasks behind published ports, and in encrypted networks."""
        ingress_users = self._users.get((Kind.NETWORK, self._ingress_id or ""), 0)
        is_behind_ports = ingress_users > 1  # the first is the node itself
        has_keys = bool(self._encrypted)
        yield from self._records.widen(view, has_keys=has_keys, knows_all=has_keys or is_behind_ports)

    def _send_shared(self, view: View, key: tuple[Kind, str]) -> Iterator[Item]:
        shared = view.get(*key)
        if shared is None:
            return
        assert isinstance(shared, Revision | Secret | Config | Network)
        token: _Token = (shared.version,)
        if isinstance(shared, Secret | Config):
            shared, token = self._files.trimmed(shared)
        if self._sent.get(key) != token:
            self._sent[key] = token
            yield shared

    def _release(self, view: View, keys: Iterable[tuple[Kind, str]]) -> Iterator[Item]:
        for key in sorted(keys):
            self._users[key] -= 1
            if self._users[key]:
                continue
            del self._users[key]
            if key[0] is Kind.NETWORK:
                self._encrypted.discard(NetworkId(key[1]))
                yield from self._records.release(view, NetworkId(key[1]))
            if self._sent.pop(key, None) is not None:
                yield Removed(kind=key[0], id=key[1])


def needs_of(view: View, task: Task) -> frozenset[tuple[Kind, str]]:
    """The shared objects that a node must hold for this task."""
    needs = {(Kind.REVISION, str(task.revision_id))}
    needs.update((pin.kind, pin.id) for pin in file_needs_of(view, task))
    if task.status.state <= TaskState.RUNNING:  # whatever is wished: it has connections until it has ended
        needs.update((Kind.NETWORK, attachment.network_id) for attachment in task.networks)
    return frozenset(needs)
