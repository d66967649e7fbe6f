"""The error families: each is named by what its caller should do.

* ``Rejected``: the request is at fault. Its subclasses map one to one to gRPC and HTTP codes.
* ``Retry``: nothing is wrong with the request; ask again after ``delay_s``.
* ``TaskRejected`` / ``TaskFailed``: one task cannot be run; before / after it was started.
* ``Corrupt``: this process must stop; the message names the file.

Foreign exceptions are translated into these in the one file that imports the foreign library.
"""

from __future__ import annotations

from typing import ClassVar


class SwarmError(Exception):
    """Base of everything that SwarmPy raises on purpose. ``str()`` is a sentence for the user."""

    http_status: ClassVar[int] = 500
    grpc_code: ClassVar[str] = "INTERNAL"


class Rejected(SwarmError):
    """The request is at fault; repeating it unchanged will fail again."""

    http_status = 400
    grpc_code = "INVALID_ARGUMENT"


class InvalidArgument(Rejected):
    """A value in the request does not parse or breaks a rule."""


class FailedPrecondition(Rejected):
    """The request is well formed but the cluster's present state forbids it."""

    grpc_code = "FAILED_PRECONDITION"


class NotFound(Rejected):
    http_status = 404
    grpc_code = "NOT_FOUND"


class AlreadyExists(Rejected):
    http_status = 409
    grpc_code = "ALREADY_EXISTS"


class Conflict(Rejected):
    """The thing is not in the state that this needs, and the API says 409 of it."""

    http_status = 409
    grpc_code = "FAILED_PRECONDITION"


class PermissionDenied(Rejected):
    http_status = 403
    grpc_code = "PERMISSION_DENIED"


class NodeRemoved(PermissionDenied):
    """The calling node was removed from the swarm, for good: it has to leave and join anew."""


class Unauthenticated(Rejected):
    http_status = 401
    grpc_code = "UNAUTHENTICATED"


class TooSlow(SwarmError):
    """The request did not come in whole in the time that there is for it."""

    http_status = 408


class CertificateRetired(Unauthenticated):
    """The caller's certificate is of a root that the swarm has left: all that it is good for is a renewal."""


class Unimplemented(Rejected):
    http_status = 501
    grpc_code = "UNIMPLEMENTED"


class Stale(Rejected):
    """The base version is no longer the object's version. Docker answers 500 with this very text."""

    http_status = 500
    grpc_code = "UNKNOWN"

    def __init__(self, message: str = "rpc error: code = Unknown desc = update out of sequence") -> None:
        super().__init__(message)


class NotInSwarm(Rejected):
    """The API call needs a swarm, a manager or an unlocked node, and this node is none (HTTP 503)."""

    http_status = 503
    grpc_code = "UNAVAILABLE"


class Retry(SwarmError):
    """Nothing is wrong with the request: ask again after ``delay_s`` seconds."""

    http_status = 503
    grpc_code = "UNAVAILABLE"

    def __init__(self, message: str, *, delay_s: float = 0.1) -> None:
        super().__init__(message)
        self.delay_s = delay_s


class Unavailable(Retry):
    """A peer, a quorum or a resource is not there right now."""


class NotLeader(Retry):
    """This manager does not lead; ``leader`` is the raft id of the one that does, if known."""

    def __init__(self, message: str = "this manager is not the leader", *, leader: str | None = None) -> None:
        super().__init__(message)
        self.leader = leader


class NoLeader(Retry):
    """No quorum, hence no leader. Text as the Docker Engine gives it."""

    def __init__(
        self,
        message: str = "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible "
        "that too few managers are online. Make sure more than half of the managers are online.",
    ) -> None:
        super().__init__(message, delay_s=0.5)


class OutcomeUnknown(Retry):
    """The proposal may or may not have been committed: commit a barrier, read again, decide again."""


class TaskRejected(SwarmError):
    """The task cannot be started as asked (image, mount, limit): it ends ``rejected``."""


class TaskFailed(SwarmError):
    """The task was started and ended badly: it ends ``failed``."""

    def __init__(self, message: str, *, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Corrupt(SwarmError):
    """Stored state is damaged. The process stops rather than serve it; the message names the file."""


class DiskFailed(Corrupt):
    """The disk refused a write that a promise rests on. The process stops; the message names the file."""
