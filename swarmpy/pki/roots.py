"""Roots that follow one another: begin a rotation, end it, and what is trusted and shown meanwhile.

From its beginning on certificates are issued by the new root. They are shown with the new root's certificate
signed by the old one, so that who trusts either takes them. At the end the old root is forgotten, but for the
nodes that were down: they may renew with it for a while, and nothing else.

* Nodes trust ``trust_bundle``: the root, and while it is being changed the one that is to come.
* Managers show ``intermediates`` after their leaf; who trusts only a root of before gets from there to it.
* Join tokens name the root that is to be trusted before anybody is: they change at the end, with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from msgspec.structs import replace

from swarmpy.errors import InvalidArgument
from swarmpy.model.ids import SECOND_NS, Duration, NodeId, Timestamp
from swarmpy.model.root_ca import JoinTokens, RetiredRoot, RootCA, RootRotation
from swarmpy.pki import keys
from swarmpy.pki.identity import BACKDATE, is_authority, is_self_signed
from swarmpy.pki.limits import (
    INTERMEDIATES_MAX,
    OWN_ROOT_BYTES_MAX,
    ROOT_RETIRED_KEPT_S,
    ROOTS_RETIRED_MAX,
)
from swarmpy.pki.tokens import create_token

ROOT_NAME = "swarm-ca"

_DAY = 24 * 3600 * SECOND_NS
_ROOT_LIFE = Duration(20 * 365 * _DAY)
_OWN_ROOT_LIFE_MIN = Duration(365 * _DAY)
"""A user's root must hold for a year yet, as swarm mode has it."""
_RETIRED_KEPT = Duration(int(ROOT_RETIRED_KEPT_S * SECOND_NS))
_RSA_BITS_MIN = 2048
_RSA_BITS_MAX = 8192


def make_root(now: Timestamp, *, key: bytes, serial: bytes) -> tuple[bytes, bytes]:
    """A new root's certificate and key (PEM), from entropy."""
    private = keys.private_key_from(key)
    name = keys.make_name(common_name=ROOT_NAME)
    identifier = x509.SubjectKeyIdentifier.from_public_key(private.public_key())
    builder = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=private.public_key())
        .serial_number(keys.serial_from(serial))
        .not_valid_before(keys.to_datetime(Timestamp(now - BACKDATE)))
        .not_valid_after(keys.to_datetime(Timestamp(now + _ROOT_LIFE)))
        .add_extension(x509.BasicConstraints(ca=True, path_length=INTERMEDIATES_MAX), critical=True)
        .add_extension(keys.key_usage(is_ca=True), critical=True)
        .add_extension(identifier, critical=False)
    )
    return keys.certificate_pem(keys.sign(builder, private)), keys.key_pem(private)


def digest_of(certificate: bytes) -> str:
    """A root's digest, as ``RootCA.ca_cert_hash`` has it."""
    return f"sha256:{hashlib.sha256(certificate).hexdigest()}"


def begin_rotation(
    root: RootCA, successor: tuple[bytes, bytes], *, serial: bytes, secrets: tuple[bytes, bytes]
) -> RootCA:
    """Set out for another root (certificate and key, PEM); the target of one under way is replaced.

    ``secrets``: of the workers' and the managers' next join token.
    """
    certificate, key = successor
    worker, manager = (str(create_token(certificate, secret)) for secret in secrets)
    rotation = RootRotation(
        ca_cert=certificate,
        ca_key=key,
        cross_signed_cert=_cross_sign(root, certificate, serial=serial),
        join_tokens=JoinTokens(worker=worker, manager=manager),
    )
    return replace(root, rotation=rotation)


def cancel_rotation(root: RootCA) -> RootCA:
    """Stay with the present root."""
    return replace(root, rotation=None)


def finish_rotation(root: RootCA, absent: Iterable[NodeId], now: Timestamp) -> RootCA:
    """Leave the old root. ``absent`` nodes have no certificate of the new one: they may still renew."""
    rotation = root.rotation
    assert rotation is not None, "only a rotation that was begun can be finished"
    left = RetiredRoot(
        ca_cert=root.ca_cert,
        cross_signed_cert=rotation.cross_signed_cert,
        node_ids=tuple(sorted(absent)),
        expires_at=Timestamp(now + _RETIRED_KEPT),
    )
    return replace(
        root,
        ca_cert=rotation.ca_cert,
        ca_key=rotation.ca_key,
        ca_cert_hash=digest_of(rotation.ca_cert),
        join_tokens=rotation.join_tokens,
        rotation=None,
        retired=(left, *root.retired)[:ROOTS_RETIRED_MAX] if left.node_ids else root.retired,
    )


def trust_bundle(root: RootCA) -> bytes:
    """What nodes trust now. PEM; without a rotation it is the root to the letter, as clients are shown it."""
    return root.ca_cert + (root.rotation.ca_cert if root.rotation is not None else b"")


def intermediates(root: RootCA) -> bytes:
    """How one gets from the present issuer to the roots of before. PEM, the newest first."""
    newest = b"" if root.rotation is None else root.rotation.cross_signed_cert
    return newest + b"".join(retired.cross_signed_cert for retired in root.retired)


def issuer_of(root: RootCA) -> tuple[bytes, bytes]:
    """Certificate and key (PEM) that nodes' certificates are signed with now."""
    if root.rotation is not None:
        return root.rotation.ca_cert, root.rotation.ca_key
    return root.ca_cert, root.ca_key


def check_own_root(certificate: str, key: str, now: Timestamp) -> tuple[bytes, bytes]:
    """A user's root, fit for use. Texts are swarm mode's where it has one."""
    found = _own_certificate(certificate)
    private = _own_key(key)
    if private.public_key() != found.public_key():
        raise InvalidArgument("certificate key mismatch")
    if keys.to_timestamp(found.not_valid_after_utc) < now + _OWN_ROOT_LIFE_MIN:
        raise InvalidArgument("CA certificate expires too soon")
    if keys.to_timestamp(found.not_valid_before_utc) > now:
        raise InvalidArgument("the CA certificate is not valid yet: see to the clocks, or make it anew")
    _check_is_authority(found)
    return keys.certificate_pem(found), keys.key_pem(private)


def own_root(text: str) -> bytes:
    """The one certificate in a user's text, as PEM in its normal form."""
    return keys.certificate_pem(_own_certificate(text))


def _own_certificate(text: str) -> x509.Certificate:
    if len(text) > OWN_ROOT_BYTES_MAX:
        raise InvalidArgument(
            f"the CA certificate has more than {OWN_ROOT_BYTES_MAX} bytes: give one certificate in PEM"
        )
    found = keys.load_certificates(text.encode())
    if len(found) > 1:
        raise InvalidArgument("the desired CA certificate cannot contain multiple certificates")
    return found[0]


def _own_key(text: str) -> keys.PrivateKey:
    if len(text) > OWN_ROOT_BYTES_MAX:
        raise InvalidArgument(f"the CA key has more than {OWN_ROOT_BYTES_MAX} bytes: give one key in PEM")
    try:
        private = serialization.load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidArgument(f"malformed private key: {error}") from error
    match private:
        case ec.EllipticCurvePrivateKey() if isinstance(private.curve, ec.SECP256R1 | ec.SECP384R1):
            return private
        case rsa.RSAPrivateKey() if _RSA_BITS_MIN <= private.key_size <= _RSA_BITS_MAX:
            return private
        case rsa.RSAPrivateKey():
            raise InvalidArgument("unsupported RSA key parameters")
        case _:
            raise InvalidArgument(
                "the CA key is of a kind that is not accepted: use P-256, P-384 or RSA with "
                f"{_RSA_BITS_MIN} to {_RSA_BITS_MAX} bits"
            )


def _check_is_authority(certificate: x509.Certificate) -> None:
    if not is_authority(certificate):
        raise InvalidArgument("the CA certificate is not an authority's: it has to say CA:TRUE")
    if not is_self_signed(certificate):
        raise InvalidArgument("the CA certificate is not a root: it has to be signed with its own key")
    extensions = certificate.extensions
    if extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0:
        # the root that follows it one day could not be vouched for
        raise InvalidArgument("the CA certificate has pathlen:0: it has to allow one authority below it")
    try:
        extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound as error:
        # roots may have the same name: then this alone tells them apart
        raise InvalidArgument(
            "the CA certificate has no subject key identifier: make one that has (openssl does so by default)"
        ) from error
    try:
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not usage.key_cert_sign:
        raise InvalidArgument("the CA certificate's key usage does not allow signing certificates")


def _cross_sign(root: RootCA, certificate: bytes, *, serial: bytes) -> bytes:
    """The new root's name and key, signed by the old root."""
    old = keys.load_certificates(root.ca_cert)[0]
    new = keys.load_certificates(certificate)[0]
    identifier = new.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        x509.CertificateBuilder(
            subject_name=new.subject, issuer_name=old.subject, public_key=keys.public_key_of(new)
        )
        .serial_number(keys.serial_from(serial))
        .not_valid_before(old.not_valid_before_utc)
        .not_valid_after(min(old.not_valid_after_utc, new.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(keys.key_usage(is_ca=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(keys.authority_identifier(old), critical=False)
    )
    return keys.certificate_pem(keys.sign(builder, keys.load_key(root.ca_key)))
