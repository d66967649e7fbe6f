"""Errors as the Engine passes them on from its managers: with the gRPC code in the text. Clients match it."""

from __future__ import annotations

from swarmpy.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unimplemented


def invalid(reason: object) -> InvalidArgument:
    return InvalidArgument(f"rpc error: code = InvalidArgument desc = {reason}")


def precondition(reason: object) -> FailedPrecondition:
    return FailedPrecondition(f"rpc error: code = FailedPrecondition desc = {reason}")


def unimplemented(reason: object) -> Unimplemented:
    return Unimplemented(f"rpc error: code = Unimplemented desc = {reason}")


def not_found(reason: object) -> NotFound:
    return NotFound(f"rpc error: code = NotFound desc = {reason}")


def exists(reason: object) -> AlreadyExists:
    return AlreadyExists(f"rpc error: code = AlreadyExists desc = {reason}")


def file_taken(kind: str, name: str) -> AlreadyExists:
    """Of secrets and configs docker says less."""
    return exists(f"{kind} {name} already exists")


def name_taken(kind: str, name: str) -> AlreadyExists:
    return exists(f"name conflicts with an existing object: {kind} {name} already exists")
