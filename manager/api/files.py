"""``/secrets`` and ``/configs``: small files that tasks get. The two differ in limits and in secrecy only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from aiohttp import web
from msgspec.structs import replace

from manager.api import requests, texts
from manager.api.context import Api
from manager.api.lookup import find
from manager.store.view import View
from swarmpy.errors import InvalidArgument, Rejected, Stale, Unimplemented
from swarmpy.model import validate
from swarmpy.model.changes import Change, Create, Delete, Update
from swarmpy.model.cluster_specs import ConfigSpec, SecretSpec
from swarmpy.model.file_versions import check_templating
from swarmpy.model.ids import ConfigId, SecretId
from swarmpy.model.objects import Config, Kind, Secret, Service

FILTERS = frozenset({"id", "name", "names", "label"})

F = TypeVar("F", Secret, Config)


class Files(Generic[F]):
    """One of the two kinds."""

    def __init__(self, api: Api, type_: type[F]) -> None:
        self._api = api
        self._type: type[F] = type_
        self._kind = Kind.SECRET if type_ is Secret else Kind.CONFIG

    def routes(self) -> Iterable[web.RouteDef]:
        base = f"/{self._kind}s"
        return (
            web.get(base, self.list),
            web.post(f"{base}/create", self.create),
            web.get(f"{base}/{{id}}", self.inspect),
            web.post(f"{base}/{{id}}/update", self.update),
            web.delete(f"{base}/{{id}}", self.remove),
        )

    async def list(self, request: web.Request) -> web.StreamResponse:
        wanted = requests.filters(request, FILTERS)
        view = await self._api.read(request)
        items = [
            item for item in view.all(self._kind) if isinstance(item, self._type) and _is_wanted(item, wanted)
        ]
        return await self._api.answer_list(items, self._api.shapes.file)

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        view = await self._api.read(request)
        return self._api.answer(self._api.shapes.file(find(view, self._type, request.match_info["id"])))

    async def create(self, request: web.Request) -> web.StreamResponse:
        spec = await self._spec(request)
        id_ = self._api.new_id()

        def plan(view: View) -> tuple[Change, ...]:
            if view.by_name(self._kind, spec.name) is not None:
                raise texts.file_taken(self._kind, spec.name)
            if isinstance(spec, SecretSpec):
                return (Create(object=Secret(id=SecretId(id_), spec=spec, number=1)),)
            return (Create(object=Config(id=ConfigId(id_), spec=spec, number=1)),)

        await self._api.decide(plan)
        return self._api.answer({"ID": id_}, status=201)

    async def _spec(self, request: web.Request) -> SecretSpec | ConfigSpec:
        body = SecretSpec if self._type is Secret else ConfigSpec
        spec: SecretSpec | ConfigSpec = await requests.read_body(request, body)
        try:
            if not spec.name:
                raise InvalidArgument("name must be provided")
            if isinstance(spec, SecretSpec):
                if spec.driver is not None:
                    raise Unimplemented("secret drivers are not supported: create the secret with its data")
                validate.check_secret(spec)
            else:
                validate.check_config(spec)
            check_templating(spec.templating)
            return spec
        except Unimplemented as error:
            raise texts.unimplemented(error) from None
        except Rejected as error:
            raise texts.invalid(error) from None

    async def update(self, request: web.Request) -> web.StreamResponse:
        """Only labels may change, as docker has it; newer data are a version (``file_versions``)."""
        try:
            base_version = requests.version(request, of=self._kind)
        except InvalidArgument:
            raise InvalidArgument(f"invalid {self._kind} version") from None
        body = SecretSpec if self._type is Secret else ConfigSpec
        spec: SecretSpec | ConfigSpec = await requests.read_body(request, body)

        def plan(view: View) -> tuple[Change, ...]:
            item = find(view, self._type, request.match_info["id"])
            if item.version != base_version:
                raise Stale
            is_same = spec.name == item.spec.name and spec.data in (b"", item.spec.data)
            if not is_same:
                raise texts.invalid("only updates to Labels are allowed")
            if spec.labels == item.spec.labels:
                return ()
            return (Update(object=replace(item, spec=replace(item.spec, labels=spec.labels))),)

        await self._api.decide(plan)
        return web.Response()

    async def remove(self, request: web.Request) -> web.StreamResponse:
        def plan(view: View) -> tuple[Change, ...]:
            item = find(view, self._type, request.match_info["id"])
            users = sorted(s.spec.name for s in view.services() if item.id in _named_by(s))
            if users:
                plural = "s" if len(users) > 1 else ""
                raise texts.invalid(
                    f"{self._kind} '{item.spec.name}' is in use by "
                    f"the following service{plural}: {', '.join(users)}"
                )
            return (Delete(kind=self._kind, id=item.id, version=item.version),)

        await self._api.decide(plan)
        return web.Response(status=204)


def _is_wanted(item: Secret | Config, wanted: requests.Filters) -> bool:
    return (
        requests.matches(wanted, "id", item.id.startswith)
        and requests.matches(wanted, "name", item.spec.name.startswith)
        and requests.matches(wanted, "names", lambda name: name == item.spec.name)
        and requests.matches_labels(wanted, "label", item.spec.labels)
    )


def _named_by(service: Service) -> frozenset[str]:
    container = service.spec.task_template.container_spec
    if container is None:
        return frozenset()
    return frozenset(
        {reference.secret_id for reference in container.secrets}
        | {reference.config_id for reference in container.configs}
    )
