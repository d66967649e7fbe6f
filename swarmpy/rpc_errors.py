"""Errors across the port between nodes: a ``SwarmError`` as a gRPC status, and back.

What a servicer raises comes out at the caller as the same class with the same words. What gRPC itself reports
becomes the family that says what to do: a peer that went away leaves the outcome unknown, one that was never
reached does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, cast

import grpc
import grpc.aio

from swarmpy import errors, limits
from swarmpy.errors import SwarmError

_ERROR_KEY = "swarmpy-error"
_DELAY_KEY = "swarmpy-delay-ms"
_LEADER_KEY = "swarmpy-leader"

_RETRIES: dict[str, type[errors.Retry]] = {
    cls.__name__: cls
    for cls in (errors.Retry, errors.Unavailable, errors.NoLeader, errors.OutcomeUnknown, errors.NotLeader)
}
_CLASSES: dict[str, type[SwarmError]] = {
    cls.__name__: cls
    for cls in (
        errors.Rejected,
        errors.InvalidArgument,
        errors.FailedPrecondition,
        errors.NotFound,
        errors.AlreadyExists,
        errors.Conflict,
        errors.PermissionDenied,
        errors.NodeRemoved,
        errors.Unauthenticated,
        errors.CertificateRetired,
        errors.Unimplemented,
        errors.Stale,
        errors.NotInSwarm,
    )
}
_BY_CODE: dict[grpc.StatusCode, type[SwarmError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidArgument,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Rejected,
    grpc.StatusCode.FAILED_PRECONDITION: errors.FailedPrecondition,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.AlreadyExists,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.UNIMPLEMENTED: errors.Unimplemented,
    # The peer went away, or was too slow: whether it has done what it was asked nobody knows.
    grpc.StatusCode.UNAVAILABLE: errors.OutcomeUnknown,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.OutcomeUnknown,
    grpc.StatusCode.CANCELLED: errors.OutcomeUnknown,
}
_NEVER_SENT = "failed to connect to all addresses"
_WRITE_AFTER_END = "Internal error from Core"
"""What grpc.aio makes of a write that meets the end of its call before the call's status has arrived."""


def error_named(name: str, text: str) -> SwarmError:
    """The error of this class, as other nodes name it in messages of their own."""
    return (_RETRIES.get(name) or _CLASSES.get(name) or SwarmError)(text)


async def abort_with(context: Any, error: SwarmError) -> NoReturn:
    """End the call with the error's status. Servicers may just raise; the interceptor calls this."""
    metadata = [(_ERROR_KEY, type(error).__name__)]
    if isinstance(error, errors.Retry):
        metadata.append((_DELAY_KEY, str(round(error.delay_s * 1000))))
    if isinstance(error, errors.NotLeader) and error.leader:
        metadata.append((_LEADER_KEY, error.leader))
    text = str(error)[: limits.RPC_ERROR_CHARS_MAX]
    answer = cast("grpc.aio.ServicerContext[object, object]", context)
    await answer.abort(grpc.StatusCode[error.grpc_code], text, tuple(metadata))


def error_from_rpc(error: grpc.aio.AioRpcError) -> SwarmError:
    """The error that a failed call stands for: the servicer's own, or what a failed transport means."""
    text = error.details() or error.code().name
    metadata = dict(error.trailing_metadata() or ())
    name = str(metadata.get(_ERROR_KEY, ""))
    if name in _RETRIES:
        return _retry_from(_RETRIES[name], text, metadata)
    if name in _CLASSES:
        return _CLASSES[name](text)
    if error.code() is grpc.StatusCode.UNAVAILABLE and text.startswith(_NEVER_SENT):
        return errors.Unavailable(f"the peer cannot be reached: {text}")
    if text == _WRITE_AFTER_END:
        return errors.OutcomeUnknown("the peer ended the call while we were writing")
    return _BY_CODE.get(error.code(), SwarmError)(text)


def _retry_from(kind: type[errors.Retry], text: str, metadata: Mapping[str, object]) -> errors.Retry:
    if issubclass(kind, errors.NotLeader):
        leader = metadata.get(_LEADER_KEY)
        made: errors.Retry = kind(text, leader=str(leader) if leader else None)
    else:
        made = kind(text)
    delay = str(metadata.get(_DELAY_KEY, ""))
    if delay.isdecimal():
        made.delay_s = min(int(delay) / 1000, limits.RETRY_DELAY_MAX_S)
    return made


@contextmanager
def translate_errors() -> Iterator[None]:
    """Around calls and streams: failures of gRPC come out as ``SwarmError``."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error) from error
    except grpc.aio.UsageError as error:
        # A call on a channel that was closed meanwhile.
        raise errors.Unavailable(f"the connection was closed: {error}") from error
