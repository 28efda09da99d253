"""Tests of certificate labels, which equal the original's, and of name matching (RFC 6125)."""

from __future__ import annotations

import datetime
import ipaddress
import subprocess
import sys
from collections.abc import Sequence

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from probe_exporter.tls import certificates
from tests.targets import Pki

KEY = ec.generate_private_key(ec.SECP256R1())
BEGIN = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


def issue(
    *names: x509.GeneralName,
    subject: x509.Name | None = None,
    serial: int = 1,
    ends: datetime.datetime = BEGIN + datetime.timedelta(days=1),
    usages: Sequence[x509.ObjectIdentifier] = (),
) -> x509.Certificate:
    """Return a certificate for a test of one field."""
    subject = x509.Name([]) if subject is None else subject
    builder = x509.CertificateBuilder(subject, subject, KEY.public_key(), serial, BEGIN, ends)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return builder.sign(KEY, hashes.SHA256())


def named(*attributes: tuple[x509.ObjectIdentifier, str]) -> str:
    """Return the label of a name with these attributes."""
    return certificates.distinguished_name(x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes]))


# --- names -------------------------------------------------------------------------------------------------


def from_zoo(pki: Pki, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((pki.directory / f"{name}.pem").read_bytes())


def test_subject_matches_the_reference(pki: Pki) -> None:
    """The groups are in a fixed order, the other attributes in reverse, as in the original."""
    assert certificates.read(from_zoo(pki, "rich")).labels.subject == (
        "SERIALNUMBER=SN42,CN=leaf.test,OU=OU1,O=Org1+O=Org2,POSTALCODE=75000,STREET=1 main,L=Paris \u00e9,ST=Calif,"
        "C=US,0.9.2342.19200300.100.1.25=example,1.2.840.113549.1.9.1=a@b.c"
    )


def test_subject_flattens_multi_valued_rdn(pki: Pki) -> None:
    assert certificates.read(from_zoo(pki, "multi_valued")).labels.subject == "CN=multi,OU=two,C=US"


def test_subject_empty_gives_empty_label(pki: Pki) -> None:
    assert certificates.read(from_zoo(pki, "nameless")).labels.subject == ""


def test_issuer_is_formatted_like_subject(pki: Pki) -> None:
    assert certificates.read(from_zoo(pki, "leaf")).labels.issuer == "CN=intermediate"


def test_subject_joins_values_but_keeps_last_common_name_and_serial() -> None:
    twice = [(oid, value) for value in ("1", "2") for oid in (NameOID.COMMON_NAME, NameOID.SERIAL_NUMBER)]
    assert named(*twice, (NameOID.LOCALITY_NAME, "b"), (NameOID.LOCALITY_NAME, "a")) == "SERIALNUMBER=2,CN=2,L=b+L=a"


def test_subject_puts_other_attributes_last_in_reverse() -> None:
    assert named(
        (NameOID.DOMAIN_COMPONENT, "test"),
        (NameOID.DOMAIN_COMPONENT, "example"),
        (NameOID.COMMON_NAME, "a"),
        (NameOID.EMAIL_ADDRESS, "x,y"),
    ) == ("CN=a,1.2.840.113549.1.9.1=x\\,y,0.9.2342.19200300.100.1.25=example,0.9.2342.19200300.100.1.25=test")


def test_subject_shows_non_text_attribute_as_bytes() -> None:
    attribute = x509.NameAttribute(NameOID.X500_UNIQUE_IDENTIFIER, b"\0\x01\xff", _ASN1Type.BitString)
    assert certificates.distinguished_name(x509.Name([attribute])) == "2.5.4.45=#0303" + "0001ff"


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("plain", "plain"),
        ('a,b+c"d\\e<f>g;h', 'a\\,b\\+c\\"d\\\\e\\<f\\>g\\;h'),
        ("a = b # c", "a = b # c"),
        ("#a", "\\#a"),
        (" a", "\\ a"),
        ("a ", "a\\ "),
        (" a ", "\\ a\\ "),
        (" ", "\\ "),
        ("  ", "\\ \\ "),
        ("#", "\\#"),
        (",", "\\,"),
        ("caf\u00e9 \u4e2d", "caf\u00e9 \u4e2d"),
    ],
)
def test_subject_escapes_special_characters(value: str, label: str) -> None:
    assert named((NameOID.COMMON_NAME, value)) == f"CN={label}"


# --- the other labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("serial", "label"),
    [(1, "01"), (9, "09"), (0x7F, "7f"), (0x80, "80"), (0x100, "0100"), (0x0A00000000000001, "0a00000000000001")],
)
def test_serial_number_has_two_digits_per_byte(serial: int, label: str) -> None:
    assert certificates.read(issue(serial=serial)).labels.serialnumber == label


def test_fingerprint_is_lower_case_hash_of_certificate(pki: Pki) -> None:
    fingerprint = certificates.read(from_zoo(pki, "leaf")).labels.fingerprint_sha256
    assert pki.names[fingerprint] == "<sha256 of leaf>"


def test_alternative_names_are_dns_names_in_order(pki: Pki) -> None:
    labels = certificates.read(from_zoo(pki, "many_names")).labels
    assert labels.subjectalternative == "b.example.test,a.example.test,localhost,www.example.test"
    assert certificates.read(issue()).labels.subjectalternative == ""
    assert certificates.read(issue(x509.RFC822Name("a@b.test"))).labels.subjectalternative == ""


def test_unparsable_extension_gives_empty_label() -> None:
    """One invalid extension does not hide the other labels."""
    broken = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x30\x03\x82\x01")
    builder = x509.CertificateBuilder(
        x509.Name([]), x509.Name([]), KEY.public_key(), 7, BEGIN, BEGIN + datetime.timedelta(days=1)
    )
    certificate = builder.add_extension(broken, critical=False).sign(KEY, hashes.SHA256())
    labels = certificates.read(certificate).labels
    assert (labels.subjectalternative, labels.serialnumber) == ("", "07")
    assert not certificates.read(certificate).is_for("a.test")


# --- expiry ------------------------------------------------------------------------------------------------


def test_earliest_expiry_counts() -> None:
    chain = [issue(ends=BEGIN + datetime.timedelta(seconds=seconds)) for seconds in (90, 30, 60)]
    assert [certificates.read(certificate).expiry for certificate in chain] == [1577836890, 1577836830, 1577836860]
    assert certificates.earliest_expiry(map(certificates.read, chain)) == 1577836830


def test_expiry_may_exceed_32_bits() -> None:
    far = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
    assert certificates.read(issue(ends=far)).expiry == 253402300799


# --- matching ----------------------------------------------------------------------------------------------


def names(*texts: str) -> Sequence[x509.GeneralName]:
    return [x509.DNSName(text) for text in texts]


@pytest.mark.parametrize(
    ("pattern", "host", "matches"),
    [
        ("a.test", "a.test", True),
        ("a.test", "A.Test", True),
        ("A.Test", "a.test", True),
        ("a.test", "b.a.test", False),
        ("a.test", "xa.test", False),
        ("*.a.test", "b.a.test", True),
        ("*.a.test", "B.A.test", True),
        ("*.a.test", "a.test", False),
        ("*.a.test", "c.b.a.test", False),
        ("b*.a.test", "bc.a.test", False),
        ("*b.a.test", "cb.a.test", False),
        ("b.*.test", "b.a.test", False),
        ("*.*.test", "b.a.test", False),
        ("xn--bcher-kva.test", "b\u00fccher.test", True),
        ("xn--bcher-kva.test", "xn--bcher-kva.test", True),
        ("localhost", "localhost", True),
        ("a_b.test", "a_b.test", True),
        ("127.0.0.1", "127.0.0.1", False),
        ("*.test", "a.test", True),
        ("*", "a", False),
        ("*", "*", True),
        ("*.a.test", "xn--bcher-kva.a.test", True),
        ("*.a.test", "b_.a.test", True),
        ("*.a.test", "*.a.test", True),
        ("*.a.test", "-b.a.test", False),
        ("123", "123", True),
        ("a b", "A b", True),
        ("a b", "a c", False),
        ("-a.test", "-A.test", True),
        ("a.test.", "a.test", False),
        ("a.test", "a.test.", True),
        ("a..test", "a..test", True),
        ("", "", False),
        (".", ".", False),
    ],
)
def test_name_matches_as_in_go(pattern: str, host: str, matches: bool) -> None:
    """A wildcard matches exactly one label, the first; what is no host name matches letter by letter."""
    assert certificates.read(issue(*names("other.test", pattern))).is_for(host) is matches


@pytest.mark.parametrize(
    ("address", "host", "matches"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "::ffff:127.0.0.1", True),
        ("::1", "::1", True),
        ("2001:db8::1", "2001:DB8:0::1", True),
        ("fe80::1", "fe80::1%eth0", True),
        ("127.0.0.1", "localhost", False),
        ("127.0.0.1", "[127.0.0.1]", True),
        ("::1", "[::1]", True),
    ],
)
def test_address_matches_address(address: str, host: str, matches: bool) -> None:
    certificate = issue(x509.IPAddress(ipaddress.ip_address(address)), *names("other.test"))
    assert certificates.read(certificate).is_for(host) is matches


@pytest.mark.parametrize("host", ["a.test", "127.0.0.1", ""])
def test_common_name_does_not_match(host: str) -> None:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host or "x")])
    assert not certificates.read(issue(subject=subject)).is_for(host)


@pytest.mark.parametrize("host", ["", "a b", "a..test", "\u0378.test", "\udcff.test"])
def test_invalid_host_matches_nothing(host: str) -> None:
    assert not certificates.read(issue(*names("*.a.test", "a.test"))).is_for(host)


def test_invalid_names_beside_the_right_one_do_no_harm() -> None:
    assert certificates.read(issue(*names("bad name", "*", "", "a.test"))).is_for("a.test")


SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
ANY = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE


@pytest.mark.parametrize(
    ("usages", "servers", "anything"),
    [
        ((), True, False),
        ((SERVER,), True, False),
        ((CLIENT,), False, False),
        ((ANY,), True, True),
        ((CLIENT, ANY), True, True),
    ],
)
def test_extended_key_usage_any_includes_servers(
    usages: Sequence[x509.ObjectIdentifier], servers: bool, anything: bool
) -> None:
    certificate = certificates.read(issue(usages=usages))
    assert (certificate.is_for_servers, certificate.is_for_anything) == (servers, anything)


def test_certificate_is_parsed_once() -> None:
    """Equal bytes give the same object, even if OpenSSL made another one."""
    first = issue(*names("a.test"))
    second = x509.load_der_x509_certificate(first.public_bytes(serialization.Encoding.DER))
    assert certificates.read(first).labels is certificates.read(second).labels


def test_remembered_certificates_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = certificates._Memory()
    monkeypatch.setattr(certificates, "memory", memory)
    large = issue(*[x509.DNSName(f"{number:050}.test") for number in range(2000)])
    assert certificates.read(large).labels.subjectalternative.count(",") == 1999
    assert memory.known == {}
    monkeypatch.setattr(certificates, "MAX_REMEMBERED_BYTES", 1 << 20)
    for serial in range(1, 300):
        certificates.read(issue(serial=serial))
        assert memory.bytes <= 1 << 20
    assert 0 < len(memory.known) < 200


def test_certificate_remembers_few_hosts() -> None:
    certificate = certificates.Certificate(issue(*names("*.a.test")))
    assert all(certificate.is_for(f"{number}.a.test") for number in range(1000))
    assert not certificate.is_for("x" * 65536)
    assert len(certificate._valid_for) <= 64


# --- summaries ---------------------------------------------------------------------------------------------


def test_summary_has_names_key_and_days(pki: Pki) -> None:
    summary = certificates.read(from_zoo(pki, "many_names")).summary
    assert (summary.common_name, summary.issuer, summary.key) == ("many names", "CN=intermediate", "ECDSA secp256r1")
    assert summary.names == ("b.example.test", "a.example.test", "localhost", "www.example.test", "127.0.0.1", "::1")
    assert summary.name_count == 6
    assert not summary.self_signed
    assert certificates.read(from_zoo(pki, "rsa")).summary.key == "RSA 2048"
    assert certificates.read(from_zoo(pki, "self_signed")).summary.self_signed


def test_summary_is_small_whatever_the_peer_sends() -> None:
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "o" * 64, _validate=False)] * 100)
    many = certificates.Certificate(
        issue(*names(*[f"{'n' * 60}.{number}.test" for number in range(1000)]), subject=subject)
    )
    assert (len(many.summary.names), many.summary.name_count) == (certificates.MAX_SUMMARY_NAMES, 1000)
    assert len(many.summary.subject) == certificates.MAX_SUMMARY_CHARACTERS + 1
    assert many.summary.bytes < 10_000


def test_summary_of_a_large_certificate_has_no_names() -> None:
    """To read its names takes long, and it is not remembered."""
    large = issue(*[x509.DNSName(f"{number:050}.test") for number in range(2000)], subject=x509.Name([]))
    summary = certificates.read(large).summary
    assert (summary.names, summary.subject, summary.common_name) == ((), "", "")
    assert summary.not_after == large.not_valid_after_utc.timestamp()


STRANGE = """
import sys
from cryptography import x509
from probe_exporter.tls import certificates
der = sys.stdin.buffer.read().replace(bytes.fromhex("020105"), bytes.fromhex("0201fb"), 1)
found = certificates.read(x509.load_der_x509_certificate(der))
print(found.labels.subject, found.labels.serialnumber)
"""
"""Makes the serial number negative; cryptography warns of that, and of a country that is no code of two letters."""


def test_strange_certificate_writes_no_warning() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    with pytest.warns(UserWarning, match="length"):
        name = x509.Name([x509.NameAttribute(NameOID.COUNTRY_NAME, "land", _validate=False)])
    begin = datetime.datetime.now(datetime.UTC)
    end = begin + datetime.timedelta(days=1)
    certificate = x509.CertificateBuilder(name, name, key.public_key(), 5, begin, end).sign(key, hashes.SHA256())
    der = certificate.public_bytes(serialization.Encoding.DER)
    done = subprocess.run([sys.executable, "-c", STRANGE], input=der, capture_output=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == (b"C=land 05\n", b"")
