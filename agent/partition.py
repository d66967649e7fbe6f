"""What a node does when it has lost all managers: nothing, or stop its tasks after a time that its spec says.

The time runs while there is no session, from the moment in which the last one ended or the agent started. The
wish outlives the agent in its journal. A task that was stopped so is one that the node ended: it is never
begun again, and managers replace it as any other, if they have not done so already, having given the node up.
"""

from __future__ import annotations

from swarmpy.model.ids import SECOND_NS, Duration


class Partition:
    """Owned by the core. Times are of the monotonic clock."""

    def __init__(self) -> None:
        self.stop_after = Duration(0)
        """0: tasks run on, however long there is no manager."""
        self._alone_since: float | None = None
        self._is_done = False

    @property
    def wake_at(self) -> float | None:
        if self._alone_since is None or self._is_done or self.stop_after <= 0:
            return None
        return self._alone_since + self.stop_after / SECOND_NS

    def note_session(self) -> None:
        self._alone_since = None
        self._is_done = False

    def note_loss(self, now: float) -> None:
        """There is no session (any more); told again it changes nothing."""
        if self._alone_since is None:
            self._alone_since = now

    def take_due(self, now: float) -> bool:
        """Whether all tasks are to be stopped now; says so once."""
        wake_at = self.wake_at
        if wake_at is None or now < wake_at:
            return False
        self._is_done = True
        return True
