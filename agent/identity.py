"""A node's identity: got by joining, kept in three files, renewed in time.

Joining (ADR 001):

1. the token is checked for its form, without any network;
2. the chain that the manager presents is read in a TLS handshake that trusts nothing and sends nothing
   of ours; the root in it must be the one that the token names;
3. with that root pinned, the certificate is asked for over gRPC, as the holder of the token's key.

A renewal asks the known managers in turn, at a random point of 50-80 % of the certificate's life or at
once when told so. What the identity is used for, and when a role has changed, is for others to know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from swarmpy import limits, pki, rpc, tls_probe
from swarmpy.errors import Corrupt, InvalidArgument, Rejected, Retry, SwarmError, Unavailable
from swarmpy.model.ids import SECOND_NS, NodeId, Timestamp
from swarmpy.model.states import NodeAvailability
from swarmpy.pb import ca_pb2, ca_pb2_grpc, types_pb2
from swarmpy.pki import Identity, Issuer, JoinToken
from swarmpy.runtime import Disk, Env, Transport

_WIRE_AVAILABILITY = {
    NodeAvailability.UNSPECIFIED: types_pb2.NODE_AVAILABILITY_UNSPECIFIED,
    NodeAvailability.ACTIVE: types_pb2.NODE_AVAILABILITY_ACTIVE,
    NodeAvailability.PAUSE: types_pb2.NODE_AVAILABILITY_PAUSE,
    NodeAvailability.DRAIN: types_pb2.NODE_AVAILABILITY_DRAIN,
}

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class JoinRequest:
    """Whom to ask (``host:port`` of managers), with what, and what to say of this node."""

    addresses: tuple[str, ...]
    token: str
    availability: NodeAvailability = NodeAvailability.ACTIVE
    advertise_addr: str = ""
    hostname: str = ""


@dataclass(frozen=True, kw_only=True)
class Admission:
    """What the cluster gave us: who we are, whom to call, and how a manager sees our address."""

    identity: Identity
    managers: tuple[tuple[NodeId, str], ...]
    observed_host: str


# --- the files


class KeyGuard(Protocol):
    """How a private key lies on disk."""

    def wrap(self, identity: Identity) -> bytes: ...

    def unwrap(self, data: bytes) -> bytes:
        """What ``wrap`` was given. Unavailable while it can't be known, Corrupt if it never can."""
        ...


class _Bare:
    def wrap(self, identity: Identity) -> bytes:
        return identity.key

    def unwrap(self, data: bytes) -> bytes:
        return data


class IdentityFiles:
    """The identity on disk. A crash at any point leaves the old or the new one whole.

    The key goes first, under a name of its own; the certificate replaces the old one and thereby decides;
    then the key takes its proper name. ``load`` takes whichever key belongs to the certificate.
    """

    def __init__(self, disk: Disk, folder: Path, guard: KeyGuard | None = None) -> None:
        self._disk = disk
        self._folder = folder
        self._guard = guard or _Bare()
        self._roots = folder / "swarm-root-ca.crt"
        self._certificate = folder / "swarm-node.crt"
        self._key = folder / "swarm-node.key"
        self._next_key = folder / "swarm-node.next.key"

    def load(self) -> Identity | None:
        """The identity that was saved last; None if there is none. Unavailable while its key is locked."""
        if not self._disk.exists(self._certificate):
            return None
        try:
            certificate, roots = self._disk.read(self._certificate), self._disk.read(self._roots)
            keys = [self._disk.read(path) for path in (self._key, self._next_key) if self._disk.exists(path)]
        except OSError as error:
            raise Corrupt(f"the node's identity in {self._folder} cannot be read: {error}") from error
        refusal: SwarmError | None = None
        locked: Retry | None = None
        for key in keys:
            try:
                return pki.load_identity(certificate=certificate, key=self._guard.unwrap(key), roots=roots)
            except Retry as error:
                locked = error
            except (Rejected, Corrupt) as error:
                refusal = error
        if locked is not None:
            raise locked
        raise Corrupt(f"the node's identity in {self._folder} is damaged: {refusal or 'its key is missing'}")

    def save(self, identity: Identity) -> None:
        self._disk.make_dirs(self._folder, mode=0o700)
        self._disk.write_atomic(self._next_key, self._guard.wrap(identity), mode=0o600)
        # Until the certificate is replaced the old one must be vouched for, too.
        both = self._with_present_roots(identity.roots)
        self._disk.write_atomic(self._roots, both, mode=0o600)
        self._disk.write_atomic(self._certificate, identity.certificate, mode=0o600)
        self._disk.replace(self._next_key, self._key)
        if both != identity.roots:
            self.save_roots(identity)

    def save_roots(self, identity: Identity) -> None:
        """Write the roots alone: those of the identity that is there have changed."""
        self._disk.write_atomic(self._roots, identity.roots, mode=0o600)

    def _with_present_roots(self, roots: bytes) -> bytes:
        if not self._disk.exists(self._roots) or not self._disk.exists(self._certificate):
            return roots
        known = pki.split_pem(roots)
        left = [root for root in pki.split_pem(self._disk.read(self._roots)) if root not in known]
        return roots + b"".join(left)

    def load_public(self) -> Identity:
        """Who this node is, without its key: for one that is locked."""
        try:
            certificate, roots = self._disk.read(self._certificate), self._disk.read(self._roots)
            subject, validity = pki.read_certificate(certificate)
        except (OSError, Rejected) as error:
            raise Corrupt(f"the node's identity in {self._folder} cannot be read: {error}") from error
        return Identity(
            certificate=certificate,
            key=b"",
            roots=roots,
            node_id=subject.node_id,
            role=subject.role,
            cluster_id=subject.cluster_id,
            validity=validity,
        )

    def save_key(self, identity: Identity) -> None:
        """Write the key of the identity that is there anew: it is to be sealed otherwise, or no more."""
        self._disk.write_atomic(self._key, self._guard.wrap(identity), mode=0o600)
        self._disk.remove(self._next_key)

    def remove(self) -> None:
        """Forget the identity, the certificate first: without it the rest is nothing."""
        for path in (self._certificate, self._key, self._next_key, self._roots):
            self._disk.remove(path)


# --- joining


async def join(request: JoinRequest, *, env: Env) -> Admission:
    """Become a node of the cluster. ``Rejected`` is final; ``Retry`` after ``JOIN_TIMEOUT_S`` at most."""
    token = pki.parse_token(request.token)
    if not request.addresses:
        raise InvalidArgument("at least 1 RemoteAddr is required to join")
    for address in request.addresses:
        tls_probe.split_address(address)
    # One key for all attempts: a manager that has answered already recognises it, and no second node is
    # made of a lost answer.
    key, csr = pki.create_csr(env.entropy.token_bytes(pki.KEY_BYTES))
    message = ca_pb2.IssueRequest(
        csr=csr,
        availability=_WIRE_AVAILABILITY[request.availability],
        advertise_addr=request.advertise_addr,
        hostname=request.hostname,
    )
    ask = _Ask(key=key, message=message, transport=env.transport)
    last: Retry = Unavailable("no manager has answered")
    unreachable_rounds = 0
    delay_s = limits.JOIN_RETRY_MIN_S
    try:
        async with asyncio.timeout(limits.JOIN_TIMEOUT_S):
            while unreachable_rounds < limits.JOIN_UNREACHABLE_ROUNDS_MAX:
                is_reached = False
                for address in request.addresses:
                    try:
                        chain = await env.transport.fetch_chain(address)
                        is_reached = True
                        return await _join_at(address, token, chain, ask=ask)
                    except Retry as error:
                        last = error
                unreachable_rounds = 0 if is_reached else unreachable_rounds + 1
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, limits.JOIN_RETRY_MAX_S)
    except TimeoutError:
        pass
    raise last


async def _join_at(address: str, token: JoinToken, chain: bytes, *, ask: _Ask) -> Admission:
    holder = pki.join_identity(token, pki.select_roots(chain, token))
    try:
        return await ask.issue(holder, address)
    except Retry as error:
        if await ask.transport.is_turned_away(holder, address):
            raise InvalidArgument("A valid join token is necessary to join this cluster") from error
        raise


@dataclass(frozen=True, kw_only=True)
class _Ask:
    """One request for a certificate, as it is put to one manager after the other."""

    key: bytes
    message: ca_pb2.IssueRequest
    transport: Transport

    async def issue(self, identity: Identity, address: str) -> Admission:
        with rpc.translate_errors():
            async with self.transport.channel(identity, address) as channel:
                stub: ca_pb2_grpc.CertificateAuthorityAsyncStub = ca_pb2_grpc.CertificateAuthorityStub(
                    channel
                )
                response = await stub.IssueCertificate(self.message, timeout=limits.RPC_TIMEOUT_S)
        return Admission(
            identity=pki.load_identity(
                certificate=response.certificate, key=self.key, roots=response.root_ca
            ),
            managers=tuple((NodeId(manager.node_id), manager.addr) for manager in response.managers),
            observed_host=response.observed_host,
        )


# --- renewal


class Renewal:
    """Keeps the identity fresh: certificate and roots. It alone writes them while it runs.

    ``on_renewed`` is told of every change. ``run`` ends only with ``Rejected``, if the cluster wants us no
    longer, or if the disk fails; it may be run again.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        files: IdentityFiles,
        managers: Callable[[], Sequence[str]],
        on_renewed: Callable[[Identity], None],
        env: Env,
    ) -> None:
        self._identity = identity
        self._files = files
        self._managers = managers
        self._on_renewed = on_renewed
        self._env = env
        self._is_asked = False
        self._left: Issuer | None = None
        self._told_roots = b""
        self._news = asyncio.Event()

    def ask_now(self) -> None:
        """Renew at once: the node's role has changed."""
        self._is_asked = True
        self._news.set()

    def ask_other_issuer(self) -> None:
        """Renew at once, by another issuer than the present certificate's: the cluster leaves its root."""
        self._left = pki.issuer_of_identity(self._identity)
        self._news.set()

    def keep_issuer(self) -> None:
        """The present certificate's issuer is not left, or not any more."""
        if self._is_of_left_root(self._identity):
            self._left = None
            self._news.set()

    def tell_roots(self, roots: bytes) -> None:
        """These are the roots to trust from now on, as the leader has it."""
        self._told_roots = roots
        self._news.set()

    async def run(self) -> None:
        due = self._draw_due()
        while True:
            await self._wait_news(due)
            self._news.clear()
            self._adopt_roots()
            if not (self._is_asked or self._is_of_left_root(self._identity) or self._left_s(due) <= 0):
                continue
            self._is_asked = False
            renewed = await self._renew()
            self._files.save(renewed)
            self._told_roots = b""  # the answer's are no older; the session that follows tells again
            self._take(renewed)
            due = self._draw_due()
            _log.info("certificate_renewed", role=renewed.role.value, not_after=renewed.validity.not_after)

    def _take(self, identity: Identity) -> None:
        self._identity = identity
        self._on_renewed(identity)

    def _adopt_roots(self) -> None:
        """Trust what we were told to, as soon as it vouches for our own certificate: else nobody knew us."""
        roots = self._told_roots
        if not roots or roots == self._identity.roots:
            return
        own = self._identity
        try:
            adopted = pki.load_identity(certificate=own.certificate, key=own.key, roots=roots)
        except Rejected as error:
            _log.info("roots_not_adopted", reason=str(error))
            self._left = pki.issuer_of_identity(own)
            return
        self._files.save_roots(adopted)
        self._take(adopted)
        _log.info("roots_adopted", roots=len(pki.split_pem(roots)))

    def _is_of_left_root(self, identity: Identity) -> bool:
        return self._left is not None and pki.issuer_of_identity(identity) == self._left

    def _draw_due(self) -> Timestamp:
        fraction = self._env.entropy.uniform(pki.RENEW_FRACTION_MIN, pki.RENEW_FRACTION_MAX)
        return pki.renewal_at(self._identity.validity, fraction)

    def _left_s(self, due: Timestamp) -> float:
        return (due - self._env.clock.now()) / SECOND_NS

    async def _wait_news(self, due: Timestamp) -> None:
        """Until the certificate is due or there is something else to see to."""
        while not self._news.is_set():
            left_s = self._left_s(due)
            if left_s <= 0:
                return
            # Sleep in pieces: the clock that certificates go by may jump, the loop's does not.
            try:
                async with asyncio.timeout(min(left_s, limits.RENEW_CHECK_PERIOD_S)):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def _renew(self) -> Identity:
        key, csr = pki.create_csr(self._env.entropy.token_bytes(pki.KEY_BYTES))
        ask = _Ask(key=key, message=ca_pb2.IssueRequest(csr=csr), transport=self._env.transport)
        delay_s = limits.RENEW_RETRY_MIN_S
        while True:
            last: Retry = Unavailable("no manager is known")
            for address in self._managers():
                try:
                    admission = await ask.issue(self._identity, address)
                except Retry as error:
                    last = error
                    continue
                if not self._is_of_left_root(admission.identity):
                    return admission.identity
                last = Unavailable(f"manager {address} has not heard of the new root yet")
            _log.warning("certificate_renewal_failed", reason=str(last), retry_in_s=delay_s)
            delay_s = await self._wait_retry(delay_s)
            self._adopt_roots()

    async def _wait_retry(self, delay_s: float) -> float:
        """Wait out the delay, unless told to renew now; the delay for the next time."""
        try:
            async with asyncio.timeout(delay_s):
                await self._news.wait()
        except TimeoutError:
            return min(delay_s * 2, limits.RENEW_RETRY_MAX_S)
        self._news.clear()
        return limits.RENEW_RETRY_MIN_S
