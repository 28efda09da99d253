"""Choose the proxy for a URL as Go's clients do: by name or by address, parsed once for all probes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.probers.http import HttpSettings
from probe_exporter.protocols.http.proxy import NoProxy, Proxies, Proxy
from probe_exporter.protocols.http.settings import HttpClientSettings
from probe_exporter.protocols.http.url import parse

HTTP = parse("http://www.example.test/")
HTTPS = parse("https://www.example.test/")


def chosen(proxies: Proxies, url: str, *addresses: str) -> str:
    """Return the proxy for a URL as text; empty for none."""
    proxy = proxies.choose(parse(url), addresses)
    return str(proxy) if proxy is not None else ""


# --- proxies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port"),
    [
        ("http://proxy.test", "http", "proxy.test", 80),
        ("https://proxy.test", "https", "proxy.test", 443),
        ("socks5://proxy.test", "socks5", "proxy.test", 1080),
        ("socks5h://proxy.test", "socks5h", "proxy.test", 1080),
        ("HTTP://Proxy.test:3128/a?b#c", "http", "proxy.test", 3128),
        ("http://[::1]:3128", "http", "::1", 3128),
        ("//proxy.test:3128", "", "proxy.test", 3128),
        ("ftp://proxy.test:3128", "ftp", "proxy.test", 3128),
        ("ftp://proxy.test", "ftp", "proxy.test", 0),
        ("http://", "http", "", 80),
        ("foo", "", "", 0),
        ("http://proxy.test:99999", "http", "", 0),
        ("http://[v7.x]:1", "http", "v7.x", 1),
        ("http://[nonsense", "http", "", 0),
    ],
)
def test_proxy_url_is_parsed(url: str, scheme: str, host: str, port: int) -> None:
    proxy = Proxy.parse(url, [])
    assert (proxy.scheme, proxy.host, proxy.port) == (scheme, host, port)


@pytest.mark.parametrize(
    ("url", "user", "password"),
    [
        ("http://p.test", None, None),
        ("http://u@p.test", "u", None),
        ("http://u:@p.test", "u", ""),
        ("http://us%20er:p%40s%3As@p.test", "us er", "p@s:s"),
        ("http://:p@p.test", "", "p"),
    ],
)
def test_proxy_credentials_are_decoded(url: str, user: str | None, password: str | None) -> None:
    proxy = Proxy.parse(url, [])
    assert (proxy.user, proxy.password) == (user, password)


def test_proxy_hides_its_secrets() -> None:
    proxy = Proxy.parse("http://user:hunter2@proxy.test:3128", [("X-Secret", "hunter3")])
    assert "hunter" not in repr(proxy)
    assert str(proxy) == "http://proxy.test:3128"
    assert str(Proxy.parse("https://[::1]:1", [])) == "https://[::1]:1"


def test_only_a_plain_request_is_forwarded() -> None:
    assert Proxy.parse("http://p", []).forwards(HTTP)
    assert Proxy.parse("https://p", []).forwards(HTTP)
    assert Proxy.parse("ftp://p:1", []).forwards(HTTP)
    assert not Proxy.parse("http://p", []).forwards(HTTPS)
    assert not Proxy.parse("socks5://p", []).forwards(HTTP)
    assert not Proxy.parse("socks5h://p", []).forwards(HTTPS)


# --- no_proxy ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "host", "exempt"),
    [
        ("*", "www.example.test", True),
        ("a.test,*", "www.example.test", True),
        ("", "www.example.test", False),
        (" , ,", "www.example.test", False),
        ("www.example.test", "www.example.test", True),
        ("WWW.Example.TEST", "www.EXAMPLE.test", True),
        (" www.example.test ,x", "www.example.test", True),
        ("example.test", "www.example.test", True),
        ("example.test", "a.b.example.test", True),
        ("example.test", "example.test", True),
        (".example.test", "www.example.test", True),
        (".example.test", "example.test", False),
        ("*.example.test", "www.example.test", True),
        ("*.example.test", "example.test", False),
        ("ample.test", "www.example.test", False),
        ("w*.example.test", "www.example.test", False),
        ("..example.test", "www.example.test", False),
        (".", "www.example.test.", False),
        ("www.example.test.", "www.example.test", False),
        ("http://www.example.test", "www.example.test", False),
        ("www.example.test:80", "www.example.test", True),
        ("www.example.test:", "www.example.test", True),
        ("www.example.test:443", "www.example.test", False),
        ("www.example.test:http", "www.example.test", False),
        (".example.test:80", "www.example.test", True),
        (":80", "www.example.test", False),
        ("*:80", "www.example.test", False),
        ("bücher.test", "xn--bcher-kva.test", True),
        ("xn--bcher-kva.test", "bücher.test", True),
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1:80", "192.0.2.1", True),
        ("192.0.2.1:81", "192.0.2.1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.0/24", "192.0.2.1", True),
        ("192.0.2.77/24", "192.0.2.1", True),
        ("192.0.2.0/25", "192.0.2.200", False),
        ("192.0.2.0/33", "192.0.2.1", False),
        ("192.0.2.0/255.255.255.0", "192.0.2.1", False),
        ("192.0.2.0/24:80", "192.0.2.1", False),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("2001:db8::1", "2001:db8::1", True),
        ("2001:DB8:0::1", "2001:db8::1", True),
        ("[2001:db8::1]:80", "2001:db8::1", True),
        ("[2001:db8::1]:81", "2001:db8::1", False),
        ("[2001:db8::1]", "2001:db8::1", False),
        ("2001:db8::/32", "2001:db8::1", True),
        ("2001:db8::/32", "fe80::1", False),
        ("2001:db8::/32", "192.0.2.1", False),
    ],
)
def test_no_proxy_rule_exempts_matching_hosts(rules: str, host: str, exempt: bool) -> None:
    assert NoProxy(rules).exempts(host, 80) is exempt


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
def test_any_no_proxy_list_exempts_loopback(host: str) -> None:
    assert NoProxy("x").exempts(host, 80)


@pytest.mark.parametrize("host", ["localhost.example.test", "x.localhost", "0.0.0.0", "::", "128.0.0.1"])
def test_host_that_resembles_loopback_is_not_exempt(host: str) -> None:
    assert not NoProxy("x").exempts(host, 80)


@pytest.mark.parametrize(
    ("rules", "exempt"),
    [("192.0.2.0/24", True), ("192.0.2.9", True), ("example.test", True), ("192.0.3.0/24", False), ("x", False)],
)
def test_no_proxy_rule_matches_the_name_or_its_address(rules: str, exempt: bool) -> None:
    assert NoProxy(rules).exempts("www.example.test", 80, ["192.0.2.9"]) is exempt


def test_name_for_loopback_is_exempt_once_resolved() -> None:
    assert NoProxy("x").exempts("www.example.test", 80, ["127.0.0.1"])
    assert not NoProxy("x").exempts("www.example.test", 80)


def test_address_literal_matches_only_as_itself() -> None:
    assert not NoProxy("192.0.2.9").exempts("192.0.2.1", 80, ["192.0.2.9"])


@given(st.text(), st.text(min_size=1))
def test_any_no_proxy_list_is_accepted(rules: str, host: str) -> None:
    NoProxy(rules).exempts(host, 80)


# --- configured --------------------------------------------------------------------------------------------


def test_configured_proxy_serves_every_scheme_and_host() -> None:
    proxies = Proxies.configured("http://p.test:1", "", [])
    for url in ("http://www.example.test/", "https://www.example.test/", "http://127.0.0.1/", "https://localhost/"):
        assert chosen(proxies, url) == "http://p.test:1"


def test_empty_proxy_url_is_no_proxy() -> None:
    assert chosen(Proxies.configured("", "", []), "http://www.example.test/") == ""
    assert chosen(Proxies.configured("", "x", []), "http://www.example.test/") == ""


def test_no_proxy_list_makes_loopback_direct() -> None:
    proxies = Proxies.configured("http://p.test:1", "a.test", [])
    assert chosen(proxies, "http://localhost/") == ""
    assert chosen(proxies, "http://a.test/") == ""
    assert chosen(proxies, "http://b.test/") == "http://p.test:1"
    assert chosen(proxies, "http://b.test/", "127.0.0.2") == ""


def test_no_proxy_port_defaults_to_that_of_the_scheme() -> None:
    proxies = Proxies.configured("http://p.test:1", "www.example.test:443", [])
    assert chosen(proxies, "https://www.example.test/") == ""
    assert chosen(proxies, "http://www.example.test/") == "http://p.test:1"
    assert chosen(proxies, "http://www.example.test:443/") == ""


# --- from the environment ----------------------------------------------------------------------------------


def test_environment_has_a_proxy_for_each_scheme() -> None:
    proxies = Proxies.from_environment({"HTTP_PROXY": "http://a.test:1", "https_proxy": "socks5://b.test"}, [])
    assert chosen(proxies, "http://www.example.test/") == "http://a.test:1"
    assert chosen(proxies, "https://www.example.test/") == "socks5://b.test:1080"


def test_environment_lower_case_variable_wins() -> None:
    environment = {
        "HTTP_PROXY": "http://a.test:1", "http_proxy": "http://b.test:1", "HTTPS_PROXY": "http://c.test:1",
        "https_proxy": "", "NO_PROXY": "x.test", "no_proxy": "y.test", "ALL_PROXY": "http://d.test:1",
    }  # fmt: skip
    proxies = Proxies.from_environment(environment, [])
    assert chosen(proxies, "http://x.test/") == "http://b.test:1"
    assert chosen(proxies, "http://y.test/") == ""
    assert chosen(proxies, "https://www.example.test/") == "http://c.test:1"
    assert chosen(Proxies.from_environment({"ALL_PROXY": "http://d.test:1"}, []), "http://x.test/") == ""


@pytest.mark.parametrize("value", ["p.test:3128", "u:w@p.test:3128", "http://p.test:3128"])
def test_environment_variable_may_omit_the_scheme(value: str) -> None:
    assert chosen(Proxies.from_environment({"http_proxy": value}, []), "http://a.test/") == "http://p.test:3128"


@pytest.mark.parametrize("value", ["", "http://", "http://[nonsense", ":80"])
def test_environment_variable_that_is_unusable_counts_as_unset(value: str) -> None:
    assert chosen(Proxies.from_environment({"http_proxy": value}, []), "http://a.test/") == ""


def test_environment_exempts_loopback_and_no_proxy() -> None:
    proxies = Proxies.from_environment({"http_proxy": "p.test:1", "NO_PROXY": "a.test,192.0.2.0/24"}, [])
    assert chosen(proxies, "http://localhost/") == ""
    assert chosen(proxies, "http://127.0.0.1/") == ""
    assert chosen(proxies, "http://x.a.test/") == ""
    assert chosen(proxies, "http://192.0.2.3/") == ""
    assert chosen(proxies, "http://b.test/") == "http://p.test:1"


# --- settings ----------------------------------------------------------------------------------------------


def test_proxy_settings_are_parsed_once() -> None:
    settings = HttpClientSettings.model_validate({"proxy_url": "http://p.test:1", "no_proxy": "x"})
    assert settings.proxies is settings.proxies
    assert settings.model_copy(update={"follow_redirects": False}).proxies is settings.proxies


def test_proxy_settings_read_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "p.test:1")
    assert chosen(HttpClientSettings().proxies, "http://a.test/") == ""
    settings = HttpClientSettings.model_validate({"proxy_from_environment": True})
    assert chosen(settings.proxies, "http://a.test/") == "http://p.test:1"


def test_connect_headers_are_sorted_and_sanitised() -> None:
    settings = HttpClientSettings.model_validate(
        {"proxy_url": "http://p", "proxy_connect_header": {"X-B": ["2", "1"], "X-A": ["a\r\nb"], "X C": ["3"]}}
    )
    proxy = settings.proxies.choose(HTTPS)
    assert proxy is not None
    assert proxy.connect_headers == [("X-A", "a  b"), ("X-B", "2"), ("X-B", "1")]


@pytest.mark.parametrize(
    ("written", "keys"),
    [
        ({"proxy_url": "http://p.test"}, []),
        ({"proxy_url": ""}, []),
        ({"proxy_url": "ftp://p.test:1"}, ["proxy_url"]),
        ({"proxy_url": "//p.test:1"}, ["proxy_url"]),
        ({"proxy_url": "http://"}, ["proxy_url"]),
        ({"proxy_url": "ftp://p.test"}, ["proxy_url"]),
        ({"proxy_url": "http://p.test", "proxy_connect_header": {"X A": ["1"]}}, ["proxy_connect_header"]),
    ],
)
def test_questionable_proxy_setting_is_a_warning(written: dict[str, object], keys: list[str]) -> None:
    assert [key for key, _ in HttpClientSettings.model_validate(written).cautions()] == keys


def test_http3_with_a_proxy_is_a_warning() -> None:
    written = {"enable_http3": True, "enable_http2": False, "proxy_url": "http://p.test:1"}
    assert [key for key, _ in HttpSettings.model_validate(written).cautions()] == ["proxy_url"]
