"""Roots that follow one another: who is believed when, and which roots of a user's are refused."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from msgspec.structs import replace
from pki_cluster import DAY, HOUR, PkiCluster

from swarmpy import pki
from swarmpy.errors import InvalidArgument, PermissionDenied
from swarmpy.model.ids import ClusterId, NodeId, Timestamp
from swarmpy.model.root_ca import RootCA
from swarmpy.pki import Role, Subject
from swarmpy.pki.limits import ROOT_RETIRED_KEPT_S, ROOTS_RETIRED_MAX
from swarmpy.runtime import SystemClock

NOW = Timestamp(1_790_000_000 * 1_000_000_000)
NODE = NodeId("n" * 25)
CLUSTER = ClusterId("c" * 25)
AWAY = NodeId("away")

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def drawn(count: int) -> bytes:
    return os.urandom(count)


def first() -> RootCA:
    return pki.create_root_ca(
        NOW, key=drawn(pki.KEY_BYTES), serial=drawn(pki.SERIAL_BYTES), secrets=(drawn(16), drawn(16))
    )


def begun(root: RootCA, successor: tuple[bytes, bytes] | None = None) -> RootCA:
    made = successor or pki.make_root(NOW, key=drawn(pki.KEY_BYTES), serial=drawn(pki.SERIAL_BYTES))
    return pki.begin_rotation(root, made, serial=drawn(pki.SERIAL_BYTES), secrets=(drawn(16), drawn(16)))


def leaf_of(root: RootCA, role: Role = Role.WORKER) -> bytes:
    _, csr = pki.create_csr(drawn(pki.KEY_BYTES))
    return pki.issue_certificate(
        root,
        csr,
        Subject(node_id=NODE, role=role, cluster_id=CLUSTER),
        validity=pki.validity_from(NOW, DAY),
        serial=drawn(pki.SERIAL_BYTES),
    )


def is_believed(certificate: bytes, roots: bytes) -> bool:
    try:
        subject, _ = pki.verify_certificate(certificate, roots, NOW)
    except PermissionDenied:
        return False
    assert subject == Subject(node_id=NODE, role=Role.WORKER, cluster_id=CLUSTER)
    return True


def test_during_a_rotation_new_certificates_are_believed_by_who_trusts_either_root() -> None:
    old = first()
    now = begun(old)
    assert now.rotation is not None
    before, after = leaf_of(old), leaf_of(now)
    bundle = pki.trust_bundle(now)
    assert [is_believed(before, roots) for roots in (old.ca_cert, now.rotation.ca_cert, bundle)] == [
        True,
        False,
        True,
    ]
    assert [is_believed(after, roots) for roots in (old.ca_cert, now.rotation.ca_cert, bundle)] == [True] * 3
    assert not is_believed(pki.split_pem(after)[0], old.ca_cert), "the intermediate is what leads there"


def test_an_intermediate_alone_proves_nothing() -> None:
    old, other = begun(first()), begun(first())
    assert not is_believed(leaf_of(old), other.ca_cert)
    mixed = pki.split_pem(leaf_of(old))[0] + pki.intermediates(other)
    assert not is_believed(mixed, other.ca_cert)


def test_a_node_vouches_for_nobody() -> None:
    """A leaf in the place of an intermediate: its key may sign what it likes."""
    cluster = PkiCluster()
    node = cluster.identity(Role.WORKER)
    forged = replace(cluster.cluster.root_ca, ca_cert=node.certificate, ca_key=node.key)
    certificate = leaf_of(forged) + node.certificate
    assert pki.is_issued_by(certificate, cluster.cluster.root_ca.ca_cert) is False
    assert not is_believed(certificate, cluster.cluster.root_ca.ca_cert)


def test_tokens_change_with_the_root_and_not_before() -> None:
    old = first()
    now = begun(old)
    assert now.join_tokens == old.join_tokens
    done = pki.finish_rotation(now, (), NOW)
    assert {pki.parse_token(text).digest for text in (done.join_tokens.worker, done.join_tokens.manager)} == {
        pki.root_digest(done.ca_cert)
    }
    assert done.join_tokens.worker != done.join_tokens.manager
    assert {done.join_tokens.worker, done.join_tokens.manager}.isdisjoint(
        {old.join_tokens.worker, old.join_tokens.manager}
    )


def test_at_the_end_only_the_new_root_is_left() -> None:
    now = begun(first())
    assert now.rotation is not None
    done = pki.finish_rotation(now, (), NOW)
    assert (done.ca_cert, done.ca_key) == (now.rotation.ca_cert, now.rotation.ca_key)
    assert done.ca_cert_hash == pki.roots.digest_of(done.ca_cert)
    assert (done.rotation, done.retired, pki.intermediates(done)) == (None, (), b"")
    assert pki.trust_bundle(done) == done.ca_cert
    assert not is_believed(leaf_of(now), first().ca_cert)


def test_who_was_away_finds_back_over_several_changes_and_their_number_is_bounded() -> None:
    root = oldest = first()
    for _ in range(ROOTS_RETIRED_MAX):
        root = pki.finish_rotation(begun(root), (AWAY,), NOW)
    assert [retired.node_ids for retired in root.retired] == [(AWAY,)] * ROOTS_RETIRED_MAX
    assert root.retired[0].expires_at == NOW + int(ROOT_RETIRED_KEPT_S) * 1_000_000_000
    assert is_believed(leaf_of(root), oldest.ca_cert)
    assert is_believed(leaf_of(begun(root)), oldest.ca_cert)
    root = pki.finish_rotation(begun(root), (AWAY,), NOW)
    assert len(root.retired) == ROOTS_RETIRED_MAX
    assert not is_believed(leaf_of(root), oldest.ca_cert)


def test_tls_finds_the_way_to_the_root_of_before_over_several_changes(tmp_path: Path) -> None:
    """By way of users' roots, whose names are others: authorities of one name are not counted."""
    now = SystemClock().now()
    root = oldest = pki.create_root_ca(
        now,
        key=drawn(pki.KEY_BYTES),
        serial=drawn(pki.SERIAL_BYTES),
        secrets=(drawn(16), drawn(16)),
    )
    for name in ("one", "two", "three"):
        root = pki.finish_rotation(begun(root, to_bytes(own(name=name, at=now / 1e9))), (AWAY,), NOW)
    key, csr = pki.create_csr(drawn(pki.KEY_BYTES))
    leaf = pki.issue_certificate(
        root,
        csr,
        Subject(node_id=NODE, role=Role.MANAGER, cluster_id=CLUSTER),
        validity=pki.validity_from(now, DAY),
        serial=drawn(pki.SERIAL_BYTES),
    )
    file = tmp_path / "server.pem"
    file.write_bytes(key + leaf)
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(file)
    client.load_verify_locations(cadata=oldest.ca_cert.decode())
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    answering = server.wrap_bio(up, down, server_side=True)
    asking = client.wrap_bio(down, up, server_hostname=Role.MANAGER.value)
    with pytest.raises(ssl.SSLWantReadError):
        asking.do_handshake()
    with pytest.raises(ssl.SSLWantReadError):
        answering.do_handshake()
    asking.do_handshake()


def test_another_target_replaces_the_first_and_its_certificates_hold_on() -> None:
    old = first()
    to_one = begun(old)
    to_other = begun(to_one)
    abandoned = leaf_of(to_one)
    assert is_believed(abandoned, pki.trust_bundle(to_other))
    assert is_believed(abandoned, pki.cancel_rotation(to_one).ca_cert)
    assert not is_believed(abandoned, pki.finish_rotation(to_other, (), NOW).ca_cert)


def test_a_joiner_finds_the_one_root_that_its_token_names() -> None:
    """Old and new roots have one name: the intermediate looks like a root, but for its signature."""
    old = first()
    now = begun(old)
    token = pki.parse_token(old.join_tokens.worker)
    shown = leaf_of(now) + old.ca_cert
    assert pki.select_roots(shown, token) == old.ca_cert
    done = pki.finish_rotation(now, (AWAY,), NOW)
    assert pki.select_roots(leaf_of(done) + done.ca_cert, pki.parse_token(done.join_tokens.worker))
    with pytest.raises(InvalidArgument, match="does not match fingerprint"):
        pki.select_roots(leaf_of(done) + done.ca_cert, token)


def test_whose_certificate_a_node_has() -> None:
    cluster = PkiCluster()
    before = cluster.identity(Role.WORKER)
    root = pki.begin_rotation(
        cluster.cluster.root_ca,
        pki.make_root(cluster.clock.now(), key=drawn(pki.KEY_BYTES), serial=drawn(pki.SERIAL_BYTES)),
        serial=drawn(pki.SERIAL_BYTES),
        secrets=(drawn(16), drawn(16)),
    )
    assert root.rotation is not None
    cluster.cluster = replace(cluster.cluster, root_ca=root)
    after = cluster.identity(Role.WORKER)
    old, new = pki.issuer_in(root.ca_cert), pki.issuer_in(root.rotation.ca_cert)
    assert (pki.issuer_of_identity(before), pki.issuer_of_identity(after)) == (old, new)
    assert old.subject == new.subject
    assert old.mark != new.mark


# --- roots of the user's


def own(
    key: Key | None = None,
    *,
    days: int = 1000,
    is_ca: bool = True,
    path_length: int | None = None,
    has_identifier: bool = True,
    signer: Key | None = None,
    name: str = "mine",
    at: float = NOW / 1e9,
) -> tuple[str, str]:
    key = key or ec.generate_private_key(ec.SECP256R1())
    named = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    moment = datetime.fromtimestamp(at, UTC)
    builder = (
        x509.CertificateBuilder(named, named, key.public_key())
        .serial_number(7)
        .not_valid_before(moment - timedelta(hours=1))
        .not_valid_after(moment + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=path_length), critical=True)
    )
    if has_identifier:
        builder = builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
    certificate = builder.sign(signer or key, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), pem_of(key)


def to_bytes(texts: tuple[str, str]) -> tuple[bytes, bytes]:
    certificate, key = texts
    return certificate.encode(), key.encode()


def pem_of(key: Key) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-384", "RSA"],
)
def test_a_root_of_the_users_is_taken_and_left_again(key: Key) -> None:
    mine = pki.check_own_root(*own(key), NOW)
    old = first()
    root = pki.finish_rotation(begun(old, mine), (AWAY,), NOW)
    certificate = leaf_of(root)
    assert is_believed(certificate, mine[0])
    assert is_believed(certificate, old.ca_cert)
    onward = begun(root)
    assert is_believed(leaf_of(onward), mine[0])
    assert is_believed(leaf_of(onward), old.ca_cert)


def test_roots_that_are_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    other = ec.generate_private_key(ec.SECP256R1())
    weak = rsa.generate_private_key(65537, 1024)
    good = own(key)
    cases = [
        ((good[0], pem_of(other)), "certificate key mismatch"),
        ((good[0], "nonsense"), "malformed private key"),
        (own(key, days=30), "CA certificate expires too soon"),
        (own(weak), "unsupported RSA key parameters"),
        (own(key, is_ca=False), "not an authority's"),
        (own(key, signer=other), "not a root"),
        (own(key, path_length=0), "pathlen:0"),
        (own(key, has_identifier=False), "no subject key identifier"),
        ((good[0] * 2, good[1]), "cannot contain multiple certificates"),
        (("x" * 100_000, good[1]), "more than 65536 bytes"),
        (own(ec.generate_private_key(ec.SECP521R1())), "of a kind that is not accepted"),
    ]
    for (certificate, private), reason in cases:
        with pytest.raises(InvalidArgument, match=reason):
            pki.check_own_root(certificate, private, NOW)
    with pytest.raises(InvalidArgument, match="not valid yet"):
        pki.check_own_root(*good, Timestamp(NOW - 2 * HOUR))
