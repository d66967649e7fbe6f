"""The authority: what it puts into certificates, and which requests it refuses."""

from __future__ import annotations

import os

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pki_cluster import DAY, HOUR, PkiCluster

from swarmpy import limits, pki
from swarmpy.errors import InvalidArgument, PermissionDenied
from swarmpy.model.ids import Duration, NodeId, Timestamp
from swarmpy.model.states import NodeRole
from swarmpy.pki import Role, Subject

NOW = Timestamp(1_700_000_000 * 1_000_000_000)
NODE = NodeId("n" * 25)
RSA_512_CSR = b"""-----BEGIN CERTIFICATE REQUEST-----
MIHFMHECAQAwDDEKMAgGA1UEAwwBeDBcMA0GCSqGSIb3DQEBAQUAA0sAMEgCQQCz
8jHryooaesleTvAYNr06CLnEbiPrtuDC4t9X+H5ZPay6vmuwOvUXj2B+im4Iw77r
aewErpu3blPCQRkkQjSTAgMBAAGgADANBgkqhkiG9w0BAQsFAANBAD5WyVOrACyY
Bshj2E2IZxpZvNR/ME77GLdSgnNWBYKH3MwtCDuxfA/jOy2U3eO7s0C0Gw4Zqyhb
J0Iawp9Aa3s=
-----END CERTIFICATE REQUEST-----
"""


@pytest.fixture
def cluster() -> PkiCluster:
    return PkiCluster()


def issue(cluster: PkiCluster, csr: bytes, role: Role = Role.WORKER) -> x509.Certificate:
    certificate = pki.issue_certificate(
        cluster.cluster.root_ca,
        csr,
        Subject(node_id=NODE, role=role, cluster_id=cluster.id),
        validity=pki.validity_from(cluster.clock.now(), DAY),
        serial=os.urandom(pki.SERIAL_BYTES),
    )
    return x509.load_pem_x509_certificate(certificate)


def csr_of(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey,
    builder: x509.CertificateSigningRequestBuilder | None = None,
) -> bytes:
    builder = builder or x509.CertificateSigningRequestBuilder(x509.Name([]))
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM)


def names_of(certificate: x509.Certificate) -> list[str]:
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return extension.value.get_values_for_type(x509.DNSName)


def test_the_root_is_swarm_modes(cluster: PkiCluster) -> None:
    root_ca = cluster.cluster.root_ca
    root = x509.load_pem_x509_certificate(root_ca.ca_cert)
    assert root.subject.rfc4514_string() == root.issuer.rfc4514_string() == "CN=swarm-ca"
    years = (root.not_valid_after_utc - root.not_valid_before_utc).days / 365
    assert years == pytest.approx(20 + 7 / 365, abs=0.01)  # and a week before
    public = root.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert isinstance(public.curve, ec.SECP256R1)
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    root.verify_directly_issued_by(root)
    assert root_ca.ca_cert_hash.startswith("sha256:")
    for text in (root_ca.join_tokens.worker, root_ca.join_tokens.manager):
        assert pki.parse_token(text).digest == pki.root_digest(root_ca.ca_cert)
    assert root_ca.join_tokens.worker != root_ca.join_tokens.manager


def test_the_same_entropy_makes_the_same_cluster() -> None:
    made = [
        pki.create_root_ca(
            NOW,
            key=b"k" * pki.KEY_BYTES,
            serial=b"s" * pki.SERIAL_BYTES,
            secrets=(b"w" * pki.SECRET_BYTES, b"m" * pki.SECRET_BYTES),
        )
        for _ in range(2)
    ]
    assert made[0] == made[1]
    assert pki.create_csr(b"k" * pki.KEY_BYTES) == pki.create_csr(b"k" * pki.KEY_BYTES)


def test_the_same_request_gets_the_same_certificate(cluster: PkiCluster) -> None:
    """No signature draws chance, so a run of the simulation can be repeated byte for byte."""
    root = cluster.cluster.root_ca
    _, csr = pki.create_csr(b"k" * pki.KEY_BYTES)
    subject = Subject(node_id=NODE, role=Role.MANAGER, cluster_id=cluster.id)
    validity = pki.validity_from(NOW, DAY)
    issued = {
        pki.issue_certificate(root, csr, subject, validity=validity, serial=b"s" * pki.SERIAL_BYTES)
        for _ in range(3)
    }
    assert len(issued) == 1
    token = pki.parse_token(root.join_tokens.worker)
    assert pki.join_identity(token) == pki.join_identity(token)


def test_rotation_changes_only_the_token_that_is_meant(cluster: PkiCluster) -> None:
    before = cluster.cluster.root_ca
    after = pki.rotate_tokens(before, manager=os.urandom(pki.SECRET_BYTES))
    assert after.join_tokens.worker == before.join_tokens.worker
    assert after.join_tokens.manager != before.join_tokens.manager
    assert (after.ca_cert, after.ca_key) == (before.ca_cert, before.ca_key)


@pytest.mark.parametrize(
    ("role", "names"),
    [
        (Role.WORKER, ["swarm-worker", NODE]),
        (Role.MANAGER, ["swarm-manager", NODE, "swarm-ca"]),
    ],
)
def test_a_node_certificate_is_swarm_modes(cluster: PkiCluster, role: Role, names: list[str]) -> None:
    leaf = issue(cluster, pki.create_csr(os.urandom(pki.KEY_BYTES))[1], role)
    subject = {attribute.oid: attribute.value for attribute in leaf.subject}
    assert subject == {
        NameOID.COMMON_NAME: NODE,
        NameOID.ORGANIZATIONAL_UNIT_NAME: role.value,
        NameOID.ORGANIZATION_NAME: cluster.id,
    }
    assert names_of(leaf) == names
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(cluster.cluster.root_ca.ca_cert))


@pytest.mark.parametrize(
    ("expiry", "life"),
    [(0, 90 * DAY), (HOUR - 1, 90 * DAY), (HOUR, HOUR), (2 * DAY, 2 * DAY)],
)
def test_validity_is_dated_back_a_week_and_lasts_at_least_an_hour(expiry: int, life: int) -> None:
    validity = pki.validity_from(NOW, Duration(expiry))
    assert validity.not_before == NOW - 7 * DAY
    assert validity.not_after == NOW + life


def test_no_certificate_outlives_the_root(cluster: PkiCluster) -> None:
    identity = cluster.identity(Role.WORKER, expiry=Duration(100 * 365 * DAY))
    root = x509.load_pem_x509_certificate(cluster.cluster.root_ca.ca_cert)
    leaf = x509.load_pem_x509_certificate(identity.certificate)
    assert leaf.not_valid_after_utc == root.not_valid_after_utc


# --- hostile requests


def test_nothing_but_the_key_of_a_request_counts(cluster: PkiCluster) -> None:
    """A foreign id, the manager's unit, another cluster, hosts, an authority: all ignored."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "z" * 25),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "swarm-manager"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "another"),
        ]
    )
    builder = (
        x509.CertificateSigningRequestBuilder(name)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("swarm-manager")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    hostile, plain = issue(cluster, csr_of(key, builder)), issue(cluster, csr_of(key))
    assert hostile.subject == plain.subject
    assert [one.value for one in hostile.extensions] == [one.value for one in plain.extensions]
    assert names_of(hostile) == ["swarm-worker", NODE]
    assert hostile.public_key() == key.public_key()


@pytest.mark.parametrize(
    "key",
    [ec.SECP256R1(), ec.SECP384R1(), 2048],
    ids=["p256", "p384", "rsa2048"],
)
def test_strong_keys_are_accepted(cluster: PkiCluster, key: ec.EllipticCurve | int) -> None:
    made = rsa.generate_private_key(65537, key) if isinstance(key, int) else ec.generate_private_key(key)
    leaf = issue(cluster, csr_of(made))
    assert leaf.public_key() == made.public_key()


@pytest.mark.parametrize(
    "csr",
    [
        RSA_512_CSR,
        csr_of(rsa.generate_private_key(65537, 1024)),
        csr_of(ed25519.Ed25519PrivateKey.generate()),
        csr_of(ec.generate_private_key(ec.SECP256K1())),
        csr_of(ec.generate_private_key(ec.SECP224R1())),
    ],
    ids=["rsa512", "rsa1024", "ed25519", "secp256k1", "p224"],
)
def test_weak_and_unusual_keys_are_refused(csr: bytes) -> None:
    with pytest.raises(InvalidArgument, match="too weak or of a kind"):
        pki.check_csr(csr)


@pytest.mark.parametrize(
    "csr",
    [
        b"",
        b"\0" * 100,
        b"-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n",
        b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        PkiCluster().cluster.root_ca.ca_cert,
        PkiCluster().cluster.root_ca.ca_key,
    ],
    ids=["empty", "zeros", "hollow", "short", "certificate", "key"],
)
def test_garbage_is_refused(csr: bytes) -> None:
    with pytest.raises(InvalidArgument, match="not a certificate request"):
        pki.check_csr(csr)


@pytest.mark.parametrize("size", [limits.CSR_BYTES_MAX + 1, 10_000_000])
def test_an_oversized_request_is_refused_unread(size: int) -> None:
    with pytest.raises(InvalidArgument, match=f"{size} bytes, more than"):
        pki.check_csr(b"x" * size)


def test_a_request_for_the_key_of_another_is_refused() -> None:
    """The signature in the request must be the key's own."""
    mine = csr_of(ec.generate_private_key(ec.SECP256R1()))
    request = x509.load_pem_x509_csr(mine)
    der = bytearray(request.public_bytes(serialization.Encoding.DER))
    public = request.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    at = der.index(public)
    der[at : at + len(public)] = other.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    stolen = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(InvalidArgument, match="not signed with its own key"):
        pki.check_csr(stolen)


# --- identities


def test_a_certificate_is_believed_only_if_the_root_stands_behind_it(cluster: PkiCluster) -> None:
    now, roots = cluster.clock.now(), cluster.cluster.root_ca.ca_cert
    identity = cluster.identity(Role.MANAGER)
    subject, validity = pki.verify_certificate(identity.certificate, roots, now)
    assert subject == Subject(node_id=identity.node_id, role=Role.MANAGER, cluster_id=cluster.id)
    assert validity == identity.validity
    assert pki.read_certificate(identity.certificate) == (subject, validity)
    refused = {
        "another root": (PkiCluster().identity(Role.MANAGER).certificate, now),
        "a join certificate": (cluster.joiner(Role.MANAGER).certificate, now),
        "the root itself": (roots, now),
        "expired": (identity.certificate, Timestamp(identity.validity.not_after + 1)),
        "not yet": (identity.certificate, Timestamp(identity.validity.not_before - 1)),
    }
    for what, (certificate, moment) in refused.items():
        with pytest.raises(PermissionDenied):
            pytest.fail(f"{what}: {pki.verify_certificate(certificate, roots, moment)}")


def test_the_parts_of_an_identity_must_belong_together(cluster: PkiCluster) -> None:
    one, other = cluster.identity(Role.WORKER), cluster.identity(Role.WORKER)
    with pytest.raises(InvalidArgument, match="does not belong to the certificate"):
        pki.load_identity(certificate=one.certificate, key=other.key, roots=one.roots)
    with pytest.raises(PermissionDenied, match="not issued by this cluster"):
        pki.load_identity(
            certificate=one.certificate, key=one.key, roots=PkiCluster().cluster.root_ca.ca_cert
        )
    with pytest.raises(InvalidArgument, match="not a private key"):
        pki.load_identity(certificate=one.certificate, key=b"junk", roots=one.roots)
    with pytest.raises(InvalidArgument, match="not a certificate"):
        pki.load_identity(certificate=b"junk", key=one.key, roots=one.roots)
    assert one.key not in repr(one).encode()


def test_renewal_falls_between_half_and_four_fifths_of_the_life() -> None:
    validity = pki.validity_from(NOW, Duration(10 * HOUR))
    assert pki.renewal_at(validity, pki.RENEW_FRACTION_MIN) == NOW + 5 * HOUR
    assert pki.renewal_at(validity, pki.RENEW_FRACTION_MAX) == NOW + 8 * HOUR


def test_roles_and_node_roles_go_together() -> None:
    assert Role.of_node(NodeRole.MANAGER) is Role.MANAGER
    assert Role.of_node(NodeRole.WORKER) is Role.WORKER
    assert {role: role.node_role for role in Role} == {
        Role.WORKER: NodeRole.WORKER,
        Role.JOIN_WORKER: NodeRole.WORKER,
        Role.MANAGER: NodeRole.MANAGER,
        Role.JOIN_MANAGER: NodeRole.MANAGER,
        Role.JOIN: NodeRole.UNSPECIFIED,
    }


# --- the root that a token names


def test_the_root_is_taken_from_the_chain_only_if_the_token_names_it(cluster: PkiCluster) -> None:
    token = pki.parse_token(cluster.cluster.root_ca.join_tokens.worker)
    root, leaf = cluster.cluster.root_ca.ca_cert, cluster.manager.certificate
    assert pki.select_roots(leaf + root, token) == root
    other = PkiCluster().cluster.root_ca.ca_cert
    for chain in (leaf, leaf + other, leaf + root + other, leaf + leaf, root):
        with pytest.raises(InvalidArgument, match="remote CA does not match fingerprint"):
            pki.select_roots(chain, token)
