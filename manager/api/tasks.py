"""``/tasks``: list and inspect.

The filter ``_up-to-date`` keeps tasks that run what their service asks for now; progress displays need it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from operator import attrgetter

from aiohttp import web

from manager.api import requests
from manager.api.context import Api
from manager.api.declined import Declined
from manager.api.docker_json import Json
from manager.api.lookup import find, find_or_none, is_by_hand
from manager.reconcile.jobs import going_on
from manager.reconcile.outdated import Outdated
from manager.store.view import View
from swarmpy.errors import InvalidArgument
from swarmpy.model.defaults import is_job, place_text
from swarmpy.model.ids import ID_CHARS, NodeId, ServiceId
from swarmpy.model.objects import Node, Service, Task
from swarmpy.model.states import TaskState

FILTERS = frozenset(
    {"id", "name", "label", "service", "node", "desired-state", "_up-to-date", "runtime", "up-to-date"}
)
Test = Callable[[Task], bool]
_STATES = {state.name.lower(): state for state in TaskState}


class Tasks:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> Iterable[web.RouteDef]:
        return (web.get("/tasks", self.list), web.get("/tasks/{id}", self.inspect))

    async def list(self, request: web.Request) -> web.StreamResponse:
        wanted = requests.filters(request, FILTERS)
        for value in wanted.get("desired-state", ()):
            if value.lower() not in _STATES:
                raise InvalidArgument(f"invalid filter 'desired-state={value}'")
        view = await self._api.read(request)
        local = self._api.control.local().node_id
        tasks = select(view, wanted, local)
        declined = Declined(view)
        return await self._api.answer_list(tasks, lambda task: self._shape(view, task, declined))

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        view = await self._api.read(request)
        task = find(view, Task, request.match_info["id"])
        return self._api.answer(self._shape(view, task, Declined(view)))

    def _shape(self, view: View, task: Task, declined: Declined) -> Json:
        shape = self._api.shapes.task(view, task)
        reason = declined.reason(task)
        if reason:
            # ours: why nothing follows it
            shape["Restart"] = {"Attempt": task.restarts, **shape.get("Restart", {}), "Declined": reason}
        return shape


def select(view: View, wanted: requests.Filters, local: NodeId) -> list[Task]:
    """The tasks that pass every filter, oldest first."""
    services = _service_ids(view, wanted.get("service"))
    nodes = _node_ids(view, wanted.get("node"), local)
    found = _candidates(view, services, nodes)
    for is_wanted in _tests(view, wanted, nodes):
        found = [task for task in found if is_wanted(task)]
    # old tasks first, as swarm mode lists them; ids make the order total
    return sorted(found, key=attrgetter("created_at", "id"))


def _tests(view: View, wanted: requests.Filters, nodes: frozenset[NodeId] | None) -> Iterator[Test]:
    """Of what is asked for alone: ten thousand tasks are looked at in one go."""
    yield _is_of_wanted_service(view, wanted)
    if nodes is not None:
        yield lambda task: task.node_id in nodes
    if "desired-state" in wanted:
        desired = frozenset(_STATES[value.lower()] for value in wanted["desired-state"])
        yield lambda task: task.desired_state in desired
    if "id" in wanted:
        yield lambda task: task.id.startswith(wanted["id"])
    if "name" in wanted:
        yield lambda task: _name(view, task).startswith(wanted["name"])
    is_current = _up_to_date(view)
    if "_up-to-date" in wanted:  # which counts by being there, whatever it says
        yield is_current
    if "up-to-date" in wanted:
        verdicts = {value in ("true", "1") for value in wanted["up-to-date"]}
        yield lambda task: is_current(task) in verdicts


def _is_of_wanted_service(view: View, wanted: requests.Filters) -> Test:
    """What is the same for all tasks of a service is looked at once."""
    known: dict[ServiceId, bool] = {}

    def is_wanted(task: Task) -> bool:
        verdict = known.get(task.service_id)
        if verdict is None:
            service = view.service(task.service_id)
            verdict = known[task.service_id] = (
                not is_by_hand(view, task)
                and requests.matches(wanted, "runtime", lambda name: name == "container")
                and requests.matches_labels(wanted, "label", {} if service is None else service.spec.labels)
                and requests.matches(wanted, "name", lambda name: _has_tasks_named(service, name))
            )
        return verdict

    return is_wanted


def _candidates(
    view: View, services: frozenset[ServiceId] | None, nodes: frozenset[NodeId] | None
) -> Collection[Task]:
    """A superset, from the narrowest index there is."""
    if services is not None:
        return [task for id_ in sorted(services) for task in view.tasks_of_service(id_)]
    if nodes is not None:
        return [task for id_ in sorted(nodes) for task in view.tasks_of_node(id_)]
    return view.tasks()


def _service_ids(view: View, references: tuple[str, ...] | None) -> frozenset[ServiceId] | None:
    """A service that is gone is found by its full id: its tasks may still be stopping."""
    if references is None:
        return None
    return frozenset(
        ServiceId(reference)
        if len(reference) == ID_CHARS and find_or_none(view, Service, reference) is None
        else find(view, Service, reference).id
        for reference in references
    )


def _node_ids(view: View, references: tuple[str, ...] | None, local: NodeId) -> frozenset[NodeId] | None:
    if references is None:
        return None
    found = set()
    for reference in references:
        if len(reference) == ID_CHARS and find_or_none(view, Node, reference) is None:
            found.add(NodeId(reference))
        else:
            found.add(find(view, Node, local if reference == "self" else reference).id)
    return frozenset(found)


def _up_to_date(view: View) -> Test:
    """Whether a task runs what its service asks for now; services are looked at once."""
    known: dict[ServiceId, Outdated | frozenset[int] | None] = {}

    def is_current(task: Task) -> bool:
        if task.service_id not in known:
            service = view.service(task.service_id)
            known[task.service_id] = None if service is None else _measure_of(view, service)
        measure = known[task.service_id]
        if isinstance(measure, Outdated):
            return not measure.is_outdated(task)
        return measure is not None and task.job_iteration in measure

    return is_current


def _measure_of(view: View, service: Service) -> Outdated | frozenset[int]:
    """Of a job, the runs that go on or did last."""
    if not is_job(service.spec):
        return Outdated(view, service)
    last = service.job_status.iteration if service.job_status is not None else 0
    return frozenset({last, *going_on(service)})


def _has_tasks_named(service: Service | None, name: str) -> bool:
    """Whether some of its tasks may begin with the name; of a service that is gone, no task has one."""
    return service is not None and (service.spec.name.startswith(name) or name.startswith(service.spec.name))


def _name(view: View, task: Task) -> str:
    service = view.service(task.service_id)
    return "" if service is None else f"{service.spec.name}.{place_text(service.spec, task)}.{task.id}"
