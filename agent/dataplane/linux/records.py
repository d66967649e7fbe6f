"""What was given to each task, on disk: a folder per task with a record and the files for its /etc.

The record is the last of a folder's files to be written, and none must outlive a boot. One that was cut off
in the middle does not read, and counts as none.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from ipaddress import IPv4Interface
from pathlib import Path

import msgspec

from agent.dataplane.base import Endpoint
from agent.dataplane.linux import plan
from agent.trees import make_private
from swarmpy.model.ids import TaskId

_RECORD = "endpoint.json"
_RESOLVER_FILES = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
_HOSTS_FILE = Path("/etc/hosts")


class EndpointRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``address``: on the node's bridge, with prefix; empty for a task that has no leg there."""

    endpoint: Endpoint
    address: str = ""

    @property
    def interface(self) -> IPv4Interface | None:
        return IPv4Interface(self.address) if self.address else None

    @property
    def addresses(self) -> tuple[str, ...]:
        """All of the task's, with prefix: in its networks first."""
        found = [address for leg in self.endpoint.legs for address in leg.addresses]
        return (*found, self.address) if self.address else tuple(found)


class Records:
    """The folder of all records. Not for two threads at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def prepare(self) -> None:
        make_private(self._folder)

    def write(self, record: EndpointRecord) -> None:
        """The files first and in place, since a running task has them mounted; the record as the seal."""
        endpoint = record.endpoint
        folder = self._folder / endpoint.task_id
        folder.mkdir(mode=0o755, exist_ok=True)
        _write(self.hosts(endpoint.task_id), _hosts(record))
        _write(self.resolv_conf(endpoint.task_id), plan.resolv_conf(endpoint, _resolver_texts()))
        _write(folder / _RECORD, msgspec.json.encode(record).decode())

    def read(self) -> dict[TaskId, EndpointRecord]:
        """All that read; folders of others go."""
        found: dict[TaskId, EndpointRecord] = {}
        for folder in sorted(self._folder.iterdir()):
            try:
                record = msgspec.json.decode((folder / _RECORD).read_bytes(), type=EndpointRecord)
            except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
                shutil.rmtree(folder, ignore_errors=True)
                continue
            found[record.endpoint.task_id] = record
        return found

    def remove(self, task_id: TaskId) -> None:
        shutil.rmtree(self._folder / task_id, ignore_errors=True)

    def destroy(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def hosts(self, task_id: TaskId) -> Path:
        return self._folder / task_id / "hosts"

    def resolv_conf(self, task_id: TaskId) -> Path:
        return self._folder / task_id / "resolv.conf"


def _hosts(record: EndpointRecord) -> str:
    endpoint = record.endpoint
    if endpoint.mode == plan.HOST_MODE:
        return plan.host_mode_hosts_file(endpoint, _text(_HOSTS_FILE))
    own = [address for leg in endpoint.legs for address in leg.addresses]
    return plan.hosts_file(endpoint, own or list(record.addresses))


def _resolver_texts() -> list[str]:
    return [text for text in map(_text, _RESOLVER_FILES) if text]


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")
    return ""


def _write(path: Path, text: str) -> None:
    """In place, by one call: fast, and the file stays the one that is mounted."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
