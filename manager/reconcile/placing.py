"""``Placing``: a node and addresses for each new task, or the reason why it has to wait for them.

Both are decided on one picture, over the view of one plan: a task that finds no address has no node either,
and what it would have put on the node is taken off the picture again. So an ASSIGNED task has all that it
needs, and keeps its addresses for its life.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from manager.allocate.addresses import Addresses, NoAddress
from manager.schedule.nodes import ClusterLoad, LoadCache
from manager.schedule.scheduler import pending, place
from manager.store.networking import Places, places_of
from manager.store.view import View
from swarmpy.model.ids import RevisionId, Timestamp
from swarmpy.model.objects import Task
from swarmpy.model.states import TaskState

NO_INGRESS = "service needs ingress network, but no ingress network is present"


class Placing:
    """One plan's. ``load`` is its picture of the cluster."""

    def __init__(self, view: View, now: Timestamp, cache: LoadCache, addresses: Addresses) -> None:
        self.load: ClusterLoad = cache.picture(view)
        self._view = view
        self._now = now
        self._claims = addresses.claims(view)
        self._places: dict[RevisionId, Places] = {}

    def place(self, tasks: Sequence[Task]) -> tuple[Task, ...]:
        """The tasks, in their order, ASSIGNED with node and addresses, or PENDING with a reason.

        A task that stays pending for the same reason comes back unchanged.
        """
        placed = place(self._view, tasks, self._now, load=self.load)
        return tuple(
            self._addressed(before, task) if task.status.state == TaskState.ASSIGNED else task
            for before, task in zip(tasks, placed, strict=True)
        )

    def _addressed(self, before: Task, task: Task) -> Task:
        places = self._places_of(task.revision_id)
        if not places.found and not places.missing:
            return task
        if places.missing:
            return self._waiting(before, task, missing_reason(places.missing[0]))
        try:
            networks = self._claims.attachments(places.found)
        except NoAddress as error:
            return self._waiting(before, task, str(error))
        return replace(task, networks=networks)

    def _waiting(self, before: Task, task: Task, reason: str) -> Task:
        self.load.add(task.node_id, task.service_id, self.load.needs(task.revision_id), -1)
        self.load.settle(task, -1)
        return pending(before, reason, self._now)

    def _places_of(self, revision_id: RevisionId) -> Places:
        known = self._places.get(revision_id)
        if known is None:
            revision = self._view.revision(revision_id)
            known = places_of(self._view, revision.spec) if revision is not None else Places()
            self._places[revision_id] = known
        return known


def missing_reason(target: str) -> str:
    return f"network {target} not found" if target else NO_INGRESS
