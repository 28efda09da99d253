"""Certificates about which TLS libraries differ by default, each with the name that it is verified by.

What is left to the library: which names a wildcard is for, which extensions and key usages a certificate needs, which
keys and signatures are too weak.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
DAY = datetime.timedelta(days=1)
PEM = serialization.Encoding.PEM
HOST = "www.example.test"

Extensions = Sequence[tuple[x509.ExtensionType, bool]]
"""Each with whether it is critical."""


Digest = hashes.SHA224 | hashes.SHA256 | hashes.SHA512 | hashes.SHA3_256


@dataclass(frozen=True)
class Certificate:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: CertificateIssuerPrivateKeyTypes


def name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def issue(
    subject: str,
    issuer: Certificate | None,
    extensions: Extensions,
    key: CertificateIssuerPrivateKeyTypes | None = None,
    digest: Digest | None = None,
    serial: int = 0,
) -> Certificate:
    """Issue a certificate, self-signed without an issuer."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    signer = issuer.key if issuer else key
    builder = x509.CertificateBuilder(
        issuer.certificate.subject if issuer else name(subject), name(subject), key.public_key(),
        serial or x509.random_serial_number(), NOW - DAY, NOW + DAY,
    )  # fmt: skip
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    by_itself = isinstance(signer, ed25519.Ed25519PrivateKey)
    return Certificate(builder.sign(signer, None if by_itself else digest or hashes.SHA256()), key)


CA: Extensions = [(x509.BasicConstraints(True, None), True)]


def sans(*names: str) -> Extensions:
    """A subjectAltName of names and addresses."""
    return [(x509.SubjectAlternativeName([_general(one) for one in names]), False)]


def _general(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def usage(*oids: ObjectIdentifier, critical: bool = False) -> Extensions:
    return [(x509.ExtendedKeyUsage(oids), critical)]


def key_usage(*names: str) -> Extensions:
    every = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return [(x509.KeyUsage(**{one: one in names for one in every}), True)]


def unknown(critical: bool) -> Extensions:
    return [(x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00"), critical)]


def permitted(*names: x509.GeneralName) -> Extensions:
    return [(x509.NameConstraints(names, None), True)]


def excluded(*names: x509.GeneralName) -> Extensions:
    return [(x509.NameConstraints(None, names), True)]


@dataclass(frozen=True)
class Case:
    """One certificate and how it is verified.

    Args:
        leaf: the extensions of the server's certificate.
        host: the name that it is verified by.
        key: makes its key.
        above: the extensions of each authority, the root first.
        digest: of the signature on the leaf.
        keys_above: the same for the authorities.
        serial: the leaf's.
    """

    leaf: Extensions = ()
    host: str = HOST
    key: Callable[[], CertificateIssuerPrivateKeyTypes] | None = None
    above: Sequence[Extensions] = (CA,)
    digest: Digest | None = None
    key_above: Callable[[], CertificateIssuerPrivateKeyTypes] | None = None
    serial: int = 0


def rsa_of(bits: int) -> Callable[[], CertificateIssuerPrivateKeyTypes]:
    return lambda: rsa.generate_private_key(65537, bits)


def curve(kind: type[ec.EllipticCurve]) -> Callable[[], CertificateIssuerPrivateKeyTypes]:
    return lambda: ec.generate_private_key(kind())


SERVER, CLIENT, ANY = (
    ExtendedKeyUsageOID.SERVER_AUTH,
    ExtendedKeyUsageOID.CLIENT_AUTH,
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
)
GOOD = sans(HOST)

CASES: Mapping[str, Case] = {
    "plain": Case(GOOD),
    # Names and wildcards.
    "wildcard": Case(sans("*.example.test")),
    "wildcard of two labels": Case(sans("*.test"), "example.test"),
    "wildcard of everything": Case(sans("*"), "localhost"),
    "wildcard for two labels at once": Case(sans("*.test")),
    "wildcard in the middle": Case(sans("www.*.test")),
    "wildcard as a part of a label": Case(sans("w*.example.test")),
    "wildcard beside an international label": Case(sans("*.example.test"), "xn--bcher-kva.example.test"),
    "two wildcards": Case(sans("*.*.test")),
    "wildcard for the domain itself": Case(sans("*.example.test"), "example.test"),
    "name in capitals": Case(sans("WWW.Example.TEST")),
    "name with a dot at its end": Case(sans(HOST + ".")),
    "host with a dot at its end": Case(GOOD, HOST + "."),
    "underscore": Case(sans("a_b.example.test"), "a_b.example.test"),
    "underscore under a wildcard": Case(sans("*.example.test"), "a_b.example.test"),
    "hyphen first": Case(sans("-a.example.test"), "-a.example.test"),
    "name of digits": Case(sans("123"), "123"),
    "name of one label": Case(sans("localhost"), "localhost"),
    "invalid name before the right one": Case(sans("bad name", "a..b", "", HOST)),
    "only invalid names": Case(sans("bad name", ""), HOST),
    "address as a name": Case([(x509.SubjectAlternativeName([x509.DNSName("127.0.0.1")]), False)], "127.0.0.1"),
    "address": Case(sans("127.0.0.1"), "127.0.0.1"),
    "address of version 6": Case(sans("::1"), "::1"),
    "mapped address": Case(sans("127.0.0.1"), "::ffff:127.0.0.1"),
    "certificate with a mapped address": Case(sans("::ffff:127.0.0.1"), "127.0.0.1"),
    "address in brackets": Case(sans("127.0.0.1"), "[127.0.0.1]"),
    "only an e-mail address": Case([(x509.SubjectAlternativeName([x509.RFC822Name("a@example.test")]), False)]),
    "no names": Case(),
    "names in a critical extension": Case([(x509.SubjectAlternativeName([x509.DNSName(HOST)]), True)]),
    # Usages.
    "for servers": Case([*GOOD, *usage(SERVER)]),
    "for clients": Case([*GOOD, *usage(CLIENT)]),
    "for anything": Case([*GOOD, *usage(ANY)]),
    "for clients and anything": Case([*GOOD, *usage(CLIENT, ANY, critical=True)]),
    "for mail": Case([*GOOD, *usage(ExtendedKeyUsageOID.EMAIL_PROTECTION)]),
    "authority for clients": Case(GOOD, above=[CA, [*CA, *usage(CLIENT)]]),
    "authority for servers": Case(GOOD, above=[CA, [*CA, *usage(SERVER)]]),
    "root for clients": Case(GOOD, above=[[*CA, *usage(CLIENT)]]),
    "key for signatures": Case([*GOOD, *key_usage("digital_signature")]),
    "key for nothing of use": Case([*GOOD, *key_usage("crl_sign")]),
    "key for encryption only": Case([*GOOD, *key_usage("key_encipherment")]),
    "RSA key for encryption only": Case([*GOOD, *key_usage("key_encipherment")], key=rsa_of(2048)),
    "authority that may not sign certificates": Case(GOOD, above=[CA, [*CA, *key_usage("crl_sign")]]),
    "root that may not sign certificates": Case(GOOD, above=[[*CA, *key_usage("crl_sign")]]),
    "leaf that is an authority": Case([*GOOD, *CA]),
    # Authorities.
    "root without constraints": Case(GOOD, above=[()]),
    "authority without constraints": Case(GOOD, above=[CA, ()]),
    "path too long": Case(GOOD, above=[[(x509.BasicConstraints(True, 0), True)], CA]),
    "path just long enough": Case(GOOD, above=[[(x509.BasicConstraints(True, 1), True)], CA]),
    "constraints that are not critical": Case(GOOD, above=[[(x509.BasicConstraints(True, None), False)]]),
    "long chain": Case(GOOD, above=[CA] * 20),
    "very long chain": Case(GOOD, above=[CA] * 110),
    # Name constraints.
    "permitted name": Case(GOOD, above=[[*CA, *permitted(x509.DNSName("example.test"))]]),
    "permitted name with a dot": Case(GOOD, above=[[*CA, *permitted(x509.DNSName(".example.test"))]]),
    "domain itself, permitted with a dot": Case(
        sans("example.test"), "example.test", above=[[*CA, *permitted(x509.DNSName(".example.test"))]]),
    "name that is not permitted": Case(GOOD, above=[[*CA, *permitted(x509.DNSName("other.test"))]]),
    "excluded name": Case(GOOD, above=[[*CA, *excluded(x509.DNSName("example.test"))]]),
    "permitted network": Case(
        sans("127.0.0.1"), "127.0.0.1", above=[[*CA, *permitted(x509.IPAddress(ipaddress.ip_network("127.0.0.0/8")))]]),
    "network that is not permitted": Case(
        sans("127.0.0.1"), "127.0.0.1", above=[[*CA, *permitted(x509.IPAddress(ipaddress.ip_network("10.0.0.0/8")))]]),
    "another name is not permitted": Case(
        sans(HOST, "www.other.test"), above=[[*CA, *permitted(x509.DNSName("example.test"))]]),
    "permitted directory name": Case(GOOD, above=[[*CA, *permitted(x509.DirectoryName(name("other")))]]),
    # Extensions.
    "unknown extension": Case([*GOOD, *unknown(False)]),
    "unknown critical extension": Case([*GOOD, *unknown(True)]),
    "unknown critical extension of an authority": Case(GOOD, above=[CA, [*CA, *unknown(True)]]),
    "must staple": Case([*GOOD, (x509.TLSFeature([x509.TLSFeatureType.status_request]), False)]),
    # Keys and signatures.
    "RSA of 1024 bits": Case(GOOD, key=rsa_of(1024)),
    "RSA of 4096 bits": Case(GOOD, key=rsa_of(4096)),
    "authority with RSA of 1024 bits": Case(GOOD, key_above=rsa_of(1024)),
    "P-224": Case(GOOD, key=curve(ec.SECP224R1)),
    "P-384": Case(GOOD, key=curve(ec.SECP384R1)),
    "P-521": Case(GOOD, key=curve(ec.SECP521R1)),
    "secp256k1": Case(GOOD, key=curve(ec.SECP256K1)),
    "brainpool": Case(GOOD, key=curve(ec.BrainpoolP256R1)),
    "Ed25519": Case(GOOD, key=ed25519.Ed25519PrivateKey.generate),
    "Ed448": Case(GOOD, key=ed448.Ed448PrivateKey.generate),
    "authority with Ed25519": Case(GOOD, key_above=ed25519.Ed25519PrivateKey.generate),
    "authority with P-224": Case(GOOD, key_above=curve(ec.SECP224R1)),
    "authority with secp256k1": Case(GOOD, key_above=curve(ec.SECP256K1)),
    "signature with SHA-224": Case(GOOD, digest=hashes.SHA224()),
    "signature with SHA-512": Case(GOOD, digest=hashes.SHA512()),
    "signature with SHA3-256": Case(GOOD, digest=hashes.SHA3_256(), key_above=rsa_of(2048)),
    "long serial number": Case(GOOD, serial=(1 << 159) - 1),
}  # fmt: skip


def write(case: Case, directory: Path) -> None:
    """Write what a server shows (``leaf.pem``), its key (``leaf.key``) and what is trusted (``root.pem``)."""
    issuer: Certificate | None = None
    chain: list[Certificate] = []
    for number, extensions in enumerate(case.above):
        key = case.key_above() if case.key_above is not None else None
        issuer = issue(f"authority {number}", issuer, extensions, key)
        chain.append(issuer)
    leaf = issue("leaf", issuer, case.leaf, case.key() if case.key else None, case.digest, case.serial)
    shown = [leaf, *reversed(chain[1:])]
    (directory / "leaf.pem").write_bytes(b"".join(one.certificate.public_bytes(PEM) for one in shown))
    (directory / "leaf.key").write_bytes(
        leaf.key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (directory / "root.pem").write_bytes(chain[0].certificate.public_bytes(PEM))
