"""``/containers/{id}/archive``: files of tasks as tar archives, out of them and into them.

What is at the path is told in a header, which is read off the beginning of the archive itself.
"""

from __future__ import annotations

import asyncio
import base64
import io
import posixpath
import stat
import tarfile
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Final

from aiohttp import web

from manager.api.container_refs import find_container
from manager.api.container_shapes import running_task
from manager.api.context import Api
from manager.api.docker_json import Json, encode, rfc3339
from manager.api.streams import is_gone
from manager.streams import NodeStream, require
from swarmpy.errors import InvalidArgument, SwarmError, Unavailable
from swarmpy.limits import API_CHUNK_BYTES, API_STREAM_IDLE_S, ARCHIVE_HEAD_BYTES_MAX
from swarmpy.model.ids import SECOND_NS, Timestamp
from swarmpy.model.objects import Task
from swarmpy.pb import streams_pb2 as pb

PATH_STAT: Final = "X-Docker-Container-Path-Stat"
_TAR: Final = "application/x-tar"
_GO_MODES: Final = (
    (stat.S_ISDIR, 1 << 31),
    (stat.S_ISLNK, 1 << 27),
    (stat.S_ISFIFO, 1 << 25),
    (stat.S_ISCHR, 1 << 26 | 1 << 21),
    (stat.S_ISBLK, 1 << 26),
)
_GO_BITS: Final = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


class Archives:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.head("/containers/{id}/archive", self.look),
            web.get("/containers/{id}/archive", self.read, allow_head=False),
            web.put("/containers/{id}/archive", self.write),
        )

    async def look(self, request: web.Request) -> web.StreamResponse:
        task, path = await self._target(request)
        opened = self._api.streams.open(task.node_id, "task.copy_out", _start(task, path))
        async with opened as stream, aclosing(_content(stream)) as content:
            _, member = await _beginning(content)
        return web.Response(headers={PATH_STAT: _path_stat(member)})

    async def read(self, request: web.Request) -> web.StreamResponse:
        task, path = await self._target(request)
        return await read_tar(self._api, request, task, path)

    async def write(self, request: web.Request) -> web.StreamResponse:
        task, path = await self._target(request)
        async with self._api.streams.open(task.node_id, "task.copy_in", _start(task, path)) as stream:
            sending = asyncio.create_task(_send_body(request, stream))
            answering = asyncio.create_task(stream.receive())
            try:
                while not answering.done():
                    await asyncio.wait([answering], timeout=API_STREAM_IDLE_S)
                    if is_gone(request):
                        raise Unavailable("the copy was broken off: the client has left")
                    if sending.done() and (error := sending.exception()) is not None:
                        raise error
                require(answering.result())
            finally:
                for each in (sending, answering):
                    each.cancel()
                await asyncio.wait([sending, answering])
        return web.Response()

    async def _target(self, request: web.Request) -> tuple[Task, str]:
        path = request.query.get("path", "")
        if not path:
            raise InvalidArgument("bad parameter: path cannot be empty")
        here = self._api.control.local().node_id
        container = find_container(await self._api.read(request), request.match_info["id"], here=here)
        return running_task(container), path


async def read_tar(api: Api, request: web.Request, task: Task, path: str) -> web.StreamResponse:
    """The archive of what is at the path, with a header that says what that is."""
    opened = api.streams.open(task.node_id, "task.copy_out", _start(task, path))
    async with opened as stream, aclosing(_content(stream)) as content:
        beginning, member = await _beginning(content)
        headers = {"Content-Type": _TAR, PATH_STAT: _path_stat(member)}
        return await _send(api, request, headers, beginning=beginning, content=content)


async def _send(
    api: Api,
    request: web.Request,
    headers: dict[str, str],
    *,
    beginning: bytes,
    content: AsyncGenerator[bytes],
) -> web.StreamResponse:
    """A copy that breaks off shows as one: the answer ends without its end."""
    api.begin_stream()
    try:
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        try:
            await response.write(beginning)
            async for chunk in content:
                await response.write(chunk)
        except SwarmError:
            if request.transport is not None:
                request.transport.abort()
            return response
        await response.write_eof()
    finally:
        api.end_stream()
    return response


def _start(task: Task, path: str) -> bytes:
    return pb.TaskStart(task_id=task.id, path=path).SerializeToString()


async def _content(stream: NodeStream) -> AsyncGenerator[bytes]:
    while True:
        part = require(await stream.receive())
        if part.HasField("result"):
            return
        if part.HasField("data"):
            yield part.data.data


async def _send_body(request: web.Request, stream: NodeStream) -> None:
    async for chunk in request.content.iter_chunked(API_CHUNK_BYTES):
        await stream.send(pb.StreamPart(data=pb.StreamData(data=chunk)))
    await stream.send(pb.StreamPart(end_of_input=pb.StreamEndOfInput()))


async def _beginning(content: AsyncGenerator[bytes]) -> tuple[bytes, tarfile.TarInfo]:
    """As much of the archive as its first member's head takes, which may be several blocks."""
    beginning = b""
    async for chunk in content:
        beginning += chunk
        try:
            with tarfile.open(fileobj=io.BytesIO(beginning), mode="r|") as tar:
                if (member := tar.next()) is not None:
                    return beginning, member
        except tarfile.TarError:
            pass  # perhaps only cut off
        if len(beginning) > ARCHIVE_HEAD_BYTES_MAX:
            raise Unavailable("what the node sent is no archive")
    raise Unavailable("the node sent an archive without anything in it")


def _path_stat(member: tarfile.TarInfo) -> str:
    """Docker's header: base64 of JSON, with Go's bits for the mode."""
    kinds = {
        tarfile.DIRTYPE: stat.S_IFDIR,
        tarfile.SYMTYPE: stat.S_IFLNK,
        tarfile.FIFOTYPE: stat.S_IFIFO,
        tarfile.CHRTYPE: stat.S_IFCHR,
        tarfile.BLKTYPE: stat.S_IFBLK,
    }
    mode = member.mode | kinds.get(member.type, stat.S_IFREG)
    go_mode = stat.S_IMODE(mode) & 0o777
    go_mode |= next((bits for is_kind, bits in _GO_MODES if is_kind(mode)), 0)
    go_mode |= sum(bits for bit, bits in _GO_BITS if mode & bit)
    shape: Json = {
        "name": posixpath.basename(member.name),
        "size": member.size,
        "mode": go_mode,
        "mtime": rfc3339(Timestamp(int(member.mtime * SECOND_NS))),
        "linkTarget": member.linkname,
    }
    return base64.b64encode(encode(shape)).decode()
