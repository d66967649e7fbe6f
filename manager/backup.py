"""The backup of a cluster: one stream of everything that its store held at one version.

A line of text, a head, slices of the store's snapshot, an end that counts and digests all of it; each record
has a checksum. With a passphrase the slices and the end are sealed, each with its number, so that none can be
changed, left out or moved unseen; the head, which says whose backup it is, stays readable.

It holds the root's key, join tokens and secrets: who can read it has the cluster. It holds no task's data,
and nothing of raft but the term. No I/O here: bytes in, bytes out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from manager.raft.records import Kind, length_at, pack, parse
from manager.raft.sealing import KEY_BYTES, AesGcmSealer, Sealer
from swarmpy.errors import Corrupt, FailedPrecondition, InvalidArgument
from swarmpy.limits import (
    BACKUP_PASSPHRASE_BYTES_MAX,
    BACKUP_PASSPHRASE_BYTES_MIN,
    BACKUP_SCRYPT_BYTES_MAX,
    STORE_RECORD_BYTES_MAX,
)
from swarmpy.model.ids import NodeId, Timestamp
from swarmpy.pb import store_pb2 as pb
from swarmpy.runtime import Entropy
from swarmpy.version import VERSION

if TYPE_CHECKING:
    from manager.store.store import Store

FIRST_LINE: Final = b"SwarmPy backup\n"
FORMAT: Final = 1
_SALT_BYTES: Final = 16
_SCRYPT_LOG2_N: Final = 15
_SCRYPT_R: Final = 8
_SCRYPT_P: Final = 1
_NUMBER_BYTES: Final = 8

_TORN: Final = "the backup is not complete: it ends early, at byte {}"


# --- passphrases


def new_sealing(entropy: Entropy) -> pb.BackupSealing:
    """Fresh parameters for the key of one backup."""
    return pb.BackupSealing(
        salt=entropy.token_bytes(_SALT_BYTES), log2_n=_SCRYPT_LOG2_N, r=_SCRYPT_R, p=_SCRYPT_P
    )


def make_sealer(passphrase: bytes, sealing: pb.BackupSealing, entropy: Entropy) -> Sealer:
    """Slow on purpose: some tenths of a second. InvalidArgument for a passphrase that is none."""
    if not BACKUP_PASSPHRASE_BYTES_MIN <= len(passphrase) <= BACKUP_PASSPHRASE_BYTES_MAX:
        raise InvalidArgument(
            f"a passphrase has {BACKUP_PASSPHRASE_BYTES_MIN} to {BACKUP_PASSPHRASE_BYTES_MAX} bytes, "
            f"not {len(passphrase)}"
        )
    memory = (128 * sealing.r) << min(sealing.log2_n, 64)
    if not (
        sealing.log2_n and sealing.r and 1 <= sealing.p <= _SCRYPT_P and memory <= BACKUP_SCRYPT_BYTES_MAX
    ):
        raise InvalidArgument("the backup is damaged: it asks for too much work to make its key")
    key = hashlib.scrypt(
        passphrase,
        salt=sealing.salt,
        n=1 << sealing.log2_n,
        r=sealing.r,
        p=sealing.p,
        maxmem=2 * BACKUP_SCRYPT_BYTES_MAX,
        dklen=KEY_BYTES,
    )
    return AesGcmSealer(key, entropy)


# --- writing


class Writer:
    """``begin``, any number of ``add``, ``finish``: what they return, in this order, is the backup."""

    def __init__(self, head: pb.BackupHead, sealer: Sealer | None = None) -> None:
        self._head, self._sealer = head, sealer
        self._digest = hashlib.sha256()
        self._slices = 0

    def begin(self) -> bytes:
        head = self._head.SerializeToString(deterministic=True)
        return self._counted(FIRST_LINE + pack(Kind.BACKUP_HEAD, head))

    def add(self, part: bytes) -> bytes:
        record = pack(Kind.BACKUP_SLICE, _seal(self._sealer, self._slices, part))
        self._slices += 1
        return self._counted(record)

    def finish(self) -> bytes:
        end = pb.BackupEnd(slices=self._slices, digest=self._digest.digest())
        return pack(Kind.BACKUP_END, _seal(self._sealer, self._slices, end.SerializeToString()))

    def _counted(self, data: bytes) -> bytes:
        self._digest.update(data)
        return data


def backup_of(store: Store, *, node_id: NodeId, now: Timestamp, term: int) -> Iterator[bytes]:
    """A backup of the store as it is now, piece by piece, whatever becomes of the store meanwhile."""
    cluster = store.cluster()
    if cluster is None:
        raise FailedPrecondition("this manager has not received anything of the swarm's state yet")
    head = pb.BackupHead(
        format=FORMAT,
        swarmpy_version=VERSION,
        cluster_id=cluster.id,
        node_id=node_id,
        taken_at=now,
        version=store.version,
        term=max(term, store.epoch),
    )
    return _written(Writer(head), store.encode(store.freeze()))


def _written(writer: Writer, slices: Iterator[bytes]) -> Iterator[bytes]:
    yield writer.begin()
    for part in slices:
        yield writer.add(part)
    yield writer.finish()


# --- reading


class Reader:
    """Takes a backup in, however it was cut into pieces; believes nothing of it that it has not checked.

    Every method raises ``InvalidArgument`` with a sentence that says what is wrong with the backup. Only
    after ``finish`` is it known to be whole.
    """

    def __init__(self) -> None:
        self.head: pb.BackupHead | None = None
        self.sealer: Sealer | None = None
        """To be set by whoever has the passphrase, once the head says that there is one."""
        self._rest = b""
        self._offset = 0
        self._digest = hashlib.sha256()
        self._slices = 0
        self._is_begun = self._is_ended = False

    def feed(self, data: bytes) -> list[bytes]:
        """The slices, in the clear, that are complete now."""
        self._rest += data
        if not self._is_begun and not self._begin():
            return []
        found: list[bytes] = []
        at = 0
        while not self._is_ended:
            if self.head is not None and self.head.HasField("sealing") and self.sealer is None:
                break  # nothing can be opened yet
            record = parse(self._rest, at)
            if record is None:
                self._check_incomplete(at)
                break
            raw = self._rest[at : record.end]
            at = record.end
            if record.kind != Kind.BACKUP_END:
                self._digest.update(raw)
            self._take(record.kind, record.payload, found)
            self._offset += len(raw)
        self._rest = self._rest[at:]
        if self._is_ended and self._rest:
            raise InvalidArgument(f"the backup goes on after its end, at byte {self._offset}")
        return found

    def finish(self) -> None:
        """The stream has ended: so must the backup."""
        if not self._is_begun and self._offset == 0 and not FIRST_LINE.startswith(self._rest):
            raise _foreign()
        if not self._is_ended:
            raise InvalidArgument(_TORN.format(self._offset + len(self._rest)))

    def _begin(self) -> bool:
        if len(self._rest) < len(FIRST_LINE):
            return False
        if not self._rest.startswith(FIRST_LINE):
            raise _foreign()
        self._rest = self._rest[len(FIRST_LINE) :]
        self._digest.update(FIRST_LINE)
        self._offset = len(FIRST_LINE)
        self._is_begun = True
        return True

    def _check_incomplete(self, at: int) -> None:
        """What does not parse is damage, unless more of it is to come."""
        try:
            length = length_at(self._rest, at)
        except ValueError:
            raise self._damaged() from None
        if length is not None and (length > STORE_RECORD_BYTES_MAX or at + length <= len(self._rest)):
            raise self._damaged()

    def _take(self, kind: int, payload: bytes, found: list[bytes]) -> None:
        match kind:
            case Kind.BACKUP_HEAD if self.head is None:
                self.head = self._read_head(payload)
            case Kind.BACKUP_SLICE if self.head is not None:
                found.append(self._opened(payload))
                self._slices += 1
            case Kind.BACKUP_END if self.head is not None:
                self._check_end(self._opened(payload))
                self._is_ended = True
            case _:
                raise self._damaged()

    def _read_head(self, payload: bytes) -> pb.BackupHead:
        try:
            head = pb.BackupHead.FromString(payload)
        except DecodeError as error:
            raise self._damaged() from error
        if head.format != FORMAT:
            raise InvalidArgument(
                f"the backup has format {head.format}, and this version of SwarmPy reads format {FORMAT}"
            )
        return head

    def _check_end(self, payload: bytes) -> None:
        try:
            end = pb.BackupEnd.FromString(payload)
        except DecodeError as error:
            raise self._damaged() from error
        if end.slices != self._slices or end.digest != self._digest.digest():
            raise InvalidArgument("the backup is damaged: parts of it are missing, changed or in disorder")

    def _opened(self, payload: bytes) -> bytes:
        if self.sealer is None:
            return payload
        try:
            opened = self.sealer.open(payload)
        except Corrupt as error:
            if self._slices == 0:
                raise InvalidArgument(
                    "the passphrase is not the one that the backup was sealed with"
                ) from error
            raise self._damaged() from error
        if int.from_bytes(opened[:_NUMBER_BYTES]) != self._slices:
            raise self._damaged()
        return opened[_NUMBER_BYTES:]

    def _damaged(self) -> InvalidArgument:
        return InvalidArgument(f"the backup is damaged at byte {self._offset}")


def _seal(sealer: Sealer | None, number: int, part: bytes) -> bytes:
    return part if sealer is None else sealer.seal(number.to_bytes(_NUMBER_BYTES) + part)


def _foreign() -> InvalidArgument:
    return InvalidArgument("this is no backup made by 'swarmpy backup'")
