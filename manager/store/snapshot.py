"""The store's snapshot: everything that is replicated, as a stream of length-delimited records.

Equal state gives equal bytes on every manager: tables in the order of ``Kind``, objects in the order in which
they were created, map entries sorted. Loading gives the same tables in the same order, or ``Corrupt``; it
never gives a part of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from google.protobuf.message import DecodeError

from manager.store.tables import Tables
from swarmpy import codec
from swarmpy.errors import Corrupt, InvalidArgument
from swarmpy.limits import STORE_RECORD_BYTES_MAX, STORE_SLICE_BYTES
from swarmpy.model.changes import Applied
from swarmpy.model.objects import KINDS, Kind, Object
from swarmpy.pb import store_pb2

FORMAT = 1
_LENGTH_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """A picture of the tables that later changes leave alone: objects are values, so lists of them do."""

    version: int
    epoch: int
    requests: tuple[tuple[str, Applied], ...]
    tables: tuple[list[Object], ...]


def freeze(tables: Tables) -> Frozen:
    return Frozen(
        version=tables.version,
        epoch=tables.epoch,
        requests=tuple(tables.requests.items()),
        tables=tuple(list(tables.all(kind)) for kind in Kind),
    )


def encode(frozen: Frozen) -> Iterator[bytes]:
    """The picture in slices of about ``STORE_SLICE_BYTES``; may run in a thread."""
    slice_ = bytearray(_frame(_head(frozen)))
    for object_ in chain.from_iterable(frozen.tables):
        slice_ += _frame(codec.dump_object(object_))
        if len(slice_) >= STORE_SLICE_BYTES:
            yield bytes(slice_)
            slice_.clear()
    if slice_:
        yield bytes(slice_)


def load(chunks: Iterable[bytes]) -> Tables:
    """The tables that ``encode`` wrote, however the stream was cut since; ``Corrupt`` if it is damaged."""
    records = _records(chunks)
    try:
        head = store_pb2.StoreHead.FromString(next(records, b""))
    except DecodeError as error:
        raise _corrupt("it has no head") from error
    if head.format != FORMAT:
        raise _corrupt(f"it has format {head.format}, and this version of SwarmPy reads format {FORMAT}")
    tables = Tables()
    tables.version = head.version
    tables.epoch = head.epoch
    count = 0
    try:
        for request in head.requests:
            tables.requests[request.request_id] = codec.from_pb(Applied, request.applied)
        for record in records:
            object_ = codec.load_object(record)
            kind = KINDS[type(object_)]
            if tables.get(kind, object_.id) is not None:
                raise _corrupt(f"it holds {kind} {object_.id} twice")
            tables.put(kind, object_)
            count += 1
    except InvalidArgument as error:
        raise _corrupt(str(error)) from error
    if count != head.objects:
        raise _corrupt(f"it holds {count} objects instead of {head.objects}")
    return tables


def _head(frozen: Frozen) -> bytes:
    head = store_pb2.StoreHead(
        format=FORMAT,
        version=frozen.version,
        epoch=frozen.epoch,
        objects=sum(len(table) for table in frozen.tables),
    )
    for request_id, applied in frozen.requests:
        codec.write_pb(applied, head.requests.add(request_id=request_id).applied)
    return head.SerializeToString(deterministic=True)


def _frame(record: bytes) -> bytes:
    return len(record).to_bytes(_LENGTH_BYTES) + record


def _records(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        at = 0
        while at + _LENGTH_BYTES <= len(data):
            start = at + _LENGTH_BYTES
            size = int.from_bytes(data[at:start])
            if size > STORE_RECORD_BYTES_MAX:
                raise _corrupt(f"a record of {size} bytes is impossible")
            if start + size > len(data):
                break
            at = start + size
            yield data[start:at]
        rest = data[at:]
    if rest:
        raise _corrupt("its end is missing")


def _corrupt(why: str) -> Corrupt:
    return Corrupt(f"the snapshot of the store is damaged: {why}")
