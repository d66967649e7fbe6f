"""What a certificate says, and whether the cluster's root stands behind it.

A name in a certificate is only believed after the signature was checked against a root of the bundle, at once
or by way of the intermediates that were shown after it; ``verify_certificate`` is the one way from bytes of a
peer to a ``Subject``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from swarmpy import limits
from swarmpy.errors import InvalidArgument, PermissionDenied
from swarmpy.model.ids import ClusterId, Duration, NodeId, Timestamp
from swarmpy.pki import keys
from swarmpy.pki.keys import Role, Validity
from swarmpy.pki.limits import INTERMEDIATES_MAX

BACKDATE = Duration(7 * 24 * 3600 * 1_000_000_000)
"""Certificates hold from a week before their issue, so that clocks may differ by as much.

A manager whose clock is a day ahead would else give out certificates that nobody takes until tomorrow, and
whoever has such a one can't even ask for another.
"""

RENEW_FRACTION_MIN = 0.5
RENEW_FRACTION_MAX = 0.8
_NODE_ROLES = frozenset({Role.WORKER, Role.MANAGER})


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Whom a node certificate is for."""

    node_id: NodeId
    role: Role
    cluster_id: ClusterId


@dataclass(frozen=True, kw_only=True)
class Identity:
    """All that a process needs to prove who it is and to know its peers. PEM texts."""

    certificate: bytes
    key: bytes = field(repr=False)
    roots: bytes
    node_id: NodeId
    role: Role
    cluster_id: ClusterId
    validity: Validity


def load_identity(*, certificate: bytes, key: bytes, roots: bytes) -> Identity:
    """The identity that three PEM texts make up; refused unless they belong together.

    Whether it still holds is not checked: an expired identity is loaded, so that it can be named.
    """
    leaf, *intermediates = keys.load_certificates(certificate)
    subject = _verified_subject(leaf, intermediates, keys.load_certificates(roots))
    try:
        is_own = keys.load_key(key).public_key() == leaf.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidArgument(f"the certificate's key cannot be read: {error}") from error
    if not is_own:
        raise InvalidArgument("the private key does not belong to the certificate")
    return Identity(
        certificate=certificate,
        key=key,
        roots=roots,
        node_id=subject.node_id,
        role=subject.role,
        cluster_id=subject.cluster_id,
        validity=_validity(leaf),
    )


def read_certificate(pem: bytes) -> tuple[Subject, Validity]:
    """What a certificate says of itself. Nothing is verified: for display and for our own files."""
    leaf = keys.load_certificates(pem)[0]
    return _read_subject(leaf), _validity(leaf)


def verify_certificate(pem: bytes, roots: bytes, now: Timestamp) -> tuple[Subject, Validity]:
    """Whom the leaf in ``pem`` is for, once a root is seen to stand behind it and it holds now.

    The leaf may be followed by intermediates; those that lead nowhere do no harm.
    """
    leaf, *intermediates = keys.load_certificates(pem)
    subject = _verified_subject(leaf, intermediates, keys.load_certificates(roots))
    validity = _validity(leaf)
    if not validity.holds_at(now):
        raise PermissionDenied(f"the certificate of node {subject.node_id} has expired or is not valid yet")
    return subject, validity


def renewal_at(validity: Validity, fraction: float) -> Timestamp:
    """When to renew: at ``fraction`` of the life after issue.

    The caller draws the fraction between ``RENEW_FRACTION_MIN`` and ``RENEW_FRACTION_MAX``, so that nodes
    which joined together do not renew together.
    """
    issued_at = validity.not_before + BACKDATE
    return Timestamp(issued_at + int((validity.not_after - issued_at) * fraction))


@dataclass(frozen=True, kw_only=True)
class Issuer:
    """Who signed a certificate: its name and its public key, in DER."""

    subject: bytes
    public_key: bytes

    @property
    def mark(self) -> bytes:
        """Short for both."""
        return hashlib.sha256(self.subject + self.public_key).digest()


def issuer_of_identity(identity: Identity) -> Issuer:
    """Whose certificate this node has."""
    leaf, *intermediates = keys.load_certificates(identity.certificate)
    for authority in (*keys.load_certificates(identity.roots), *intermediates):
        if _is_issued_by(leaf, authority):
            return authority_of(authority)
    raise ValueError("an identity is loaded only with its issuer")


def is_issued_by(leaf: bytes, authority: bytes) -> bool:
    """Whether the first certificate of ``leaf`` is signed by that of ``authority``. PEM texts."""
    return _is_issued_by(keys.load_certificates(leaf)[0], keys.load_certificates(authority)[0])


def issuer_in(certificate: bytes) -> Issuer:
    """The issuer that an authority's certificate (PEM) makes."""
    return authority_of(keys.load_certificates(certificate)[0])


def authority_of(certificate: x509.Certificate) -> Issuer:
    return Issuer(
        subject=certificate.subject.public_bytes(),
        public_key=keys.public_bytes(keys.public_key_of(certificate)),
    )


def _verified_subject(
    leaf: x509.Certificate, intermediates: list[x509.Certificate], roots: list[x509.Certificate]
) -> Subject:
    if not _is_vouched_for(leaf, intermediates[:INTERMEDIATES_MAX], roots):
        raise PermissionDenied("the certificate was not issued by this cluster")
    if is_authority(leaf):
        raise PermissionDenied("the certificate is an authority's, not a node's")
    return _read_subject(leaf)


def _is_vouched_for(
    one: x509.Certificate, intermediates: list[x509.Certificate], roots: list[x509.Certificate]
) -> bool:
    """Each intermediate is taken once at most, so this ends."""
    if any(_is_issued_by(one, root) for root in roots):
        return True
    for place, other in enumerate(intermediates):
        if _is_issued_by(one, other):
            rest = intermediates[:place] + intermediates[place + 1 :]
            if _is_vouched_for(other, rest, roots):
                return True
    return False


@lru_cache(limits.PKI_PARSED_CACHED_MAX)
def _is_issued_by(leaf: x509.Certificate, root: x509.Certificate) -> bool:
    if not is_authority(root):
        return False
    try:
        leaf.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def is_self_signed(certificate: x509.Certificate) -> bool:
    """By its signature: the intermediate between two roots may have one name twice."""
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False


def _read_subject(leaf: x509.Certificate) -> Subject:
    unit = _attribute(leaf, NameOID.ORGANIZATIONAL_UNIT_NAME)
    if unit not in _NODE_ROLES:
        raise PermissionDenied("the certificate names no role of a node")
    return Subject(
        node_id=NodeId(_attribute(leaf, NameOID.COMMON_NAME)),
        role=Role(unit),
        cluster_id=ClusterId(_attribute(leaf, NameOID.ORGANIZATION_NAME)),
    )


def _attribute(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    values = certificate.subject.get_attributes_for_oid(oid)
    if len(values) != 1:
        raise PermissionDenied("the certificate's subject is not that of a node")
    value = values[0].value
    return value if isinstance(value, str) else value.decode("latin-1")


def _validity(certificate: x509.Certificate) -> Validity:
    return Validity(
        not_before=keys.to_timestamp(certificate.not_valid_before_utc),
        not_after=keys.to_timestamp(certificate.not_valid_after_utc),
    )
