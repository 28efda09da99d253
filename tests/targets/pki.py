"""Test certificates, made for every test session: valid ones and each kind of invalid one.

`Pki(directory)` writes ``<name>.pem`` (the chain that a server sends, leaf first) and ``<name>.key`` for every name
below. All dates are relative to now. Each certificate has a different expiry, so that an expiry identifies it.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
LOOPBACK = (
    x509.DNSName("localhost"),
    x509.DNSName("www.example.test"),
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    x509.IPAddress(ipaddress.ip_address("::1")),
)
USAGES_OF_CA = dict.fromkeys(
    ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
     "encipher_only", "decipher_only"),
    False,
) | {"key_cert_sign": True, "crl_sign": True}  # fmt: skip


@dataclass(frozen=True)
class Issued:
    """A certificate, its key, and the certificates between it and its root."""

    certificate: x509.Certificate
    key: Key
    above: tuple[x509.Certificate, ...] = ()


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


# In the order of the certificate, which differs from that of the label, as in the original.
RICH = x509.Name(
    [
        x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
        x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "Calif"),
        x509.NameAttribute(NameOID.LOCALITY_NAME, "Paris é"),
        x509.NameAttribute(NameOID.STREET_ADDRESS, "1 main"),
        x509.NameAttribute(NameOID.POSTAL_CODE, "75000"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Org1"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Org2"),
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "OU1"),
        x509.NameAttribute(NameOID.COMMON_NAME, "leaf.test"),
        x509.NameAttribute(NameOID.SERIAL_NUMBER, "SN42"),
        x509.NameAttribute(NameOID.EMAIL_ADDRESS, "a@b.c"),
        x509.NameAttribute(NameOID.DOMAIN_COMPONENT, "example"),
    ]
)
AWKWARD = x509.Name(
    [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, ' a,b+c"d\\e<f>g;h '),
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "#tag=1"),
        x509.NameAttribute(NameOID.COMMON_NAME, "first"),
        x509.NameAttribute(NameOID.COMMON_NAME, "last"),
        x509.NameAttribute(NameOID.LOCALITY_NAME, "middle # and = stay"),
    ]
)
MULTI_VALUED = x509.Name(
    [
        x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COUNTRY_NAME, "US")]),
        x509.RelativeDistinguishedName(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, "multi"),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "two"),
            ]
        ),
    ]
)


class Pki:
    """Makes the certificates in `directory`, and gives a name to each value that changes between sessions."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.names: dict[str, str] = {}
        self._now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        self._apart = count(1)
        self._make_authorities()
        self._make_leaves()
        self._make_bad_leaves()
        self._make_odd_chains()

    def trust(self, root: str = "root", **more: Any) -> dict[str, Any]:
        """Return a ``tls_config`` that trusts a root."""
        return {"ca_file": str(self.directory / f"{root}.pem"), **more}

    def _make_authorities(self) -> None:
        self.root = self._issue("root", None, ca=True, days=3650)
        self.intermediate = self._issue("intermediate", self.root, ca=True, days=730)
        self.stranger = self._issue("stranger", None, ca=True, days=3650)

    def _make_leaves(self) -> None:
        self._issue("leaf", self.intermediate)
        self._issue("rsa", self.intermediate, key=rsa.generate_private_key(65537, 2048))
        self._issue("client", self.root, usage=ExtendedKeyUsageOID.CLIENT_AUTH)
        self._issue("foreign_client", self.stranger, usage=ExtendedKeyUsageOID.CLIENT_AUTH)
        self._issue("localhost_only", self.intermediate, names=[x509.DNSName("localhost")])
        self._issue("wildcard", self.intermediate, names=[x509.DNSName("*.example.test")])
        self._issue("rich", self.intermediate, subject=RICH, serial=9)
        self._issue("awkward", self.intermediate, subject=AWKWARD, serial=0x0A00000000000001)
        self._issue("multi_valued", self.intermediate, subject=MULTI_VALUED)
        self._issue("nameless", self.intermediate, subject=x509.Name([]))
        self._issue(
            "many_names",
            self.intermediate,
            names=[
                x509.DNSName("b.example.test"),
                x509.RFC822Name("who@example.test"),
                x509.DNSName("a.example.test"),
                x509.UniformResourceIdentifier("https://example.test/"),
                *LOOPBACK,
            ],
        )
        self._issue("by_root", self.root)

    def _make_bad_leaves(self) -> None:
        self._issue("expired", self.intermediate, days=-1)
        self._issue("not_yet_valid", self.intermediate, begins=1)
        self._issue("wrong_name", self.intermediate, names=[x509.DNSName("other.example.test")])
        self._issue("common_name_only", self.intermediate, subject=_name("localhost"), names=[])
        self._issue("self_signed", None)
        self._issue("unknown_root", self.stranger)
        self._issue("for_clients", self.intermediate, usage=ExtendedKeyUsageOID.CLIENT_AUTH)
        pretender = self._issue("pretender", self.root)
        self._issue("by_pretender", pretender)
        old = self._issue("old_intermediate", self.root, ca=True, days=-2)
        self._issue("by_old_intermediate", old)

    def _make_odd_chains(self) -> None:
        leaf = self._issue("no_intermediate", self.intermediate)
        self._write("no_intermediate", leaf.key, [leaf.certificate])
        leaf = self._issue("with_root", self.intermediate)
        self._write("with_root", leaf.key, [leaf.certificate, *leaf.above, self.root.certificate])
        leaf = self._issue("with_bystander", self.intermediate)
        bystander = self._issue("bystander", self.stranger, days=5)
        self._write("with_bystander", leaf.key, [leaf.certificate, *leaf.above, bystander.certificate])
        # One authority with two root certificates: every leaf below has two chains, with two expiries.
        short = self._issue("short_root", None, ca=True, days=20, subject=_name("twin root"))
        twin = self._issue("long_root", None, ca=True, days=40, subject=_name("twin root"), key=short.key)
        self._issue("twin", short, days=60)
        for name, order in {"twin_roots": (short, twin), "twin_roots_reversed": (twin, short)}.items():
            self._write(name, None, [root.certificate for root in order])
        (self.directory / "garbage.pem").write_text("this is no certificate\n")

    def _issue(
        self,
        name: str,
        issuer: Issued | None,
        *,
        ca: bool = False,
        days: int = 90,
        begins: int = -30,
        subject: x509.Name | None = None,
        names: Sequence[x509.GeneralName] = LOOPBACK,
        key: Key | None = None,
        serial: int | None = None,
        usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
    ) -> Issued:
        """Make a certificate and write it with its chain (without the root) and its key."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = _name(name.replace("_", " ")) if subject is None else subject
        expires = self._now + datetime.timedelta(days=days, seconds=-next(self._apart))
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.certificate.subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(serial or x509.random_serial_number())
            .not_valid_before(self._now + datetime.timedelta(days=begins))
            .not_valid_after(expires)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if ca:
            builder = builder.add_extension(x509.KeyUsage(**USAGES_OF_CA), critical=True)
        else:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            if names:
                builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not subject)
        certificate = builder.sign(issuer.key if issuer else key, hashes.SHA256())
        issued = Issued(certificate, key, (issuer.certificate, *issuer.above) if issuer else ())
        self._write(name, key, [certificate, *(c for c in issued.above if c.issuer != c.subject)])
        self._name_values(name, certificate)
        return issued

    def _write(self, name: str, key: Key | None, chain: Sequence[x509.Certificate]) -> None:
        pem = serialization.Encoding.PEM
        (self.directory / f"{name}.pem").write_bytes(b"".join(c.public_bytes(pem) for c in chain))
        if key is not None:
            plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            (self.directory / f"{name}.key").write_bytes(key.private_bytes(pem, *plain))

    def _name_values(self, name: str, certificate: x509.Certificate) -> None:
        # Short serial numbers are constants, so they need no name.
        self.names[certificate.fingerprint(hashes.SHA256()).hex()] = f"<sha256 of {name}>"
        self.names[str(int(certificate.not_valid_after_utc.timestamp()))] = f"<expiry of {name}>"
        if certificate.serial_number >> 64:
            digits = f"{certificate.serial_number:x}"
            self.names[digits.zfill(len(digits) + len(digits) % 2)] = f"<serial number of {name}>"
