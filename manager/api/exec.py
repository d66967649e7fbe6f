"""``/containers/{id}/exec`` and ``/exec/{id}/…``: commands in containers, on whichever node they run.

An exec is made, started once, and asked about afterwards; all three at the same daemon, which remembers so
many of them and forgets those first that have ended. A command lives as long as the connection of its client,
unless it was started detached: then its node watches it, and is asked how it went.
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
from manager.api.container_refs import find_container
from manager.api.container_shapes import running_task
from manager.api.context import Api
from manager.api.detach_keys import parse_keys
from manager.api.docker_json import Json
from manager.api.hijack import MULTIPLEXED, RAW, done, hijack
from manager.streams import NodeStream, require
from swarmpy.errors import Conflict, InvalidArgument, NotFound, SwarmError, Unavailable
from swarmpy.limits import EXECS_KEPT_MAX
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.states import TaskState
from swarmpy.model.value import Value
from swarmpy.pb import streams_pb2 as pb

_ID_BYTES: Final = 32
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
    console_size: tuple[int, ...] = ()


class ExecStartConfig(Value, frozen=True, kw_only=True):
    """The body of ``POST /exec/{id}/start``. Whether there is a terminal was said before. ``console_size``:
    rows and columns."""

    detach: bool = False
    tty: bool = field(default=False, name="Tty")
    console_size: tuple[int, ...] = ()


@dataclass(kw_only=True)
class _Exec:
    id: str
    container_id: str
    task_id: TaskId
    node_id: NodeId
    config: ExecConfig
    is_started: bool = False
    is_detached: bool = False
    """It runs, or ran, without a client. How it ended is not known here before its node was asked."""
    exit_code: int | None = None
    pid: int = 0
    stream: NodeStream | None = None
    """While it runs."""

    @property
    def may_run(self) -> bool:
        return self.stream is not None or (self.is_detached and self.exit_code is None)


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
        if config.detach_keys:
            parse_keys(config.detach_keys)
        here = self._api.control.local().node_id
        container = find_container(await self._api.read(request), request.match_info["id"], here=here)
        task = running_task(container)
        made = _Exec(
            id=self._api.env.entropy.token_bytes(_ID_BYTES).hex(),
            container_id=container.id,
            task_id=task.id,
            node_id=task.node_id,
            config=config,
        )
        self._make_room()
        self._execs[made.id] = made
        return self._api.answer({"Id": made.id}, status=201)

    def _make_room(self) -> None:
        if len(self._execs) < EXECS_KEPT_MAX:
            return
        oldest = next((each.id for each in self._execs.values() if not each.may_run), None)
        # of one that goes on without a client its node knows more than is known here
        oldest = oldest or next((each.id for each in self._execs.values() if each.stream is None), None)
        if oldest is None:
            raise Unavailable(f"{EXECS_KEPT_MAX} commands run by way of this daemon already: end some first")
        del self._execs[oldest]

    async def start(self, request: web.Request) -> web.StreamResponse:
        wanted = await requests.read_body(request, ExecStartConfig)
        exec_ = self._find(request)
        if exec_.is_started:
            how = "is already running" if exec_.may_run else "has already run"
            raise Conflict(f"Error: Exec command {exec_.id} {how}")
        if not await self._is_running(exec_):
            raise Conflict(f"Container {exec_.container_id} is not running")
        exec_.is_started = True
        if wanted.detach:
            return await self._detach(exec_, wanted)
        config = exec_.config
        end = End(is_terminal=config.tty, takes_input=config.attach_stdin, streams=_wanted_streams(config))
        try:
            async with AsyncExitStack() as stack:
                await self._run(request, exec_, wanted, end, stack)
        finally:
            exec_.stream = None
            if exec_.exit_code is None:
                exec_.exit_code = KILLED
        return done()

    async def _is_running(self, exec_: _Exec) -> bool:
        task = self._api.cluster().view.task(exec_.task_id)
        return task is not None and TaskState.STARTING <= task.status.state <= TaskState.RUNNING

    async def _detach(self, exec_: _Exec, wanted: ExecStartConfig) -> web.StreamResponse:
        """The command goes on by itself; what cannot be run is an error of the request, as docker has it."""
        try:
            body = _start_of(exec_, wanted)
            async with self._api.streams.open(exec_.node_id, "task.exec", body) as stream:
                exec_.pid = stream.accepted.pid
                exec_.is_detached = True
                require(await stream.receive())
        except SwarmError as error:
            if str(error).startswith(_CANNOT_RUN):
                exec_.exit_code = exit_code_of(str(error))
            elif not exec_.is_detached:
                exec_.exit_code = KILLED
            raise
        return web.Response()

    async def _run(
        self, request: web.Request, exec_: _Exec, wanted: ExecStartConfig, end: End, stack: AsyncExitStack
    ) -> None:
        """As docker does it: the connection is taken over before anything runs, and what goes wrong then is
        told on it. So a client has the head of the answer before there is output: docker-py loses what comes
        along with the head."""
        async with hijack(self._api, request, RAW if end.is_terminal else MULTIPLEXED) as client:
            opened = self._api.streams.open(exec_.node_id, "task.exec", _start_of(exec_, wanted))
            try:
                exec_.stream = await stack.enter_async_context(opened)
            except SwarmError as error:
                if str(error).startswith(_CANNOT_RUN):
                    exec_.exit_code = exit_code_of(str(error))
                await client.write(end.shape(STDERR, f"{error}\r\n".encode()))
                return
            exec_.pid = exec_.stream.accepted.pid
            exec_.exit_code = await carry(client, exec_.stream, end)

    async def resize(self, request: web.Request) -> web.StreamResponse:
        rows, columns = requests.terminal_size(request)
        exec_ = self._find(request)
        if exec_.stream is None:
            raise Conflict(f"exec {exec_.id} is not running")
        await exec_.stream.send(pb.StreamPart(resize=pb.StreamResize(rows=rows, columns=columns)))
        return web.Response()

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        exec_ = self._find(request)
        is_running = await self._look(exec_)
        config = exec_.config
        process: Json = {
            "tty": config.tty,
            "entrypoint": config.cmd[0],
            "arguments": list(config.cmd[1:]),
            "privileged": config.privileged,
        }
        if config.user:
            process["user"] = config.user
        return self._api.answer(
            {
                "ID": exec_.id,
                "Running": is_running,
                "ExitCode": exec_.exit_code,
                "ProcessConfig": process,
                "OpenStdin": config.attach_stdin,
                "OpenStderr": config.attach_stderr,
                "OpenStdout": config.attach_stdout,
                "CanRemove": False,
                "ContainerID": exec_.container_id,
                "DetachKeys": _shown_keys(config.detach_keys),
                "Pid": exec_.pid,
            }
        )

    async def _look(self, exec_: _Exec) -> bool:
        """Whether it runs; of a detached one its node is asked, as long as it may."""
        if not exec_.is_detached or exec_.exit_code is not None:
            return exec_.stream is not None
        body = pb.ExecQuery(task_id=exec_.task_id, exec_id=exec_.id).SerializeToString()
        try:
            answer = await self._api.streams.call(exec_.node_id, "task.exec_state", body)
        except NotFound:  # its node's daemon has begun anew, or has long forgotten it
            exec_.exit_code = KILLED
            return False
        state = pb.ExecState.FromString(answer)
        if not state.is_running:
            exec_.exit_code = state.code
        return state.is_running

    def _find(self, request: web.Request) -> _Exec:
        id_ = request.match_info["id"]
        found = self._execs.get(id_)
        if found is None:
            raise NotFound(f"No such exec instance: {id_}")
        return found


def _start_of(exec_: _Exec, wanted: ExecStartConfig) -> bytes:
    config = exec_.config
    rows, columns = next(
        (size for size in (wanted.console_size, config.console_size) if len(size) == 2), (0, 0)
    )
    return pb.ExecStart(
        task_id=exec_.task_id,
        argv=config.cmd,
        env=config.env,
        user=config.user,
        workdir=config.working_dir,
        has_terminal=config.tty,
        has_input=config.attach_stdin,
        is_privileged=config.privileged,
        exec_id=exec_.id,
        is_detached=wanted.detach,
        rows=rows,
        columns=columns,
    ).SerializeToString()


def _wanted_streams(config: ExecConfig) -> frozenset[int]:
    pairs = ((1, config.attach_stdout), (2, config.attach_stderr))
    return frozenset(stream for stream, is_wanted in pairs if is_wanted)


def exit_code_of(refusal: str) -> int:
    """Docker's reading of why a command could not be run."""
    if any(words in refusal for words in _NOT_FOUND):
        return 127
    return 126 if any(words in refusal for words in _FORBIDDEN) else 128


def _shown_keys(text: str) -> str:
    """As docker gives them back: as the bytes that they stand for."""
    return parse_keys(text).decode("latin-1") if text else ""
