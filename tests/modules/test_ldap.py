"""The ldap prober against slapd and scripted peers; its filters against ldapsearch."""

from __future__ import annotations

import ast
import asyncio
import shutil
from typing import Any

import pytest

from modules.ldap import compile_filter
from probe_exporter.prober.failure import Reason
from tests.modules.library import (
    STRANGERS,
    cuts,
    expect_failure,
    measured,
    phases,
    probe,
    probe_every_address,
    probe_scripted,
    shipped,
    trust,
)
from tests.outcomes import why
from tests.servers.slapd import BASE, ELSEWHERE, PASSWORD, PEOPLE, USER, Slapd
from tests.targets import Pki
from tests.targets.scripted_server import Hear, Script, ScriptedServer, Secure, Turn, talk, then_silence

LOGIN = {"bind_dn": USER, "password": PASSWORD}


# --- real servers ------------------------------------------------------------------------------------------


async def test_slapd_root_entry_is_reported(slapd: Slapd) -> None:
    result = await probe(shipped("ldap"), f"127.0.0.1:{slapd.port}")
    assert why(result) is None
    assert measured(result) == {
        "probe_ldap_result_code": {("bind",): 0, ("search",): 0},
        "probe_ldap_entries": {(): 1},
        "probe_ldap_references": {(): 0},
        "probe_ldap_naming_context_info": {(BASE,): 1},
    }
    assert phases(result) == {"resolve", "connect", "bind", "search"}


async def test_every_address_of_a_name_is_probed(slapd: Slapd, pki: Pki) -> None:
    result = await probe_every_address(shipped("ldap"), slapd.port)
    assert measured(result)["probe_ldap_entries"] == {(): 1}
    for name, port in (("ldaps", slapd.tls_port), ("ldap_starttls", slapd.port)):
        secure = await probe_every_address(shipped("ldap", name, tls_config=trust(pki)), port)
        assert [bool(run.fingerprint_sha256) for run in secure.runs] == [False, False, True]


async def test_slapd_root_entry_is_reported_over_tls(slapd: Slapd, pki: Pki) -> None:
    for name, port, more in (("ldaps", slapd.tls_port, set()), ("ldap_starttls", slapd.port, {"starttls"})):
        result = await probe(shipped("ldap", name, tls_config=trust(pki)), f"127.0.0.1:{port}")
        assert why(result) is None
        assert "probe_ssl_earliest_cert_expiry" in measured(result)
        assert phases(result) == {"resolve", "connect", "tls", "bind", "search"} | more
        refused = await probe(shipped("ldap", name), f"127.0.0.1:{port}")
        assert why(refused) == (Reason.CERTIFICATE_UNKNOWN_AUTHORITY, "tls")


PEOPLE_ARE = {"base": PEOPLE, "scope": "one"}


@pytest.mark.parametrize(
    ("settings", "entries"),
    [
        (LOGIN, 1),
        ({"bind": False}, 1),
        ({"base": BASE}, 1),
        ({"base": BASE, "scope": "sub"}, 6),
        ({**LOGIN, **PEOPLE_ARE}, 3),
        ({**LOGIN, **PEOPLE_ARE, "min_entries": 3, "max_entries": 3}, 3),
        ({**PEOPLE_ARE, "filter": "(cn=Bob)"}, 1),
        ({**PEOPLE_ARE, "filter": "(& (sn=D*e) (!(cn=ann)) (|(cn>=x)(cn=*)) )"}, 2),
        ({**PEOPLE_ARE, "filter": r"(cn=\42ob)"}, 1),
        ({**PEOPLE_ARE, "filter": "(cn:caseExactMatch:=bob)", "min_entries": 0, "max_entries": 0}, 0),
        ({"base": BASE, "scope": "sub", "filter": "(ou:dn:=people)"}, 4),
    ],
)
async def test_search_counts_entries(slapd: Slapd, settings: dict[str, Any], entries: int) -> None:
    result = await probe(shipped("ldap", **settings), f"127.0.0.1:{slapd.port}")
    assert why(result) is None
    assert measured(result)["probe_ldap_entries"] == {(): entries}


@pytest.mark.parametrize(
    ("settings", "verdict", "code"),
    [
        ({**LOGIN, "password": "wrong"}, (Reason.AUTHENTICATION, "bind"), 49),
        ({**LOGIN, "bind_dn": f"cn=nobody,{BASE}"}, (Reason.AUTHENTICATION, "bind"), 49),
        ({**LOGIN, "bind_dn": "probe"}, (Reason.TARGET_ERROR, "bind"), 34),
        ({"base": f"ou=robots,{BASE}"}, ("ldap_no_such_object", "search"), 32),
        ({"base": f"cn=x,{ELSEWHERE}"}, ("ldap_referral", "search"), 10),
        ({"base": "people"}, (Reason.TARGET_ERROR, "search"), 34),
        ({**PEOPLE_ARE, "min_entries": 4}, (Reason.EXPECTATION, "search"), 0),
        ({**PEOPLE_ARE, "max_entries": 2}, (Reason.EXPECTATION, "search"), 0),
        ({**PEOPLE_ARE, "min_entries": 0, "max_entries": 0}, (Reason.EXPECTATION, "search"), 4),
        ({**PEOPLE_ARE, "filter": "(cn=Dan)"}, (Reason.EXPECTATION, "search"), 0),
    ],
)
async def test_slapd_error_has_its_reason_and_code(
    slapd: Slapd, settings: dict[str, Any], verdict: tuple[str, str], code: int
) -> None:
    result = await probe(shipped("ldap", **settings), f"127.0.0.1:{slapd.port}")
    assert why(result) == verdict
    assert measured(result)["probe_ldap_result_code"][verdict[1:]] == code
    assert PASSWORD not in str(result.probe.events)


# --- scripted peers ----------------------------------------------------------------------------------------


def ber(tag: int, *parts: bytes) -> bytes:
    """Encode a value with its length in four bytes, as Active Directory does."""
    value = b"".join(parts)
    return bytes([tag, 0x84]) + len(value).to_bytes(4, "big") + value


def message(number: int, tag: int, *parts: bytes) -> bytes:
    return ber(0x30, ber(0x02, bytes([number])), ber(tag, *parts))


def ended(number: int, tag: int, code: int = 0, words: bytes = b"") -> bytes:
    return message(number, tag, ber(0x0A, bytes([code])), ber(0x04), ber(0x04, words))


def attribute(name: bytes, *values: bytes) -> bytes:
    return ber(0x30, ber(0x04, name), ber(0x31, *[ber(0x04, value) for value in values]))


def entry(number: int, *attributes: bytes, name: bytes = b"") -> bytes:
    return message(number, 0x64, ber(0x04, name), ber(0x30, *attributes))


BIND = bytes.fromhex("300c020101600702010304008000")
START_TLS = bytes.fromhex("301d02010177188016") + b"1.3.6.1.4.1.1466.20037"
SEARCH = (
    bytes.fromhex("3051020102 634c 0400 0a0100 0a0100 020203e9 020105 010100 870b")
    + b"objectClass"
    + bytes.fromhex("302b 040e")
    + b"namingContexts"
    + bytes.fromhex("040a")
    + b"vendorName"
    + bytes.fromhex("040d")
    + b"vendorVersion"
)
UNBIND = bytes.fromhex("30050201034200")
BOUND = ended(1, 0x61)
ROOT = entry(
    2, attribute(b"namingContexts", b"dc=a", b"dc=b"), attribute(b"VENDORNAME", b"389 Project"),
    attribute(b"vendorVersion", b"389-Directory/2.3"), attribute(b"nothing"),
)  # fmt: skip
DONE = ended(2, 0x65)
REFERENCE = message(2, 0x73, ber(0x04, b"ldap://elsewhere.example.test/"))


def directory(*said: bytes) -> tuple[Turn, ...]:
    """Return a script: accept the bind, answer the search with `said`."""
    return (Hear(bytes=len(BIND)), BOUND, Hear(bytes=len(SEARCH)), b"".join(said))


async def test_dialogue_is_bind_search_unbind(pki: Pki) -> None:
    result, heard = await probe_scripted(shipped("ldap"), then_silence(*directory(ROOT, DONE)), pki)
    assert why(result) is None
    limit = len(BIND) + SEARCH.index(b"\2\1\5") + 2  # the time limit of the search: the seconds left
    assert 1 <= heard[limit] <= 20
    assert heard[:limit] + b"\5" + heard[limit + 1 :] == BIND + SEARCH + UNBIND
    values = measured(result)
    assert values["probe_ldap_server_info"] == {("389 Project", "389-Directory/2.3"): 1}
    assert values["probe_ldap_naming_context_info"] == {("dc=a",): 1, ("dc=b",): 1}


async def test_root_entry_values_are_bounded(pki: Pki) -> None:
    boast = entry(2, attribute(b"namingContexts", *[b"dc=%03d" % n for n in range(200)]),
                  attribute(b"vendorName", b"x" * 1000, b"y"))  # fmt: skip
    result, _ = await probe_scripted(shipped("ldap"), then_silence(*directory(boast, DONE)), pki)
    assert why(result) is None
    assert measured(result)["probe_ldap_server_info"] == {("x" * 128, ""): 1}
    assert len(measured(result)["probe_ldap_naming_context_info"]) == 100


async def test_references_are_counted_and_not_followed(pki: Pki) -> None:
    result, _ = await probe_scripted(shipped("ldap"), then_silence(*directory(REFERENCE, ROOT, REFERENCE, DONE)), pki)
    assert why(result) is None
    assert measured(result)["probe_ldap_references"] == {(): 2}
    assert measured(result)["probe_ldap_entries"] == {(): 1}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (2, Reason.TARGET_ERROR),
        (7, Reason.AUTHENTICATION),
        (8, Reason.AUTHENTICATION),
        (13, "ldap_confidentiality_required"),
        (14, Reason.AUTHENTICATION),
        (48, Reason.AUTHENTICATION),
        (51, Reason.TARGET_NOT_READY),
        (52, Reason.TARGET_NOT_READY),
        (53, Reason.TARGET_ERROR),
        (80, Reason.TARGET_ERROR),
    ],
)
async def test_bind_result_has_its_reason(pki: Pki, code: int, reason: str) -> None:
    script = then_silence(Hear(bytes=len(BIND)), ended(1, 0x61, code, b"because"))
    result, _ = await probe_scripted(shipped("ldap"), script, pki)
    assert why(result) == (reason, "bind")
    assert result.failure is not None
    assert result.failure.message.endswith(": because")
    assert measured(result) == {"probe_ldap_result_code": {("bind",): code}}


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ([ROOT, ended(2, 0x65, 4)], Reason.TARGET_ERROR),  # the server stopped before the number is known
        ([ended(2, 0x65, 50)], Reason.AUTHENTICATION),
        ([DONE], Reason.EXPECTATION),
        ([ended(0, 0x78, 52)], Reason.TARGET_NOT_READY),
        ([ended(0, 0x78, 2)], Reason.TARGET_ERROR),
        ([ROOT] * 1001 + [ended(2, 0x65, 4)], Reason.EXPECTATION),
        ([ROOT] * 1001 + [DONE], Reason.EXPECTATION),
        ([ROOT] * 1002, Reason.PROTOCOL_ERROR),
        ([REFERENCE] * 10_001, Reason.PROTOCOL_ERROR),
        ([ended(1, 0x65)], Reason.PROTOCOL_ERROR),
        ([ended(0, 0x65)], Reason.PROTOCOL_ERROR),
        ([ended(2, 0x61)], Reason.PROTOCOL_ERROR),
        ([message(2, 0x65)], Reason.PROTOCOL_ERROR),
        ([message(2, 0x65, ber(0x0A), ber(0x04), ber(0x04))], Reason.PROTOCOL_ERROR),
        ([message(2, 0x65, ber(0x04, b"\0"), ber(0x04), ber(0x04))], Reason.PROTOCOL_ERROR),
        ([message(2, 0x64)], Reason.PROTOCOL_ERROR),
        ([message(2, 0x64, ber(0x04), ber(0x30, ber(0x30)))], Reason.PROTOCOL_ERROR),
        ([ber(0x30, ber(0x02, b"\2"))], Reason.PROTOCOL_ERROR),
        ([ber(0x30, ber(0x04, b"\2"), ber(0x65, ber(0x0A, b"\0"), ber(0x04), ber(0x04)))], Reason.PROTOCOL_ERROR),
        ([b"\x30\x0c\x02\x01\x02\x65\x07\x0a\x01\x00\x04\x00\x04\x05"], Reason.PROTOCOL_ERROR),  # truncated
        ([b"\x30\x0c\x02\x01\x02\x65\x07\x0a\x01\x00\x04\x80\x04\x00"], Reason.PROTOCOL_ERROR),  # indefinite length
        ([b"\x30\x80"], Reason.PROTOCOL_ERROR),
        ([b"\x30\x85"], Reason.PROTOCOL_ERROR),
        ([b"\x30\x83\x04\x00\x01"], Reason.PROTOCOL_ERROR),
        ([b"\x30\x05\x02\x01\x02\x65\x01"], Reason.PROTOCOL_ERROR),
        ([b"\x30\x04\x02\x01\x02\x65"], Reason.PROTOCOL_ERROR),
        ([b"\x30\x05\x02\x01\x02\x65\x80"], Reason.PROTOCOL_ERROR),
        ([b"\x30\x05\x02\x01\x02\x65\x82"], Reason.PROTOCOL_ERROR),
    ],
)
async def test_search_result_has_its_reason(pki: Pki, said: list[bytes], verdict: str) -> None:
    result, _ = await probe_scripted(shipped("ldap"), then_silence(*directory(*said)), pki)
    assert why(result) == (verdict, "search")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (ended(1, 0x78, 2, b"unsupported extended operation"), Reason.TLS_REQUIRED),
        (ended(1, 0x78, 52), Reason.TLS_REQUIRED),
        (ended(1, 0x78) + BOUND, Reason.PROTOCOL_ERROR),
        (ended(1, 0x78) + b"\0", Reason.PROTOCOL_ERROR),
        (BOUND, Reason.PROTOCOL_ERROR),
        (ended(0, 0x78, 52), Reason.TARGET_NOT_READY),
    ],
)
async def test_starttls_refusal_ends_before_the_bind(pki: Pki, said: bytes, reason: str) -> None:
    module = shipped("ldap", "ldap_starttls", tls_config=trust(pki), **LOGIN)
    result, heard = await probe_scripted(module, then_silence(Hear(bytes=len(START_TLS)), said), pki)
    assert why(result) == (reason, "starttls")
    assert heard == START_TLS


async def test_starttls_certificate_of_another_name_ends_before_the_bind(pki: Pki) -> None:
    module = shipped("ldap", "ldap_starttls", tls_config={**trust(pki), "server_name": "other.example.test"}, **LOGIN)
    script = then_silence(Hear(bytes=len(START_TLS)), ended(1, 0x78), Secure())
    result, _ = await probe_scripted(module, script, pki)
    assert why(result) == (Reason.CERTIFICATE_WRONG_NAME, "tls")


@pytest.mark.parametrize("script", STRANGERS.values(), ids=STRANGERS)
@pytest.mark.parametrize("name", ["ldap", "ldap_starttls"])
async def test_other_protocol_fails_the_probe(pki: Pki, name: str, script: Script) -> None:
    await expect_failure(shipped("ldap", name), script, pki)


async def test_truncated_dialogue_is_connection_closed(pki: Pki) -> None:
    for script in cuts(directory(ROOT, DONE)):
        result = await expect_failure(shipped("ldap"), script, pki)
        assert result.failure is not None
        assert result.failure.reason is Reason.CONNECT_CLOSED


# --- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tls": True, "starttls": True}, "exclude each other"),
        ({"bind_dn": USER}, "needs a `password`"),
        ({"password": PASSWORD}, "needs a `bind_dn`"),
        ({"filter": "cn=Ann"}, "not an LDAP filter"),
        ({"min_entries": -1}, "greater than or equal to 0"),
        ({"max_entries": 10_001}, "less than or equal to 10000"),
    ],
)
def test_settings_without_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        shipped("ldap", **settings)


def test_settings_that_contradict_are_a_caution() -> None:
    odd = shipped("ldap", **LOGIN, bind=False, min_entries=2, max_entries=1)
    assert dict(odd.settings.cautions()).keys() == {"min_entries", "bind_dn"}
    assert not dict(shipped("ldap", **LOGIN).settings.cautions())


# --- filters -----------------------------------------------------------------------------------------------

FILTERS = [
    "(cn=a)",
    "(cn=)",
    "(cn= a b )",
    "(cn=a=b)",
    "(cn=ä)",
    r"(cn=\28\2A\29\5c\c3\a4)",
    "(cn=*)",
    "(cn=a*)",
    "(cn=*a)",
    "(cn=*a*)",
    r"(cn=a*\2a*c*d)",
    "(cn>=a)",
    "(cn<=a)",
    "(cn~=a)",
    "(2.5.4.3=a)",
    "(cn;lang-de;x-y=a)",
    "(cn:=a)",
    "(cn:dn:=a)",
    "(cn:DN:2.5.13.5:=a)",
    "(:caseExactMatch:=a)",
    r"(:dn:2.5.13.5:=\00a)",
    "(!(cn=a))",
    "(&)",
    "(|)",
    "(&(cn=a)(|(sn=b)(!(sn=c)))(o=d))",
    " ( & (cn=a) (sn=b) ) ".replace("( &", "(&"),
    f"(cn={'x' * 300})",
    "(!" * 49 + "(cn=a)" + ")" * 49,
]


@pytest.mark.parametrize(
    "text",
    [
        "", "(", "()", "cn=a", "(cn=a", "(cn=a))", "(cn=a)(cn=b)", "(cn)", "(=a)", "(cn=a(b)", "(cn=**)", "(cn=a**b)",
        "(cn>=a*)", "(cn:=a*)", "(:=a)", "(:dn:=a)", r"(cn=\2)", r"(cn=\zz)", "(cn=a\\", "(cn=\0)", "(!)",
        "(!(cn=a)(cn=b))", "(&(cn=a)", "(&cn=a)", "(& (cn=a) x)", "(c n=a)", "(1.=a)", "(cn;=a)",
        "(!" * 51 + "(cn=a)" + ")" * 51, "(" * 10_000,
    ],
)  # fmt: skip
def test_invalid_filter_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not an LDAP filter such as \(uid=probe\): .* at character \d+$"):
        compile_filter(text)


async def test_filters_are_encoded_as_by_ldapsearch(pki: Pki) -> None:
    """One filter contains all others, and both clients encode it to the same bytes."""
    program = shutil.which("ldapsearch")
    if program is None:
        pytest.skip("ldapsearch is not installed")
    everything = f"(|{''.join(FILTERS)})"
    script = talk(Hear(bytes=len(BIND)), BOUND, Hear(bytes=50), DONE)
    async with ScriptedServer(script, pki.directory) as scripted:
        url = scripted.fill("ldap://127.0.0.1:{port}")
        asked = await asyncio.create_subprocess_exec(
            program, "-LLL", "-x", "-H", url, "-b", "", "-s", "base", everything
        )
        assert await asked.wait() == 0
        await scripted.finished()
    heard = b"".join(map(ast.literal_eval, scripted.heard))
    assert compile_filter(everything) in heard
