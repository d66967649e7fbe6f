"""``/swarmpy/secrets/{id}/versions`` and ``/swarmpy/configs/{id}/versions``: newer data, and what there was.

Newer data and the services that pin the former change together: each such service gets a revision that pins
the newer ones, so its tasks roll as its update policy says, and a rollback brings the former data back.
Services that have the file reloaded are left alone: their nodes put it in place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Generic, TypeVar

from aiohttp import web
from msgspec.structs import replace

from manager.api import requests, service_plan, texts
from manager.api.context import Api
from manager.api.docker_json import rfc3339
from manager.api.lookup import find
from manager.store.file_data import pinned_numbers
from manager.store.view import View
from swarmpy.errors import NotFound, Rejected, Stale
from swarmpy.limits import FILE_SERVICES_MAX
from swarmpy.model import validate
from swarmpy.model.changes import Change, Update
from swarmpy.model.file_versions import (
    NEWEST,
    data_number,
    kind_of,
    moved_to_newest,
    references_of,
    target_of,
    with_data,
)
from swarmpy.model.ids import Timestamp
from swarmpy.model.objects import Config, Kind, Secret, Service
from swarmpy.model.value import Value

F = TypeVar("F", Secret, Config)


class NewData(Value, frozen=True, kw_only=True):
    """The body of an update of data. ``except_``: names of services that the client is about to update, and
    gives the newer data in the same change; until then they keep what they have."""

    data: bytes = b""
    except_: tuple[str, ...] = ()


class FileVersions(Generic[F]):
    """Of one of the two kinds."""

    def __init__(self, api: Api, type_: type[F]) -> None:
        self._api = api
        self._type: type[F] = type_
        self._kind = Kind.SECRET if type_ is Secret else Kind.CONFIG

    def routes(self) -> Iterable[web.RouteDef]:
        base = f"/swarmpy/{self._kind}s/{{id}}/versions"
        return (web.get(base, self.list), web.post(base, self.add))

    async def add(self, request: web.Request) -> web.StreamResponse:
        base_version = requests.version(request, of=self._kind)
        wish = await requests.read_body(request, NewData)
        data, left_out = wish.data, frozenset(wish.except_)
        ids = [self._api.new_id() for _ in range(FILE_SERVICES_MAX)]
        outcome: dict[str, Any] = {}

        def plan(view: View) -> tuple[Change, ...]:
            item = find(view, self._type, request.match_info["id"])
            if item.version != base_version:
                raise Stale
            followers = _names(_following(view, item))
            if data == item.spec.data:
                outcome.update(Number=data_number(item), Services=[], Reloaded=[])
                return ()
            changes, rolled = renew(
                view, item, data, revision_ids=ids, now=self._api.now(), left_out=left_out
            )
            outcome.update(Number=data_number(item) + 1, Services=_names(rolled), Reloaded=followers)
            return changes

        try:
            await self._api.decide(plan)
        except NotFound:
            # unless it is our item that is gone, a service went while it was to roll
            find(self._api.cluster().view, self._type, request.match_info["id"])
            await self._api.decide(plan)
        return self._api.answer(outcome)

    async def list(self, request: web.Request) -> web.StreamResponse:
        """Newest first, without data."""
        view = await self._api.read(request)
        item = find(view, self._type, request.match_info["id"])
        return self._api.answer(_history(view, item))


def _history(view: View, item: Secret | Config) -> list[dict[str, Any]]:
    versions = [(data_number(item), item.data_at or item.created_at, len(item.spec.data))]
    versions += [(each.number, each.created_at, len(each.data)) for each in reversed(item.older)]
    return [
        {
            "Number": number,
            "CreatedAt": rfc3339(at),
            "Size": size,
            "Services": _names(_using(view, item, number)),
        }
        for number, at, size in versions
    ]


def renew(
    view: View,
    item: Secret | Config,
    data: bytes,
    *,
    revision_ids: list[str],
    now: Timestamp,
    left_out: Collection[str] = (),
) -> tuple[tuple[Change, ...], list[Service]]:
    """The one atomic group that gives ``item`` newer data, and the services that roll."""
    try:
        _check(item, data)
        newer = with_data(item, data, now=now, pinned=pinned_numbers(view, item))
    except Rejected as error:
        raise texts.invalid(error) from None
    services = [each for each in _pinning(view, item) if each.spec.name not in left_out]
    if len(services) > len(revision_ids):
        raise texts.invalid(
            f"{len(services)} services use {_text(item)}, and at most {len(revision_ids)} can be given "
            f"newer data together: create another {kind_of(item)} and move the services to it"
        )
    changes: list[Change] = [Update(object=newer)]
    for service, revision_id in zip(services, revision_ids, strict=False):
        spec = moved_to_newest(service.spec, newer)
        moved = service_plan.update(
            view, service, spec, base_version=service.version, revision_id=revision_id, now=now
        )
        changes += (_without_run(change, service) for change in moved)
    return tuple(changes), services


def _without_run(change: Change, service: Service) -> Change:
    """Nobody asked for the job: its next run has the newer data."""
    if isinstance(change, Update) and isinstance(change.object, Service):
        return Update(object=replace(change.object, job_status=service.job_status))
    return change


def _text(item: Secret | Config) -> str:
    return f"{kind_of(item)} {item.spec.name}"


def _check(item: Secret | Config, data: bytes) -> None:
    if isinstance(item, Secret):
        validate.check_secret(replace(item.spec, data=data))
    else:
        validate.check_config(replace(item.spec, data=data))


def _users(view: View, item: Secret | Config) -> list[Service]:
    return sorted(view.services_using(kind_of(item), item.id), key=lambda each: (each.spec.name, each.id))


def _versions(service: Service, item: Secret | Config) -> set[int]:
    key = (kind_of(item), item.id)
    return {each.version for each in references_of(service.spec) if target_of(each) == key}


def _pinning(view: View, item: Secret | Config) -> list[Service]:
    return [each for each in _users(view, item) if _versions(each, item) - {NEWEST}]


def _following(view: View, item: Secret | Config) -> list[Service]:
    return [each for each in _users(view, item) if NEWEST in _versions(each, item)]


def _using(view: View, item: Secret | Config, number: int) -> list[Service]:
    wanted = {number, NEWEST} if number == data_number(item) else {number}
    return [each for each in _users(view, item) if _versions(each, item) & wanted]


def _names(services: Iterable[Service]) -> list[str]:
    return [service.spec.name for service in services]
