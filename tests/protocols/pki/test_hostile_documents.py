"""Documents and certificates that authorities, or attackers in their place, may send: parsers never raise."""

from __future__ import annotations

import base64
from collections import Counter
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID
from hypothesis import example, given
from hypothesis import strategies as st

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.prober.failure import Reason
from probe_exporter.probers.certificate_file import parse_der, parse_pem, parse_pkcs12
from probe_exporter.probers.tcp import TcpSettings, prober
from probe_exporter.protocols.pki import chain_check
from probe_exporter.runner import run
from probe_exporter.tls import certificate_details, certificates, der, ocsp
from probe_exporter.tls.crl import MAX_NAMES, RevocationList, points_of, public_key_of, read_list
from tests.cost import costs_at_most
from tests.targets.authority import DER, PEM, Authority, tls_server

GENEROUS_SECONDS = 60.0


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    directory: Path = tmp_path_factory.mktemp("authority")
    return Authority(directory)


changes = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=8)


def changed(data: bytes, edits: list[tuple[int, int]], size: int) -> bytes:
    """Return data with some bytes replaced, cut to a size."""
    altered = bytearray(data)
    for place, value in edits:
        altered[place % len(altered)] = value
    return bytes(altered[: max(1, size % (len(altered) + 1))])


@given(edits=changes, size=st.integers(0, 4000))
@example(edits=[(0, 0x30)], size=-1)
def test_changed_list_is_refused_in_a_sentence(authority: Authority, edits: list[tuple[int, int]], size: int) -> None:
    good = authority.crl(1, 2, 3)
    bad = changed(good, edits, size)
    found = read_list(bad, public_key_of(authority.root))
    assert isinstance(found, str) or bad == good


@given(edits=changes, size=st.integers(0, 4000))
def test_changed_ocsp_response_says_nothing(authority: Authority, edits: list[tuple[int, int]], size: int) -> None:
    leaf = authority.issue()
    good = authority.status(leaf, revoked=True)
    bad = changed(good, edits, size)
    answer = ocsp.read_response(bad, leaf, authority.root)
    assert answer.status in ("unusable", "revoked")


@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_by_every_parser(authority: Authority, data: bytes) -> None:
    key = public_key_of(authority.root)
    for found in (read_list(data, key), parse_der(data), parse_pem(data), parse_pkcs12(data, "word")):
        assert isinstance(found, str)
    assert ocsp.read_response(data, authority.root, authority.root).status == "unusable"


@given(edits=changes)
def test_changed_certificate_in_pem_does_not_raise(authority: Authority, edits: list[tuple[int, int]]) -> None:
    pem = authority.root.public_bytes(PEM)
    assert isinstance(parse_pem(changed(pem, edits, len(pem))), str | list)


def test_list_finds_exactly_the_serial_numbers_on_it(authority: Authority) -> None:
    serials = [1, 127, 128, 255, 256, 1 << 64, (1 << 159) - 1]
    found = read_list(authority.crl(*serials), public_key_of(authority.root))
    assert isinstance(found, RevocationList)
    assert all(found.has(serial) for serial in serials)
    assert not any(found.has(serial) for serial in (0, 2, 129, -1, (1 << 64) + 1))


@pytest.mark.parametrize("exponent", [ocsp.MAX_RSA_EXPONENT, ocsp.MAX_RSA_EXPONENT + 2, (1 << 3000) + 1])
def test_response_by_an_issuer_with_a_slow_key_is_unusable(authority: Authority, exponent: int) -> None:
    leaf = authority.issue()
    key = rsa.RSAPublicNumbers(exponent, (1 << 3071) + 1).public_key()
    issuer = x509.CertificateBuilder(
        leaf.issuer, leaf.issuer, key, 1, leaf.not_valid_before_utc, leaf.not_valid_after_utc
    ).sign(authority.key, hashes.SHA256())
    answer = ocsp.read_response(authority.status(leaf), leaf, issuer)
    assert answer.status == "unusable"
    assert ("larger than the exporter verifies" in answer.problem) is (exponent > ocsp.MAX_RSA_EXPONENT)


def repeated(authority: Authority, others: int, leaf: x509.Certificate) -> bytes:
    """Return a response with many answers about the serial number of a certificate, the last one by its issuer.

    The others name an issuer with another key.
    """
    outer = der.elements(der.content(authority.status(leaf, revoked=True)))
    status, wrapped = outer
    kind, octets = der.elements(der.content(der.content(wrapped)))
    data, algorithm, *_ = der.elements(der.content(der.content(octets)))
    responder, produced, answers = der.elements(der.content(data))
    good = der.content(answers)
    key_hash = x509.SubjectKeyIdentifier.from_public_key(authority.key.public_key()).digest
    many = good.replace(key_hash, bytes(20)) * others + good
    data = der.element(der.SEQUENCE, responder + produced + der.element(der.SEQUENCE, many))
    signature = der.element(0x03, b"\0" + authority.key.sign(data, ec.ECDSA(hashes.SHA256())))
    basic = der.element(der.SEQUENCE, data + algorithm + signature)
    body = der.element(der.SEQUENCE, kind + der.element(0x04, basic))
    return der.element(der.SEQUENCE, status + der.element(0xA0, body))


@pytest.mark.parametrize("others", [0, 1, 3000])
def test_answer_is_found_among_very_many(authority: Authority, others: int) -> None:
    leaf = authority.issue()
    response = repeated(authority, others, leaf)
    with costs_at_most(1):
        answer = ocsp.read_response(response, leaf, authority.root)
    assert (answer.status, answer.problem) == ("revoked", "")


@pytest.mark.parametrize("before", [0, 63, 64, 10_000])
def test_names_of_distribution_points_are_looked_at_up_to_a_limit(tmp_path: Path, before: int) -> None:
    urls = ["ldap://127.0.0.1/"] * before + ["http://127.0.0.1/list"]
    leaf = Authority(tmp_path).issue(*urls)
    found = points_of(leaf)
    assert found.skipped == (("ldap",) if before else ())
    assert found.urls == (("http://127.0.0.1/list",) if before < MAX_NAMES else ())


async def test_requests_for_a_hostile_chain_are_limited(tmp_path: Path) -> None:
    """The chain is not verified: 10 certificates name 8 lists and 4 responders each."""
    async with Authority(tmp_path) as authority:
        responders = [x509.UniformResourceIdentifier(authority.url(f"/ocsp/{number}")) for number in range(4)]
        access = x509.AuthorityInformationAccess(
            [x509.AccessDescription(AuthorityInformationAccessOID.OCSP, where) for where in responders]
        )
        lists = [authority.url(f"/list/{number}") for number in range(8)]
        chain = [authority.issue(*lists, extensions=[access]) for _ in range(10)][::-1]
        (tmp_path / "leaf.pem").write_bytes(b"".join(one.public_bytes(PEM) for one in chain))
        keys = {"tls_config": {"insecure_skip_verify": True}, "check_revoked": True, "ocsp": "request"}
        settings = TcpSettings.model_validate({"tls": True, **keys})
        async with tls_server(tmp_path) as port:
            module = Module("m", prober, settings, 0.0, Place("test.yml", 1))
            result = await run(module, f"127.0.0.1:{port}", GENEROUS_SECONDS)
    assert result.failure is None
    asked = Counter(path.split("/")[1] for path in authority.requests)
    assert asked == {"list": chain_check.MAX_REQUESTS, "ocsp": chain_check.MAX_REQUESTS}
    messages = [event.message for event in result.probe.events]
    assert messages.count("The chain names too many lists") == 1
    assert messages.count("The chain names too many responders") == 1


# --- certificates that cryptography can't read, each by another exception than ValueError ---------------------------


def written(oid: x509.ObjectIdentifier, der: str) -> x509.ExtensionType:
    return x509.UnrecognizedExtension(oid, bytes.fromhex(der))


EXTENSIONS = {
    "two extensions of one kind": [written(x509.ObjectIdentifier("1.2.3.4"), "0500")] * 2,
    "a distribution point with an X.400 address": [written(x509.CRLDistributionPoints.oid, "3008 3006 a004 a002 a300")],
    "an unknown TLS feature": [written(x509.TLSFeature.oid, "3003 020109")],
}
CHANGES = {
    "version 6": (bytes.fromhex("a003 020102"), bytes.fromhex("a003 020105")),
    "a common name that is a BIT STRING": (b"\x0c\x04leaf", b"\x03\x04\0eaf"),
}


def issue(authority: Authority, kind: str) -> None:
    if kind in EXTENSIONS:
        authority.issue(extensions=EXTENSIONS[kind])
        return
    der = authority.issue().public_bytes(DER)
    lines = base64.encodebytes(der.replace(*CHANGES[kind], 1))
    pem = b"-----BEGIN CERTIFICATE-----\n" + lines + b"-----END CERTIFICATE-----\n"
    (authority.directory / "leaf.pem").write_bytes(pem)


@pytest.mark.parametrize("verifies", [True, False])
@pytest.mark.parametrize("kind", [*EXTENSIONS, *CHANGES])
async def test_server_with_an_unreadable_certificate_is_no_internal_error(
    tmp_path: Path, kind: str, *, verifies: bool
) -> None:
    authority = Authority(tmp_path)
    issue(authority, kind)
    trust = {"ca_file": str(authority.ca_file)} if verifies else {"insecure_skip_verify": True}
    keys = {
        "check_revoked": True,
        "ocsp": "request",
        "certificate_details": True,
        "renewal_directory": "http://[::1]:1",
    }
    settings = TcpSettings.model_validate({"tls": True, "tls_config": trust, **keys})
    async with tls_server(tmp_path) as port:
        module = Module("m", prober, settings, 0.0, Place("test.yml", 1))
        result = await run(module, f"127.0.0.1:{port}", GENEROUS_SECONDS)
    assert (result.failure and result.failure.reason) is _expected(kind, verifies=verifies)
    if result.failure is not None:
        assert str(result.failure).endswith("can't be read") or "can't be read: " in str(result.failure)


def _expected(kind: str, *, verifies: bool) -> Reason | None:
    if kind in CHANGES:
        return Reason.CERTIFICATE_INVALID
    return Reason.CERTIFICATE_WRONG_NAME if verifies and kind == "two extensions of one kind" else None


@pytest.mark.parametrize("kind", EXTENSIONS)
def test_unreadable_extensions_count_as_none(tmp_path: Path, kind: str) -> None:
    leaf = Authority(tmp_path).issue(extensions=EXTENSIONS[kind])
    assert certificates.read(leaf).has_alternative_names is (kind != "two extensions of one kind"), "others are read"
    assert not certificates.read(leaf).has_readable_extensions
    assert not points_of(leaf).urls
    assert not ocsp.responders_of(leaf)
    assert not ocsp.must_staple(leaf)
    assert not certificate_details.logs_of(leaf)


@pytest.mark.parametrize(("padding", "found"), [(0, True), (certificates.MAX_REREAD_BYTES, False)])
def test_extension_beside_an_unreadable_one_is_read_up_to_a_size(tmp_path: Path, padding: int, *, found: bool) -> None:
    feature = x509.TLSFeature([x509.TLSFeatureType.status_request])
    padded = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.5"), bytes(padding))
    unreadable = EXTENSIONS["a distribution point with an X.400 address"]
    leaf = Authority(tmp_path).issue(extensions=[feature, padded, *unreadable])
    assert ocsp.must_staple(leaf) is found
