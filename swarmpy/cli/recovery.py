"""``swarmpy backup``, ``restore`` and ``recover``.

A backup is sealed and opened here, not in the daemon: a passphrase never leaves this process. The file
appears whole or not at all, and readable by its owner alone. Before a restore sends anything the whole file
is checked.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from swarmpy.cli.flags import Command, Options, UsageError, switch, text
from swarmpy.cli.render import binary_size
from swarmpy.cli.session import Session, fail, tell
from swarmpy.cli.start import START_FLAGS, ensure_daemon
from swarmpy.client import Client, ErrorAnswer, Json
from swarmpy.errors import FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    from manager.backup import Reader, Writer
    from manager.raft.sealing import Sealer
    from swarmpy.pb.store_pb2 import BackupHead

_CHUNK_BYTES: Final = 1 << 20
_NS: Final = 1_000_000_000
_CLEAR: Final = (
    "WARNING: the file is not encrypted. It holds the root's key, the join tokens and every secret of the "
    "swarm:\nwho can read it has the swarm. Keep it where only root can, or give --passphrase-file."
)

_FORMER: Final = (
    "The former managers are refused when they return: 'swarmpy leave --force' on each, then join it anew;\n"
    "'swarmpy join-token manager' tells how."
)


# --- backup


def backup(session: Session, arguments: list[str], options: Options) -> int:
    target = Path(arguments[0])
    passphrase = _passphrase(options)
    with _pieces_from(session, options) as pieces:
        reader, size = _store(pieces, target, passphrase)
    head = reader.head
    assert head is not None
    print(
        f"Backup of swarm {head.cluster_id} at version {head.version}: {target} ({binary_size(size)}"
        f"{', sealed' if passphrase else ''})."
    )
    if not passphrase:
        tell(_CLEAR)
    return 0


@contextmanager
def _pieces_from(session: Session, options: Options) -> Iterator[Iterable[bytes]]:
    """The backup in the clear: from the daemon, or from the files of one that does not run."""
    if not options.is_set("data-dir"):
        with session.client.stream("/swarmpy/backup") as response:
            yield iter(lambda: response.read(_CHUNK_BYTES), b"")
        return
    from swarmpy.node.offline import read_backup

    folder = Path(options.text("data-dir")).absolute()
    with read_backup(folder, lambda: _unlock_key(options)) as pieces:
        yield pieces


def _store(pieces: Iterable[bytes], target: Path, passphrase: bytes) -> tuple[Reader, int]:
    """Write the backup beside its place, checked on the way, and move it there once it is durable."""
    from manager.backup import Reader

    reader = Reader()
    folder = target.absolute().parent
    with _said_of(target, "cannot be written"):
        number, name = tempfile.mkstemp(dir=folder, prefix=f".{target.name}.")
        try:
            with open(number, "wb") as file:
                for piece in _sealed(pieces, reader, passphrase) if passphrase else _checked(pieces, reader):
                    file.write(piece)
                reader.finish()
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
            os.replace(name, target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync_folder(folder)
    return reader, size


def _checked(pieces: Iterable[bytes], reader: Reader) -> Iterator[bytes]:
    for piece in pieces:
        reader.feed(piece)
        yield piece


def _sealed(pieces: Iterable[bytes], reader: Reader, passphrase: bytes) -> Iterator[bytes]:
    """The same backup, sealed slice by slice."""
    from manager.backup import Writer, make_sealer, new_sealing
    from swarmpy.runtime import SystemEntropy

    def sealing(head: BackupHead) -> Writer:
        entropy = SystemEntropy()
        head.sealing.CopyFrom(new_sealing(entropy))
        return Writer(head, make_sealer(passphrase, head.sealing, entropy))

    yield from _written_anew(pieces, reader, sealing)


def _written_anew(
    pieces: Iterable[bytes], reader: Reader, begin: Callable[[BackupHead], Writer]
) -> Iterator[bytes]:
    """What ``reader`` makes of the pieces, written by the writer that ``begin`` makes for a head."""
    writer: Writer | None = None
    for piece in pieces:
        slices = reader.feed(piece)
        if writer is None and reader.head is not None:
            head = type(reader.head)()
            head.CopyFrom(reader.head)
            writer = begin(head)
            yield writer.begin()
        for part in slices:
            assert writer is not None
            yield writer.add(part)
    reader.finish()
    assert writer is not None
    yield writer.finish()


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


# --- restore


def restore(session: Session, arguments: list[str], options: Options) -> int:
    source = Path(arguments[0])
    passphrase = _passphrase(options)
    with _said_of(source, "cannot be read"), open(source, "rb") as file:
        reader = _whole(file, source, passphrase)
        head = reader.head
        assert head is not None
        ensure_daemon(session, options)
        swarm = session.client.get("/info")["Swarm"]
        if swarm["LocalNodeState"] != "inactive":
            fail(
                "This node is already part of a swarm: a backup is restored on a node that is in none. "
                "Use 'swarmpy leave --force' first."
            )
            return 1
        file.seek(0)
        query = {
            "listenAddr": options.text("listen-addr"),
            "advertiseAddr": options.text("advertise-addr"),
            "availability": options.text("availability"),
        }
        given = {name: value for name, value in query.items() if value}
        with session.client.stream(
            "/swarmpy/restore", given, upload=_opened(file, reader.sealer)
        ) as response:
            node_id = json.loads(response.read())
    taken = datetime.fromtimestamp(head.taken_at / _NS, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    print(
        f"Swarm {head.cluster_id} restored as it was at {taken}: current node ({node_id}) is its manager.\n"
    )
    print("Workers come back by themselves if they reach this node at the address of a manager they knew;")
    print("'swarmpy leave' and 'swarmpy join' bring the others.")
    print(_FORMER)
    return 0


def _whole(file: IO[bytes], source: Path, passphrase: bytes) -> Reader:
    """Read all of the file once; InvalidArgument, naming it, unless it is an undamaged backup."""
    from manager.backup import Reader, make_sealer
    from swarmpy.runtime import SystemEntropy

    reader = Reader()
    try:
        for chunk in _chunks(file):
            reader.feed(chunk)
            if reader.head is not None and reader.head.HasField("sealing") and reader.sealer is None:
                if not passphrase:
                    raise InvalidArgument(
                        "the backup is sealed with a passphrase: name its file with --passphrase-file"
                    )
                reader.sealer = make_sealer(passphrase, reader.head.sealing, SystemEntropy())
                reader.feed(b"")
        reader.finish()
    except InvalidArgument as error:
        raise InvalidArgument(f"{source} cannot be restored: {error}") from error
    return reader


def _opened(file: IO[bytes], sealer: Sealer | None) -> Iterator[bytes]:
    """The file, which was checked before, in the clear."""
    from manager.backup import Reader, Writer

    def clear(head: BackupHead) -> Writer:
        head.ClearField("sealing")
        return Writer(head)

    reader = Reader()
    reader.sealer = sealer
    yield from _written_anew(_chunks(file), reader, clear)


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


# --- recover


def recover(session: Session, arguments: list[str], options: Options) -> int:
    is_forced = options.on("force")
    nodes = _nodes(session)
    if _has_quorum(nodes) and not is_forced:
        fail(
            "The managers of this swarm have a quorum: nothing has to be recovered. Use --force to drop "
            "all managers but this one nevertheless."
        )
        return 1
    if not is_forced and not options.on("yes"):
        print("\n".join(_consequences(nodes, session.client.get("/info")["Swarm"]["NodeID"])))
        if not _is_agreed():
            fail("Nothing was changed.")
            return 1
    request = {
        "Force": is_forced,
        "ListenAddr": options.text("listen-addr"),
        "AdvertiseAddr": options.text("advertise-addr"),
    }
    node_id = session.client.post("/swarmpy/recover", request)
    print(f"Swarm recovered: current node ({node_id}) is now its only manager.\n")
    print("The other managers were removed; workers come back by themselves.")
    print(_FORMER)
    return 0


def _nodes(session: Session) -> list[Json]:
    """The nodes as far as this manager knows them; none if it does not run."""
    try:
        found: list[Json] = Client(session.client.address, is_stale=True).get("/nodes")
    except ErrorAnswer:
        return []
    return found


def _has_quorum(nodes: list[Json]) -> bool:
    """Whether it seems so from here. The daemon makes sure."""
    managers = [node["ManagerStatus"] for node in nodes if node.get("ManagerStatus")]
    reachable = sum(status["Reachability"] == "reachable" for status in managers)
    return bool(managers) and reachable > len(managers) // 2


def _consequences(nodes: list[Json], own: str) -> list[str]:
    dropped = [node for node in nodes if node.get("ManagerStatus") and node["ID"] != own]
    names = [f"  {node['Description'].get('Hostname', '')} ({node['ID']})" for node in dropped]
    return [
        "WARNING! This makes this node the only manager of the swarm, from what it knows.",
        "",
        "  - What the others acknowledged and this manager has not received is lost.",
        "  - The other managers are removed from the swarm for good; their tasks are started elsewhere:",
        *(f"  {name}" for name in names or ["  (this manager does not run, so they cannot be named)"]),
        "  - Should they still run together, there would be two swarms: see to it that they do not.",
        "",
        "Services, secrets, configs, networks, workers and join tokens stay. Running tasks run on.",
        "",
    ]


def _is_agreed() -> bool:
    if not sys.stdin.isatty():
        raise UsageError("this asks for confirmation on a terminal: give --yes instead")
    return input("Are you sure you want to continue? [y/N] ").strip().lower() in ("y", "yes")


# --- common


def _passphrase(options: Options) -> bytes:
    """The first line of the file; empty if none is named."""
    if not options.is_set("passphrase-file"):
        return b""
    path = Path(options.text("passphrase-file"))
    found = _first_line(path)
    if not found:
        raise InvalidArgument(f"{path} holds no passphrase: its first line is empty")
    return found


def _unlock_key(options: Options) -> str:
    if not options.is_set("unlock-key-file"):
        raise UsageError("this manager is locked: give a file with its unlock key, --unlock-key-file")
    return _first_line(Path(options.text("unlock-key-file"))).decode(errors="replace").strip()


def _first_line(path: Path) -> bytes:
    with _said_of(path, "cannot be read"):
        return path.read_bytes().split(b"\n", 1)[0].rstrip(b"\r")


@contextmanager
def _said_of(path: Path, trouble: str) -> Iterator[None]:
    try:
        yield
    except (ConnectionError, TimeoutError):
        raise  # the daemon's, not the file's
    except OSError as error:
        raise FailedPrecondition(f"{path} {trouble}: {error.strerror or error}") from error


_PASSPHRASE = text("passphrase-file", "File whose first line is the passphrase that seals the backup")
_ADDRESSES = (
    text("advertise-addr", "Advertised address (<ip|interface>[:port])"),
    text("listen-addr", "Listen address (<ip|interface>[:port])"),
)

COMMANDS = {
    "backup": Command(
        backup,
        "Write everything that the swarm knows into a file",
        "FILE",
        1,
        1,
        (
            _PASSPHRASE,
            text("data-dir", "Read the files of a manager whose daemon does not run, in this folder"),
            text("unlock-key-file", "File whose first line unlocks the manager, with --data-dir"),
        ),
    ),
    "restore": Command(
        restore,
        "Make this node the only manager of the swarm that a backup is of",
        "FILE",
        1,
        1,
        (
            *_ADDRESSES,
            *START_FLAGS,
            _PASSPHRASE,
            text("availability", "Availability of the node (active, pause, drain)"),
        ),
    ),
    "recover": Command(
        recover,
        "Make this manager the only one of a swarm that has lost its quorum for good",
        flags=(
            *_ADDRESSES,
            switch("yes", "Do not ask for confirmation", short="y"),
            switch("force", "Do not ask, and do it also while the managers have a quorum", short="f"),
        ),
    ),
}
