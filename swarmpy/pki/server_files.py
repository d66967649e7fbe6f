"""The files that the API on TCP is served with: whether they can work, said before anybody connects.

They are the user's, of any kind of key, from any authority: nothing of the cluster's.
"""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from swarmpy.errors import FailedPrecondition
from swarmpy.model.ids import SECOND_NS, Timestamp


def check_server_files(certificate: bytes, key: bytes, authority: bytes, *, now: Timestamp) -> None:
    """PEM texts. FailedPrecondition with what is wrong with which of them."""
    leaf = _certificates(certificate, "certificate")[0]
    authorities = _certificates(authority, "CA certificate")
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except TypeError as error:
        raise FailedPrecondition(
            "the API's key is protected by a passphrase, and nobody is there to type it: store it without one"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FailedPrecondition(f"the API's key is no PEM private key: {error}") from error
    if private.public_key() != leaf.public_key():
        raise FailedPrecondition("the API's key does not belong to its certificate: give that one's")
    _check_holds(leaf, "certificate", now)
    for each in authorities:
        _check_holds(each, "CA certificate", now)


def _certificates(pem: bytes, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FailedPrecondition(f"the API's {what} is no PEM certificate: {error}") from error


def _check_holds(certificate: x509.Certificate, what: str, now: Timestamp) -> None:
    moment = datetime.fromtimestamp(now // SECOND_NS, UTC)
    if moment > certificate.not_valid_after_utc:
        raise FailedPrecondition(
            f"the API's {what} has expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: renew it"
        )
    if moment < certificate.not_valid_before_utc:
        raise FailedPrecondition(
            f"the API's {what} holds from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC only: see to "
            "this machine's clock"
        )
