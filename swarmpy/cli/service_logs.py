"""``swarmpy service logs``: frames of the log stream as lines, each with the task that wrote it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Final
from urllib.parse import quote

from swarmpy.cli import values
from swarmpy.cli.flags import Command, Options, UsageError, switch, text
from swarmpy.cli.render import short_id
from swarmpy.cli.session import Session, tell
from swarmpy.cli.task_rows import slot_text
from swarmpy.client import Client, ErrorAnswer, Json

_HEADER_BYTES: Final = 8
_STDERR: Final = 2
_SYSTEM_ERROR: Final = 3
_MULTIPLEXED: Final = "application/vnd.docker.multiplexed-stream"
_PREFIX: Final = "com.docker.swarm."
_CHUNK_BYTES: Final = 1 << 16


def logs(session: Session, arguments: list[str], options: Options) -> int:
    """Of a service, or of a task if no service has that name."""
    name = arguments[0]
    query: dict[str, str | int | bool] = {
        "stdout": True,
        "stderr": True,
        "details": True,
        "follow": options.on("follow"),
        "timestamps": options.on("timestamps"),
        "tail": options.text("tail"),
    }
    if options.is_set("since"):
        query["since"] = _moment(options.text("since"))
    path, width = _path(session.client, name)
    labels = _Labels(session.client, options, width)
    with session.client.stream(path, query) as response:
        if response.getheader("Content-Type", "").split(";")[0] != _MULTIPLEXED:
            for chunk in iter(lambda: response.read1(_CHUNK_BYTES), b""):
                _write(sys.stdout.fileno(), chunk)
            return 0
        for stream, data in _frames(response):
            if stream == _SYSTEM_ERROR:
                tell(data.decode(errors="replace").rstrip("\n"))
                return 1
            out = sys.stderr if stream == _STDERR else sys.stdout
            out.write(labels.line(data.decode(errors="replace")))
            out.flush()
    return 0


def _path(client: Client, name: str) -> tuple[str, int]:
    """Where the log is, and how wide its tasks' labels get."""
    quoted = quote(name, safe="")
    try:
        service = client.get(f"/services/{quoted}")
    except ErrorAnswer as error:
        if "not found" not in str(error):
            raise
        try:
            client.get(f"/tasks/{quoted}")
        except ErrorAnswer as other:
            raise ErrorAnswer(f"no such task or service: {name}", other.status) from None
        return f"/tasks/{quoted}/logs", 0
    replicas = ((service["Spec"].get("Mode") or {}).get("Replicated") or {}).get("Replicas", 1)
    return f"/services/{quoted}/logs", len(str(replicas))


def _frames(response: HTTPResponse) -> Iterator[tuple[int, bytes]]:
    while len(header := response.read(_HEADER_BYTES)) == _HEADER_BYTES:
        data = response.read(int.from_bytes(header[4:]))
        yield header[0], data


class _Labels:
    """Names of tasks and nodes, asked for once each."""

    def __init__(self, client: Client, options: Options, width: int) -> None:
        self._client = client
        self._options = options
        self._width = width
        self._known: dict[tuple[str, str], str] = {}

    def line(self, text_: str) -> str:
        """The line behind its label, without the details that the label is made of."""
        stamp = ""
        if self._options.on("timestamps"):
            stamp, _, text_ = text_.partition(" ")
        details, _, rest = text_.partition(" ")
        if not details.startswith(_PREFIX):
            return f"{stamp} {text_}" if stamp else text_
        ids = dict(item.partition("=")[::2] for item in details.split(","))
        if not rest.endswith("\n"):
            rest += "\n"
        start = "" if self._options.on("raw") else f"{self._label(ids)} | "
        return f"{start}{stamp} {rest}" if stamp else start + rest

    def _label(self, ids: dict[str, str]) -> str:
        task_id, node_id = ids.get(f"{_PREFIX}task.id", ""), ids.get(f"{_PREFIX}node.id", "")
        key = (task_id, node_id)
        if key not in self._known:
            self._known[key] = self._make(task_id, node_id)
        return self._known[key]

    def _make(self, task_id: str, node_id: str) -> str:
        shown = short_id(task_id, is_whole=self._options.on("no-trunc"))
        if self._options.on("no-resolve"):
            return f"{shown}@{short_id(node_id, is_whole=self._options.on('no-trunc'))}"
        task: Json = self._get(f"/tasks/{task_id}")
        service = self._get(f"/services/{task.get('ServiceID', '-')}")
        slot = slot_text(task) or node_id
        name = f"{(service.get('Spec') or {}).get('Name', task.get('ServiceID', ''))}.{slot}"
        if not self._options.on("no-task-ids"):
            name += f".{shown}"
        host = (self._get(f"/nodes/{node_id}").get("Description") or {}).get("Hostname") or node_id
        return f"{name}@{host}" + " " * (3 + max(0, self._width - len(slot)))

    def _get(self, path: str) -> Json:
        try:
            found: Json = self._client.get(path)
        except ErrorAnswer:
            return {}
        return found


def _moment(given: str) -> str:
    """A timestamp as given, or a length of time before now."""
    try:
        before = values.duration_ns(given)
    except UsageError:
        return given
    return f"{(time.time_ns() - before) / 1e9:.9f}"


def _write(descriptor: int, chunk: bytes) -> None:
    while chunk:
        chunk = chunk[os.write(descriptor, chunk) :]


LOGS = Command(
    logs,
    "Fetch the logs of a service or task",
    "SERVICE|TASK",
    1,
    1,
    (
        switch("follow", "Follow log output", short="f"),
        switch("timestamps", "Show timestamps", short="t"),
        switch("no-resolve", "Do not map IDs to Names in output"),
        switch("no-task-ids", "Do not include task IDs in output"),
        switch("no-trunc", "Do not truncate output"),
        switch("raw", "Do not neatly format logs"),
        switch("details", "Accepted; there are no further details"),
        text("since", "Show logs since a timestamp or for a relative time (42m for 42 minutes)"),
        text("tail", "Number of lines to show from the end of the logs", short="n", default="all"),
    ),
)
