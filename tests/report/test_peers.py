"""Tests of what a report says about certificates, with real handshakes on loopback."""

from __future__ import annotations

from typing import Any

import pytest

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.history.details import details_of
from probe_exporter.probers.tcp import TcpSettings, prober
from probe_exporter.report.peers import MAX_SHOWN_SENDERS, SOON_DAYS, Peer, date, peers
from probe_exporter.runner import Result, run
from probe_exporter.tls.evidence import REVOKED_BY, STALE_CRL
from tests.targets import Pki
from tests.targets.scripted_server import ScriptedServer, Secure, then_silence

TIMEOUT = 60.0  # seconds; no test waits for it


async def probed(pki: Pki, certificate: str, **tls: Any) -> Result:
    """Probe a server with one of the certificates of the PKI; trust its root."""
    settings = {"tls": True, "tls_config": {"ca_file": str(pki.directory / "root.pem"), **tls}}
    module = Module("m", prober, TcpSettings.model_validate(settings), 0.0, Place("test.yml"))
    async with ScriptedServer(then_silence(Secure(certificate)), pki.directory) as scripted:
        return await run(module, scripted.fill("127.0.0.1:{port}"), TIMEOUT)


async def seen(pki: Pki, certificate: str, **tls: Any) -> Peer:
    result = await probed(pki, certificate, **tls)
    (peer,) = peers(details_of(result), result.started)
    return peer


async def test_good_chain_ends_at_the_trusted_authority(pki: Pki) -> None:
    peer = await seen(pki, "leaf", server_name="localhost")
    assert (peer.verified, peer.verdict, peer.left_out) == (True, "Verified.", 0)
    assert peer.version.startswith("TLS 1.")
    assert [(one.role, one.title) for one in peer.certificates] == [
        ("server", "leaf"),
        ("intermediate", "intermediate"),
        ("trusted authority", "root"),
    ]
    leaf = peer.certificates[0]
    assert {"localhost", "127.0.0.1"} <= {*leaf.names}
    assert leaf.key == "ECDSA secp256r1"
    assert leaf.signature == "sha256"
    assert 88 < leaf.days <= 90
    assert leaf.left.endswith(" days left")
    assert [(one.wrong, one.warnings) for one in peer.certificates] == [((), ())] * 3


async def test_authority_that_the_server_sends_is_not_shown_again(pki: Pki) -> None:
    """This server sends its root, twice at that."""
    peer = await seen(pki, "with_root", server_name="localhost")
    assert [(one.role, one.title) for one in peer.certificates] == [
        ("server", "with root"),
        ("intermediate", "intermediate"),
        *[("self-signed authority", "root")] * 2,
    ]


@pytest.mark.parametrize(
    ("certificate", "position", "sentence"),
    [
        ("expired", 0, "It expired on "),
        ("not_yet_valid", 0, "It is not valid before "),
        ("wrong_name", 0, "It is not for localhost: it is for other.example.test."),
        ("common_name_only", 0, "It is not for localhost: it is for no name: it has no subjectAltName"),
        ("self_signed", 0, "It is signed by itself, and is not among the trusted authorities."),
        ("no_intermediate", 0, "Its issuer (CN=intermediate) was not sent, and is not among the trusted authorities."),
        ("for_clients", 0, "It is not for TLS servers."),
        ("by_old_intermediate", 1, "It expired on "),
    ],
)
async def test_sentence_stands_at_the_certificate_that_is_wrong(
    pki: Pki, certificate: str, position: int, sentence: str
) -> None:
    peer = await seen(pki, certificate, server_name="localhost")
    assert (peer.verified, peer.verdict) == (False, "The verification failed.")
    found = [(index, text) for index, one in enumerate(peer.certificates) for text in one.wrong]
    assert [(index, text[: len(sentence)]) for index, text in found] == [(position, sentence)]


async def test_expiry_is_judged_without_verification_too(pki: Pki) -> None:
    peer = await seen(pki, "expired", server_name="localhost", insecure_skip_verify=True)
    assert peer.verified is None
    assert peer.verdict.startswith("Not verified")
    (sentence,) = peer.certificates[0].wrong
    assert sentence.startswith("It expired on ")
    assert peer.certificates[0].left == "expired 1 day ago"


async def test_certificate_that_expires_soon_has_a_warning(pki: Pki) -> None:
    peer = await seen(pki, "with_bystander", server_name="localhost")
    assert [one.warnings for one in peer.certificates if one.title == "bystander"] == [
        ("It expires in 4 days: renew it.",)
    ]
    assert SOON_DAYS > 5


async def test_probe_without_tls_has_no_peers(pki: Pki) -> None:
    module = Module("m", prober, TcpSettings(), 0.0, Place("test.yml"))
    async with ScriptedServer(then_silence(), pki.directory) as scripted:
        result = await run(module, scripted.fill("127.0.0.1:{port}"), TIMEOUT)
    assert peers(details_of(result), result.started) == []


def test_dates_outside_of_the_calendar_are_cut() -> None:
    assert date(0) == "1970-01-01 00:00 UTC"
    assert date(1e15).startswith("9999")
    assert date(-1e15).startswith("0001")


RUNS = [{"attempt": 1}, {"attempt": 2}]
"""The runs of a probe with two attempts, as far as they matter here."""

# --- senders -------------------------------------------------------------------------------------------------


def tls_of(result: Result) -> dict[str, Any]:
    """Return the handshake of a probe as data."""
    [evidence] = result.probe.evidence
    return evidence.data(str)


async def test_equal_handshakes_are_one_that_names_all_senders(pki: Pki) -> None:
    result = await probed(pki, "leaf", server_name="localhost")
    shown = tls_of(result)
    assert shown["address"] == "127.0.0.1"

    def sent_by(*senders: dict[str, Any]) -> list[tuple[str, ...]]:
        return [peer.senders for peer in peers({"runs": RUNS, "tls": [shown | one for one in senders]}, result.started)]

    assert sent_by({}) == [("127.0.0.1",)]
    assert sent_by({}, {}) == [("127.0.0.1",)]
    assert sent_by({"attempt": 1}, {"attempt": 2}) == [("127.0.0.1 (attempt 1)", "127.0.0.1 (attempt 2)")]
    assert sent_by({"address": "::1"}, {}, {"version": "TLS 1.0"}) == [("::1", "127.0.0.1"), ("127.0.0.1",)]
    behind_a_proxy = {"address": "", "run": "127.0.0.9"}
    assert sent_by(behind_a_proxy) == [("the run of 127.0.0.9",)]
    assert sent_by({"address": ""}) == [()]
    assert sent_by({"address": "", "attempt": 3}) == [("attempt 3",)]
    [alone] = peers({"runs": RUNS[:1], "tls": [shown | {"attempt": 1}]}, result.started)
    assert alone.senders == ("127.0.0.1",), "one attempt needs no number"


async def test_senders_are_bounded(pki: Pki) -> None:
    result = await probed(pki, "leaf", server_name="localhost")
    shown = tls_of(result)
    many = [shown | {"address": f"127.0.1.{number}"} for number in range(MAX_SHOWN_SENDERS + 3)]
    [peer] = peers({"runs": RUNS, "tls": many}, result.started)
    assert (len(peer.senders), peer.senders_left_out) == (MAX_SHOWN_SENDERS, 3)
    assert peer.sent_by.endswith(" and 3 more")


async def test_entry_of_an_earlier_build_has_no_sender(pki: Pki) -> None:
    result = await probed(pki, "leaf", server_name="localhost")
    shown = tls_of(result)
    old = {key: value for key, value in shown.items() if key not in ("address", "run", "attempt")}
    [peer] = peers({"runs": RUNS, "tls": [old]}, result.started)
    assert (peer.senders, peer.sent_by) == ((), "")


# --- revoked -------------------------------------------------------------------------------------------------


async def test_certificate_with_a_stale_list_has_a_warning(pki: Pki) -> None:
    result = await probed(pki, "leaf", server_name="localhost")
    shown = tls_of(result)
    shown["certificates"][0]["errors"] = [STALE_CRL]
    [peer] = peers({"runs": RUNS, "tls": [shown]}, result.started)
    certificate = peer.certificates[0]
    assert [text for text in certificate.warnings if "revocation list (CRL) is out of date" in text]
    assert (certificate.wrong, certificate.revoked, peer.verdict) == ((), False, "Verified.")


@pytest.mark.parametrize(("by", "sentence"), [("crl", "revocation list (CRL)"), ("ocsp", "OCSP response")])
@pytest.mark.parametrize("skip", [False, True])
async def test_revoked_certificate_is_marked(pki: Pki, by: str, sentence: str, *, skip: bool) -> None:
    result = await probed(pki, "leaf", server_name="localhost", insecure_skip_verify=skip)
    shown = tls_of(result)
    [good] = peers({"runs": RUNS, "tls": [shown]}, result.started)
    assert not good.revoked
    shown["certificates"][1]["errors"] = [REVOKED_BY[by]]
    [peer] = peers({"runs": RUNS, "tls": [shown]}, result.started)
    assert peer.revoked
    assert [one.revoked for one in peer.certificates[:2]] == [False, True]
    assert sentence in peer.certificates[1].wrong[0]
    assert peer.certificates[1].left.startswith("revoked, ")
    assert peer.verdict.startswith("Revoked, and not verified" if skip else "Verified, but revoked.")
