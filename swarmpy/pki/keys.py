"""Keys, PEM and time, as the rest of the package needs them.

Every key that we make is ECDSA on P-256 and is computed from bytes that the caller draws, so the same
entropy gives the same key: that is what join certificates and simulation rest on. A root that the user brings
may have a key of another kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from swarmpy import limits
from swarmpy.errors import InvalidArgument
from swarmpy.model.ids import Timestamp
from swarmpy.model.states import NodeRole

KEY_BYTES = 48
"""Entropy for one private key: half as much again as the key, so that reducing it leaves no bias."""
SERIAL_BYTES = 16

_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
"""Ours are on P-256; a root that the user brings may have another."""
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class Role(StrEnum):
    """What a peer may be; for nodes, the organisational unit of their certificate.

    ``JOIN`` is what a joiner calls itself: a token does not say which role it is for. The manager that
    it calls knows, and sees ``JOIN_WORKER`` or ``JOIN_MANAGER``.
    """

    WORKER = "swarm-worker"
    MANAGER = "swarm-manager"
    JOIN = "swarm-join"
    JOIN_WORKER = "swarm-join-worker"
    JOIN_MANAGER = "swarm-join-manager"

    @property
    def node_role(self) -> NodeRole:
        """The role that a node has, or would get, with this one; ``UNSPECIFIED`` for ``JOIN``."""
        match self:
            case Role.WORKER | Role.JOIN_WORKER:
                return NodeRole.WORKER
            case Role.MANAGER | Role.JOIN_MANAGER:
                return NodeRole.MANAGER
            case Role.JOIN:
                return NodeRole.UNSPECIFIED

    @classmethod
    def of_node(cls, role: NodeRole) -> Role:
        """The certificate's role for a node's role."""
        return cls.MANAGER if role is NodeRole.MANAGER else cls.WORKER


@dataclass(frozen=True, kw_only=True)
class Validity:
    """From when until when a certificate holds. Certificates count whole seconds."""

    not_before: Timestamp
    not_after: Timestamp

    def holds_at(self, now: Timestamp) -> bool:
        return self.not_before <= now <= self.not_after


def to_datetime(moment: Timestamp) -> datetime:
    return _EPOCH + timedelta(microseconds=moment // 1000)


def to_timestamp(moment: datetime) -> Timestamp:
    return Timestamp((moment - _EPOCH) // timedelta(microseconds=1) * 1000)


def private_key_from(raw: bytes) -> ec.EllipticCurvePrivateKey:
    """The P-256 key that ``KEY_BYTES`` bytes of entropy stand for."""
    if len(raw) != KEY_BYTES:
        raise ValueError(f"a key is made from {KEY_BYTES} bytes, got {len(raw)}")
    return ec.derive_private_key(int.from_bytes(raw) % (_P256_ORDER - 1) + 1, ec.SECP256R1())


def serial_from(raw: bytes) -> int:
    """A certificate serial: positive, and at most 20 bytes long as the standard demands."""
    return int.from_bytes(raw[:SERIAL_BYTES]) | 1


def key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_key(pem: bytes) -> PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidArgument(f"this is not a private key in PEM: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise InvalidArgument("the private key is neither an elliptic curve key nor one of RSA")
    return key


def certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def load_certificates(pem: bytes) -> list[x509.Certificate]:
    """All certificates of a PEM text, at least one."""
    return list(_parsed(pem))


@lru_cache(limits.PKI_PARSED_CACHED_MAX)
def _parsed(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Remembered: the cluster's roots are read for every certificate that is judged."""
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except (ValueError, x509.InvalidVersion) as error:
        raise InvalidArgument(f"this is not a certificate in PEM: {error}") from error


def split_pem(pem: bytes) -> tuple[bytes, ...]:
    """Each certificate of a bundle as its own PEM text, normalised (64 columns, one line end)."""
    return tuple(certificate_pem(certificate) for certificate in load_certificates(pem))


def public_key_of(certificate: x509.Certificate) -> PublicKey:
    """Refused if it is of a kind that no root of ours has."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise InvalidArgument("the certificate's key is neither an elliptic curve key nor one of RSA")
    return key


def public_bytes(key: PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def make_name(*, common_name: str, unit: str = "", organization: str = "") -> x509.Name:
    parts = [
        (NameOID.ORGANIZATION_NAME, organization),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
        (NameOID.COMMON_NAME, common_name),
    ]
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts if value])


def key_usage(*, is_ca: bool) -> x509.KeyUsage:
    """A root may sign certificates and nothing else; everybody else may sign anything but those."""
    return x509.KeyUsage(
        digital_signature=not is_ca,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def authority_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def sign(builder: x509.CertificateBuilder, key: PrivateKey) -> x509.Certificate:
    """Sign without drawing randomness (RFC 6979): the same builder and key give the same bytes."""
    if isinstance(key, rsa.RSAPrivateKey):
        return builder.sign(key, hashes.SHA256())
    return builder.sign(key, hashes.SHA256(), ecdsa_deterministic=True)
