"""``/services``: list, create, inspect, update, remove. Logs are in ``logs.py``."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from manager.api import engine_rules, requests, service_plan, versions
from manager.api.context import Api
from manager.api.docker_json import Json
from manager.api.fill import with_defaults
from manager.api.image_pins import ImagePins, Pinned
from manager.api.job_shapes import service_status
from manager.api.lookup import find, find_or_none
from manager.api.names import random_name
from manager.api.registry_auth import HEADER as REGISTRY_AUTH
from manager.api.service_auth import PREVIOUS_SPEC, kept_auth, with_auth
from manager.store.view import View
from swarmpy.errors import InvalidArgument
from swarmpy.model.changes import Delete
from swarmpy.model.defaults import is_standalone
from swarmpy.model.objects import Kind, Service
from swarmpy.model.specs import ServiceSpec

FILTERS = frozenset({"id", "name", "label", "mode", "runtime"})
STATUS_SINCE = versions.number("1.41")
REGISTRY_AUTH_FROM = ("", "spec", PREVIOUS_SPEC)


class Services:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._pins = ImagePins(api)

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.get("/services", self.list),
            web.post("/services/create", self.create),
            web.get("/services/{id}", self.inspect),
            web.post("/services/{id}/update", self.update),
            web.delete("/services/{id}", self.remove),
        )

    async def list(self, request: web.Request) -> web.StreamResponse:
        wanted = requests.filters(request, FILTERS)
        knows_status = requests.api_version(request) >= STATUS_SINCE
        has_status = knows_status and requests.strict_flag(request, "status", has_reason=True)
        view = await self._api.read(request)

        def shape(service: Service) -> Json:
            result = self._api.shapes.service(view, service)
            if has_status:
                result["ServiceStatus"] = service_status(view, service)
            return result

        services = [service for service in view.services() if _is_wanted(service, wanted)]
        return await self._api.answer_list(services, shape)

    async def create(self, request: web.Request) -> web.StreamResponse:
        auth = request.headers.get(REGISTRY_AUTH, "")
        wished = with_auth(await _read_spec(request), auth)
        self._api.cluster()  # else nobody has to wait for a registry
        spec, warnings = await self._pins.settle(request, wished, auth=auth)
        entropy = self._api.env.entropy
        if not spec.name:
            spec = service_plan.renamed(spec, random_name(entropy.token_bytes(8)))
        service_id, revision_id = self._api.new_id(), self._api.new_id()

        def plan(view: View) -> service_plan.Changes:
            accepted = service_plan.accept(view, spec)
            return service_plan.create(
                view, accepted, service_id=service_id, revision_id=revision_id, now=self._api.now()
            )

        await self._api.decide(plan, is_guarded=True)
        return self._api.answer({"ID": service_id, "Warnings": warnings or None}, status=201)

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        view = await self._api.read(request)
        service = find(view, Service, request.match_info["id"])
        is_filled = requests.strict_flag(request, "insertDefaults", has_reason=True)
        spec = with_defaults(service.spec) if is_filled else None
        return self._api.answer(self._api.shapes.service(view, service, spec=spec))

    async def update(self, request: web.Request) -> web.StreamResponse:
        base_version = requests.version(request, of="service")
        how = request.query.get("rollback", "")
        if how not in ("", "none", "previous"):
            raise InvalidArgument(f"unrecognized rollback option {how}")
        source = request.query.get("registryAuthFrom", "")
        if source not in REGISTRY_AUTH_FROM:
            raise InvalidArgument("unsupported registryAuthFrom value")
        wished = Pinned(ServiceSpec())
        if how != "previous":
            wished = await self._pinned(request, base_version, source)
        revision_id = self._api.new_id()

        def plan(view: View) -> service_plan.Changes:
            service = find(view, Service, request.match_info["id"])
            if how == "previous":
                return service_plan.rollback(view, service, base_version=base_version, now=self._api.now())
            auth = request.headers.get(REGISTRY_AUTH, "") or kept_auth(view, service, source=source)
            accepted = service_plan.accept(view, with_auth(wished.spec, auth), of=service)
            now = self._api.now()
            changes = service_plan.update(
                view, service, accepted, base_version=base_version, revision_id=revision_id, now=now
            )
            if not changes and service_plan.is_paused(service):
                # docker's one way to let a paused update go on is to ask for it again
                return service_plan.resume(view, service, base_version=base_version, now=self._api.now())
            return changes

        # the base version is the client's, so a change that came in between ends in Stale, not in a repeat
        await self._api.decide(plan, is_guarded=True)
        return self._api.answer({"Warnings": wished.warnings or None})

    async def _pinned(self, request: web.Request, base_version: int, source: str) -> Pinned:
        """What an update asks for. If the service is of another version than the client's, the update is
        refused later, so nobody asks a registry for it."""
        spec = await _read_spec(request)
        access = self._api.cluster()
        name = request.match_info["id"]
        service = _standing(access.view, name, base_version)
        if service is None:
            await access.read_barrier()
            service = _standing(access.view, name, base_version)
        if service is None:
            return Pinned(spec)
        auth = request.headers.get(REGISTRY_AUTH, "") or kept_auth(access.view, service, source=source)
        return await self._pins.settle(request, spec, of=service, auth=auth)

    async def remove(self, request: web.Request) -> web.StreamResponse:
        api = self._api
        access = api.cluster()
        await access.read_barrier()
        service = find(access.view, Service, request.match_info["id"])
        await api.commit([Delete(kind=Kind.SERVICE, id=service.id)])
        return web.Response()


def _standing(view: View, name: str, version: int) -> Service | None:
    service = find_or_none(view, Service, name)
    return service if service is not None and service.version == version else None


async def _read_spec(request: web.Request) -> ServiceSpec:
    spec = await requests.read_body(request, ServiceSpec)
    spec = versions.understood(spec, versions.SPEC_FIELDS, requests.api_version(request))
    engine_rules.check(spec)
    return spec


def _is_wanted(service: Service, wanted: requests.Filters) -> bool:
    spec = service.spec
    if is_standalone(spec):
        return False  # it is shown as a container
    runtime = spec.task_template.runtime or "container"
    return (
        requests.matches(wanted, "id", service.id.startswith)
        and requests.matches(wanted, "name", spec.name.startswith)
        and requests.matches(wanted, "mode", lambda mode: mode.replace("-", "") == mode_of(spec))
        and requests.matches(wanted, "runtime", lambda name: name == runtime)
        and requests.matches_labels(wanted, "label", spec.labels)
    )


def mode_of(spec: ServiceSpec) -> str:
    if spec.mode.global_ is not None:
        return "global"
    if spec.mode.replicated_job is not None:
        return "replicatedjob"
    if spec.mode.global_job is not None:
        return "globaljob"
    if spec.mode.cron_job is not None:
        return "cronjob"
    return "replicated"
