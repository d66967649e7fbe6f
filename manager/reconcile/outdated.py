"""When a change of a service replaces tasks: the one definition of "up to date".

A change of the task template or of the published ports concerns the tasks; ``template_id`` moves with it. Yet
not each of these restarts a task: one of placement alone does not while the task's node still meets the
constraints, nor do other credentials for the registry once the task has its image. Labels, replica counts and
settings of updates never do. Specs are compared as they are read (``model/forms.py``), so that what a former
version of the daemon stored with less filled in asks for the same.
"""

from __future__ import annotations

from msgspec.structs import replace

from manager.schedule.constraint import is_match
from manager.schedule.needs import parsed_or_never
from manager.store.view import View
from swarmpy.model import forms
from swarmpy.model.ids import RevisionId
from swarmpy.model.objects import Revision, Service, Task
from swarmpy.model.specs import Placement, PortConfig, ServiceSpec, TaskSpec
from swarmpy.model.states import TaskState


def concerns_tasks(old: ServiceSpec, new: ServiceSpec) -> bool:
    """Whether tasks of ``old`` may have to be replaced to follow ``new``."""
    before, after = forms.as_read(old), forms.as_read(new)
    return before.task_template != after.task_template or _ports(before) != _ports(after)


class Outdated:
    """Whether a task must be replaced since its service changed. For one service, on one view."""

    def __init__(self, view: View, service: Service) -> None:
        self._view = view
        self._template_id = service.template_id
        self._template = view.revision(service.template_id)
        self._constraints = parsed_or_never(_placement(self._template).constraints)
        self._verdicts: dict[RevisionId, bool | None] = {}

    def is_outdated(self, task: Task) -> bool:
        if task.revision_id == self._template_id or self._template is None:
            return False
        if task.revision_id not in self._verdicts:
            self._verdicts[task.revision_id] = self._verdict(self._view.revision(task.revision_id))
        verdict = self._verdicts[task.revision_id]
        if verdict is not None:
            return verdict
        if task.status.state < TaskState.READY and self._has_other_credentials(task):
            return True
        node = self._view.node(task.node_id)
        return node is None or not is_match(self._constraints, node)

    def follows(self, task: Task, *, is_held: bool) -> RevisionId:
        """The revision of the task that follows: the wanted one, unless the update is held.

        The task itself is judged by it too: by any other, what is turned down would come back the same.
        """
        if is_held and self.is_outdated(task) and self._view.revision(task.revision_id):
            return task.revision_id
        return self._template_id

    def _verdict(self, old: Revision | None) -> bool | None:
        """None: it depends on the task and its node."""
        if old is None or self._template is None:
            return True
        before, after = forms.as_read(old.spec), forms.as_read(self._template.spec)
        if not concerns_tasks(before, after):
            return False
        is_same = _ports(before) == _ports(after) and (
            _as_it_runs(before.task_template) == _as_it_runs(after.task_template)
        )
        return None if is_same else True

    def _has_other_credentials(self, task: Task) -> bool:
        return _credentials(self._view.revision(task.revision_id)) != _credentials(self._template)


def _ports(spec: ServiceSpec) -> tuple[PortConfig, ...]:
    return () if spec.endpoint_spec is None else spec.endpoint_spec.ports


def _placement(revision: Revision | None) -> Placement:
    if revision is None or revision.spec.task_template.placement is None:
        return Placement()
    return revision.spec.task_template.placement


def _credentials(revision: Revision | None) -> str:
    container = None if revision is None else revision.spec.task_template.container_spec
    return "" if container is None else container.registry_auth


def _as_it_runs(template: TaskSpec) -> TaskSpec:
    """Without what a task that runs has behind it: its place and its image are found."""
    container = template.container_spec
    if container is not None:
        container = replace(container, registry_auth="")
    return replace(template, placement=None, container_spec=container)
