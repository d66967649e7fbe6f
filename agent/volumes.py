"""``Volumes``: the named local volumes of this node.

On disk: ``<folder>/<name>/_data`` is what tasks see, ``<folder>/<name>/volume.json`` what its creator said.
Both appear together, by renaming; names that begin with a dot are unfinished or half removed, and cleared at
start. A folder without a record is a volume of an older daemon: it counts, with nothing said of it.

A volume belongs to the node and outlives its tasks. Driver options (``type``, ``device``, ``o``) are kept
here and carried out by who runs a task, in that task's own mount namespace.

All functions but ``snapshot`` block: call them in a thread. Several instances and processes may work on one
folder: a file lock keeps removal apart from tasks that are being made (``held``).
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import structlog

from agent.file_lock import holding
from agent.trees import files_below, make_private, remove_tree
from swarmpy.errors import AlreadyExists, InvalidArgument, NotFound, Unavailable
from swarmpy.limits import VOLUME_RECORD_BYTES_MAX, VOLUMES_REPORTED_BYTES_MAX, VOLUMES_REPORTED_MAX
from swarmpy.model.ids import SECOND_NS, Timestamp
from swarmpy.model.objects import NodeVolume
from swarmpy.model.volumes import ANONYMOUS_LABEL, VolumeRequest

log = structlog.get_logger(__name__)

LOCAL: Final = "local"
DATA: Final = "_data"

_RECORD: Final = "volume.json"
_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")
_NAME_CHARS_MAX: Final = 255
_OPTIONS: Final = {"type": ("device",), "device": ("type",), "o": ("device", "type")}
"""The local driver's options, and what each needs beside it."""
_ANONYMOUS_BYTES: Final = 32

Users = Callable[[], Mapping[str, tuple[str, ...]]]
"""Which tasks on this node use which volume."""


class Pruned(NamedTuple):
    names: tuple[str, ...]
    size_bytes: int


class Volumes:
    def __init__(self, folder: Path, users: Users, now: Callable[[], Timestamp]) -> None:
        self._folder = folder
        self._users = users
        self._now = now
        self._seen = (0, 0)
        self._told: tuple[NodeVolume, ...] = ()
        self._known: dict[str, tuple[tuple[int, int], NodeVolume]] = {}
        """What was read, and of which folder: nothing of a volume changes while that is the same."""

    def prepare(self) -> None:
        """Make the folder; clear what a crash left unfinished."""
        make_private(self._folder)
        try:
            with self._locked(fcntl.LOCK_EX | fcntl.LOCK_NB):
                for entry in os.scandir(self._folder):
                    if entry.name.startswith(".") and entry.is_dir():
                        _clear(entry.path)
        except BlockingIOError:
            pass  # somebody is at work in it right now: what lies there is not rubbish
        self.snapshot()  # so that the first look from the event loop is not the one that reads them all

    # --- asking

    def list(self) -> tuple[NodeVolume, ...]:
        """All of them, by name."""
        try:
            names = sorted(entry.name for entry in os.scandir(self._folder) if entry.is_dir())
        except FileNotFoundError:
            return ()
        return tuple(self._read(name) for name in names if not name.startswith("."))

    def inspect(self, name: str) -> NodeVolume:
        if not is_name(name) or not (self._folder / name).is_dir():
            raise NotFound(f"get {name}: no such volume")
        return self._read(name)

    def measure(self, name: str) -> int:
        """Bytes of its files now; of one that has gone, none."""
        return _size(self._folder / name)

    def users(self) -> Mapping[str, tuple[str, ...]]:
        return self._users()

    def snapshot(self) -> tuple[NodeVolume, ...]:
        """The volumes as the node tells the managers of them: so many at most, and read only after a change.

        Cheap enough for the event loop: one look at the folder, and new volumes are read.
        """
        try:
            found = self._folder.stat()
            state = (found.st_mtime_ns, found.st_nlink)
            if state != self._seen:
                told = self._look()
                self._told = self._told if told == self._told else told
                # two changes within one tick of the file system's clock look alike: then the next look counts
                is_settled = found.st_mtime_ns < self._now() - SECOND_NS
                self._seen = state if is_settled else (0, 0)
        except OSError:
            return self._told
        return self._told

    def _look(self) -> tuple[NodeVolume, ...]:
        with os.scandir(self._folder) as entries:
            folders = sorted(
                (entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")),
                key=lambda entry: entry.name,
            )
        known: dict[str, tuple[tuple[int, int], NodeVolume]] = {}
        for entry in folders[:VOLUMES_REPORTED_MAX]:
            found = entry.stat()
            mark = (found.st_ino, found.st_ctime_ns)
            former = self._known.get(entry.name)
            known[entry.name] = (
                former if former is not None and former[0] == mark else (mark, self._read(entry.name))
            )
        self._known = known
        return _bounded(tuple(volume for _, volume in known.values()))

    # --- changing

    def create(self, request: VolumeRequest) -> NodeVolume:
        """The volume of that name; one that is there already stays as it is, as docker has it."""
        name = request.name
        labels = request.labels
        if not name:
            name = secrets.token_hex(_ANONYMOUS_BYTES)
            labels = {ANONYMOUS_LABEL: "", **labels}
        check_name(name)
        _check_made(name, request)
        with self._locked(fcntl.LOCK_EX):
            return self._ensure(name, labels=labels, options=request.driver_opts)

    @contextmanager
    def held(self, wanted: tuple[VolumeRequest, ...]) -> Iterator[dict[str, NodeVolume]]:
        """The named volumes, made where they are missing; none of them is removed meanwhile."""
        for request in wanted:
            check_name(request.name)
            check_driver(request.driver, request.driver_opts)
        with self._locked(fcntl.LOCK_SH):
            yield {
                request.name: self._ensure(request.name, labels=request.labels, options=request.driver_opts)
                for request in wanted
            }

    def remove(self, name: str, *, is_forced: bool = False) -> None:
        """AlreadyExists (a conflict) while a task on this node uses it; forced: fine if it is not there."""
        with self._locked(fcntl.LOCK_EX):
            try:
                self.inspect(name)
            except NotFound:
                if is_forced:
                    return
                raise
            if users := self._users().get(name):
                raise AlreadyExists(f"remove {name}: volume is in use - [{', '.join(users)}]")
            aside = self._set_aside(name)
        self._delete(aside)

    def prune(
        self, *, is_all: bool = False, is_wanted: Callable[[NodeVolume], bool] = lambda _: True
    ) -> Pruned:
        """Remove what no task uses: the nameless ones, or all."""
        gone: list[tuple[str, Path]] = []
        with self._locked(fcntl.LOCK_EX):
            users = self._users()
            for volume in self.list():
                is_fitting = is_all or ANONYMOUS_LABEL in volume.labels
                if volume.name not in users and is_fitting and is_wanted(volume):
                    gone.append((volume.name, self._set_aside(volume.name)))
        size = 0
        for _, aside in gone:
            size += _size(aside)
            self._delete(aside)
        return Pruned(tuple(name for name, _ in gone), size)

    # --- inside

    def _ensure(self, name: str, *, labels: Mapping[str, str], options: Mapping[str, str]) -> NodeVolume:
        place = self._folder / name
        if place.is_dir():
            (place / DATA).mkdir(mode=0o755, exist_ok=True)
            return self._read(name)
        volume = NodeVolume(
            name=name,
            driver=LOCAL,
            labels=dict(labels),
            options=dict(options),
            created_at=self._now(),
            mountpoint=str(place / DATA),
        )
        record = msgspec.json.encode(volume)
        if len(record) > VOLUME_RECORD_BYTES_MAX:
            raise InvalidArgument(
                f"create {name}: labels and options take {len(record)} bytes, at most "
                f"{VOLUME_RECORD_BYTES_MAX} are allowed"
            )
        try:
            self._install(place, record)
        except OSError as error:
            raise Unavailable(f"cannot create the volume {name}: {error.strerror or error}") from None
        return volume

    def _install(self, place: Path, record: bytes) -> None:
        new = self._folder / f".{secrets.token_hex(8)}"
        (new / DATA).mkdir(mode=0o755, parents=True)
        new.chmod(0o711)
        with open(new / _RECORD, "wb") as file:
            file.write(record)
            file.flush()
            os.fsync(file.fileno())
        _sync(new)
        try:
            os.rename(new, place)
        except OSError:
            remove_tree(new)
            if not place.is_dir():  # else another task wanted it at the same moment
                raise
        _sync(self._folder)

    def _read(self, name: str) -> NodeVolume:
        place = self._folder / name
        try:
            return msgspec.json.decode((place / _RECORD).read_bytes(), type=NodeVolume)
        except (OSError, msgspec.DecodeError):
            pass
        try:
            made_at = place.stat().st_mtime_ns
        except OSError:
            made_at = 0
        return NodeVolume(
            name=name, driver=LOCAL, created_at=Timestamp(made_at), mountpoint=str(place / DATA)
        )

    def _set_aside(self, name: str) -> Path:
        aside = self._folder / f".{secrets.token_hex(8)}"
        os.rename(self._folder / name, aside)
        _sync(self._folder)
        return aside

    def _delete(self, aside: Path) -> None:
        try:
            remove_tree(aside)
        except OSError as error:
            raise Unavailable(
                f"the volume is gone, but its data in {aside} could not be deleted: {error.strerror or error}"
            ) from None

    def _locked(self, kind: int) -> AbstractContextManager[None]:
        return holding(self._folder / ".lock", kind)


def is_name(name: str) -> bool:
    return len(name) <= _NAME_CHARS_MAX and _NAME.match(name) is not None


def check_name(name: str) -> None:
    """InvalidArgument, in docker's words."""
    if len(name) == 1:
        raise InvalidArgument(
            f"create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )
    if not is_name(name):
        raise InvalidArgument(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute '
            "path"
        )


def _check_made(name: str, request: VolumeRequest) -> None:
    """As docker says it of a volume that a client makes."""
    if request.driver not in ("", LOCAL):
        raise NotFound(
            f"create {name}: error looking up volume plugin {request.driver}: "
            f'plugin "{request.driver}" not found'
        )
    try:
        check_driver(request.driver, request.driver_opts)
    except InvalidArgument as error:
        raise InvalidArgument(f"create {name}: {error}") from None


def check_driver(driver: str, options: Mapping[str, str]) -> None:
    if driver not in ("", LOCAL):
        raise NotFound(f'volume driver "{driver}" is not on this node: only "{LOCAL}" is')
    for name, value in options.items():
        if name not in _OPTIONS:
            raise InvalidArgument(f'invalid option: "{name}"')
        for other in _OPTIONS[name] if value else ():
            if not options.get(other):
                raise InvalidArgument(f'missing required option: "{other}"')


def _bounded(volumes: tuple[NodeVolume, ...]) -> tuple[NodeVolume, ...]:
    """As many as fit in what a node says of itself."""
    size = 0
    for number, volume in enumerate(volumes[:VOLUMES_REPORTED_MAX]):
        size += len(msgspec.json.encode(volume))
        if size > VOLUMES_REPORTED_BYTES_MAX:
            return volumes[:number]
    return volumes[:VOLUMES_REPORTED_MAX]


def _size(folder: Path) -> int:
    return sum(found.st_size for found in files_below(folder / DATA))


def _clear(path: str) -> None:
    """What cannot be deleted (a file that is pinned, a failing disk) must not keep the node from starting."""
    try:
        remove_tree(Path(path))
    except OSError as error:
        log.warning("volume_remains", path=path, error=str(error))


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
