"""Join tokens: ``SWMTKN-1-<digest of the root>-<secret>``, and the certificate that each implies.

The digest (50 digits of base 36) is the SHA-256 of the root certificates' PEM: with it a joiner knows the
right cluster before it trusts anybody. The secret (25 digits, 128 random bits) never travels: both sides
derive from it the same key and the same self-signed certificate. A manager puts the certificates of the
tokens in force into its trust bundle, a joiner presents its own, and TLS proves that it has the key
(ADR 001). A rotated token is one whose certificate has left the bundle.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID

from swarmpy import limits
from swarmpy.errors import InvalidArgument
from swarmpy.model.ids import ID_BYTES, ClusterId, NodeId, base36, make_id
from swarmpy.pki import keys
from swarmpy.pki.identity import Identity, is_self_signed

SECRET_BYTES = 16
"""Entropy for a token's secret."""

_PREFIX = "SWMTKN-1-"
_DIGEST_CHARS = 50
_SECRET_CHARS = 25
_DIGITS = re.compile(r"[0-9a-z]+\Z")
_KEY_PURPOSE = b"swarmpy join key 1 "
# No clock takes part in joining by token: rotation, not time, ends a token.
_NOT_BEFORE = datetime(2000, 1, 1, tzinfo=UTC)
_NOT_AFTER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class JoinToken:
    """A token in its two parts; ``str()`` gives it back as users see it."""

    digest: str
    secret: str

    def __str__(self) -> str:
        return f"{_PREFIX}{self.digest}-{self.secret}"

    def __repr__(self) -> str:
        # Tokens must not reach logs or tracebacks.
        return f"JoinToken(digest={self.digest!r})"


def root_digest(roots: bytes) -> str:
    """The digest of a root bundle as it stands in tokens. Line ends and comments do not matter."""
    normal = b"".join(keys.split_pem(roots))
    return base36(hashlib.sha256(normal).digest(), _DIGEST_CHARS)


def create_token(roots: bytes, raw: bytes) -> JoinToken:
    """A new token for the cluster of ``roots``, from ``SECRET_BYTES`` bytes of entropy."""
    if len(raw) != SECRET_BYTES:
        raise ValueError(f"a token is made from {SECRET_BYTES} bytes, got {len(raw)}")
    return JoinToken(digest=root_digest(roots), secret=base36(raw, _SECRET_CHARS))


def parse_token(text: str) -> JoinToken:
    """The token in ``text``. What is wrong with a bad one is said without repeating it."""
    if len(text) > limits.TOKEN_CHARS_MAX:
        raise InvalidArgument(f"invalid join token: it has {len(text)} characters, far too many")
    token = text.strip()
    if not token.startswith(_PREFIX):
        raise InvalidArgument(f"invalid join token: it does not start with {_PREFIX}")
    parts = token[len(_PREFIX) :].split("-")
    if len(parts) != 2:
        raise InvalidArgument("invalid join token: it is cut short or has parts too many")
    digest, secret = parts
    if len(digest) != _DIGEST_CHARS or len(secret) != _SECRET_CHARS:
        raise InvalidArgument("invalid join token: it is not complete; copy the whole of it")
    if not _DIGITS.match(digest) or not _DIGITS.match(secret):
        raise InvalidArgument("invalid join token: it holds characters other than digits and small letters")
    return JoinToken(digest=digest, secret=secret)


def is_same_token(one: JoinToken, other: JoinToken) -> bool:
    """Whether two tokens are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(str(one).encode(), str(other).encode())


def select_roots(chain: bytes, token: JoinToken) -> bytes:
    """The root bundle in a presented chain (PEM, leaf first), if it is the one that the token names.

    The bundle is every self-signed certificate after the leaf, in the order of the chain.
    """
    _, *rest = keys.load_certificates(chain)
    roots = b"".join(keys.certificate_pem(one) for one in rest if is_self_signed(one))
    got = root_digest(roots) if roots else "no root at all"
    if not hmac.compare_digest(got, token.digest):
        raise InvalidArgument(
            f"remote CA does not match fingerprint. Expected: {token.digest}. Got: {got}. "
            "Check that the address and the token are of the same cluster"
        )
    return roots


def join_identity(token: JoinToken, roots: bytes = b"") -> Identity:
    """The identity that possession of the token gives: enough to ask for a certificate, no more.

    Equal tokens give equal bytes. The certificate is no CA, so its key cannot vouch for others; its name
    is made of its key, so the certificates of two tokens never share one.
    """
    derivation = HKDF(
        algorithm=hashes.SHA256(),
        length=keys.KEY_BYTES,
        salt=None,
        info=_KEY_PURPOSE + token.digest.encode(),
    )
    key = keys.private_key_from(derivation.derive(token.secret.encode()))
    fingerprint = hashlib.sha256(keys.public_bytes(key.public_key())).digest()
    name = keys.make_name(common_name=make_id(fingerprint[:ID_BYTES]), unit=keys.Role.JOIN.value)
    builder = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key())
        .serial_number(keys.serial_from(fingerprint[-keys.SERIAL_BYTES :]))
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(keys.key_usage(is_ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    )
    return Identity(
        certificate=keys.certificate_pem(keys.sign(builder, key)),
        key=keys.key_pem(key),
        roots=roots,
        node_id=NodeId(""),
        role=keys.Role.JOIN,
        cluster_id=ClusterId(""),
        validity=keys.Validity(
            not_before=keys.to_timestamp(_NOT_BEFORE), not_after=keys.to_timestamp(_NOT_AFTER)
        ),
    )
