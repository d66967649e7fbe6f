"""A refusal as the error that its caller gets: the same code, the same text as the Docker Engine gives."""

from __future__ import annotations

from swarmpy.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Rejected,
    Stale,
    Unimplemented,
)
from swarmpy.model.changes import Refusal

_BY_CODE: dict[str, type[Rejected]] = {
    type_.grpc_code: type_
    for type_ in (AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unimplemented)
}


def error_of(refusal: Refusal) -> Rejected:
    """What to raise towards the client whose change was refused. Other codes become ``Rejected``."""
    if refusal.is_stale and refusal.code not in _BY_CODE:
        return Stale()
    code = "".join(word.capitalize() for word in refusal.code.split("_"))
    text = f"rpc error: code = {code or 'Unknown'} desc = {refusal.reason}"
    return _BY_CODE.get(refusal.code, Rejected)(text)
