"""Build requests from a module's settings, byte for byte, and the next request of a redirect."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.probers.http import HttpSettings
from probe_exporter.protocols.http.request import (
    USER_AGENT,
    Request,
    RequestTemplate,
    basic,
    canonical,
    check_references,
    first_request,
)
from probe_exporter.protocols.http.url import parse_target
from probe_exporter.version import VERSION

TARGET = "http://a.test:81/p"


def request(target: str = TARGET, **settings: Any) -> Request:
    """Return the first request of a module with these settings."""
    module = HttpSettings.model_validate(settings)
    return first_request(module.template, module, parse_target(target))


def lines(made: Request) -> tuple[str, dict[str, list[str]]]:
    """Return the request line and the values of each header, in order."""
    line, *rest = made.head().decode("utf-8", "surrogateescape").removesuffix("\r\n\r\n").split("\r\n")
    headers: dict[str, list[str]] = {}
    for row in rest:
        name, _, value = row.partition(": ")
        headers.setdefault(name, []).append(value)
    return line, headers


def sent(name: str, target: str = TARGET, **settings: Any) -> list[str]:
    """Return the values of one header of the first request."""
    return lines(request(target, **settings))[1].get(name, [])


def failing(**settings: Any) -> str:
    """Return why the first request can't be made."""
    with pytest.raises(ProbeFailed) as failed:
        request(**settings)
    assert failed.value.reason is Reason.SETTINGS_UNUSABLE
    return failed.value.message


# --- the first request -------------------------------------------------------------------------------------


def test_request_has_only_the_necessary_headers() -> None:
    assert request().head() == (
        f"GET /p HTTP/1.1\r\nHost: a.test:81\r\nUser-Agent: {USER_AGENT}\r\nConnection: close\r\n\r\n".encode()
    )


def test_user_agent_begins_with_the_name_of_the_original() -> None:
    assert USER_AGENT.split(" ") == ["Blackbox-Exporter/0.28.0", f"probe-exporter/{VERSION}"]


@pytest.mark.parametrize("method", ["GET", "POST", "get", "a!#$%&'*+-.^_`|~"])
def test_method_is_sent_as_configured(method: str) -> None:
    assert lines(request(method=method))[0] == f"{method} /p HTTP/1.1"


def test_method_defaults_to_get() -> None:
    assert lines(request(method=""))[0] == "GET /p HTTP/1.1"


@pytest.mark.parametrize(
    ("method", "body", "length"),
    [
        ("GET", "", []),
        ("HEAD", "", []),
        ("DELETE", "", []),
        ("OPTIONS", "", []),
        ("POST", "", ["0"]),
        ("PUT", "", ["0"]),
        ("PATCH", "", ["0"]),
        ("GET", "hello", ["5"]),
        ("POST", "h\u00e9", ["3"]),
        ("POST", "\udcff", ["1"]),
    ],
)
def test_body_length_is_counted_in_bytes(method: str, body: str, length: list[str]) -> None:
    """Without a body, only methods that usually have one announce its length."""
    made = request(method=method, body=body)
    assert lines(made)[1].get("Content-Length", []) == length
    assert made.body == body.encode("utf-8", "surrogateescape")


def test_body_file_is_sent_in_chunks() -> None:
    made = request(method="POST", body_file="body.txt")
    assert made.body_file == "body.txt"
    assert lines(made)[1]["Transfer-Encoding"] == ["chunked"]
    assert "Content-Length" not in lines(made)[1]


@pytest.mark.parametrize(
    ("name", "spelling"),
    [
        ("x-trace", "X-Trace"),
        ("X-TRACE-ID", "X-Trace-Id"),
        ("etag", "Etag"),
        ("x_a", "X_a"),
        ("a--b", "A--B"),
        ("", ""),
    ],
)
def test_header_names_have_their_canonical_spelling(name: str, spelling: str) -> None:
    assert canonical(name) == spelling


def test_header_values_are_trimmed_and_otherwise_unchanged() -> None:
    headers = {"x-a": " \ta\t b  ", "X-Empty": "", "X-Text": "gr\u00fcn\udcff", "Accept": "*/*"}
    found = lines(request(headers=headers))[1]
    assert found["X-A"] == ["a\t b"]
    assert found["X-Empty"] == [""]
    assert found["X-Text"] == ["gr\u00fcn\udcff"]
    assert found["Accept"] == ["*/*"]


@pytest.mark.parametrize("name", ["User-Agent", "user-agent"])
def test_user_agent_can_be_replaced_or_omitted(name: str) -> None:
    assert sent("User-Agent", headers={name: "somebody/1"}) == ["somebody/1"]
    assert sent("User-Agent", headers={name: ""}) == []


@pytest.mark.parametrize("name", ["Host", "host", "HOST"])
def test_host_header_can_be_replaced(name: str) -> None:
    assert sent("Host", headers={name: "www.test:8080"}) == ["www.test:8080"]
    assert sent("Host", headers={name: ""}) == ["a.test:81"]
    assert sent("Host", headers={name: "b\u00fccher.test:8080"}) == ["xn--bcher-kva.test:8080"]


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("http://a.test:80/", "a.test:80"),
        ("https://A.test/", "A.test"),
        ("[::1]:81", "[::1]:81"),
        ("http://[fe80::1%25lo]:81/", "[fe80::1]:81"),
        ("http://b\u00fccher.test/", "xn--bcher-kva.test"),
    ],
)
def test_host_header_is_that_of_the_target_as_typed(target: str, host: str) -> None:
    assert sent("Host", target) == [host]


@pytest.mark.parametrize("name", ["Content-Length", "content-length", "Transfer-Encoding", "Trailer"])
def test_framing_headers_can_not_be_configured(name: str) -> None:
    assert sent(canonical(name), headers={name: "99"}) == []
    assert sent("Content-Length", headers={name: "99"}, body="hello") == ["5"]


@pytest.mark.parametrize("value", ["close", "Close", "Upgrade", "upgrade, http2-settings"])
def test_connection_header_close_or_upgrade_is_kept(value: str) -> None:
    assert sent("Connection", headers={"Connection": value}) == [value]


def test_connection_header_close_is_added_to_other_values() -> None:
    assert sent("Connection", headers={"Connection": "keep-alive"}) == ["keep-alive", "close"]


def test_expected_compression_is_requested() -> None:
    assert sent("Accept-Encoding", compression="GZIP") == ["gzip"]
    assert sent("Accept-Encoding", compression="gzip", headers={"accept-encoding": "gzip;q=0.5"}) == ["gzip;q=0.5"]
    assert sent("Accept-Encoding") == []


@pytest.mark.parametrize(
    "headers", [{"X A": "1"}, {"": "1"}, {"X:A": "1"}, {"X-A": "1\r\nX-B: 2"}, {"X-A": "1\0"}, {"Host": "a\nb"}]
)
def test_header_that_can_not_be_sent_fails(headers: dict[str, str]) -> None:
    failing(headers=headers)


def test_http_headers_are_appended_as_values_secrets_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("  from a file \n")
    entry = {"values": ["1", " 2 "], "secrets": ["3"], "files": [str(tmp_path / "file")]}
    assert sent("X-A", headers={"x-a": "0"}, http_headers={"x-A": entry}) == ["0", "1", "2", "3", "from a file"]
    assert sent("X-A", http_headers={"X-A": {}}) == []
    assert sent("Cookie", http_headers={"Cookie": {"values": ["a=b", "c=d"]}}) == ["a=b", "c=d"]


def test_http_header_that_can_not_be_sent_fails_without_its_secret(tmp_path: Path) -> None:
    (tmp_path / "awkward").write_text("hush\nhush")
    assert "hush" not in failing(http_headers={"X-A": {"secrets": ["hush\nhush"]}})
    assert "hush" not in failing(http_headers={"X-A": {"files": [str(tmp_path / "awkward")]}})
    failing(http_headers={"X A": {"values": ["1"]}})


def test_file_that_can_not_be_read_fails(tmp_path: Path) -> None:
    missing = str(tmp_path / "none")
    for settings in (
        {"http_headers": {"X-A": {"files": [missing]}}},
        {"basic_auth": {"username": "a", "password_file": missing}},
        {"basic_auth": {"username_file": missing, "password": "a"}},
        {"authorization": {"credentials_file": missing}},
        {"authorization": {"credentials_file": str(tmp_path)}},
    ):
        assert missing in failing(**settings) or str(tmp_path) in failing(**settings)


def test_file_of_a_secret_is_no_pipe_and_has_a_limit(tmp_path: Path) -> None:
    """To read them would hold up all probes."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert f"{pipe} can't be read: it is a pipe" in failing(authorization={"credentials_file": str(pipe)})
    assert "/dev/zero can't be read: it has more than" in failing(authorization={"credentials_file": "/dev/zero"})


# --- credentials -------------------------------------------------------------------------------------------


def decoded(header: list[str]) -> str:
    """Return user and password of a Basic header."""
    (value,) = header
    scheme, _, code = value.partition(" ")
    assert scheme == "Basic"
    return base64.b64decode(code).decode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("block", "pair"),
    [
        ({"username": "alice", "password": "won:der"}, "alice:won:der"),
        ({"username": "\u00e4lice", "password": "\u00fc"}, "\u00e4lice:\u00fc"),
        ({"username": "alice"}, "alice:"),
        ({}, ":"),
    ],
)
def test_basic_auth_is_sent(block: dict[str, str], pair: str) -> None:
    assert decoded(sent("Authorization", basic_auth=block)) == pair


def test_credentials_from_files_are_trimmed(tmp_path: Path) -> None:
    (tmp_path / "user").write_text(" alice\n")
    (tmp_path / "secret").write_text("\t wonder land \r\n")
    user, secret = str(tmp_path / "user"), str(tmp_path / "secret")
    basic_auth = {"username_file": user, "password_file": secret}
    assert decoded(sent("Authorization", basic_auth=basic_auth)) == "alice:wonder land"
    assert sent("Authorization", authorization={"credentials_file": secret}) == ["Bearer wonder land"]
    (tmp_path / "secret").write_text("another")
    assert decoded(sent("Authorization", basic_auth=basic_auth)) == "alice:another"


@pytest.mark.parametrize(
    ("settings", "header"),
    [
        ({"authorization": {"credentials": "c"}}, "Bearer c"),
        ({"authorization": {"type": " Token ", "credentials": "c"}}, "Token c"),
        ({"authorization": {}}, "Bearer"),
        ({"authorization": {"type": "Mine"}}, "Mine"),
        ({"bearer_token": "c"}, "Bearer c"),
    ],
)
def test_authorization_header_is_sent(settings: dict[str, Any], header: str) -> None:
    assert sent("Authorization", **settings) == [header]


def test_user_information_of_the_target_becomes_basic_auth() -> None:
    target = "http://us%40er:se%3Acret@a.test/"
    assert decoded(sent("Authorization", target)) == "us@er:se:cret"
    assert decoded(sent("Authorization", target, basic_auth={"username": "bob"})) == "us@er:se:cret"
    assert decoded(sent("Authorization", "http://@a.test/")) == ":"


@pytest.mark.parametrize("settings", [{}, {"basic_auth": {"username": "bob"}}, {"bearer_token": "c"}])
def test_configured_authorization_header_wins(settings: dict[str, Any]) -> None:
    headers = {"authorization": "Mine 1"}
    assert sent("Authorization", "http://alice:pw@a.test/", headers=headers, **settings) == ["Mine 1"]


def test_oauth2_token_wins_over_other_credentials() -> None:
    module = HttpSettings.model_validate({"headers": {"Authorization": "Mine 1"}})
    made = first_request(module.template, module, parse_target("http://alice:pw@a.test/"), token="Bearer t")
    assert lines(made)[1]["Authorization"] == ["Bearer t"]


@pytest.mark.parametrize(
    "settings",
    [
        {"basic_auth": {"username": "a", "password_ref": "x"}},
        {"basic_auth": {"username_ref": "x"}},
        {"authorization": {"credentials_ref": "x"}},
    ],
)
def test_secret_reference_fails(settings: dict[str, Any]) -> None:
    with pytest.raises(ProbeFailed) as failed:
        check_references(HttpSettings.model_validate(settings))
    assert failed.value.reason is Reason.SETTINGS_UNUSABLE


# --- redirects ---------------------------------------------------------------------------------------------


def redirected(made: Request, location: str, status: int = 302) -> Request:
    return made.redirected(status, location, parse_target(TARGET))


@pytest.mark.parametrize("status", [301, 302, 303])
@pytest.mark.parametrize(("method", "then"), [("GET", "GET"), ("HEAD", "HEAD"), ("POST", "GET"), ("DELETE", "GET")])
def test_redirect_that_changes_the_method_drops_the_body(status: int, method: str, then: str) -> None:
    headers = {"Content-Type": "text/plain", "Content-Language": "en", "X-A": "1"}
    for body in ({"body": "hello"}, {"body_file": "body.txt"}):
        made = redirected(request(method=method, headers=headers, **body), "/x", status)
        line, found = lines(made)
        assert line == f"{then} /x HTTP/1.1"
        assert (made.body, made.body_file) == (b"", "")
        assert not any(name.startswith(("Content-", "Transfer-")) for name in found)
        assert found["X-A"] == ["1"]


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
def test_redirect_307_308_keeps_method_and_body(status: int, method: str) -> None:
    made = redirected(request(method=method, body="hello", headers={"Content-Type": "text/plain"}), "/x", status)
    line, found = lines(made)
    assert line == f"{method} /x HTTP/1.1"
    assert made.body == b"hello"
    assert found["Content-Type"] == ["text/plain"]
    assert found["Content-Length"] == ["5"]


SECRETS = {
    "Authorization": "a",
    "Cookie": "b=c",
    "Cookie2": "d",
    "Www-Authenticate": "e",
    "Proxy-Authorization": "f",
}
FREE = {"X-Trace": "1", "Accept": "*/*"}


@pytest.mark.parametrize(
    "location", ["/x", "//a.test:81/", "http://a.test/", "http://A.TEST:82/", "https://a.test/", "http://b.a.test/"]
)
def test_credentials_are_sent_to_their_host_and_its_subdomains(location: str) -> None:
    _, found = lines(redirected(request(headers=SECRETS | FREE), location))
    assert {name: found[name][0] for name in SECRETS | FREE} == SECRETS | FREE


@pytest.mark.parametrize(
    "location", ["http://b.test/", "http://test/", "http://xa.test/", "http://a.test.b.test/", "http://127.0.0.1/"]
)
def test_credentials_are_not_sent_to_other_hosts(location: str) -> None:
    _, found = lines(redirected(request(headers=SECRETS | FREE), location))
    assert set(found) & set(SECRETS) == set()
    assert {name: found[name][0] for name in FREE} == FREE
    for settings in ({"basic_auth": {"username": "bob"}}, {"bearer_token": "c"}):
        assert "Authorization" not in lines(redirected(request(**settings), location))[1]
    assert "Authorization" not in lines(redirected(request("http://alice:pw@a.test:81/"), location))[1]


def test_credentials_removed_by_a_redirect_do_not_come_back() -> None:
    away = redirected(request(headers=SECRETS), "http://b.test/")
    assert set(lines(redirected(away, "http://a.test:81/"))[1]) & set(SECRETS) == set()


def test_user_information_of_a_location_is_used() -> None:
    made = redirected(request(), "http://alice:pw@b.test/")
    assert decoded(lines(made)[1]["Authorization"]) == "alice:pw"
    assert lines(redirected(request(headers=SECRETS), "http://alice:pw@a.test/"))[1]["Authorization"] == ["a"]


def test_configured_host_is_kept_until_a_location_names_one() -> None:
    made = redirected(request(headers={"Host": "www.test"}), "/x")
    assert lines(made)[1]["Host"] == ["www.test"]
    made = redirected(made, "http://b.test:82/")
    assert lines(made)[1]["Host"] == ["b.test:82"]
    assert lines(redirected(made, "?x"))[1]["Host"] == ["b.test:82"]


@pytest.mark.parametrize(
    ("target", "location", "referer"),
    [
        ("http://a.test:81/p?q#f", "/x", ["http://a.test:81/p?q"]),
        ("http://a.test/", "https://b.test/", ["http://a.test/"]),
        ("https://a.test/", "https://b.test/", ["https://a.test/"]),
        ("https://a.test/", "http://a.test/", []),
        ("http://alice:pw@a.test/", "/x", ["http://a.test/"]),
    ],
)
def test_referer_is_sent_on_redirects_but_not_from_https_to_http(
    target: str, location: str, referer: list[str]
) -> None:
    assert lines(redirected(request(target), location))[1].get("Referer", []) == referer


def test_configured_referer_is_kept() -> None:
    made = redirected(request(headers={"Referer": "http://c.test/"}), "/x")
    assert lines(made)[1]["Referer"] == ["http://c.test/"]


def test_referer_is_that_of_the_last_hop() -> None:
    made = redirected(redirected(request(), "/x"), "http://b.test/y")
    assert lines(made)[1]["Referer"] == ["http://a.test:81/x"]


@pytest.mark.parametrize("location", ["ftp://b.test/", "/%zz", "http://b.test:x/"])
def test_invalid_location_is_an_error(location: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        redirected(request(), location)


# --- the template ------------------------------------------------------------------------------------------


def test_request_template_is_made_once() -> None:
    module = HttpSettings.model_validate({"headers": {"X-A": "1"}})
    assert module.template is module.template
    assert isinstance(first_request(module.template, module, parse_target(TARGET)).headers, tuple)  # can't be changed
    assert module.template.headers == RequestTemplate.make("GET", {"X-A": "1"}, "", "", "").headers


def test_basic_credentials_follow_rfc_7617() -> None:
    assert basic("Aladdin", "open sesame") == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
