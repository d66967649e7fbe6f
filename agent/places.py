"""Where the tasks of this node are in its networks: what backends are asked for, and how a task leaves.

``Places`` joins the ``Directory`` with the core's runs. After every round it says what the backend is to
have: the state, if it changed, and whose connections are to be ended. A task that others reach through a
network is stopped ``DRAIN_S`` after the order came, or ``UNHEALTHY_DRAIN_S`` after its health check has given
it up, so that by then nothing leads to it any more; each has a moment of its own, so many of them wait
together. A restarted agent does not know when that was, and waits once more.

While a former life has left something that nobody knows of yet, no state is given out: it would be taken
down before managers could say that it is theirs.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent import environment, events
from agent.dataplane.base import NodeState
from agent.discovery import Directory
from agent.environment import NodeContext
from agent.events import Instruction, Now
from agent.task import Run
from swarmpy.errors import TaskRejected
from swarmpy.limits import DRAIN_S, UNHEALTHY_DRAIN_S
from swarmpy.model.ids import TaskId
from swarmpy.model.objects import Revision
from swarmpy.model.states import TaskState


class Places:
    """Owned by the core. ``directory`` is what managers say of networks."""

    def __init__(self, node: NodeContext) -> None:
        self.directory = Directory(node.node_id)
        self._node = node
        self._asked: NodeState | None = None
        self._drains: dict[TaskId, float] = {}

    # --- tasks that leave

    @property
    def drains(self) -> dict[TaskId, float]:
        """When tasks that were told to stop may be stopped. To be read only."""
        return self._drains

    def is_draining(self, run: Run, now: Now) -> bool:
        """Whether the task, which is to be stopped, has to stay for a moment."""
        task_id = run.task.id
        self._drains.pop(task_id, None)
        if not run.task.networks or run.status.state is not TaskState.RUNNING:
            return False
        if not run.stop_at:
            run.stop_at = now.mono + (DRAIN_S if run.is_unwanted else UNHEALTHY_DRAIN_S)
        if run.stop_at <= now.mono:
            return False
        self._drains[task_id] = run.stop_at
        return True

    def take_drained(self, now: Now) -> list[TaskId]:
        """Tasks whose moment is over; each is told once."""
        due = [task_id for task_id, at in self._drains.items() if at <= now.mono]
        for task_id in due:
            del self._drains[task_id]
        return due

    # --- tasks that have a place

    def is_known(self, run: Run) -> bool:
        """Whether all that the task is to be attached to is known; if not, it comes with assignments."""
        return all(self.directory.config(each.network_id) is not None for each in run.task.places)

    def give(self, run: Run, revision: Revision) -> None:
        """Note what the task is to be given in the network. TaskRejected if its spec makes no sense."""
        configs = {
            place.network_id: config
            for place in run.task.places
            if (config := self.directory.config(place.network_id)) is not None
        }
        endpoint = environment.make_endpoint(run.task, revision, self._node, networks=configs)
        run.endpoint = self.directory.dress(endpoint, run.task.service_id)

    def move(self, run: Run, revision: Revision | None) -> None:
        """Note where a running task is to be, if it was joined to a network or taken off one."""
        is_in_place = run.endpoint is not None and not run.has_ended
        if run.is_misplaced and is_in_place and revision is not None and self.is_known(run):
            self.give(run, revision)

    def adopt(self, run: Run, revision: Revision | None) -> None:
        """The same for what a former life has attached, as far as it is known."""
        if run.is_attached and revision is not None and self.is_known(run):
            try:
                self.give(run, revision)
            except TaskRejected:
                run.endpoint = None  # it was never attached then, and is about to be told so

    def follow(self, task_id: TaskId, run: Run | None) -> None:
        """The task may have moved on; None: it is forgotten."""
        if run is None or not (run.is_live and (run.is_unwanted or run.is_condemned)):
            self._drains.pop(task_id, None)
        if run is None or run.endpoint is None:
            self.directory.drop_local(task_id)
        else:
            self.directory.put_local(
                run.endpoint, service_id=run.task.service_id, is_reachable=not run.has_ended
            )

    # --- what managers say

    def take_complete(self, changes: Iterable[events.AssignmentChange]) -> None:
        kinds = events.NETWORK_CHANGES
        self.directory.take_complete(change for change in changes if isinstance(change, kinds))

    # --- what is to be done

    def instructions(self, *, is_settled: bool) -> list[Instruction]:
        """What the round has changed. ``is_settled``: all that stands on this node has an owner."""
        out: list[Instruction] = []
        state = self.directory.node_state()
        if is_settled and state is not self._asked:
            self._asked = state
            out.append(events.ApplyNetworks(state))
        if cut := self.directory.take_cut():
            out.append(events.CutConnections(cut))
        return out
