"""The journal: what the agent must still know after it was killed.

It keeps assigned tasks, their last statuses, the revisions that they need, what is known of networks and the
managers' addresses, in one sqlite file; never secrets or configs of users, but the keys of encrypted
networks, since tasks go on talking while no manager can be reached. Each round of the core is one
transaction.

The journal is in WAL mode: a commit is a write without a sync. A killed daemon loses nothing, since the
kernel has the pages. A power cut may lose the last commits. That ends every task as well, but one whose
process was started must not be started again, so the round that is about to start processes is synced first,
and with it all before. Syncing the others too would only slow everything down.

sqlite does not notice a flipped bit in a row, so each row has a checksum. A damaged journal is put aside:
running tasks are then found by the executor and adopted with the first assignments, as if their node had
been given to another agent. A disk that is full or fails is no damage: the journal stays as it is, and the
agent does not start without it.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import structlog

from agent.events import (
    NEVER,
    DropDiscovery,
    DropRevision,
    DropTask,
    Record,
    SaveDiscovery,
    SaveRevision,
    SaveStatus,
    SaveStopAfter,
    SaveTask,
    StoredTask,
)
from swarmpy import codec
from swarmpy.errors import Corrupt, DiskFailed, SwarmError, Unavailable
from swarmpy.limits import JOURNAL_CHECKPOINT_COMMITS, JOURNAL_LOCK_TIMEOUT_S, RETRY_DELAY_MAX_S
from swarmpy.model.discovery import (
    RECORD_KINDS,
    DiscoveryRecord,
    NetworkEndpoint,
    NetworkService,
    NetworkSettings,
    NodePeer,
)
from swarmpy.model.ids import Duration
from swarmpy.model.objects import Network, Revision, Task, TaskStatus
from swarmpy.model.specs import Healthcheck
from swarmpy.model.states import TaskState

log = structlog.get_logger(__name__)

JOURNAL_NAME = "agent.db"

_CRC_BYTES = 4
_STOP_AFTER = "stop_after"

IN_MEMORY = Path(":memory:")
"""A journal without a file, for simulation: there it outlives the agent as an object."""

SCHEMA_VERSION = 2
"""From 2 on every row has a checksum."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS task (
    id TEXT PRIMARY KEY, task BLOB NOT NULL, is_released INTEGER NOT NULL,
    stop_signal INTEGER NOT NULL, status BLOB NOT NULL DEFAULT x''
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS image_check (id TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS revision (id TEXT PRIMARY KEY, revision BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS discovery (
    kind TEXT NOT NULL, id TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (kind, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS manager (position INTEGER PRIMARY KEY, addr TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
"""

_DISK_TROUBLE = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_NOMEM,
    }
)
"""What a disk may do to a file in which nothing is wrong."""


_NETWORK_KIND = "network"
_DISCOVERY: dict[str, type[Network | NetworkSettings | NodePeer | NetworkService | NetworkEndpoint]] = {
    _NETWORK_KIND: Network,
    **{kind.value: type_ for type_, kind in RECORD_KINDS.items()},
}


@dataclass(frozen=True, slots=True)
class Content:
    """All that a journal holds."""

    tasks: tuple[StoredTask, ...] = ()
    revisions: tuple[Revision, ...] = ()
    networks: tuple[Network, ...] = ()
    discovery: tuple[DiscoveryRecord, ...] = ()
    managers: tuple[str, ...] = ()
    stop_after: Duration = NEVER


class Journal:
    """One agent's journal. Used from one thread; only ``checkpoint`` may run in another."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._commits = 0
        self._is_synced: bool | None = None
        """What the connection was told of commits; None: nothing."""
        if path != IN_MEMORY:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _failing(path):
            try:
                self._connection = _open(path)
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # its names may be damaged too
                self._put_aside(error)
                self._connection = _open(path)

    def load(self) -> Content:
        """Everything; nothing if the file turns out to be damaged. DiskFailed if it can't be read."""
        with _failing(self.path):
            try:
                return self._read()
            except (sqlite3.DatabaseError, SwarmError, ValueError) as error:
                self._put_aside(error)
                self._connection.close()
                self._connection, self._is_synced = _open(self.path), None
                return Content()

    def _read(self) -> Content:
        (verdict,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise Corrupt(verdict)
        rows = self._connection.execute(
            "SELECT id, task, is_released, stop_signal, status FROM task ORDER BY id"
        ).fetchall()
        checks = {
            id_: codec.decode(Healthcheck, _opened(data, id_))
            for id_, data in self._connection.execute("SELECT id, data FROM image_check")
        }
        tasks = tuple(
            StoredTask(
                task=codec.decode(Task, _opened(task, id_, is_released, stop_signal)),
                status=codec.decode(TaskStatus, _opened(status, id_) if status else b""),
                is_released=bool(is_released),
                stop_signal=stop_signal,
                image_check=checks.get(id_),
            )
            for id_, task, is_released, stop_signal, status in rows
        )
        revisions = tuple(
            codec.decode(Revision, _opened(data, id_))
            for id_, data in self._connection.execute("SELECT id, revision FROM revision ORDER BY id")
        )
        held = [
            codec.decode(_DISCOVERY[kind], _opened(data, id_, kind))
            for kind, id_, data in self._connection.execute(
                "SELECT kind, id, data FROM discovery ORDER BY kind, id"
            )
            if kind in _DISCOVERY  # else of a newer version, which this one was put in place of
        ]
        addresses = self._connection.execute("SELECT addr FROM manager ORDER BY position")
        settings = {
            name: _opened(data, name)
            for name, data in self._connection.execute("SELECT name, data FROM setting ORDER BY name")
        }
        return Content(
            tasks=tasks,
            revisions=revisions,
            networks=tuple(each for each in held if isinstance(each, Network)),
            discovery=tuple(each for each in held if not isinstance(each, Network)),
            managers=tuple(addr for (addr,) in addresses),
            stop_after=Duration(int(settings.get(_STOP_AFTER, b"0"))),
        )

    def commit(self, records: Iterable[Record]) -> None:
        """Make the records outlive the daemon, all or none. Unavailable if the disk takes nothing now."""
        kept = tuple(records)
        with self._transaction(is_synced=must_outlive_power(kept)) as connection:
            for record in kept:
                _write(connection, record)

    def save_managers(self, addresses: Sequence[str]) -> None:
        """Remember where managers are, best first."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM manager")
            connection.executemany("INSERT INTO manager (position, addr) VALUES (?, ?)", enumerate(addresses))

    def claim_checkpoint(self) -> bool:
        """Whether the write-ahead file has grown enough to be folded in; says so once."""
        is_due = self._commits >= JOURNAL_CHECKPOINT_COMMITS and self.path != IN_MEMORY
        if is_due:
            self._commits = 0
        return is_due

    def checkpoint(self) -> None:
        """Fold the write-ahead file into the database. Blocks on the disk: call it in a thread."""
        try:
            with closing(sqlite3.connect(self.path, timeout=JOURNAL_LOCK_TIMEOUT_S)) as connection:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.OperationalError as error:
            log.warning("journal_checkpoint_failed", path=str(self.path), error=str(error))

    def close(self) -> None:
        """Let go of the file. A journal in memory stays: it is all there is."""
        if self.path != IN_MEMORY:
            self._connection.close()

    def destroy(self) -> None:
        """Close it and forget everything."""
        if self.path == IN_MEMORY:
            with self._transaction() as connection:
                for table in ("task", "image_check", "revision", "discovery", "manager", "setting"):
                    connection.execute(f"DELETE FROM {table}")
            return
        self._connection.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    @contextmanager
    def _transaction(self, *, is_synced: bool = False) -> Iterator[sqlite3.Connection]:
        try:
            if is_synced is not self._is_synced:
                self._connection.execute(f"PRAGMA synchronous={'FULL' if is_synced else 'NORMAL'}")
                self._is_synced = is_synced
            with self._connection as connection:  # commits, or rolls back
                connection.execute("BEGIN IMMEDIATE")
                yield connection
        except sqlite3.OperationalError as error:
            raise Unavailable(
                f"the agent's journal {self.path} cannot be written: {error}; "
                "no task is started or removed until it can",
                delay_s=RETRY_DELAY_MAX_S,
            ) from error
        except sqlite3.DatabaseError as error:
            raise Corrupt(f"the agent's journal {self.path} is damaged: {error}") from error
        self._commits += 1

    def _put_aside(self, error: Exception) -> None:
        """Start over, if the file is what is wrong."""
        if _is_disk_trouble(error):
            raise error
        if self.path == IN_MEMORY:
            raise Corrupt(f"the agent's journal is damaged: {error}") from error
        aside = self.path.with_suffix(".damaged")
        log.error("journal_damaged", path=str(self.path), put_aside=str(aside), error=str(error))
        for suffix in ("-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        self.path.replace(aside)


def must_outlive_power(records: Iterable[Record]) -> bool:
    """Whether a task's process is started next: then its record must be on the disk before."""
    return any(
        isinstance(record, SaveStatus) and record.status.state is TaskState.STARTING for record in records
    )


@contextmanager
def _failing(path: Path) -> Iterator[None]:
    """Trouble with the disk, as the end of the agent that it is."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise DiskFailed(
            f"the agent's journal {path} cannot be opened: {error}; free or repair the disk, then start again"
        ) from error


def _is_disk_trouble(error: Exception) -> bool:
    # the upper bytes of sqlite's codes are details
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DISK_TROUBLE


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=JOURNAL_LOCK_TIMEOUT_S)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA wal_autocheckpoint=0")  # it would sync in the middle of a round
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise Corrupt(
                f"the agent's journal {path} was written by a newer version of SwarmPy: "
                "install that version, or remove the file"
            )
        connection.executescript(_SCHEMA)
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    except BaseException:
        connection.close()
        raise
    return connection


def _checked(data: bytes, *rest: object) -> bytes:
    """A row's data behind a checksum of the whole row. Enums count as the numbers that come back."""
    plain = repr([int(value) if isinstance(value, int) else value for value in rest])
    return zlib.crc32(plain.encode(), zlib.crc32(data)).to_bytes(_CRC_BYTES) + data


def _opened(checked: object, *rest: object) -> bytes:
    data = checked[_CRC_BYTES:] if isinstance(checked, bytes) else b""
    if checked != _checked(data, *rest):
        raise Corrupt(f"the row of {rest[0]!r} was changed")
    return data


def _discovery_key(value: Network | DiscoveryRecord) -> tuple[str, str]:
    if isinstance(value, Network):
        return _NETWORK_KIND, value.id
    return RECORD_KINDS[type(value)].value, value.record_id


def _write(connection: sqlite3.Connection, record: Record) -> None:
    match record:
        case SaveTask(task=task, is_released=is_released, stop_signal=stop_signal, image_check=check):
            if check is not None:
                connection.execute(
                    "INSERT OR REPLACE INTO image_check (id, data) VALUES (?, ?)",
                    (task.id, _checked(codec.encode(check), task.id)),
                )
            connection.execute(
                "INSERT INTO task (id, task, is_released, stop_signal) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET task = excluded.task, is_released = excluded.is_released, "
                "stop_signal = excluded.stop_signal",
                (
                    task.id,
                    _checked(codec.encode(task), task.id, int(is_released), stop_signal),
                    int(is_released),
                    stop_signal,
                ),
            )
        case SaveStatus(task_id=task_id, status=status):
            data = _checked(codec.encode(status), task_id)
            connection.execute("UPDATE task SET status = ? WHERE id = ?", (data, task_id))
        case DropTask(task_id=task_id):
            connection.execute("DELETE FROM task WHERE id = ?", (task_id,))
            connection.execute("DELETE FROM image_check WHERE id = ?", (task_id,))
        case SaveRevision(revision=revision):
            connection.execute(
                "INSERT OR REPLACE INTO revision (id, revision) VALUES (?, ?)",
                (revision.id, _checked(codec.encode(revision), revision.id)),
            )
        case DropRevision(revision_id=revision_id):
            connection.execute("DELETE FROM revision WHERE id = ?", (revision_id,))
        case SaveStopAfter(stop_after=stop_after):
            data = _checked(str(stop_after).encode(), _STOP_AFTER)
            connection.execute(
                "INSERT OR REPLACE INTO setting (name, data) VALUES (?, ?)", (_STOP_AFTER, data)
            )
        case SaveDiscovery(value=value):
            kind, id_ = _discovery_key(value)
            connection.execute(
                "INSERT OR REPLACE INTO discovery (kind, id, data) VALUES (?, ?, ?)",
                (kind, id_, _checked(codec.encode(value), id_, kind)),
            )
        case DropDiscovery(kind=dropped, id=id_):
            kind = dropped.value if dropped is not None else _NETWORK_KIND
            connection.execute("DELETE FROM discovery WHERE kind = ? AND id = ?", (kind, id_))
        case _:
            assert_never(record)
