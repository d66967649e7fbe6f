"""Histories of clients that are linearizable by construction, and what breaks them."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from swarmpy.sim.checkers.history import Operation, Outcome, Refused, Seen, Verb


class _Service:
    """One name's true state while a history is made."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.id = ""
        self.mark = ""
        self.seen: Seen | None = None


class Maker:
    """Draws operations whose effects happen at one moment between call and return, in the order of time."""

    def __init__(
        self, random: Random, *, names: int, concurrency: float = 1.0, unknown: float = 0.05
    ) -> None:
        self._random = random
        self._services = [_Service(f"s{number}") for number in range(names)]
        self._width = concurrency
        self._unknown = unknown
        self._version = 0
        self._count = 0
        self._at = 0.0

    def history(self, count: int) -> list[Operation]:
        return [self._operation() for _ in range(count)]

    def _operation(self) -> Operation:
        self._at += 1.0
        self._count += 1
        service = self._random.choice(self._services)
        before = self._random.random() * self._width
        after = self._random.random() * self._width
        operation = self._effect(service)
        operation = replace(operation, called_at=self._at - before, returned_at=self._at + after)
        if operation.verb is not Verb.READ and self._random.random() < self._unknown:
            return replace(operation, outcome=Outcome.UNKNOWN)
        return operation

    def _effect(self, service: _Service) -> Operation:
        verb = self._random.choice([Verb.CREATE, Verb.READ, Verb.READ, Verb.UPDATE, Verb.UPDATE, Verb.REMOVE])
        name, seen = service.name, service.seen
        if seen is not None and self._random.random() < 0.2:
            # the cluster writes to it as well, and leaves the spec alone
            self._version += 1
            seen = service.seen = replace(seen, version=self._version)
        mark = f"m{self._count}"
        match verb:
            case Verb.CREATE if seen is None:
                self._version += 1
                service.seen = Seen(name=name, id=f"i{self._count}", version=self._version, mark=mark)
                return Operation(verb=verb, name=name, called_at=0, id=service.seen.id, mark=mark)
            case Verb.CREATE:
                return Operation(
                    verb=verb,
                    name=name,
                    called_at=0,
                    outcome=Outcome.REFUSED,
                    refused=Refused.EXISTS,
                    mark=mark,
                )
            case Verb.UPDATE if seen is not None:
                self._version += 1
                service.seen = replace(seen, version=self._version, mark=mark)
                return Operation(
                    verb=verb, name=name, called_at=0, id=seen.id, version=seen.version, mark=mark
                )
            case Verb.REMOVE if seen is not None:
                self._version += 1
                service.seen = None
                return Operation(verb=verb, name=name, called_at=0, id=seen.id)
            case Verb.UPDATE | Verb.REMOVE:
                return Operation(
                    verb=verb,
                    name=name,
                    called_at=0,
                    outcome=Outcome.REFUSED,
                    refused=Refused.MISSING,
                )
            case _:
                return Operation(verb=Verb.READ, name=name, called_at=0, seen=() if seen is None else (seen,))


def create(at: float, id_: str, mark: str, **fields: object) -> Operation:
    return _at(Operation(verb=Verb.CREATE, name="s", called_at=at, id=id_, mark=mark), fields)


def update(at: float, id_: str, version: int, mark: str, **fields: object) -> Operation:
    known = Operation(verb=Verb.UPDATE, name="s", called_at=at, id=id_, version=version, mark=mark)
    return _at(known, fields)


def remove(at: float, id_: str = "", **fields: object) -> Operation:
    return _at(Operation(verb=Verb.REMOVE, name="s", called_at=at, id=id_), fields)


def read(at: float, id_: str = "", version: int = 0, mark: str = "", **fields: object) -> Operation:
    seen = (Seen(name="s", id=id_, version=version, mark=mark),) if id_ else ()
    return _at(Operation(verb=Verb.READ, name="s", called_at=at, seen=seen), fields)


def _at(operation: Operation, fields: dict[str, object]) -> Operation:
    """It takes half a second unless said otherwise."""
    known = {"returned_at": operation.called_at + 0.5, **fields}
    return replace(operation, **known)  # type: ignore[arg-type]
