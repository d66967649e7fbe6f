"""Certificates for the API on TCP: an authority, what it issues, and files of them as docker names them."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = timedelta(days=1)


def pem_key(key: ec.EllipticCurvePrivateKey, passphrase: bytes = b"") -> bytes:
    sealing = (
        serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    )
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealing)


class Authority:
    def __init__(self, name: str = "test CA") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.BasicConstraints(ca=True, path_length=0)
        self.certificate = self._signed(self._builder(self._name, self._key).add_extension(usage, True))

    def _builder(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, days: int = 1
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 3 * DAY)
            .not_valid_after(now + days * DAY)
        )

    def _signed(self, builder: x509.CertificateBuilder) -> bytes:
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str, *, address: str = "", days: int = 1) -> tuple[bytes, bytes]:
        """Certificate and key (PEM): a server's if it has an address, else a client's."""
        key = ec.generate_private_key(ec.SECP256R1())
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if address else ExtendedKeyUsageOID.CLIENT_AUTH
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(subject, key, days).add_extension(x509.ExtendedKeyUsage([purpose]), False)
        if address:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
            builder = builder.add_extension(names, False)
        return self._signed(builder), pem_key(key)

    def write(self, folder: Path, name: str, *, address: str = "") -> Path:
        """``ca.pem``, ``cert.pem`` and ``key.pem``, as ``DOCKER_CERT_PATH`` has them."""
        folder.mkdir(parents=True, exist_ok=True)
        certificate, key = self.issue(name, address=address)
        for file, text in (("ca", self.certificate), ("cert", certificate), ("key", key)):
            (folder / f"{file}.pem").write_bytes(text)
        return folder
