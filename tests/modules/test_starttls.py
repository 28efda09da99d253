"""The shipped modules for FTP, NNTP, ManageSieve and XMPP against scripted servers."""

from __future__ import annotations

import dataclasses

import pytest

from probe_exporter.config.module import Module
from probe_exporter.prober.failure import Reason
from probe_exporter.tls import metrics
from probe_exporter.tls.settings import TLSSettings
from tests.modules.library import expect_failure, library, measured, probe_scripted, trust
from tests.outcomes import why
from tests.targets import Pki
from tests.targets.scripted_server import Hear, Script, Secure, Turn, talk, then_silence

FILES = ("ftp", "nntp", "sieve", "xmpp")
MODULES = {name: file for file in FILES for name in library(file).modules}

STREAM = (
    b"<?xml version='1.0'?><stream:stream to='example.com' xmlns='jabber:client' "
    b"xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>"
)
START = b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
OPENED = b"<?xml version='1.0'?><stream:stream id='17' from='example.com' version='1.0' xmlns='jabber:client'>"
OFFERS_TLS = b"<stream:features>" + START[:-2] + b"><required/></starttls></stream:features>"
PROCEED = b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
MECHANISMS = b"<stream:features><mechanisms><mechanism>PLAIN</mechanism></mechanisms></stream:features>"
CAPABILITIES = b'"IMPLEMENTATION" "Example 1"\r\n"SIEVE" "fileinto"\r\n"STARTTLS"\r\nOK "ready"\r\n'

IN_TLS: tuple[Turn, ...] = (Hear(len(STREAM)), OPENED, MECHANISMS, Hear(len(b"</stream:stream>")))

SCRIPTS: dict[str, tuple[tuple[Turn, ...], bytes]] = {
    "ftp": ((b"220-Welcome\r\n220 files.test\r\n", Hear(), b"221 bye\r\n"), b"QUIT\r\n"),
    "ftp_starttls": (
        (b"220 files.test\r\n", Hear(), b"234 go on\r\n", Secure(), Hear(), b"221 bye\r\n"),
        b"AUTH TLS\r\nQUIT\r\n",
    ),
    "ftps": ((Secure(), b"220 files.test\r\n", Hear(), b"221 bye\r\n"), b"QUIT\r\n"),
    "nntp": (
        (b"201 no posting\r\n", Hear(), b"101 list\r\nVERSION 2\r\n.\r\n", Hear(), b"205 bye\r\n"),
        b"CAPABILITIES\r\nQUIT\r\n",
    ),
    "nntp_starttls": (
        (b"200 news\r\n", Hear(), b"382 go on\r\n", Secure(), Hear(), b"101 list\r\n.\r\n", Hear(), b"205 bye\r\n"),
        b"STARTTLS\r\nCAPABILITIES\r\nQUIT\r\n",
    ),
    "nntps": (
        (Secure(), b"200 news\r\n", Hear(), b"101 list\r\n.\r\n", Hear(), b"205 bye\r\n"),
        b"CAPABILITIES\r\nQUIT\r\n",
    ),
    "sieve": ((CAPABILITIES, Hear(), b"OK\r\n"), b"LOGOUT\r\n"),
    "sieve_starttls": (
        (CAPABILITIES, Hear(), b"OK\r\n", Secure(), CAPABILITIES.replace(b'"STARTTLS"\r\n', b""), Hear(), b"OK\r\n"),
        b"STARTTLS\r\nLOGOUT\r\n",
    ),
    "xmpp_starttls_example": (
        (Hear(len(STREAM)), OPENED, OFFERS_TLS, Hear(len(START)), PROCEED, Secure(), *IN_TLS),
        STREAM + START + STREAM + b"</stream:stream>",
    ),
    "xmpps_example": ((Secure(), *IN_TLS), STREAM + b"</stream:stream>"),
}  # fmt: skip


def shipped(name: str, pki: Pki) -> Module:
    """Return a shipped module with trust in the test root."""
    module = library(MODULES[name]).modules[name]
    settings = module.settings.model_copy(update={"tls_config": TLSSettings.model_validate(trust(pki))})
    return dataclasses.replace(module, settings=settings)


def test_every_module_has_a_script() -> None:
    assert SCRIPTS.keys() == MODULES.keys()


@pytest.mark.parametrize("name", MODULES)
def test_module_has_a_description_of_one_line(name: str) -> None:
    assert 10 < len(library(MODULES[name]).modules[name].description) < 125


@pytest.mark.parametrize("name", MODULES)
async def test_module_passes_and_says_what_it_should(pki: Pki, name: str) -> None:
    turns, expected = SCRIPTS[name]
    result, heard = await probe_scripted(shipped(name, pki), talk(*turns), pki)
    assert why(result) is None
    assert heard == expected
    secure = any(isinstance(turn, Secure) for turn in turns)
    assert (metrics.CERTIFICATE_INFO in result.probe.samples.labelled) is secure


@pytest.mark.parametrize(("name", "value"), [("ftp", "Welcome"), ("ftps", "files.test"), ("sieve", "Example 1")])
async def test_greeting_is_a_label(pki: Pki, name: str, value: str) -> None:
    result, _ = await probe_scripted(shipped(name, pki), talk(*SCRIPTS[name][0]), pki)
    assert measured(result)["probe_expect_info"] == {(value,): 1}


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("ftp", (b"421 too many\r\n",)),
        ("ftp", (b"220-Welcome\r\n", b"421 too many\r\n")),
        ("ftp_starttls", (b"220 files.test\r\n", Hear(), b"502 what?\r\n")),
        ("nntp", (b"502 not you\r\n",)),
        ("nntp_starttls", (b"200 news\r\n", Hear(), b"580 no TLS\r\n")),
        ("sieve", (b'BYE "too many"\r\n',)),
        ("sieve_starttls", (CAPABILITIES.replace(b'"STARTTLS"\r\n', b""),)),
        ("sieve_starttls", (CAPABILITIES, Hear(), b'NO "not now"\r\n')),
        ("xmpp_starttls_example", (Hear(len(STREAM)), OPENED, b"<stream:error><host-unknown/></stream:error>\n")),
        (
            "xmpp_starttls_example",
            (Hear(len(STREAM)), OPENED, OFFERS_TLS, Hear(len(START)), b"<failure xmlns='x'/></stream:stream>\n"),
        ),
    ],
)
async def test_server_refusal_ends_the_probe_at_once(pki: Pki, name: str, script: tuple[Turn, ...]) -> None:
    """The server keeps the connection open."""
    result, _ = await probe_scripted(shipped(name, pki), then_silence(*script), pki)
    assert why(result) == (Reason.DIALOGUE_REJECTED, "dialogue")


@pytest.mark.parametrize("name", [name for name in MODULES if "starttls" in name])
async def test_certificate_that_does_not_verify_fails_the_probe(pki: Pki, name: str) -> None:
    bad = [Secure("expired") if isinstance(turn, Secure) else turn for turn in SCRIPTS[name][0]]
    result, _ = await probe_scripted(shipped(name, pki), then_silence(*bad), pki)
    assert why(result) == (Reason.CERTIFICATE_EXPIRED, "tls")


@pytest.mark.parametrize(
    ("name", "script"),
    [("ftp", talk(b"220-Welcome\r\n")), ("nntp", talk(b"200 news\r\n", Hear(), b"101 list\r\nVERSION 2\r\n"))],
)
async def test_server_that_closes_too_early_fails_the_probe(pki: Pki, name: str, script: Script) -> None:
    result = await expect_failure(shipped(name, pki), script, pki)
    assert result.failure is not None
    assert result.failure.reason in (Reason.DIALOGUE_NO_MATCH, Reason.DIALOGUE_CLOSED)
