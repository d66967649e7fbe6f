"""The cluster's certificates and join tokens: who a peer is, and how it came to be that.

* ``keys``: P-256 keys from given bytes, PEM in and out, validity.
* ``authority``: the root, and certificates for nodes.
* ``roots``: roots that follow one another.
* ``tokens``: join tokens, and the certificate that each of them implies.
* ``identity``: what a certificate says, whether the root stands behind it, and a node's own identity.

All of it is computation: time and entropy come in as arguments, files and sockets are elsewhere. The
``cryptography`` library is imported in this package only.
"""

from __future__ import annotations

from swarmpy.pki.authority import (
    check_csr,
    create_csr,
    create_root_ca,
    issue_certificate,
    rotate_tokens,
    validity_from,
)
from swarmpy.pki.identity import (
    RENEW_FRACTION_MAX,
    RENEW_FRACTION_MIN,
    Identity,
    Issuer,
    Subject,
    is_issued_by,
    issuer_in,
    issuer_of_identity,
    load_identity,
    read_certificate,
    renewal_at,
    verify_certificate,
)
from swarmpy.pki.keys import KEY_BYTES, SERIAL_BYTES, Role, Validity, split_pem
from swarmpy.pki.roots import (
    begin_rotation,
    cancel_rotation,
    check_own_root,
    finish_rotation,
    intermediates,
    issuer_of,
    make_root,
    own_root,
    trust_bundle,
)
from swarmpy.pki.tokens import (
    SECRET_BYTES,
    JoinToken,
    create_token,
    is_same_token,
    join_identity,
    parse_token,
    root_digest,
    select_roots,
)

__all__ = [
    "KEY_BYTES",
    "RENEW_FRACTION_MAX",
    "RENEW_FRACTION_MIN",
    "SECRET_BYTES",
    "SERIAL_BYTES",
    "Identity",
    "Issuer",
    "JoinToken",
    "Role",
    "Subject",
    "Validity",
    "begin_rotation",
    "cancel_rotation",
    "check_csr",
    "check_own_root",
    "create_csr",
    "create_root_ca",
    "create_token",
    "finish_rotation",
    "intermediates",
    "is_issued_by",
    "is_same_token",
    "issue_certificate",
    "issuer_in",
    "issuer_of",
    "issuer_of_identity",
    "join_identity",
    "load_identity",
    "make_root",
    "own_root",
    "parse_token",
    "read_certificate",
    "renewal_at",
    "root_digest",
    "rotate_tokens",
    "select_roots",
    "split_pem",
    "trust_bundle",
    "validity_from",
    "verify_certificate",
]
