"""What clients were told, compared with the store once all is quiet.

* A create that was acknowledged is there, unless something may have removed it since; a removal that was
  acknowledged stays.
* What a service says is what one of the last writes sent: one that was acknowledged or is of unknown outcome,
  and that no acknowledged write began after. What was certainly refused never appears.
* No write was made twice: a service has no more revisions with a write's mark than writes sent it.

The linearizability of the history says more, but only of what clients saw; this says it of what is stored,
in sentences that name the loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from manager.store.view import View
from swarmpy.model.defaults import is_standalone
from swarmpy.model.file_versions import pins_of
from swarmpy.model.objects import Kind, Service
from swarmpy.model.specs import ServiceSpec
from swarmpy.sim.checkers.history import Operation, Outcome, Verb, by_name, mark_of

NAME: Final = "acknowledged writes"

_WRITES: Final = (Verb.CREATE, Verb.UPDATE)


def lost_or_made_up(
    operations: Iterable[Operation],
    view: View,
    *,
    mark_of: Callable[[ServiceSpec], str] = mark_of,
    may_roll_back: bool = False,
) -> list[str]:
    """One sentence for each promise that the store breaks. ``may_roll_back``: managers may return a service
    to a spec of before."""
    histories = by_name(operations)
    found: list[str] = []
    for name in sorted(histories):
        service = view.by_name(Kind.SERVICE, name)
        assert service is None or isinstance(service, Service)
        effective = [each for each in histories[name] if each.outcome is not Outcome.REFUSED]
        found += _existence(name, effective, service)
        if service is not None:
            mark = mark_of(service.spec)
            found += _content(service, mark, effective, may_roll_back=may_roll_back)
            # managers repeat a spec with newer data of its secrets and configs, each only once
            kept = Counter((mark_of(each.spec), pins_of(each.spec)) for each in view.revisions_of(service.id))
            marks: Counter[str] = Counter()
            for (each_mark, _), count in kept.items():
                marks[each_mark] = max(marks[each_mark], count)
            found += _repeated(service, marks, effective)
    for service in view.services():
        if service.spec.name not in histories and not is_standalone(service.spec):
            found.append(f"service {service.spec.name} ({service.id}) is there, and no client named it")
    return found


def _existence(name: str, effective: list[Operation], service: Service | None) -> Iterator[str]:
    removals = [each for each in effective if each.verb is Verb.REMOVE]
    creates = [each for each in effective if each.verb is Verb.CREATE]
    for create in creates:
        if create.outcome is not Outcome.OK or (service is not None and service.id == create.id):
            continue
        may_be_removed = any(
            _ends(removal) >= create.called_at and removal.id in ("", create.id) for removal in removals
        )
        if not may_be_removed:
            yield f"service {name} ({create.id}), created at {create.called_at:.3f}, is lost"
    if service is None:
        return
    for removal in removals:
        if removal.outcome is not Outcome.OK:
            continue
        if removal.id:
            is_back = removal.id == service.id
        else:
            is_back = all(_ends(create) < removal.called_at for create in creates)
        if is_back:
            yield f"service {name} ({service.id}), removed at {removal.called_at:.3f}, is back"
    if all(create.id not in ("", service.id) for create in creates):
        yield f"service {name} ({service.id}) is there although no create of it may have been made"


def _content(
    service: Service, mark: str, effective: list[Operation], *, may_roll_back: bool
) -> Iterator[str]:
    writes = [each for each in effective if each.verb in _WRITES]
    senders = [each for each in writes if each.mark == mark]
    if not senders:
        yield f"service {service.spec.name} has spec {mark!r}, which no effective write sent"
        return
    if may_roll_back:
        return
    for later in writes:
        if later.outcome is Outcome.OK and all(_ends(sender) < later.called_at for sender in senders):
            yield (
                f"service {service.spec.name} has spec {mark!r}, and the acknowledged write of "
                f"{later.mark!r} at {later.called_at:.3f} is lost"
            )
            return


def _repeated(service: Service, marks: Counter[str], effective: list[Operation]) -> Iterator[str]:
    sent = Counter(each.mark for each in effective if each.verb in _WRITES)
    for mark, count in sorted(marks.items()):
        if count > max(sent[mark], 1):
            sends = sent[mark]
            yield f"service {service.spec.name} has {count} revisions of write {mark!r}, sent {sends} times"


def _ends(operation: Operation) -> float:
    """When it had taken effect at the latest."""
    return float("inf") if operation.outcome is Outcome.UNKNOWN else operation.returned_at
