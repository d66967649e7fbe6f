"""The HTTP server: the Engine API on a unix socket, and on TCP if asked.

Every path works with and without ``/v1.NN`` in front. Errors are ``{"message": …}`` with Docker's codes. The
server belongs to the daemon, not to the swarm: it starts before there is one and outlives leaving it.

The unix socket carries the rights of its file: mode 0660 and the group ``docker`` or ``swarmpy``, if there is
one. TCP is plain unless an ``ssl.SSLContext`` is given, so it is refused on any but loopback addresses then.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import ssl
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog
from aiohttp import web

from manager.api import tls_transport, versions
from manager.api.archive import Archives
from manager.api.attach import Attaching
from manager.api.connections import Connections, watched
from manager.api.container_life import ContainerLife
from manager.api.container_stats import ContainerStats
from manager.api.containers import Containers
from manager.api.context import STALE_HEADER, Api, is_stale_allowed
from manager.api.control import NodeControl
from manager.api.disk_usage import DiskUsage
from manager.api.docker_json import encode
from manager.api.events import Events
from manager.api.exec import Execs
from manager.api.explain import Explanations
from manager.api.file_versions import FileVersions
from manager.api.files import Files
from manager.api.image_push import ImagePushes
from manager.api.images import Images
from manager.api.listening import UnixListener, listen_tcp, listen_unix
from manager.api.logs import Logs
from manager.api.networks import Networks
from manager.api.nodes import Nodes
from manager.api.plugins import Plugins
from manager.api.rebalance import Rebalancing
from manager.api.recovery import Recovery
from manager.api.registry_auth import Registries
from manager.api.replica import Replica
from manager.api.service_history import ServiceHistory
from manager.api.services import Services
from manager.api.swarm import Swarm
from manager.api.system import System
from manager.api.tasks import Tasks
from manager.api.volumes import Volumes
from swarmpy.errors import InvalidArgument, SwarmError
from swarmpy.limits import API_BODY_BYTES_MAX, API_SHUTDOWN_TIMEOUT_S
from swarmpy.model.objects import Config, Secret
from swarmpy.runtime import Env
from swarmpy.version import API_VERSION, API_VERSION_MIN, VERSION

_VERSIONED: Final = re.compile(r"/v([0-9.]{1,20})/")
_OS: Final = "windows" if sys.platform == "win32" else "linux"
_NOT_FOUND: Final = "page not found"
_IS_SPOKEN: Final = web.RequestKey("is_spoken", bool)
"""In a request: its version, if it has one, is one of ours."""
_TOO_LARGE: Final = "http: request body too large"

log = structlog.get_logger(__name__)

_Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiServer:
    """Serves the API of one daemon until ``stop``."""

    def __init__(self, control: NodeControl, env: Env) -> None:
        self._app = make_app(Api(control, env))
        self._runner: web.AppRunner | None = None
        self._connections: Connections | None = None
        self._listeners: list[UnixListener | asyncio.Server] = []

    async def start(
        self,
        socket: Path,
        *,
        tcp_addresses: tuple[str, ...] = (),
        tls: Callable[[], ssl.SSLContext] | None = None,
        group: str = "",
    ) -> None:
        """Begin to serve. FailedPrecondition if another daemon serves that socket or a port is taken.

        ``tls`` is asked at every connection to the addresses; ``group`` owns the socket.
        """
        addresses = [_tcp_address(address, is_plain=tls is None) for address in tcp_addresses]
        self._runner = web.AppRunner(self._app, shutdown_timeout=API_SHUTDOWN_TIMEOUT_S)
        await self._runner.setup()
        assert self._runner.server is not None
        connections = self._connections = Connections(self._runner.server)
        try:
            self._listeners.append(await listen_unix(connections, socket, group=group))
            for host, port in addresses:
                factory = connections if tls is None else tls_transport.serve(connections, tls)
                self._listeners.append(await listen_tcp(factory, host, port))
        except BaseException:
            await self.stop()
            raise
        connections.watch()

    async def stop(self) -> None:
        """End the streams, let other open requests end, briefly, and remove the socket."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.close()
        if self._connections is not None:
            self._connections.close()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()


def make_app(api: Api) -> web.Application:
    app = web.Application(middlewares=[watched, _mark, _answer_errors], client_max_size=API_BODY_BYTES_MAX)
    app.on_response_prepare.append(_mark_stream)
    parts = (
        System(api),
        Swarm(api),
        Recovery(api),
        Explanations(api),
        Nodes(api),
        Services(api),
        Rebalancing(api),
        ServiceHistory(api),
        Logs(api),
        Tasks(api),
        Networks(api),
        Plugins(api),
        Files(api, Secret),
        Files(api, Config),
        Volumes(api),
        FileVersions(api, Secret),
        FileVersions(api, Config),
        Images(api),
        ImagePushes(api),
        Registries(api),
        DiskUsage(api),
        Events(api),
        Replica(api),
        Containers(api),
        ContainerLife(api),
        Attaching(api),
        ContainerStats(api),
        Execs(api),
        Archives(api),
    )
    for part in parts:
        for route in part.routes():
            _add(app, route, "")
            _add(app, route, "/v{version:[0-9.]+}")
    app.router.add_route("OPTIONS", "/{path:.*}", _options)
    return app


def _add(app: web.Application, route: web.RouteDef, prefix: str) -> None:
    """HEAD is answered where a part says so, not wherever there is a GET."""
    kwargs = route.kwargs | ({"allow_head": False} if route.method == "GET" else {})
    app.router.add_routes([web.RouteDef(route.method, prefix + route.path, route.handler, kwargs)])


async def _options(request: web.Request) -> web.StreamResponse:
    """As dockerd: for whatever page, and nothing in it."""
    return web.Response()


@web.middleware
async def _answer_errors(request: web.Request, handler: _Next) -> web.StreamResponse:
    """Every error as Docker writes it. What nobody foresaw is logged whole and answered with its kind."""
    try:
        check_version(request.path)
        request[_IS_SPOKEN] = True
        return await handler(request)
    except SwarmError as error:
        return _error(str(error), error.http_status)
    except web.HTTPRequestEntityTooLarge:
        return _error(_TOO_LARGE, 413)
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
        return _error(_NOT_FOUND, 404)
    except web.RequestPayloadError:
        return _error("the request's body breaks off or is no HTTP", 400)
    except web.HTTPException as error:
        return _error(error.reason, error.status)
    except (ConnectionResetError, TimeoutError) as error:
        log.info("api_request_broken_off", method=request.method, path=request.path, reason=str(error))
        return _error("the request was broken off", 500)
    except Exception as error:  # the top of every request: the client gets an answer whatever broke
        log.exception("api_request_failed", method=request.method, path=request.path)
        return _error(f"internal error: {type(error).__name__}; the daemon's log has the details", 500)


@web.middleware
async def _mark(request: web.Request, handler: _Next) -> web.StreamResponse:
    response = await handler(request)
    if not response.prepared:
        mark(request, response)
    return response


def mark(request: web.Request, response: web.StreamResponse) -> None:
    """Headers that every answer has; of a page that is not there nothing is told but who says so."""
    response.headers["Server"] = f"SwarmPy/{VERSION} ({_OS})"
    if request.match_info.http_exception is None:
        response.headers["Api-Version"] = API_VERSION
        response.headers["Ostype"] = _OS
        if request.get(_IS_SPOKEN):
            response.headers["Docker-Experimental"] = "false"
    if is_stale_allowed(request):
        response.headers[STALE_HEADER] = "true"


async def _mark_stream(request: web.Request, response: web.StreamResponse) -> None:
    """What is streamed has sent its head before it comes by the middleware."""
    mark(request, response)


def check_version(path: str) -> None:
    """The version in the path, if any, must be one that we speak."""
    match = _VERSIONED.match(path)
    if match is None:
        return
    asked = versions.number(match[1])
    if asked < versions.number(API_VERSION_MIN):
        raise InvalidArgument(
            f"client version {match[1]} is too old. Minimum supported API version is "
            f"{API_VERSION_MIN}, please upgrade your client to a newer version"
        )
    if asked > versions.number(API_VERSION):
        raise InvalidArgument(
            f"client version {match[1]} is too new. Maximum supported API version is {API_VERSION}"
        )


def _error(message: str, status: int) -> web.Response:
    return web.Response(body=encode({"message": message}), status=status, content_type="application/json")


def _tcp_address(text: str, *, is_plain: bool) -> tuple[str, int]:
    host, _, port = text.removeprefix("tcp://").rpartition(":")
    host = host.strip("[]")
    if not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65535 or not host:
        raise InvalidArgument(f'"{text}" is no address to serve the API on: give HOST:PORT.')
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise InvalidArgument(f'"{text}" is no address to serve the API on: give an IP address.') from None
    if is_plain and not is_loopback:
        raise InvalidArgument(
            f"The API on {text} would be open to the network without a password: whoever reaches it is root. "
            "Give certificates (--tlscacert, --tlscert, --tlskey), or a loopback address."
        )
    return host, int(port)
