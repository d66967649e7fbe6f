"""What the clients of the workload did and were told: the history of operations on named services.

Times are virtual seconds. ``REFUSED`` means that the operation certainly had no effect; ``UNKNOWN`` that it
may take effect at any time after it was called, or never. ``mark`` stands for the spec: the workload writes a
unique one into every spec that it sends (``mark_of`` reads it back).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from swarmpy.model.specs import ServiceSpec
from swarmpy.sim.limits import SIM_OPERATIONS_MAX

MARK_LABEL: Final = "swarmpy.sim.mark"


def mark_of(spec: ServiceSpec) -> str:
    """The mark that the workload wrote into the spec; the same for the API's object and the stored one."""
    return spec.labels.get(MARK_LABEL, "")


class Verb(StrEnum):
    CREATE = "create"
    READ = "read"
    UPDATE = "update"
    REMOVE = "remove"
    LIST = "list"


class Outcome(StrEnum):
    OK = "ok"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Refused(StrEnum):
    """Why, if the reason says something of the object: its name was taken; there was none."""

    OTHERWISE = ""
    EXISTS = "exists"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One service as a client saw it."""

    name: str
    id: str
    version: int
    mark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One call of one client.

    ``id``: of the service, as far as the client named it or was told it. ``version``: the base of an update.
    ``mark``: of the spec that a create or an update sends. ``seen``: what a read found (nothing: there is no
    such service) or what a list held. ``returned_at`` is ignored for an unknown outcome.
    """

    verb: Verb
    name: str = ""
    called_at: float
    returned_at: float = 0.0
    outcome: Outcome = Outcome.OK
    refused: Refused = Refused.OTHERWISE
    id: str = ""
    version: int = 0
    mark: str = ""
    seen: tuple[Seen, ...] = ()
    client: str = ""


class History:
    """The operations in the order in which their outcomes came. Bounded; ``is_cut``: some are missing."""

    def __init__(self, *, limit: int = SIM_OPERATIONS_MAX) -> None:
        self.operations: list[Operation] = []
        self.is_cut = False
        self._limit = limit

    def add(self, operation: Operation) -> None:
        if len(self.operations) >= self._limit:
            self.is_cut = True
        else:
            self.operations.append(operation)

    def __len__(self) -> int:
        return len(self.operations)


def by_name(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    """The operations of each name; a list is one read of every known name at the same time."""
    everything = list(operations)
    found: dict[str, list[Operation]] = {}
    for each in everything:
        names = [seen.name for seen in each.seen] if each.verb is Verb.LIST else [each.name]
        for name in names:
            found.setdefault(name, [])
    for each in everything:
        if each.verb is not Verb.LIST:
            found[each.name].append(each)
        elif each.outcome is Outcome.OK:
            held = {seen.name: seen for seen in each.seen}
            for name, own in found.items():
                own.append(
                    Operation(
                        verb=Verb.READ,
                        name=name,
                        called_at=each.called_at,
                        returned_at=each.returned_at,
                        seen=(held[name],) if name in held else (),
                        client=each.client,
                    )
                )
    return found
