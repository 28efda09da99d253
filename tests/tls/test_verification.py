"""Tests of TLS verification: handshakes, certificate errors, client certificates and contexts.

The server is the standard library's, in memory; the test splits the bytes between client and server.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.run import Probe
from probe_exporter.tls import certificates, loading, verifications
from probe_exporter.tls.certificates import Certificate
from probe_exporter.tls.context import MAX_CONTEXTS, ClientContext, forget_contexts
from probe_exporter.tls.handshake import Handshake, VerificationFailed
from probe_exporter.tls.layer import MAX_TURN_RECORDS, Layer
from probe_exporter.tls.metrics import NO_CHAIN, report_handshake, report_no_chain
from probe_exporter.tls.settings import TLSSettings
from probe_exporter.tls.suites import CIPHERS, TLS13_CIPHERS
from probe_exporter.tls.verifications import Verifications
from tests.targets import Pki


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    """Start each test without cached contexts."""
    forget_contexts()
    yield
    forget_contexts()


def client_context(settings: TLSSettings, alpn: tuple[str, ...] = ()) -> ClientContext:
    """Return the context that connections with these settings share."""
    return asyncio.run(loading.client_context(settings, alpn))


class Server:
    """A TLS server in memory.

    Attributes:
        failure: why its handshake failed.
        ready, ended: its handshake is complete; the client has said that nothing more comes.
        received: the plain text that it got.
        seen: every byte that the client sent.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.connection = context.wrap_bio(self._in, self._out, server_side=True)
        self.failure: ssl.SSLError | None = None
        self.ready = False
        self.ended = False
        self.received = b""
        self.seen = b""

    def take(self, data: bytes) -> bytes:
        """Pass bytes from the client to the server; return the server's bytes."""
        self.seen += data
        self._in.write(data)
        try:
            if not self.ready:
                self.connection.do_handshake()
                self.ready = True
            plain = self.connection.read(65536)
            self.received += plain
            self.ended = not plain
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.failure = self.failure or error
        return self._out.read()

    def say(self, data: bytes) -> bytes:
        """Return `data` as records for the client."""
        self.connection.write(data)
        return self._out.read()

    def bye(self) -> bytes:
        """Return the server's close_notify."""
        with pytest.raises(ssl.SSLWantReadError):
            self.connection.unwrap()
        return self._out.read()


@dataclass
class Zoo:
    """Makes servers and clients with the test certificates."""

    pki: Pki
    names: dict[int, str | None] = field(default_factory=dict)

    def path(self, name: str) -> str:
        return str(self.pki.directory / name)

    def server(self, certificate: str = "leaf", **options: Any) -> Server:
        return Server(self.server_context(certificate, **options))

    def server_context(
        self,
        certificate: str = "leaf",
        *,
        versions: tuple[str, str] = ("TLSv1_2", "TLSv1_3"),
        ciphers: str = "ALL:@SECLEVEL=0",
        client_ca: str = "",
        required: bool = True,
        alpn: tuple[str, ...] = (),
    ) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of old versions of TLS, which are the point
            context.minimum_version = ssl.TLSVersion[versions[0]]
            context.maximum_version = ssl.TLSVersion[versions[1]]
        context.load_cert_chain(self.path(f"{certificate}.pem"), self.path(f"{certificate}.key"))
        context.set_ciphers(ciphers)
        if client_ca:
            context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
            context.load_verify_locations(self.path(f"{client_ca}.pem"))
        if alpn:
            context.set_alpn_protocols(list(alpn))

        def remember(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            self.names[id(connection)] = name

        context.sni_callback = remember
        return context

    def trust(self, authority: str = "root", **settings: Any) -> TLSSettings:
        return TLSSettings.model_validate({"ca_file": self.path(f"{authority}.pem"), **settings})


@pytest.fixture(scope="session")
def zoo(pki: Pki) -> Zoo:
    pki._issue("all_wrong", pki.stranger, days=-1, names=[x509.DNSName("other.example.test")])
    return Zoo(pki)


def shake(layer: Layer, server: Server, piece: int = 1 << 20) -> None:
    """Run the handshake in pieces of a given size until both sides are done.

    Raises:
        ProbeFailed: the client gives up; the server has then been told.
    """
    towards_client = b""
    finished = False
    while not finished:
        try:
            finished = layer.advance(towards_client[:piece])
            towards_client = towards_client[piece:]
        finally:
            towards_client += server.take(layer.outgoing())
        assert finished or towards_client, "both sides wait for each other"
    layer.decrypt(towards_client)
    if layer.failure is not None:
        raise layer.failure


def refused(layer: Layer, server: Server, piece: int = 1 << 20) -> VerificationFailed:
    """Return the failed verification of a server's certificate."""
    with pytest.raises(VerificationFailed) as failed:
        shake(layer, server, piece)
    return failed.value


def certificate(zoo: Zoo, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(Path(zoo.path(f"{name}.pem")).read_bytes())


def certificates_in(zoo: Zoo, name: str) -> list[Certificate]:
    """All of a file, read."""
    pem = Path(zoo.path(f"{name}.pem")).read_bytes()
    return [certificates.read(certificate) for certificate in x509.load_pem_x509_certificates(pem)]


# --- what verifies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("leaf", "localhost"),
        ("leaf", "LOCALHOST"),
        ("leaf", "localhost."),
        ("leaf", "127.0.0.1"),
        ("leaf", "::1"),
        ("leaf", "::ffff:127.0.0.1"),
        ("rsa", "localhost"),
        ("wildcard", "any.example.test"),
        ("by_root", "localhost"),
        ("nameless", "localhost"),
        ("with_root", "localhost"),
        ("with_bystander", "localhost"),
    ],
)
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_verification_accepts_good_certificate(zoo: Zoo, name: str, host: str, version: str) -> None:
    layer = client_context(zoo.trust()).layer(host)
    shake(layer, zoo.server(name, versions=(version, version)))
    handshake = layer.handshake
    assert handshake is not None
    assert handshake.version == {"TLSv1_2": "TLS 1.2", "TLSv1_3": "TLS 1.3"}[version]
    assert handshake.verify_errors == ()
    assert list(handshake.sent) == certificates_in(zoo, name)
    assert handshake.verified is not None
    assert handshake.verified[0] == handshake.sent[0]
    assert handshake.verified[-1].x509 == certificate(zoo, "root")


@pytest.mark.parametrize("anchor", ["leaf", "intermediate", "root"])
def test_verification_trusts_any_certificate_in_ca_file(zoo: Zoo, anchor: str) -> None:
    """A leaf or intermediate certificate is trusted too, as in the original."""
    alone = certificate(zoo, anchor)
    layer = client_context(TLSSettings(ca=alone.public_bytes(Encoding.PEM).decode())).layer("localhost")
    shake(layer, zoo.server("leaf"))
    assert layer.handshake is not None
    assert layer.handshake.verified is not None
    assert certificates.read(alone) in layer.handshake.verified


def test_verification_prefers_longer_lived_root(zoo: Zoo) -> None:
    for bundle in ("twin_roots", "twin_roots_reversed"):
        layer = client_context(zoo.trust(bundle)).layer("localhost")
        shake(layer, zoo.server("twin"))
        assert layer.handshake is not None
        assert layer.handshake.verified is not None
        assert layer.handshake.verified[-1].x509 == certificate(zoo, "long_root")


def test_verification_accepts_inline_ca(zoo: Zoo) -> None:
    layer = client_context(TLSSettings(ca=Path(zoo.path("root.pem")).read_text())).layer("localhost")
    shake(layer, zoo.server())
    assert layer.handshake is not None


def test_sni_is_sent_for_names_only(zoo: Zoo) -> None:
    asked = {}
    for host in ("localhost", "www.example.test", "127.0.0.1", "::1"):
        server = zoo.server()
        shake(client_context(zoo.trust()).layer(host), server)
        asked[host] = zoo.names[id(server.connection)]
    assert asked == {"localhost": "localhost", "www.example.test": "www.example.test", "127.0.0.1": None, "::1": None}


def test_sni_encodes_idn(zoo: Zoo) -> None:
    server = zoo.server()
    failed = refused(client_context(zoo.trust()).layer("b\u00fccher.example.test"), server)
    assert failed.reason is Reason.CERTIFICATE_WRONG_NAME
    assert zoo.names[id(server.connection)] == "xn--bcher-kva.example.test"


# --- what does not -----------------------------------------------------------------------------------------

BAD = {
    "expired": (Reason.CERTIFICATE_EXPIRED, {"expired"}),
    "by_old_intermediate": (Reason.CERTIFICATE_EXPIRED, {"expired"}),
    "not_yet_valid": (Reason.CERTIFICATE_NOT_YET_VALID, {"not_yet_valid"}),
    "wrong_name": (Reason.CERTIFICATE_WRONG_NAME, {"wrong_name"}),
    "common_name_only": (Reason.CERTIFICATE_WRONG_NAME, {"wrong_name"}),
    "self_signed": (Reason.CERTIFICATE_UNKNOWN_AUTHORITY, {"unknown_authority"}),
    "unknown_root": (Reason.CERTIFICATE_UNKNOWN_AUTHORITY, {"unknown_authority"}),
    "no_intermediate": (Reason.CERTIFICATE_UNKNOWN_AUTHORITY, {"unknown_authority"}),
    "for_clients": (Reason.CERTIFICATE_INVALID, {"wrong_purpose"}),
    "by_pretender": (Reason.CERTIFICATE_INVALID, {"not_an_authority", "wrong_purpose"}),
    "all_wrong": (Reason.CERTIFICATE_EXPIRED, {"expired", "wrong_name", "unknown_authority"}),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_verification_reports_all_errors(zoo: Zoo, name: str, version: str) -> None:
    """The failure shows the handshake so far, and the server gets an alert."""
    server = zoo.server(name, versions=(version, version))
    failed = refused(client_context(zoo.trust()).layer("localhost"), server)
    reason, errors = BAD[name]
    assert failed.reason is reason
    assert set(failed.handshake.verify_errors) == errors
    assert len(failed.handshake.verify_errors) == len(errors)
    assert failed.handshake.version == {"TLSv1_2": "TLS 1.2", "TLSv1_3": "TLS 1.3"}[version]
    assert failed.handshake.cipher in {*TLS13_CIPHERS, *(iana for _, iana in CIPHERS.values())}
    assert list(failed.handshake.sent) == certificates_in(zoo, name)
    assert failed.handshake.verified is None
    assert "alert" in str(server.failure)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "common_name_only",
            "the certificate is not for localhost: it has no subjectAltName, and a common name does not count",
        ),
        ("wrong_name", "the certificate is not for localhost"),
    ],
)
def test_wrong_name_says_if_certificate_has_no_names(zoo: Zoo, name: str, message: str) -> None:
    assert refused(client_context(zoo.trust()).layer("localhost"), zoo.server(name)).message == message


@pytest.mark.parametrize("name", ["leaf", *BAD])
def test_skipped_verification_accepts_any_certificate(zoo: Zoo, name: str) -> None:
    layer = client_context(TLSSettings(insecure_skip_verify=True)).layer("")
    shake(layer, zoo.server(name))
    assert layer.handshake is not None
    assert layer.handshake.verified is None
    assert layer.handshake.verify_errors == ()


@pytest.mark.parametrize("name", ["leaf", "rsa", "all_wrong"])
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_handshake_is_the_same_wherever_data_is_split(zoo: Zoo, name: str, version: str) -> None:
    """Cipher, version and certificates are the same, also for a refused certificate."""
    shown = []
    for piece in (1 << 20, 1, 5, 43, 100):
        layer = client_context(zoo.trust()).layer("localhost")
        server = zoo.server(name, versions=(version, version), ciphers="ECDHE+AESGCM")
        if name in BAD:
            shown.append(refused(layer, server, piece).handshake)
        else:
            shake(layer, server, piece)
            assert layer.handshake is not None
            shown.append(layer.handshake)
    assert all(handshake == shown[0] for handshake in shown)
    assert shown[0].cipher


def test_verification_needs_server_name(zoo: Zoo) -> None:
    with pytest.raises(ProbeFailed) as failed:
        client_context(zoo.trust()).layer("")
    assert failed.value.reason is Reason.SETTINGS_UNUSABLE


@pytest.mark.parametrize("name", ["a b", "a..b", "\u0378", "\udcff", "a\0b", "x" * 300, "b\u00fccher..test", "."])
def test_invalid_server_name_fails(zoo: Zoo, name: str) -> None:
    """The name may come from a Host header or a request parameter."""
    with pytest.raises(ProbeFailed) as failed:
        shake(client_context(zoo.trust()).layer(name), zoo.server())
    assert failed.value.reason in (Reason.SETTINGS_UNUSABLE, Reason.CERTIFICATE_WRONG_NAME)


# --- versions and ciphers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "attribute", "shown"),
    [
        ("TLS10", "TLSv1", "TLS 1.0"),
        ("TLS11", "TLSv1_1", "TLS 1.1"),
        ("TLS12", "TLSv1_2", "TLS 1.2"),
        ("TLS13", "TLSv1_3", "TLS 1.3"),
    ],
)
def test_tls_version_can_be_chosen(zoo: Zoo, setting: str, attribute: str, shown: str) -> None:
    for settings in ({"min_version": setting, "max_version": setting}, {"min_version": "TLS10"}):
        layer = client_context(zoo.trust(**settings)).layer("localhost")
        shake(layer, zoo.server("rsa", versions=(attribute, attribute)))
        assert layer.handshake is not None
        assert layer.handshake.version == shown


@pytest.mark.parametrize(
    ("settings", "versions"),
    [
        ({}, ("TLSv1", "TLSv1_1")),
        ({"min_version": "TLS13"}, ("TLSv1_2", "TLSv1_2")),
        ({"max_version": "TLS12"}, ("TLSv1_3", "TLSv1_3")),
        ({"min_version": "TLS10", "max_version": "TLS11"}, ("TLSv1_2", "TLSv1_3")),
    ],
)
def test_handshake_fails_without_common_version(zoo: Zoo, settings: dict[str, str], versions: tuple[str, str]) -> None:
    with pytest.raises(ProbeFailed) as failed:
        shake(client_context(zoo.trust(**settings)).layer("localhost"), zoo.server(versions=versions))
    assert failed.value.reason is Reason.TLS_HANDSHAKE
    assert "version" in failed.value.message


def test_minimum_version_above_maximum_fails() -> None:
    with pytest.raises(ProbeFailed) as failed:
        client_context(TLSSettings(min_version="TLS13", max_version="TLS12"))
    assert failed.value.reason is Reason.SETTINGS_UNUSABLE


@pytest.mark.parametrize("openssl", CIPHERS)
def test_cipher_has_iana_name(zoo: Zoo, openssl: str) -> None:
    """The protocol is known even if the certificate was refused before OpenSSL reports it."""
    number, iana = CIPHERS[openssl]
    name = "leaf" if "ECDSA" in openssl else "rsa"
    server = zoo.server(name, versions=("TLSv1_2", "TLSv1_2"), ciphers=openssl)
    layer = client_context(zoo.trust()).layer("localhost")
    shake(layer, server)
    assert layer.handshake is not None
    assert layer.handshake.cipher == iana
    server = zoo.server(name, versions=("TLSv1_2", "TLSv1_2"), ciphers=openssl)
    assert refused(client_context(zoo.trust("stranger")).layer("localhost"), server).handshake.cipher == iana
    known = {cipher["name"]: cipher["id"] & 0xFFFF for cipher in ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).get_ciphers()}
    assert known.get(openssl, number) == number


@pytest.mark.parametrize("cipher", ["AES128-GCM-SHA256", "AES128-SHA"])
def test_cipher_list_matches_the_original(zoo: Zoo, cipher: str) -> None:
    server = zoo.server("rsa", versions=("TLSv1_2", "TLSv1_2"), ciphers=f"{cipher}:@SECLEVEL=0")
    with pytest.raises(ProbeFailed) as failed:
        shake(client_context(zoo.trust()).layer("localhost"), server)
    assert failed.value.reason is Reason.TLS_HANDSHAKE


def test_alpn_protocol_is_chosen_by_server(zoo: Zoo) -> None:
    layer = client_context(zoo.trust(), ("h2", "http/1.1")).layer("localhost")
    shake(layer, zoo.server(alpn=("http/1.1",)))
    assert layer.handshake is not None
    assert layer.handshake.protocol == "http/1.1"
    layer = client_context(zoo.trust()).layer("localhost")
    shake(layer, zoo.server(alpn=("http/1.1",)))
    assert layer.handshake is not None
    assert layer.handshake.protocol == ""


# --- the client's own certificate --------------------------------------------------------------------------


def client(zoo: Zoo, name: str = "client", **settings: Any) -> TLSSettings:
    return zoo.trust(cert_file=zoo.path(f"{name}.pem"), key_file=zoo.path(f"{name}.key"), **settings)


VERSIONS = pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])


@VERSIONS
@pytest.mark.parametrize("inline", [False, True])
def test_client_certificate_is_sent_on_request(zoo: Zoo, version: str, inline: bool) -> None:
    settings = client(zoo)
    if inline:
        texts = {
            key: Path(zoo.path(f"client.{ending}")).read_text() for key, ending in (("cert", "pem"), ("key", "key"))
        }
        settings = zoo.trust(**texts)
    server = zoo.server(versions=(version, version), client_ca="root")
    shake(client_context(settings).layer("localhost"), server)
    assert server.connection.getpeercert(binary_form=True) == certificate(zoo, "client").public_bytes(Encoding.DER)


@VERSIONS
def test_client_certificate_is_not_sent_without_request(zoo: Zoo, version: str) -> None:
    server = zoo.server(versions=(version, version))
    shake(client_context(client(zoo)).layer("localhost"), server)
    assert server.connection.getpeercert(binary_form=True) is None


@VERSIONS
def test_client_certificate_is_not_sent_to_unverified_server(zoo: Zoo, version: str) -> None:
    """A server with a refused certificate gets only an alert."""
    server = zoo.server("wrong_name", versions=(version, version), client_ca="root")
    refused(client_context(client(zoo)).layer("localhost"), server)
    assert "alert" in str(server.failure)
    assert not server.ready
    assert certificate(zoo, "client").public_bytes(Encoding.DER) not in server.seen
    assert len(server.seen) < 2048  # a hello and an alert


@VERSIONS
@pytest.mark.parametrize("name", ["", "foreign_client"])
def test_handshake_fails_if_server_refuses_client(zoo: Zoo, version: str, name: str) -> None:
    """In TLS 1.3, the client learns of the refusal only after its own handshake."""
    settings = client(zoo, name) if name else zoo.trust()
    with pytest.raises(ProbeFailed) as failed:
        shake(client_context(settings).layer("localhost"), zoo.server(versions=(version, version), client_ca="root"))
    assert failed.value.reason is Reason.TLS_HANDSHAKE
    assert "alert" in failed.value.message


@VERSIONS
def test_optional_client_certificate_may_be_absent(zoo: Zoo, version: str) -> None:
    server = zoo.server(versions=(version, version), client_ca="root", required=False)
    shake(client_context(zoo.trust()).layer("localhost"), server)
    assert server.ready


# --- settings that can't be used ---------------------------------------------------------------------------


def unusable(settings: TLSSettings) -> str:
    """Return the reason why settings can't be used."""
    with pytest.raises(ProbeFailed) as failed:
        client_context(settings)
    assert failed.value.reason is Reason.SETTINGS_UNUSABLE
    return failed.value.message


@pytest.mark.parametrize("key", ["ca_file", "cert_file", "key_file"])
@pytest.mark.parametrize("skip", [False, True])
def test_unreadable_tls_file_fails(zoo: Zoo, key: str, skip: bool) -> None:
    settings = client(zoo, insecure_skip_verify=skip).model_copy(update={key: zoo.path("none.pem")})
    assert key in unusable(settings)


@pytest.mark.parametrize("key", ["ca_file", "cert_file", "key_file"])
@pytest.mark.parametrize("skip", [False, True])
def test_non_pem_file_fails(zoo: Zoo, key: str, skip: bool) -> None:
    unusable(client(zoo, insecure_skip_verify=skip).model_copy(update={key: zoo.path("garbage.pem")}))


@pytest.mark.parametrize(
    "settings",
    [
        {"ca": "no certificate"},
        {"cert": "no certificate", "key": "no key"},
        {"ca_ref": "x"},
        {"cert_ref": "x", "key_ref": "x"},
    ],
)
def test_inline_text_without_certificate_fails(settings: dict[str, str]) -> None:
    unusable(TLSSettings.model_validate(settings))


def test_mismatched_key_fails_without_being_shown(zoo: Zoo) -> None:
    key = Path(zoo.path("leaf.key")).read_text()
    message = unusable(client(zoo).model_copy(update={"key_file": zoo.path("leaf.key")}))
    assert not any(line in message for line in key.splitlines()[1:-1])


def test_empty_ca_bundle_fails(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    unusable(TLSSettings(ca_file=str(tmp_path / "empty.pem")))


# --- contexts ----------------------------------------------------------------------------------------------


def test_context_is_shared_by_equal_settings(zoo: Zoo) -> None:
    assert client_context(zoo.trust()) is client_context(zoo.trust())
    assert client_context(zoo.trust()) is not client_context(zoo.trust(), ("h2",))
    assert client_context(zoo.trust()) is not client_context(zoo.trust("stranger"))


def test_context_is_recreated_after_forgetting(zoo: Zoo) -> None:
    before = client_context(zoo.trust())
    forget_contexts()
    assert client_context(zoo.trust()) is not before


def test_context_is_recreated_after_file_change(zoo: Zoo, tmp_path: Path) -> None:
    """This holds for overwritten, replaced, new and removed files."""
    path = tmp_path / "ca.pem"
    settings = TLSSettings(ca_file=str(path))
    unusable(settings)
    path.write_bytes(Path(zoo.path("stranger.pem")).read_bytes())
    assert refused(client_context(settings).layer("localhost"), zoo.server()).reason is (
        Reason.CERTIFICATE_UNKNOWN_AUTHORITY
    )
    path.write_bytes(Path(zoo.path("root.pem")).read_bytes())
    os.utime(path, ns=(1, 1))
    shake(client_context(settings).layer("localhost"), zoo.server())
    other = tmp_path / "new.pem"
    other.write_bytes(Path(zoo.path("stranger.pem")).read_bytes())
    other.replace(path)
    refused(client_context(settings).layer("localhost"), zoo.server())
    path.unlink()
    unusable(settings)


# --- what is remembered ------------------------------------------------------------------------------------


class Counted:
    """Counts the verifications that succeeded and were not recalled."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number = 0
        add = Verifications.add

        def count(mine: Verifications, sent: Sequence[Certificate], verified: Sequence[Certificate]) -> None:
            self.number += 1
            add(mine, sent, verified)

        monkeypatch.setattr(Verifications, "add", count)

    def __call__(self, zoo: Zoo, settings: TLSSettings, name: str = "leaf", host: str = "localhost") -> int:
        """Return the verifications of one handshake that succeeds."""
        before = self.number
        shake(client_context(settings).layer(host), zoo.server(name))
        return self.number - before


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


@pytest.mark.parametrize(
    "name", ["leaf", "rsa", "by_root", "with_root", "with_bystander", "wildcard", "twin", "nameless"]
)
@pytest.mark.parametrize("authority", ["root", "twin_roots", "intermediate"])
@VERSIONS
def test_recalled_handshake_equals_a_verified_one(
    zoo: Zoo, counted: Counted, name: str, authority: str, version: str
) -> None:
    """A recalled verification finds the same chain as the first one, also if the server sends more certificates."""
    host = "any.example.test" if name == "wildcard" else "localhost"
    shown = []
    for _ in range(3):
        layer = client_context(zoo.trust(authority)).layer(host)
        try:
            shake(layer, zoo.server(name, versions=(version, version)))
        except VerificationFailed as failed:
            shown.append(failed.handshake)
        else:
            assert layer.handshake is not None
            shown.append(layer.handshake)
    assert shown[0] == shown[1] == shown[2]
    assert counted.number == (shown[0].verified is not None)


@VERSIONS
@pytest.mark.parametrize("name", BAD)
def test_other_certificates_are_refused_after_a_success_as_before_it(zoo: Zoo, name: str, version: str) -> None:
    """The errors and the alert are the same, and the client's certificate is sent to neither."""
    refusals = []
    for successes in (0, 1):
        forget_contexts()
        for _ in range(successes):
            shake(client_context(client(zoo)).layer("localhost"), zoo.server(client_ca="root"))
        server = zoo.server(name, versions=(version, version), client_ca="root")
        failed = refused(client_context(client(zoo)).layer("localhost"), server)
        assert certificate(zoo, "client").public_bytes(Encoding.DER) not in server.seen
        assert len(server.seen) < 2048  # a hello and an alert
        assert not server.ready
        refusals.append((failed.reason, failed.message, failed.handshake, str(server.failure)))
    assert refusals[0] == refusals[1]


def test_other_good_certificates_are_verified_after_a_success(zoo: Zoo, counted: Counted) -> None:
    """Neither a success of the same name nor one of the same authority counts for them."""
    settings = zoo.trust()
    assert [counted(zoo, settings, name) for name in ("leaf", "rsa", "by_root", "with_root")] == [1, 1, 1, 1]
    assert [counted(zoo, settings, name) for name in ("leaf", "rsa", "by_root", "with_root")] == [0, 0, 0, 0]


def test_remembered_certificates_must_be_for_the_name(zoo: Zoo, counted: Counted) -> None:
    settings = zoo.trust()
    fresh = refused(client_context(settings).layer("other.example.test"), zoo.server())
    assert counted(zoo, settings) == 1
    assert counted(zoo, settings, host="127.0.0.1") == 0
    again = refused(client_context(settings).layer("other.example.test"), zoo.server())
    assert (again.reason, again.message, again.handshake) == (fresh.reason, fresh.message, fresh.handshake)


def test_refusal_is_not_remembered(zoo: Zoo, counted: Counted) -> None:
    settings = zoo.trust()
    for name in ("expired", "unknown_root", "expired", "unknown_root"):
        refused(client_context(settings).layer("localhost"), zoo.server(name))
    assert counted.number == 0
    assert verifications.memory.known == {}


def test_success_counts_only_with_its_context(zoo: Zoo, counted: Counted) -> None:
    """Neither other authorities nor a context without verification share it."""
    assert counted(zoo, TLSSettings(insecure_skip_verify=True)) == 0
    assert counted(zoo, zoo.trust()) == 1
    refused(client_context(zoo.trust("stranger")).layer("localhost"), zoo.server())
    assert counted(zoo, zoo.trust("intermediate")) == 1
    assert counted(zoo, zoo.trust(max_version="TLS12")) == 1
    assert [counted(zoo, zoo.trust()), counted(zoo, zoo.trust(server_name="localhost"))] == [0, 0]
    forget_contexts()
    assert counted(zoo, zoo.trust()) == 1


def test_success_ends_with_the_authority_in_the_file(zoo: Zoo, counted: Counted, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    settings = TLSSettings(ca_file=str(path))
    path.write_bytes(Path(zoo.path("root.pem")).read_bytes())
    assert [counted(zoo, settings) for _ in range(2)] == [1, 0]
    path.write_bytes(Path(zoo.path("stranger.pem")).read_bytes())
    os.utime(path, ns=(1, 1))
    assert refused(client_context(settings).layer("localhost"), zoo.server()).reason is (
        Reason.CERTIFICATE_UNKNOWN_AUTHORITY
    )


def test_success_counts_for_an_hour_of_the_clock(zoo: Zoo, counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the clock is set back, it does not count either: a certificate may not be valid yet."""
    now = time.time()
    for at, expected in ((0, 1), (3599, 0), (3600, 1), (3601, 0), (3599, 1), (3598, 1), (7197, 0), (7198, 1)):
        monkeypatch.setattr(time, "time", lambda at=at: now + at)
        assert counted(zoo, zoo.trust()) == expected, at


def test_success_ends_when_the_first_certificate_of_the_chain_expires(
    zoo: Zoo, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL has a clock of its own, so it still verifies them here."""
    sent = certificates_in(zoo, "leaf")
    ends = min(one.expiry for one in sent)
    for at, expected in ((ends - 60, 1), (ends - 1, 0), (ends, 1), (ends + 1, 1)):
        monkeypatch.setattr(time, "time", lambda at=at: at)
        assert counted(zoo, zoo.trust()) == expected, at


def test_key_of_remembered_certificates_is_proved_in_each_handshake(zoo: Zoo, counted: Counted) -> None:
    """In TLS 1.2 the signature is the last of the message before the server's last, in clear."""
    settings = zoo.trust(max_version="TLS12")
    assert counted(zoo, settings) == 1
    layer, server = client_context(settings).layer("localhost"), zoo.server()
    layer.advance(b"")
    flight = bytearray(server.take(layer.outgoing()))
    done = flight.rindex(b"\x0e\0\0\0")  # ServerHelloDone; with a record header of its own before it
    flight[done - 6 : done - 5] = bytes([flight[done - 6] ^ 1])
    with pytest.raises(ProbeFailed) as failed:
        layer.advance(bytes(flight))
    assert not isinstance(failed.value, VerificationFailed)
    assert failed.value.reason is Reason.TLS_HANDSHAKE
    assert "signature" in failed.value.message


def test_remembered_successes_are_limited_in_bytes(zoo: Zoo) -> None:
    """The authority alone is kept with them; the peer's own certificate is not."""
    (leaf, *others), memory = certificates_in(zoo, "leaf"), verifications.memory
    root = certificates_in(zoo, "root")[0]
    mine = Verifications()
    sent = [leaf, *others]
    most = 0
    for _ in range(35_000):
        sent = [Certificate(leaf.x509, os.urandom(32)), *others]
        mine.add(sent, [*sent, root])
        most = max(most, len(memory.known))
        assert memory.bytes <= verifications.MAX_VERIFIED_BYTES
    assert 20_000 < most < 35_000
    assert mine.find(sent) is not None
    assert all(success.links == (*range(len(sent)), root) for success in memory.known.values())
    before = memory.bytes
    mine.add(sent, [*sent, root])
    assert memory.bytes == before


def test_many_or_large_certificates_are_verified_in_each_handshake(zoo: Zoo) -> None:
    leaf, root = certificates_in(zoo, "leaf")[0], certificates_in(zoo, "root")[0]
    mine, most = Verifications(), verifications.MAX_VERIFIED_CERTIFICATES
    for sent, kept in (
        ([leaf] * most, True),
        ([leaf] * (most + 1), False),
        ([Certificate(leaf.x509, large=True)], False),
    ):
        verifications.memory.forget()
        mine.add(sent, [leaf, root])
        assert (mine.find(sent) is not None) == kept


# --- records -----------------------------------------------------------------------------------------------


def connected(zoo: Zoo, **options: Any) -> tuple[Layer, Server]:
    layer, server = client_context(zoo.trust()).layer("localhost"), zoo.server(**options)
    shake(layer, server)
    return layer, server


@VERSIONS
def test_layer_encrypts_and_decrypts(zoo: Zoo, version: str) -> None:
    layer, server = connected(zoo, versions=(version, version))
    large = bytes(range(256)) * 4096
    towards = layer.encrypt(b"hello") + layer.encrypt(large)
    answer = b""
    for start in range(0, len(towards), 30_000):
        answer += server.take(towards[start : start + 30_000])
    while len(server.received) < 5 + len(large):
        answer += server.take(b"")
    assert server.received == b"hello" + large
    answer += server.say(b"hi") + server.say(large)
    for piece in (len(answer), 1000, 7):
        layer, server = connected(zoo, versions=(version, version))
        answer = server.say(b"hi") + server.say(large[:20_000])
        plain = b"".join(layer.decrypt(answer[at : at + piece]) for at in range(0, len(answer), piece))
        assert plain == b"hi" + large[:20_000]


def test_layer_is_not_behind_once_it_has_decrypted_everything(zoo: Zoo) -> None:
    """One turn's records leave nothing for the next turn, which finds that out and returns no data."""
    layer, server = connected(zoo)
    received = b"".join(server.say(b"x") for _ in range(MAX_TURN_RECORDS))
    turns = [layer.decrypt(received)]
    while layer.behind:
        turns.append(layer.decrypt(b""))
        assert len(turns) < 10
    assert b"".join(turns) == b"x" * MAX_TURN_RECORDS


@VERSIONS
def test_layer_reports_close_notify(zoo: Zoo, version: str) -> None:
    layer, server = connected(zoo, versions=(version, version))
    assert layer.decrypt(server.say(b"last words") + server.bye()) == b"last words"
    assert layer.ended


@VERSIONS
def test_layer_keeps_data_before_invalid_record(zoo: Zoo, version: str) -> None:
    """A response is followed by an invalid record, in one piece or several."""
    for piece in (1 << 20, 1):
        layer, server = connected(zoo, versions=(version, version))
        data = server.say(b"an answer") + b"nonsense that is no record"
        plain = b"".join(layer.decrypt(data[at : at + piece]) for at in range(0, len(data), piece))
        assert plain == b"an answer"
        assert layer.failure is not None
        assert layer.failure.reason is Reason.TLS_HANDSHAKE


def test_layer_sends_close_notify(zoo: Zoo) -> None:
    layer, server = connected(zoo)
    layer.close()
    server.take(layer.outgoing())
    assert server.ended


@pytest.mark.parametrize("hello", [b"220 mail.example.test ESMTP\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 64])
def test_layer_fails_on_plaintext(zoo: Zoo, hello: bytes) -> None:
    layer = client_context(zoo.trust()).layer("localhost")
    assert not layer.advance(b"")
    with pytest.raises(ProbeFailed) as failed:
        layer.advance(hello)
    assert failed.value.reason is Reason.TLS_HANDSHAKE


# --- metrics -----------------------------------------------------------------------------------------------


def reported(handshake: Handshake, *, as_the_original: bool = False) -> dict[str, dict[tuple[str, ...], float]]:
    """Return the samples that a handshake sets, by metric."""
    probe = Probe("target", 0.0)
    report_handshake(probe, handshake)
    if as_the_original:
        report_no_chain(probe, handshake)
    return {metric.name: dict(samples) for metric, samples in probe.samples.families.items()}


def test_report_sets_metrics_of_good_handshake(zoo: Zoo) -> None:
    layer, _ = connected(zoo, versions=("TLSv1_3", "TLSv1_3"))
    assert layer.handshake is not None
    leaf, root = certificate(zoo, "leaf"), certificate(zoo, "root")
    intermediate = certificate(zoo, "intermediate")
    expiries = [certificate.not_valid_after_utc.timestamp() for certificate in (leaf, intermediate, root)]
    assert reported(layer.handshake) == {
        "probe_tls_version_info": {("TLS 1.3",): 1},
        "probe_tls_cipher_info": {(layer.handshake.cipher,): 1},
        "probe_ssl_last_chain_info": {tuple(certificates.read(leaf).labels): 1},
        "probe_ssl_earliest_cert_expiry": {(): min(expiries[:2])},
        "probe_ssl_last_chain_expiry_timestamp_seconds": {(): min(expiries)},
    }


def test_report_takes_earliest_expiry_of_sent_and_chain_expiry_of_verified(zoo: Zoo) -> None:
    layer = client_context(zoo.trust()).layer("localhost")
    shake(layer, zoo.server("with_bystander"))
    assert layer.handshake is not None
    values = reported(layer.handshake)
    bystander = certificate(zoo, "bystander").not_valid_after_utc.timestamp()
    leaf = certificate(zoo, "with_bystander").not_valid_after_utc.timestamp()
    assert values["probe_ssl_earliest_cert_expiry"] == {(): bystander}
    assert values["probe_ssl_last_chain_expiry_timestamp_seconds"] == {(): leaf}


def test_report_has_one_series_per_verification_error(zoo: Zoo) -> None:
    failed = refused(client_context(zoo.trust()).layer("localhost"), zoo.server("all_wrong"))
    values = reported(failed.handshake)
    leaf = certificate(zoo, "all_wrong")
    assert values["probe_ssl_verify_error_info"] == {("expired",): 1, ("unknown_authority",): 1, ("wrong_name",): 1}
    assert values["probe_ssl_last_chain_info"] == {tuple(certificates.read(leaf).labels): 1}
    assert values["probe_ssl_earliest_cert_expiry"] == {(): leaf.not_valid_after_utc.timestamp()}
    assert "probe_ssl_last_chain_expiry_timestamp_seconds" not in values


def test_report_has_chain_expiry_without_verification_as_the_original(zoo: Zoo) -> None:
    """The original reports year 1 there, and alerts of its users expect it."""
    layer = client_context(TLSSettings(insecure_skip_verify=True)).layer("localhost")
    shake(layer, zoo.server("expired"))
    assert layer.handshake is not None
    values = reported(layer.handshake)
    assert not {"probe_ssl_last_chain_expiry_timestamp_seconds", "probe_ssl_verify_error_info"} & values.keys()
    values = reported(layer.handshake, as_the_original=True)
    assert values["probe_ssl_last_chain_expiry_timestamp_seconds"] == {(): NO_CHAIN}


# --- contexts ----------------------------------------------------------------------------------------------


def test_context_is_shared_by_server_names() -> None:
    """Requests choose the name (``hostname``), so a context per name would grow without limit."""
    context = client_context(TLSSettings(insecure_skip_verify=True))
    for name in ("a.example", "b.example"):
        assert client_context(TLSSettings(insecure_skip_verify=True, server_name=name)) is context


def test_context_depends_on_every_setting_but_the_server_name() -> None:
    identity = {"cert": "x", "key": "y"}
    values: dict[str, object] = {
        **dict.fromkeys(("ca", "ca_file", "ca_ref", "server_name"), "z"),
        **dict.fromkeys(("cert", "cert_file", "cert_ref", "key", "key_file", "key_ref"), identity),
        "insecure_skip_verify": True,
        "min_version": "TLS10",
        "max_version": "TLS12",
    }
    assert values.keys() == TLSSettings.model_fields.keys()
    keys = set()
    for name, value in values.items():
        kind = name.partition("_")[0]
        others = {other: text for other, text in identity.items() if value is identity and other != kind}
        made = {name: "z", **others} if value is identity else {name: value}
        keys.add(TLSSettings.model_validate(made).context_key)
    assert len(keys) == len(values)
    assert TLSSettings(server_name="z").context_key == TLSSettings().context_key


def test_context_cache_keeps_recently_used() -> None:
    settings = TLSSettings(insecure_skip_verify=True)
    first, second = client_context(settings, ("first",)), client_context(settings, ("second",))
    for number in range(MAX_CONTEXTS - 1):
        client_context(settings, (str(number),))
        assert client_context(settings, ("first",)) is first
    assert client_context(settings, ("second",)) is not second
