"""The shipped modules for SMTP, IMAP and POP3 against postfix, dovecot and scripted servers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from probe_exporter.config import loading
from probe_exporter.config.module import Module
from probe_exporter.plugins import loader
from probe_exporter.prober.failure import Reason
from probe_exporter.tls.settings import TLSSettings
from tests.deadlines import in_phase, run_until
from tests.modules.library import PROBERS, expect_failure, library, measured, probe, probe_scripted, trust
from tests.outcomes import why
from tests.servers.dovecot import PASSWORD, Dovecot
from tests.servers.postfix import Postfix
from tests.targets import Pki
from tests.targets.scripted_server import Hear, Script, Secure, Turn, talk, then_silence

UNKNOWN = (Reason.CERTIFICATE_UNKNOWN_AUTHORITY, "tls")


def trusting(module: Module, pki: Pki) -> Module:
    """Return the same module with trust in the test root."""
    settings = module.settings.model_copy(update={"tls_config": TLSSettings.model_validate(trust(pki))})
    return dataclasses.replace(module, settings=settings)


def shipped(name: str, pki: Pki) -> Module:
    """Return a shipped module with trust in the test root."""
    return trusting(library(name[:4]).modules[name], pki)


def of_ones_own(name: str, pki: Pki, path: Path, password: str) -> Module:
    """Return an example module, copied and given a user and a password."""
    text = (loader.library() / f"{name[:4]}.yml").read_text()
    copied = path / "modules.yml"
    copied.write_text(text.replace("username", "probe").replace("mysecret", password))
    return trusting(loading.load([copied], PROBERS, strict=True).modules[name], pki)


MODULES = [name for file in ("smtp", "imap", "pop3") for name in library(file).modules]


@pytest.mark.parametrize("name", MODULES)
def test_module_has_a_description_of_one_line(name: str) -> None:
    assert 10 < len(library(name[:4]).modules[name].description) < 120


# --- postfix -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["smtp", "smtps"])
async def test_smtp_module_reports_the_greeting(postfix: Postfix, pki: Pki, name: str) -> None:
    target = f"127.0.0.1:{postfix.port if name == 'smtp' else postfix.tls_port}"
    result = await probe(shipped(name, pki), target)
    assert why(result) is None
    ((host, greeting),) = measured(result)["probe_expect_info"]
    assert (host, greeting.split(" ")[:2]) == ("mail.example.test", ["ESMTP", "Postfix"])
    assert why(await probe(library("smtp").modules[name], target)) == (UNKNOWN if name == "smtps" else None)


async def test_smtp_size_module_reports_the_limit(postfix: Postfix, pki: Pki) -> None:
    result = await probe(shipped("smtp_size", pki), f"127.0.0.1:{postfix.port}")
    assert why(result) is None
    assert measured(result)["probe_expect_info"] == {("10240000",): 1}


async def test_smtp_no_relay_module_passes_without_relay(postfix: Postfix, pki: Pki) -> None:
    assert why(await probe(shipped("smtp_no_relay", pki), f"127.0.0.1:{postfix.port}")) is None


@pytest.mark.parametrize("name", ["smtp_submission", "smtps_submission"])
async def test_submission_module_fails_without_auth(postfix: Postfix, pki: Pki, name: str) -> None:
    target = f"127.0.0.1:{postfix.tls_port if name.startswith('smtps') else postfix.port}"
    assert why(await probe(shipped(name, pki), target)) == (Reason.DIALOGUE_REJECTED, "dialogue")
    assert why(await probe(library("smtp").modules[name], target)) == UNKNOWN


# --- dovecot -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["imap", "imaps"])
async def test_imap_module_reports_capabilities(dovecot: Dovecot, pki: Pki, name: str) -> None:
    target = f"127.0.0.1:{getattr(dovecot, name)}"
    result = await probe(shipped(name, pki), target)
    assert why(result) is None
    ((capabilities,),) = measured(result)["probe_expect_info"]
    assert capabilities.startswith("IMAP4rev1 ")
    assert ("STARTTLS" in capabilities.split()) == (name == "imap")
    assert why(await probe(library("imap").modules[name], target)) == (UNKNOWN if name == "imaps" else None)


@pytest.mark.parametrize("name", ["pop3", "pop3s", "pop3s_sasl"])
async def test_pop3_module_passes(dovecot: Dovecot, pki: Pki, name: str) -> None:
    target = f"127.0.0.1:{getattr(dovecot, name.partition('_')[0])}"
    result = await probe(shipped(name, pki), target)
    assert why(result) is None
    assert measured(result).get("probe_expect_info") == ({("PLAIN",): 1} if name == "pop3s_sasl" else None)
    assert why(await probe(library("pop3").modules[name], target)) == (UNKNOWN if name != "pop3" else None)


@pytest.mark.parametrize(
    ("name", "port"),
    [("imap_starttls_login_example", "imap"), ("imaps_login_example", "imaps"), ("pop3s_login_example", "pop3s")],
)
async def test_login_module_passes_with_the_right_password_only(
    dovecot: Dovecot, pki: Pki, tmp_path: Path, name: str, port: str
) -> None:
    target = f"127.0.0.1:{getattr(dovecot, port)}"
    assert why(await probe(of_ones_own(name, pki, tmp_path, PASSWORD), target)) is None
    refused = await probe(of_ones_own(name, pki, tmp_path, "wrong"), target)
    assert why(refused) == (Reason.DIALOGUE_REJECTED, "dialogue")


@pytest.mark.parametrize("name", ["imap_starttls_login_example", "imaps_login_example", "pop3s_login_example"])
def test_login_module_shows_no_password(pki: Pki, tmp_path: Path, name: str) -> None:
    shown = str(of_ones_own(name, pki, tmp_path, PASSWORD).settings.model_dump())
    assert "LOGOUT" in shown or "QUIT" in shown
    assert PASSWORD not in shown


NO_MAIL = {"smtp": "imap", "imap": "pop3", "pop3": "imap"}
"""Another protocol for each."""


@pytest.mark.parametrize("name", MODULES)
async def test_module_times_out_on_another_protocol(dovecot: Dovecot, pki: Pki, name: str) -> None:
    port = NO_MAIL[name[:4]] + ("s" if name.partition("_")[0].endswith("s") else "")
    target = f"127.0.0.1:{getattr(dovecot, port)}"
    result = await run_until(in_phase("dialogue"), shipped(name, pki), target, grace=0.3)
    assert why(result) == (Reason.TIMEOUT_DIALOGUE, "dialogue")


# --- scripted peers ----------------------------------------------------------------------------------------

EHLO = b"EHLO probe-exporter.invalid\r\n"
GREETED: tuple[Turn, ...] = (b"220 mail.test ESMTP\r\n", Hear())


async def test_submission_module_reports_auth_mechanisms(pki: Pki) -> None:
    script = talk(
        *GREETED, b"250-mail.test\r\n250 STARTTLS\r\n", Hear(), b"220 go on\r\n", Secure(),
        Hear(), b"250-mail.test\r\n250-AUTH PLAIN LOGIN\r\n250 HELP\r\n", Hear(), b"221 bye\r\n",
    )  # fmt: skip
    result, heard = await probe_scripted(shipped("smtp_submission", pki), script, pki)
    assert why(result) is None
    assert measured(result)["probe_expect_info"] == {("PLAIN LOGIN",): 1}
    assert heard == EHLO + b"STARTTLS\r\n" + EHLO + b"QUIT\r\n"


async def test_submission_module_fails_without_tls(pki: Pki) -> None:
    """The server offers AUTH without TLS, which does not count."""
    script = then_silence(*GREETED, b"250-mail.test\r\n250 AUTH PLAIN LOGIN\r\n")
    result, heard = await probe_scripted(shipped("smtp_submission", pki), script, pki)
    assert why(result) == (Reason.DIALOGUE_REJECTED, "dialogue")
    assert heard == EHLO


@pytest.mark.parametrize(
    ("sender", "recipient", "verdict"),
    [
        (b"250 ok\r\n", b"554 5.7.1 relay access denied\r\n", None),
        (b"250 ok\r\n", b"450 4.7.1 not now\r\n", None),
        (b"530 5.7.0 authentication required\r\n", b"503 5.5.1 need MAIL first\r\n", None),
        (b"250 ok\r\n", b"250 ok\r\n", (Reason.DIALOGUE_REJECTED, "dialogue")),
    ],
)
async def test_no_relay_module_fails_on_an_open_relay_and_sends_no_mail(
    pki: Pki, sender: bytes, recipient: bytes, verdict: tuple[str, str] | None
) -> None:
    script = then_silence(*GREETED, b"250 mail.test\r\n", Hear(), sender, Hear(), recipient, Hear(), b"221 bye\r\n")
    ends = script if verdict is None else then_silence(*script.turns[:-2])
    result, heard = await probe_scripted(shipped("smtp_no_relay", pki), ends, pki)
    assert why(result) == verdict
    envelope = b"MAIL FROM:<>\r\nRCPT TO:<nobody@probe-exporter.invalid>\r\n"
    assert heard == EHLO + envelope + (b"" if verdict else b"QUIT\r\n")


async def test_smtp_module_reports_the_first_line_of_a_greeting(pki: Pki) -> None:
    greeting = b"220-mail.test ESMTP Exim\r\n220-We do not relay\r\n220 no spam\r\n"
    script = talk(greeting, Hear(), b"250-mail.test\r\n250 ok\r\n", Hear(), b"221 bye\r\n")
    result, heard = await probe_scripted(shipped("smtp", pki), script, pki)
    assert why(result) is None
    assert measured(result)["probe_expect_info"] == {("mail.test", "ESMTP Exim"): 1}
    assert heard == EHLO + b"QUIT\r\n"


@pytest.mark.parametrize("name", ["smtp", "smtp_size", "smtp_submission", "smtp_no_relay"])
async def test_client_waits_for_the_end_of_the_greeting(pki: Pki, name: str) -> None:
    """Servers reject clients that speak before that."""
    result, heard = await probe_scripted(shipped(name, pki), then_silence(b"220-mail.test\r\n"), pki, times_out=True)
    assert why(result) == (Reason.TIMEOUT_DIALOGUE, "dialogue")
    assert heard == b""


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("smtp", (b"421 4.3.2 too many\r\n",)),
        ("smtp", (b"554-mail.test\r\n",)),
        ("smtp", (b"220-mail.test\r\n", b"421 4.3.2 too many\r\n")),
        ("smtp", (*GREETED, b"502 what?\r\n")),
        ("smtp_size", (*GREETED, b"250-mail.test\r\n250 DSN\r\n")),
        ("imap", (b"* BYE too many\r\n",)),
        ("imap", (b"* OK\r\n", Hear(), b"a BAD what?\r\n")),
        ("imap", (b"* OK\r\n", Hear(), b"* CAPABILITY POP3\r\na OK\r\n")),
        ("imap", (b"* OK\r\n", Hear(), b"* CAPABILITY IMAP4rev2\r\na NO\r\n")),
        ("pop3", (b"-ERR too many\r\n",)),
        ("pop3", (b"+OK\r\n", Hear(), b"-ERR what?\r\n")),
    ],
)
async def test_server_refusal_ends_the_probe_at_once(pki: Pki, name: str, script: tuple[Turn, ...]) -> None:
    """The server keeps the connection open."""
    result, _ = await probe_scripted(shipped(name, pki), then_silence(*script), pki)
    assert why(result) == (Reason.DIALOGUE_REJECTED, "dialogue")


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("smtp", talk(*GREETED, b"250-mail.test\r\n250 ok\r\n")),
        ("pop3", talk(b"+OK\r\n", Hear(), b"+OK\r\nTOP\r\n")),
    ],
)
async def test_server_that_closes_too_early_fails_the_probe(pki: Pki, name: str, script: Script) -> None:
    result = await expect_failure(shipped(name, pki), script, pki)
    assert result.failure is not None
    assert result.failure.reason in (Reason.DIALOGUE_NO_MATCH, Reason.DIALOGUE_CLOSED)
