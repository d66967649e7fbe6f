"""What happens to the images of a node, as docker's events tell it: by commands, tasks, the daemon itself.

Kept in memory for a while, for who asks. What an event names is docker's: a pull and a push their reference,
all others the image's id. Labels are those of the image at that moment, so a deleted one has none left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from swarmpy.image_limits import IMAGE_EVENT_LABEL_CHARS_MAX, IMAGE_EVENTS_KEPT_MAX
from swarmpy.model.ids import Timestamp
from swarmpy.recent import Recent
from swarmpy.runtime import Clock

Action = Literal["delete", "import", "load", "prune", "pull", "push", "save", "tag", "untag"]
_NOTHING: Final[Mapping[str, Any]] = {}


@dataclass(frozen=True, slots=True)
class ImageEvent:
    """``id`` is empty where no one image is meant."""

    at: Timestamp
    action: Action
    id: str
    attributes: Mapping[str, str] = field(default_factory=dict)


class ImageEvents:
    """Of one node. To be called on its event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.recent = Recent[ImageEvent](IMAGE_EVENTS_KEPT_MAX)

    def tell(self, action: Action, id_: str, *, name: str = "", labels: Mapping[str, Any] = _NOTHING) -> None:
        """``name``: the name in question, for most actions the id once more."""
        attributes = {**bounded(labels), "name": name or id_}
        self.recent.add(ImageEvent(self._clock.now(), action, id_, attributes))

    def tell_removed(
        self, id_: str, *, names: int, is_deleted: bool, labels: Mapping[str, Any] = _NOTHING
    ) -> None:
        """``names``: how many of them were taken away."""
        for _ in range(names):
            self.tell("untag", id_, labels=labels)
        if is_deleted:
            self.tell("delete", id_)

    def tell_pruned(self, reclaimed_bytes: int) -> None:
        event = ImageEvent(self._clock.now(), "prune", "", {"reclaimed": str(reclaimed_bytes)})
        self.recent.add(event)


def bounded(labels: Mapping[str, Any]) -> dict[str, str]:
    """An image may bring megabytes of labels, and what is no text for one: an event keeps what fits."""
    left = IMAGE_EVENT_LABEL_CHARS_MAX
    kept = {}
    for key, value in sorted(labels.items()):
        if isinstance(value, str) and len(key) + len(value) <= left:
            left -= len(key) + len(value)
            kept[key] = value
    return kept


def names_told(untagged: int, *, is_by_id: bool) -> int:
    """How many of the names that went docker tells of: who removes a name is told of that one, however many
    digests of the repository went with it."""
    return untagged if is_by_id else min(untagged, 1)
