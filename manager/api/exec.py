"""``/containers/{id}/exec`` and ``/exec/{id}/…``: commands in tasks, on whichever node they run.

An exec is made, started once, and asked about afterwards; all three at the same daemon, which remembers so
many of them and forgets those first that have ended. A command lives as long as the connection of its client.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from msgspec import field

from manager.api import requests
from manager.api.carry import KILLED, STDERR, End, carry
from manager.api.container_shapes import find_container, node_of
from manager.api.context import Api
from manager.api.hijack import MULTIPLEXED, RAW, done, hijack
from manager.streams import NodeStream
from swarmpy.errors import Conflict, InvalidArgument, NotFound, Unavailable, Unimplemented
from swarmpy.limits import EXECS_KEPT_MAX
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.value import Value
from swarmpy.pb import streams_pb2 as pb

_CANNOT_RUN: Final = "OCI runtime exec failed"
_NOT_FOUND: Final = ("executable file not found", "no such file or directory")
_FORBIDDEN: Final = ("permission denied", "not a directory")


class ExecConfig(Value, frozen=True, kw_only=True):
    """The body of ``POST /containers/{id}/exec``."""

    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    detach_keys: str = ""
    tty: bool = field(default=False, name="Tty")
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    privileged: bool = False


class ExecStartConfig(Value, frozen=True, kw_only=True):
    """The body of ``POST /exec/{id}/start``. Whether there is a terminal was said before."""

    detach: bool = False
    tty: bool = field(default=False, name="Tty")


@dataclass(kw_only=True)
class _Exec:
    id: str
    task_id: TaskId
    node_id: NodeId
    config: ExecConfig
    is_started: bool = False
    exit_code: int | None = None
    stream: NodeStream | None = None
    """While it runs."""


class Execs:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._execs: dict[str, _Exec] = {}

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.post("/containers/{id}/exec", self.create),
            web.post("/exec/{id}/start", self.start),
            web.post("/exec/{id}/resize", self.resize),
            web.get("/exec/{id}/json", self.inspect),
        )

    async def create(self, request: web.Request) -> web.StreamResponse:
        config = await requests.read_body(request, ExecConfig)
        if not config.cmd or not config.cmd[0]:
            raise InvalidArgument("No exec command specified")
        task = find_container(await self._api.read(request), request.match_info["id"])
        made = _Exec(id=self._api.new_id(), task_id=task.id, node_id=node_of(task), config=config)
        self._make_room()
        self._execs[made.id] = made
        return self._api.answer({"Id": made.id}, status=201)

    def _make_room(self) -> None:
        if len(self._execs) < EXECS_KEPT_MAX:
            return
        oldest = next((each.id for each in self._execs.values() if each.stream is None), None)
        if oldest is None:
            raise Unavailable(f"{EXECS_KEPT_MAX} commands run by way of this daemon already: end some first")
        del self._execs[oldest]

    async def start(self, request: web.Request) -> web.StreamResponse:
        wanted = await requests.read_body(request, ExecStartConfig)
        exec_ = self._find(request)
        if wanted.detach:
            raise Unimplemented(
                "a command cannot be detached: it lives as long as its client's connection. Use a service in "
                "mode replicated-job for work that goes on by itself"
            )
        if exec_.is_started:
            raise Conflict(f"exec {exec_.id} has been started already: an exec runs once")
        exec_.is_started = True
        end = End(
            is_terminal=exec_.config.tty,
            takes_input=exec_.config.attach_stdin,
            streams=_wanted_streams(exec_.config),
        )
        try:
            async with AsyncExitStack() as stack:
                await self._run(request, exec_, end, stack)
        finally:
            exec_.stream = None
            if exec_.exit_code is None:
                exec_.exit_code = KILLED
        return done()

    async def _run(self, request: web.Request, exec_: _Exec, end: End, stack: AsyncExitStack) -> None:
        """What cannot be run is told on the connection, as docker does: its clients look for it there."""
        opened = self._api.streams.open(exec_.node_id, "task.exec", _start_of(exec_))
        refusal = ""
        try:
            exec_.stream = await stack.enter_async_context(opened)
        except InvalidArgument as error:
            if not str(error).startswith(_CANNOT_RUN):
                raise
            refusal = str(error)
            exec_.exit_code = exit_code_of(refusal)
        content_type = RAW if end.is_terminal else MULTIPLEXED
        async with hijack(self._api, request, content_type) as client:
            if exec_.stream is not None:
                exec_.exit_code = await carry(client, exec_.stream, end)
            else:
                await client.write(end.shape(STDERR, f"{refusal}\r\n".encode()))

    async def resize(self, request: web.Request) -> web.StreamResponse:
        rows, columns = requests.terminal_size(request)
        exec_ = self._find(request)
        if exec_.stream is None:
            raise Conflict(f"exec {exec_.id} is not running")
        await exec_.stream.send(pb.StreamPart(resize=pb.StreamResize(rows=rows, columns=columns)))
        return web.Response()

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        exec_ = self._find(request)
        config = exec_.config
        return self._api.answer(
            {
                "ID": exec_.id,
                "Running": exec_.stream is not None,
                "ExitCode": exec_.exit_code,
                "ProcessConfig": {
                    "tty": config.tty,
                    "entrypoint": config.cmd[0],
                    "arguments": list(config.cmd[1:]),
                    "privileged": config.privileged,
                    "user": config.user,
                },
                "OpenStdin": config.attach_stdin,
                "OpenStderr": config.attach_stderr,
                "OpenStdout": config.attach_stdout,
                "CanRemove": False,
                "ContainerID": exec_.task_id,
                "DetachKeys": config.detach_keys,
                "Pid": 0,
            }
        )

    def _find(self, request: web.Request) -> _Exec:
        id_ = request.match_info["id"]
        found = self._execs.get(id_)
        if found is None:
            raise NotFound(f"No such exec instance: {id_}")
        return found


def _start_of(exec_: _Exec) -> bytes:
    config = exec_.config
    return pb.ExecStart(
        task_id=exec_.task_id,
        argv=config.cmd,
        env=config.env,
        user=config.user,
        workdir=config.working_dir,
        has_terminal=config.tty,
        has_input=config.attach_stdin,
        is_privileged=config.privileged,
    ).SerializeToString()


def _wanted_streams(config: ExecConfig) -> frozenset[int]:
    pairs = ((1, config.attach_stdout), (2, config.attach_stderr))
    return frozenset(stream for stream, is_wanted in pairs if is_wanted)


def exit_code_of(refusal: str) -> int:
    """Docker's reading of why a command could not be run."""
    if any(words in refusal for words in _NOT_FOUND):
        return 127
    return 126 if any(words in refusal for words in _FORBIDDEN) else 128
