"""The certificate authority: the cluster's root, and certificates for its nodes.

Of a certificate signing request only the public key counts. Names, hosts and extensions in it are
ignored: who a node is and what it may do is decided by the caller, from the token or the node's record.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from swarmpy import limits
from swarmpy.errors import InvalidArgument
from swarmpy.model.ids import Duration, Timestamp
from swarmpy.model.root_ca import JoinTokens, RootCA
from swarmpy.pki import keys, roots
from swarmpy.pki.identity import BACKDATE, Subject
from swarmpy.pki.keys import PublicKey, Role, Validity
from swarmpy.pki.roots import ROOT_NAME
from swarmpy.pki.tokens import create_token

_HOUR = 3600 * 1_000_000_000
_DAY = 24 * _HOUR
_LEAF_LIFE = Duration(90 * _DAY)
_LEAF_LIFE_MIN = Duration(_HOUR)
_RSA_BITS_MIN = 2048
_RSA_BITS_MAX = 8192


def create_root_ca(now: Timestamp, *, key: bytes, serial: bytes, secrets: tuple[bytes, bytes]) -> RootCA:
    """A new root with its key, and the first join tokens (``secrets``: worker's, manager's)."""
    certificate, private = roots.make_root(now, key=key, serial=serial)
    root = RootCA(ca_cert=certificate, ca_key=private, ca_cert_hash=roots.digest_of(certificate))
    return rotate_tokens(root, worker=secrets[0], manager=secrets[1])


def rotate_tokens(root: RootCA, *, worker: bytes | None = None, manager: bytes | None = None) -> RootCA:
    """The same root with a new token for each role that entropy is given for."""
    tokens = root.join_tokens
    if worker is not None:
        tokens = msgspec.structs.replace(tokens, worker=str(create_token(root.ca_cert, worker)))
    if manager is not None:
        tokens = msgspec.structs.replace(tokens, manager=str(create_token(root.ca_cert, manager)))
    return msgspec.structs.replace(root, join_tokens=JoinTokens(worker=tokens.worker, manager=tokens.manager))


def validity_from(now: Timestamp, expiry: Duration) -> Validity:
    """The validity of a node certificate issued now. Less than an hour counts as not set: 90 days."""
    life = expiry if expiry >= _LEAF_LIFE_MIN else _LEAF_LIFE
    return Validity(not_before=Timestamp(now - BACKDATE), not_after=Timestamp(now + life))


def create_csr(raw: bytes) -> tuple[bytes, bytes]:
    """A new private key (from ``KEY_BYTES`` bytes of entropy) and a request for a certificate. PEM."""
    key = keys.private_key_from(raw)
    builder = x509.CertificateSigningRequestBuilder(keys.make_name(common_name="swarm-node"))
    request = builder.sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    return keys.key_pem(key), request.public_bytes(serialization.Encoding.PEM)


def check_csr(csr: bytes) -> bytes:
    """The public key (DER) that a request asks a certificate for, if it is fit for one.

    The request's signature shows that who asks has the private key.
    """
    return _public_key(csr).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def issue_certificate(
    root: RootCA, csr: bytes, subject: Subject, *, validity: Validity, serial: bytes
) -> bytes:
    """A certificate (PEM) for ``subject`` and the public key of the request.

    What leads from its issuer to roots of before follows it.
    """
    public = _public_key(csr)
    issuer_pem, issuer_key = roots.issuer_of(root)
    issuer = keys.load_certificates(issuer_pem)[0]
    names = [subject.role.value, str(subject.node_id)]
    if subject.role is Role.MANAGER:
        names.append(ROOT_NAME)
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    builder = (
        x509.CertificateBuilder(
            subject_name=keys.make_name(
                common_name=subject.node_id, unit=subject.role.value, organization=subject.cluster_id
            ),
            issuer_name=issuer.subject,
            public_key=public,
        )
        .serial_number(keys.serial_from(serial))
        .not_valid_before(keys.to_datetime(validity.not_before))
        .not_valid_after(min(keys.to_datetime(validity.not_after), issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(keys.key_usage(is_ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(keys.authority_identifier(issuer), critical=False)
    )
    return keys.certificate_pem(keys.sign(builder, keys.load_key(issuer_key))) + roots.intermediates(root)


@lru_cache(limits.PKI_PARSED_CACHED_MAX)
def _public_key(csr: bytes) -> PublicKey:
    # The size is checked before any parser sees the bytes.
    if len(csr) > limits.CSR_BYTES_MAX:
        raise InvalidArgument(
            f"the certificate request has {len(csr)} bytes, more than {limits.CSR_BYTES_MAX}"
        )
    try:
        request = x509.load_pem_x509_csr(csr)
        public = request.public_key()
        is_signed = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidArgument(f"this is not a certificate request: {error}") from error
    match public:
        case ec.EllipticCurvePublicKey() if isinstance(public.curve, ec.SECP256R1 | ec.SECP384R1):
            pass
        case rsa.RSAPublicKey() if _RSA_BITS_MIN <= public.key_size <= _RSA_BITS_MAX:
            pass
        case _:
            raise InvalidArgument(
                "the certificate request's key is too weak or of a kind that is not accepted: "
                f"use P-256, P-384 or RSA with {_RSA_BITS_MIN} to {_RSA_BITS_MAX} bits"
            )
    if not is_signed:
        raise InvalidArgument("the certificate request is not signed with its own key")
    return public
