"""The gRPC port between nodes: who may call what, and what errors look like on the wire.

* One port serves everything with mutual TLS 1.2 or better. The trust bundle is the cluster's root and the
  certificates of the join tokens in force (ADR 001); it and the server's own certificate are replaced
  while the port is open, by assigning ``Server.trust``. Who has a certificate of a root that the cluster has
  left may renew it, if its node is named with that root, and nothing else (ADR 014); its sessions and raft
  streams end as the root goes. What clients have open goes on.
* Every call is checked against ``METHOD_ROLES``; a method without a row is refused. A peer's name is
  believed only after our own check of its certificate against the root, and is refused once its node
  was removed.
* Servicers raise ``SwarmError``; the interceptor turns it into a status, and the caller gets it back
  (``rpc_errors``).
* What carries the calls is ``Env.transport``: gRPC (``rpc_grpc``), or the simulator. All that stands here
  holds with either.

Not here: what the calls do, and when to dial again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import isasyncgenfunction
from typing import Any, Protocol, TypeVar, cast

import grpc
import grpc.aio

from swarmpy import limits, pki
from swarmpy.errors import (
    CertificateRetired,
    FailedPrecondition,
    NodeRemoved,
    PermissionDenied,
    SwarmError,
    Unauthenticated,
)
from swarmpy.model.ids import ClusterId, NodeId, Timestamp
from swarmpy.model.objects import Cluster
from swarmpy.model.root_ca import JoinTokens, RetiredRoot, RootCA
from swarmpy.model.states import NodeRole
from swarmpy.pki import Identity, Role, Subject, Validity
from swarmpy.pki.limits import RECHECKED_AT_ONCE_MAX
from swarmpy.rpc_errors import abort_with as abort_with
from swarmpy.rpc_errors import error_from_rpc as error_from_rpc
from swarmpy.rpc_errors import translate_errors as translate_errors
from swarmpy.rpc_grpc import GrpcTransport
from swarmpy.runtime import Clock, PortCredentials, Transport

_JOINERS = frozenset({Role.JOIN_WORKER, Role.JOIN_MANAGER})
_NODES = frozenset({Role.WORKER, Role.MANAGER})
_MANAGERS = frozenset({Role.MANAGER})

_ISSUE = "/swarmpy.v1.CertificateAuthority/IssueCertificate"

METHOD_ROLES: Mapping[str, frozenset[Role]] = {
    _ISSUE: _NODES | _JOINERS,
    "/swarmpy.v1.Dispatcher/Session": _NODES,
    "/swarmpy.v1.Raft/Join": _MANAGERS,
    "/swarmpy.v1.Raft/Leave": _MANAGERS,
    "/swarmpy.v1.Raft/Members": _MANAGERS,
    "/swarmpy.v1.Raft/Ping": _MANAGERS,
    "/swarmpy.v1.Raft/Stream": _MANAGERS,
    "/swarmpy.v1.Streams/Attend": _NODES,
    "/swarmpy.v1.Streams/Open": _MANAGERS,
    "/swarmpy.v1.Streams/PublishLogs": _NODES,
    "/swarmpy.v1.Streams/SubscribeLogs": _MANAGERS,
}
"""Who may call what. Every method of every service has a row; a call without one is refused."""

_RAFT_STREAM = "/swarmpy.v1.Raft/Stream"
"""Raft knows its members itself, and tells a removed one so on this stream."""
_LASTING = frozenset({_RAFT_STREAM, "/swarmpy.v1.Dispatcher/Session"})
"""Calls that go on for as long as the peer is there. They end when the root behind its certificate goes."""

RoleOf = Callable[[NodeId], NodeRole | None]
"""The role on a node's record; None if there is none here."""

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_MethodCall = Callable[..., Awaitable[object]]
_MethodStream = Callable[..., AsyncIterator[object]]


class Context(Protocol):
    """What we read of a ``grpc.aio.ServicerContext``; servicers annotate their argument with it."""

    def peer(self) -> str: ...

    def auth_context(self) -> Mapping[str, object]: ...


# --- who calls


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Who is at the other end, proven by certificate. A joiner has no node id and no cluster id yet."""

    node_id: NodeId
    role: Role
    cluster_id: ClusterId
    must_renew: bool = False
    """Its certificate is of a root that the cluster has left."""


@dataclass(frozen=True, kw_only=True)
class Trust:
    """What the port goes by at one moment: who we are, which tokens are in force, who was removed.

    Without a ``root`` (the cluster is not known yet) the identity's own roots are what is trusted and shown.
    """

    identity: Identity
    join_tokens: JoinTokens
    removed: frozenset[NodeId] = frozenset()
    root: RootCA | None = None

    @classmethod
    def of_cluster(cls, identity: Identity, cluster: Cluster) -> Trust:
        return cls(
            identity=identity,
            join_tokens=cluster.root_ca.join_tokens,
            removed=frozenset(removed.node_id for removed in cluster.removed_nodes),
            root=cluster.root_ca,
        )

    @property
    def retired(self) -> tuple[RetiredRoot, ...]:
        return () if self.root is None else self.root.retired

    @property
    def roots(self) -> bytes:
        """Who has a certificate of one of these is a node like any other.

        What we were told last, and what the store says: either may be ahead.
        """
        if self.root is None:
            return self.identity.roots
        present = pki.split_pem(pki.trust_bundle(self.root))
        left = {retired.ca_cert for retired in self.retired}.difference(
            present
        )  # one may come back to a root
        known = dict.fromkeys((*present, *pki.split_pem(self.identity.roots)))
        return b"".join(root for root in known if root not in left)

    @property
    def shown(self) -> bytes:
        """What follows our leaf: the way to the roots of before, then the root that join tokens name."""
        own = self.identity
        if self.root is None:
            return own.certificate + own.roots
        leaf, *ours = pki.split_pem(own.certificate)
        issuer, _ = pki.issuer_of(self.root)
        way = pki.intermediates(self.root) if pki.is_issued_by(leaf, issuer) else b"".join(ours)
        return leaf + way + self.root.ca_cert


_caller: ContextVar[tuple[object, Peer]] = ContextVar("caller")


def peer_of(context: Context) -> Peer:
    """Who makes the call that ``context`` belongs to."""
    caller = _caller.get(None)
    if caller is None or caller[0] is not context:
        raise Unauthenticated("the caller of this method was not checked")
    return caller[1]


def require_role(context: Context, *roles: Role) -> Peer:
    """The caller, if it has one of the roles. For checks that depend on the request."""
    peer = peer_of(context)
    if peer.role not in roles:
        raise _denied(peer, roles)
    return peer


def peer_host(context: Context) -> str:
    """The address that the call comes from, without its port; empty if it is not an IP address."""
    kind, _, rest = context.peer().partition(":")
    if kind not in {"ipv4", "ipv6"}:
        return ""
    # gRPC writes an IPv6 peer with its brackets percent-encoded.
    return rest.rpartition(":")[0].removeprefix("%5B").removesuffix("%5D").strip("[]")


def _denied(peer: Peer, roles: Iterable[Role]) -> PermissionDenied:
    wanted = " or ".join(sorted(role.value for role in roles)) or "nobody"
    return PermissionDenied(f"Permission denied: this call is for {wanted}, the caller is {peer.role.value}")


class AuthorizingInterceptor(grpc.aio.ServerInterceptor):
    """Stands before every method: finds out who calls, refuses who may not, translates errors."""

    def __init__(
        self,
        trust: Trust,
        *,
        clock: Clock,
        method_roles: Mapping[str, frozenset[Role]],
        role_of: RoleOf = lambda node_id: None,
    ) -> None:
        self._clock = clock
        self._role_of = role_of
        self._method_roles = method_roles
        self._peers: dict[bytes, tuple[Peer, Validity]] = {}
        self._methods: dict[str, tuple[object, object]] = {}
        self._lasting: dict[asyncio.Timeout, bytes] = {}
        self._roots = b""
        self.trust = trust

    @property
    def trust(self) -> Trust:
        return self._trust

    @trust.setter
    def trust(self, trust: Trust) -> None:
        self._trust = trust
        before, self._roots = self._roots, trust.roots
        self._joiners = dict(_joiners(trust.join_tokens))
        self._peers.clear()
        if self._roots != before:
            self._look_again(list(self._lasting))

    def _look_again(self, waiting: list[asyncio.Timeout]) -> None:
        """End lasting calls whose callers no root vouches for now. A few at a time: there are thousands."""
        for _ in range(min(len(waiting), RECHECKED_AT_ONCE_MAX)):
            bound = waiting.pop()
            certificate = self._lasting.get(bound)
            if certificate is not None and not _is_vouched_for(certificate, self._roots):
                bound.reschedule(0)
        if waiting:
            asyncio.get_running_loop().call_soon(self._look_again, waiting)

    def authorize(self, method: str, certificate: bytes) -> Peer:
        """The peer with this certificate (PEM, intermediates may follow), if it may call the method now."""
        peer = self._peer(certificate)
        if peer.node_id in self._trust.removed:
            raise NodeRemoved(f"node {peer.node_id} was removed from the swarm; it has to join anew")
        roles = self._method_roles.get(method, frozenset())
        if peer.role not in roles:
            raise _denied(peer, roles)
        if peer.must_renew and method != _ISSUE:
            raise CertificateRetired(
                f"the certificate of node {peer.node_id} is of a root that the swarm has left: renew it first"
            )
        if peer.role is Role.MANAGER and Role.WORKER not in roles and method != _RAFT_STREAM:
            self._check_still_manager(peer)
        return peer

    def _check_still_manager(self, peer: Peer) -> None:
        """A demoted node's certificate says manager until the node has fetched its new one."""
        if self._role_of(peer.node_id) is NodeRole.WORKER:
            raise PermissionDenied(f"Permission denied: node {peer.node_id} is a worker, and was a manager")

    def _peer(self, certificate: bytes) -> Peer:
        now = self._clock.now()
        known = self._peers.get(certificate)
        if known is None:
            known = self._verify(certificate)
            if len(self._peers) >= limits.RPC_PEERS_CACHED_MAX:
                self._peers.clear()
            self._peers[certificate] = known
        peer, validity = known
        if not validity.holds_at(now):
            raise Unauthenticated(f"the certificate of node {peer.node_id} has expired or is not valid yet")
        return peer

    def _verify(self, certificate: bytes) -> tuple[Peer, Validity]:
        # TLS has checked the chain already. We check again, ourselves, since the trust bundle holds more
        # than the root, and since connections outlive the bundle that they were accepted under.
        own = self._trust.identity
        pem = pki.split_pem(certificate)[0]
        if pem in self._joiners:
            role, identity = self._joiners[pem]
            return Peer(node_id=NodeId(""), role=role, cluster_id=ClusterId("")), identity.validity
        now, must_renew = self._clock.now(), False
        try:
            subject, validity = pki.verify_certificate(certificate, self._roots, now)
        except PermissionDenied:
            found = self._verify_retired(certificate, now)
            if found is None:
                raise
            (subject, validity), must_renew = found, True
        if subject.cluster_id != own.cluster_id:
            raise PermissionDenied("the certificate is of another cluster")
        peer = Peer(
            node_id=subject.node_id,
            role=subject.role,
            cluster_id=subject.cluster_id,
            must_renew=must_renew,
        )
        return peer, validity

    def _verify_retired(self, certificate: bytes, now: Timestamp) -> tuple[Subject, Validity] | None:
        """Who it is, if a root that we have left still vouches for that node."""
        for retired in self._trust.retired:
            if retired.expires_at <= now:
                continue
            try:
                subject, validity = pki.verify_certificate(certificate, retired.ca_cert, now)
            except PermissionDenied:
                continue
            if subject.node_id in retired.node_ids:
                return subject, validity
        return None

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[_Request, _Response] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[_Request, _Response] | None:
        inner = await continuation(handler_call_details)
        if inner is None:
            return None
        name = handler_call_details.method
        known = self._methods.get(name)
        if known is None or known[0] is not inner:
            known = self._methods[name] = (inner, self._guard(name, inner))
        return cast("grpc.RpcMethodHandler[_Request, _Response]", known[1])

    async def _enter(self, method: str, context: Context) -> None:
        try:
            _caller.set((context, self.authorize(method, _shown_by(context))))
        except SwarmError as error:
            await abort_with(context, error)

    def _guard(self, name: str, inner: grpc.RpcMethodHandler[_Request, _Response]) -> object:
        """The same method, behind the check. gRPC tells generators from coroutines, so there are two."""
        arity = f"{'stream' if inner.request_streaming else 'unary'}_" + (
            "stream" if inner.response_streaming else "unary"
        )
        behavior = getattr(inner, arity)
        guard = self._guard_stream if isasyncgenfunction(behavior) else self._guard_call
        make = getattr(grpc, f"{arity}_rpc_method_handler")
        made: object = make(
            guard(name, behavior),
            request_deserializer=inner.request_deserializer,
            response_serializer=inner.response_serializer,
        )
        return made

    def _guard_call(self, name: str, behavior: _MethodCall) -> _MethodCall:
        async def guarded(request: object, context: Context) -> object:
            await self._enter(name, context)
            try:
                if name in _LASTING:
                    return await self._until_left(behavior(request, context), _shown_by(context))
                return await behavior(request, context)
            except SwarmError as error:
                await abort_with(context, error)

        return guarded

    async def _until_left(self, call: Awaitable[object], certificate: bytes) -> object:
        """The call, as long as the cluster has not left the root behind the certificate."""
        bound = asyncio.timeout(None)
        try:
            async with bound:
                self._lasting[bound] = certificate
                return await call
        except TimeoutError:
            if not bound.expired():
                raise
            raise CertificateRetired("the swarm has left the root of the caller's certificate") from None
        finally:
            self._lasting.pop(bound, None)

    def _guard_stream(self, name: str, behavior: Callable[..., Any]) -> _MethodStream:
        async def guarded(request: object, context: Context) -> AsyncIterator[object]:
            await self._enter(name, context)
            try:
                async with aclosing(behavior(request, context)) as responses:
                    async for response in responses:
                        yield response
            except SwarmError as error:
                await abort_with(context, error)

        return guarded


def _shown_by(context: Context) -> bytes:
    """The certificate that the peer has shown, and what followed it. PEM."""
    match context.auth_context().get("x509_pem_cert"):
        case [bytes(certificate)]:
            # on this side the leaf is not in the chain
            rest = cast("Sequence[bytes]", context.auth_context().get("x509_pem_cert_chain", ()))
            return b"".join((certificate, *rest))
        case _:
            raise Unauthenticated("the caller has shown no certificate")


def _is_vouched_for(certificate: bytes, roots: bytes) -> bool:
    """By signature alone: a certificate that expires ends no call."""
    try:
        _, validity = pki.read_certificate(certificate)
        pki.verify_certificate(certificate, roots, validity.not_before)
    except PermissionDenied:
        return False
    return True


def _joiners(tokens: JoinTokens) -> Iterator[tuple[bytes, tuple[Role, Identity]]]:
    for role, text in ((Role.JOIN_WORKER, tokens.worker), (Role.JOIN_MANAGER, tokens.manager)):
        if text:
            identity = pki.join_identity(pki.parse_token(text))
            yield identity.certificate, (role, identity)


# --- the server


class Server:
    """The port. Add servicers to ``grpc``, then ``start``; assign ``trust`` whenever it changes."""

    def __init__(
        self,
        trust: Trust,
        *,
        clock: Clock,
        method_roles: Mapping[str, frozenset[Role]] = METHOD_ROLES,
        role_of: RoleOf = lambda node_id: None,
        transport: Transport | None = None,
    ) -> None:
        self._interceptor = AuthorizingInterceptor(
            trust, clock=clock, method_roles=method_roles, role_of=role_of
        )
        self._credentials = _credentials(trust)
        self._port = (transport or GrpcTransport()).port(self._interceptor, lambda: self._credentials)
        self.grpc: grpc.aio.Server = self._port.grpc

    @property
    def trust(self) -> Trust:
        return self._interceptor.trust

    @trust.setter
    def trust(self, trust: Trust) -> None:
        if trust == self.trust:
            return
        # Together: a call that arrives between the two is checked against the newer of them anyway.
        self._interceptor.trust = trust
        self._credentials = _credentials(trust)

    async def start(self, address: str) -> int:
        """Listen on ``host:port`` and return the port (port 0: any free one)."""
        try:
            return await self._port.listen(address)
        except OSError as error:
            raise FailedPrecondition(
                f"failed to listen on remote API address: listen tcp {address}: bind: {error}"
            ) from error

    async def stop(self, grace_s: float = limits.RPC_STOP_GRACE_S) -> None:
        """Refuse new calls at once; calls under way are cancelled after the grace."""
        await self._port.stop(grace_s)


def _credentials(trust: Trust) -> PortCredentials:
    own = trust.identity
    return PortCredentials(
        key=own.key,
        # The root is in the chain that we present: there a joiner finds what its token names.
        chain=trust.shown,
        bundle=b"".join(
            (
                trust.roots,
                *(retired.ca_cert for retired in trust.retired),
                *(certificate for certificate, _ in _joiners(trust.join_tokens)),
            )
        ),
    )


# --- the client


def dial(identity: Identity, address: str, *, server_role: Role = Role.MANAGER) -> grpc.aio.Channel:
    """A channel of the real transport; code that is simulated uses ``Env.transport.channel``."""
    return GrpcTransport().channel(identity, address, server_role=server_role)
