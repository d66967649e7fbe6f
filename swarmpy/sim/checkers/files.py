"""At quiet: a running task's files are the data that it pins, or the newest; and a node holds a secret or
config only if one of its tasks uses it.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.core import Core
from agent.executor.fake import FakeMachine
from manager.file_needs import file_needs_of
from manager.store.view import View
from swarmpy.model.file_versions import data_of, references_of, target_of
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Config, Kind, Secret, Task
from swarmpy.model.states import TaskState


def differences(view: View, node_id: NodeId, machine: FakeMachine, core: Core) -> Iterator[str]:
    """For a node whose tasks are at rest."""
    needed: set[tuple[Kind, str]] = set()
    for task in sorted(view.tasks_of_node(node_id), key=lambda each: each.id):
        if task.status.state < TaskState.ASSIGNED:
            continue  # a global service's names its node from the beginning, which is not told of it yet
        needed |= {(pin.kind, pin.id) for pin in file_needs_of(view, task)}
        yield from _task_differences(view, task, machine)
    held = core.files.held
    for kind, id_ in sorted(held - needed):
        yield f"node {node_id} holds {kind} {id_}, which none of its tasks uses"
    for kind, id_ in sorted(needed - held):
        yield f"node {node_id} lacks {kind} {id_}, which one of its tasks uses"


def _task_differences(view: View, task: Task, machine: FakeMachine) -> Iterator[str]:
    fake = machine.tasks.get(task.id)
    revision = view.revision(task.revision_id)
    is_running = task.status.state is TaskState.RUNNING and task.desired_state <= TaskState.RUNNING
    if fake is None or fake.exit is not None or revision is None or not is_running:
        return
    wanted = []
    for reference in references_of(revision.spec):
        item = view.get(*target_of(reference))
        if reference.file is None or not isinstance(item, Secret | Config):
            continue
        wanted.append(data_of(item, reference.version))
    given = [each.data for each in fake.launch.files]
    if given != wanted:
        yield f"task {task.id} has the files {given}, and should have {wanted}"
