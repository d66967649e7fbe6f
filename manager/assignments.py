"""What one node should hold, and what to send it so that it does.

``NodeAssignments`` remembers what a session's agent has been told and turns "these tasks may have changed"
into the smallest list of changes. It is pure: the dispatcher feeds it and numbers its messages.

A node gets its own tasks (all that are stored, so that it keeps the logs of ended ones), each revision once
and only while one of its tasks needs it, and secrets and configs only while a task that uses them may still
run. A task's status is never echoed to the agent that reported it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from manager.store.view import View
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.objects import Config, Kind, Network, Revision, Secret, Task
from swarmpy.model.specs import ContainerSpec, TaskSpec
from swarmpy.model.states import TaskState
from swarmpy.model.value import Value

Assignable = Task | Revision | Secret | Config | Network


class Removed(Value, frozen=True, kw_only=True):
    """The node should no longer hold this."""

    kind: Kind
    id: str


Item = Assignable | Removed

_Token = tuple[int, int, bool]
"""What must differ for a thing to be sent again: its version, a task's wish, whether it was given up."""


class NodeAssignments:
    """What one session's agent holds."""

    def __init__(self, node_id: NodeId) -> None:
        self.node_id = node_id
        self._sent: dict[tuple[Kind, str], _Token] = {}
        self._needs: dict[TaskId, frozenset[tuple[Kind, str]]] = {}
        self._users: dict[tuple[Kind, str], int] = {}

    def complete(self, view: View) -> list[Item]:
        """Everything, as after a reconnect; forgets what was sent before."""
        self._sent.clear()
        self._needs.clear()
        self._users.clear()
        return self.changes(view, [task.id for task in view.tasks_of_node(self.node_id)])

    def changes(self, view: View, task_ids: Iterable[TaskId]) -> list[Item]:
        """What to send now that these tasks may have changed; dependencies come before their task."""
        items: list[Item] = []
        for task_id in task_ids:
            task = view.task(task_id)
            if task is None or task.node_id != self.node_id or task.status.state < TaskState.ASSIGNED:
                items.extend(self._drop(task_id))
            else:
                items.extend(self._hold(view, task))
        return items

    def refreshed(self, view: View, key: tuple[Kind, str]) -> list[Item]:
        """What to send now that a shared object (secret, config, network) may have changed."""
        return list(self._send_shared(view, key)) if self._users.get(key) else []

    def _hold(self, view: View, task: Task) -> Iterator[Item]:
        # given up by the manager: the agent has not heard of that, and a wish may take its time
        is_given_up = task.status.state in (TaskState.REJECTED, TaskState.ORPHANED)
        token = (task.version, int(task.desired_state), is_given_up)
        needs = needs_of(view, task)
        before = self._needs.get(task.id, frozenset())
        for key in sorted(needs - before):
            self._users[key] = self._users.get(key, 0) + 1
            yield from self._send_shared(view, key)
        self._needs[task.id] = needs
        if self._sent.get((Kind.TASK, task.id)) != token:
            self._sent[(Kind.TASK, task.id)] = token
            yield task
        yield from self._release(before - needs)

    def _drop(self, task_id: TaskId) -> Iterator[Item]:
        if self._sent.pop((Kind.TASK, task_id), None) is not None:
            yield Removed(kind=Kind.TASK, id=task_id)
        yield from self._release(self._needs.pop(task_id, frozenset()))

    def _send_shared(self, view: View, key: tuple[Kind, str]) -> Iterator[Item]:
        shared = view.get(*key)
        if shared is None:
            return
        assert isinstance(shared, Revision | Secret | Config | Network)
        token = (shared.version, 0, False)
        if self._sent.get(key) != token:
            self._sent[key] = token
            yield shared

    def _release(self, keys: Iterable[tuple[Kind, str]]) -> Iterator[Item]:
        for key in sorted(keys):
            self._users[key] -= 1
            if self._users[key] == 0:
                del self._users[key]
                if self._sent.pop(key, None) is not None:
                    yield Removed(kind=key[0], id=key[1])


def needs_of(view: View, task: Task) -> frozenset[tuple[Kind, str]]:
    """The shared objects that a node must hold for this task."""
    needs = {(Kind.REVISION, str(task.revision_id))}
    revision = view.revision(task.revision_id)
    may_run = task.status.state <= TaskState.RUNNING and task.desired_state <= TaskState.COMPLETE
    if revision is not None and may_run:
        template = revision.spec.task_template
        container = template.container_spec or ContainerSpec()
        needs.update((Kind.SECRET, reference.secret_id) for reference in container.secrets)
        needs.update((Kind.CONFIG, reference.config_id) for reference in container.configs)
        needs.update((Kind.NETWORK, target) for target in _network_targets(template))
    return frozenset(needs)


def _network_targets(template: TaskSpec) -> list[str]:
    return [attachment.target for attachment in template.networks]
