"""Store and send cookies as RFC 6265 says, with values as the server sent them."""

from __future__ import annotations

import functools
import threading
import time

import pytest

from probe_exporter.protocols.http import cookies as jar
from probe_exporter.protocols.http.cookies import MAX_ATTRIBUTES, MAX_COOKIE_CHARACTERS, MAX_COOKIES, Cookies
from probe_exporter.protocols.http.url import parse
from tests.cost import costs_at_most


async def sent(origin: str, values: list[str], *destinations: str) -> list[str]:
    """Return the Cookie header for each of `destinations` after `origin` has set cookies."""
    cookies = Cookies()
    await cookies.store(parse(origin), values)
    return [cookies.header(parse(destination)) for destination in destinations]


@pytest.mark.parametrize(
    ("value", "header"),
    [
        ("x=1", "x=1"),
        ("  x  =  1  ", "x=1"),
        ("x=", "x="),
        ("x=a=b", "x=a=b"),
        ("x=1; Path=/; HttpOnly; SameSite=Lax", "x=1"),
        ("x=1; Path=/; Partitioned; Priority=High; unheard=of", "x=1"),
        ("x=1;", "x=1"),
        ('x="a b"', 'x="a b"'),
        ("x=a b", 'x="a b"'),
        ("x=a,b", 'x="a,b"'),
        ("x=%20{1}[2]:/?@", "x=%20{1}[2]:/?@"),
        ("__Host-x.y=1", "__Host-x.y=1"),
    ],
)
async def test_cookie_value_is_sent_as_received(value: str, header: str) -> None:
    """A value is quoted if it was quoted, or if a blank or a comma requires it, as in Go."""
    assert await sent("http://a.test/", [value], "http://a.test/") == [header]


@pytest.mark.parametrize("value", ["", ";", "x", "=1", "x y=1", "x(=1", 'x=a"b', "x=a\\b", "x=\u00e9", "x=a\x01b"])
async def test_set_cookie_that_is_invalid_is_ignored(value: str) -> None:
    assert await sent("http://a.test/", [value, "good=1"], "http://a.test/") == ["good=1"]


async def test_cookie_without_domain_is_sent_to_its_host_only() -> None:
    assert await sent("http://a.test/", ["x=1"], "http://a.test:81/", "http://b.a.test/", "http://test/") == [
        "x=1",
        "",
        "",
    ]


@pytest.mark.parametrize("domain", ["a.test", ".a.test", "A.Test"])
async def test_cookie_with_domain_is_sent_to_all_its_subdomains(domain: str) -> None:
    destinations = ("http://a.test/", "http://b.a.test/", "http://c.b.a.test/", "http://ba.test/", "http://test/")
    assert await sent("http://b.a.test/", [f"x=1; Domain={domain}"], *destinations) == ["x=1", "x=1", "x=1", "", ""]


@pytest.mark.parametrize("domain", ["other.test", "c.b.a.test", "ba.test", "test", ".", "\u0378", "\udcff.a.test"])
async def test_cookie_for_a_foreign_domain_is_refused(domain: str) -> None:
    destinations = ("http://b.a.test/", "http://other.test/", "http://c.b.a.test/", "http://ba.test/")
    assert await sent("http://b.a.test/", [f"x=1; Domain={domain}"], *destinations) == [""] * 4


@pytest.mark.parametrize(("host", "domain"), [("b.co.uk", "co.uk"), ("b.test", "test"), ("a.github.io", "github.io")])
async def test_cookie_for_a_public_suffix_is_refused(host: str, domain: str) -> None:
    assert await sent(f"http://{host}/", [f"x=1; Domain={domain}"], f"http://{host}/", f"http://c.{domain}/") == [
        "",
        "",
    ]


@pytest.mark.parametrize("host", ["co.uk", "localhost", "github.io"])
async def test_cookie_of_a_public_suffix_host_is_sent_to_that_host(host: str) -> None:
    assert await sent(f"http://{host}/", [f"x=1; Domain={host}"], f"http://{host}/", f"http://c.{host}/") == [
        "x=1",
        "",
    ]


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[fe80::1%25lo]", "::1"])
async def test_cookie_of_an_address_is_sent_to_that_address(host: str) -> None:
    assert await sent(f"http://{host}:80/", ["x=1"], f"http://{host}:81/", "http://127.0.0.2/") == ["x=1", ""]


@pytest.mark.parametrize(("domain", "header"), [("127.0.0.1", "x=1"), ("0.0.1", ""), ("1", "")])
async def test_cookie_domain_of_an_address_must_be_that_address(domain: str, header: str) -> None:
    assert await sent("http://127.0.0.1/", [f"x=1; Domain={domain}"], "http://127.0.0.1/") == [header]


@pytest.mark.parametrize(
    ("origin", "destination"),
    [
        ("http://A.test/", "http://a.TEST/"),
        ("http://b\u00fccher.test/", "http://xn--bcher-kva.test/"),
        ("http://a.test./", "http://a.test/"),
    ],
)
async def test_cookie_matches_its_host_in_any_spelling(origin: str, destination: str) -> None:
    assert await sent(origin, ["x=1"], destination) == ["x=1"]


PATHS = ["/", "/p", "/px", "/p/", "/p/q", "/p/q/r", "/p/q/r/s?t=/u"]


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        ("x=1", ["/p/q", "/p/q/r", "/p/q/r/s?t=/u"]),
        ("x=1; Path=relative", ["/p/q", "/p/q/r", "/p/q/r/s?t=/u"]),
        ("x=1; Path=/", PATHS),
        ("x=1; Path=/p", ["/p", "/p/", "/p/q", "/p/q/r", "/p/q/r/s?t=/u"]),
        ("x=1; Path=/p/", ["/p/", "/p/q", "/p/q/r", "/p/q/r/s?t=/u"]),
        ("x=1; Path=/p/q/r/s", ["/p/q/r/s?t=/u"]),
        ("x=1; Path=/elsewhere", []),
    ],
)
async def test_cookie_is_sent_to_its_path_and_below(value: str, paths: list[str]) -> None:
    """The default path is the directory of the URL."""
    headers = await sent("http://a.test/p/q/r?s=/t", [value], *(f"http://a.test{path}" for path in PATHS))
    assert [path for path, header in zip(PATHS, headers, strict=True) if header] == paths


async def test_secure_cookie_is_sent_over_tls_only() -> None:
    assert await sent("https://a.test/", ["x=1; Secure", "y=2"], "http://a.test/", "https://a.test/") == [
        "y=2",
        "x=1; y=2",
    ]


@pytest.mark.parametrize(
    "end",
    [
        "Max-Age=0",
        "Max-Age=-1",
        "Max-Age=0; Expires=Fri, 01 Jan 2100 00:00:00 GMT",
        "Expires=Thu, 01 Jan 1970 00:00:00 GMT",
        "Expires=Thu, 01-Jan-1970 00:00:01 GMT",
        "expires=Sat, 01 Jan 2000 00:00:00 GMT",
    ],
)
async def test_expired_cookie_is_deleted(end: str) -> None:
    assert await sent("http://a.test/", ["x=1", "y=2", f"x=; {end}"], "http://a.test/") == ["y=2"]


@pytest.mark.parametrize(
    "end", ["Max-Age=1000", "Expires=Fri, 01 Jan 2100 00:00:00 GMT", "Max-Age=soon", "Expires=tomorrow", "Expires="]
)
async def test_cookie_with_future_or_unparsable_expiry_is_sent(end: str) -> None:
    assert await sent("http://a.test/", [f"x=1; {end}"], "http://a.test/") == ["x=1"]


async def test_cookie_expires_during_a_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    cookies = Cookies()
    await cookies.store(parse("http://a.test/"), ["x=1; Max-Age=60"])
    now += 59
    assert cookies.header(parse("http://a.test/")) == "x=1"
    now += 1
    assert cookies.header(parse("http://a.test/")) == ""


async def test_cookies_are_sent_longest_path_first_then_oldest_first() -> None:
    """A cookie that is set again keeps its place (RFC 6265, sections 5.3 and 5.4)."""
    values = ["a=1; Path=/", "b=2; Path=/p/q", "c=3; Path=/p", "d=4; Path=/", "a=5; Path=/"]
    assert await sent("http://a.test/", values, "http://a.test/p/q/") == ["b=2; c=3; a=5; d=4"]


async def test_cookies_with_the_same_name_and_different_paths_are_distinct() -> None:
    assert await sent("http://a.test/", ["a=1; Path=/", "a=2; Path=/p"], "http://a.test/p") == ["a=2; a=1"]


# --- limits ------------------------------------------------------------------------------------------------


async def test_cookies_are_limited_in_number() -> None:
    cookies, url = Cookies(), parse("http://a.test/")
    await cookies.store(url, [f"a{number}=1" for number in range(MAX_COOKIES + 1)])
    assert cookies.header(url).count("=") == MAX_COOKIES
    await cookies.store(url, ["b=1", "a0=2"])
    assert cookies.header(url).startswith("a0=2; a1=1;")
    assert cookies.header(url).count("=") == MAX_COOKIES


async def test_set_cookie_that_is_too_long_is_ignored() -> None:
    longest = "a=" + "b" * (MAX_COOKIE_CHARACTERS - 2)
    assert await sent("http://a.test/", [longest], "http://a.test/") == [longest]
    assert await sent("http://a.test/", [longest + "b", "c=1"], "http://a.test/") == ["c=1"]


async def test_cookie_attributes_are_limited_in_number() -> None:
    others = "; x" * (MAX_ATTRIBUTES - 1)
    assert await sent("http://a.test/", [f"a=1{others}; Path=/b"], "http://a.test/") == [""]
    assert await sent("http://a.test/", [f"a=1{others}; x; Path=/b"], "http://a.test/") == ["a=1"]


@pytest.mark.parametrize(
    "value",
    [
        "a=" + "b" * 8000,
        "a=1" + ";" * 8000,
        "a=1; Domain=" + "a." * 4000,
        "a=1; Domain=" + "a." * 3990 + "b.test",
        "a=1; Max-Age=" + "1" * 8000,
        "a=1; Expires=" + " " * 8000,
    ],
)
async def test_cookies_are_stored_in_a_few_milliseconds(value: str) -> None:
    """The budget for one turn of the event loop is 20 ms, about a million additions."""
    cookies, url = Cookies(), parse("http://b.test/")
    await cookies.store(url, ["warm=1; Domain=b.test"])
    values = [f"x{number}{value}" for number in range(1000)]
    with costs_at_most(0.7):
        await cookies.store(url, values)
        cookies.header(url)


async def test_public_suffixes_are_loaded_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading takes some 30 ms."""
    threads: list[bool] = []
    load = jar._suffixes.__wrapped__

    @functools.cache
    def watched() -> object:
        threads.append(threading.current_thread() is threading.main_thread())
        return load()

    monkeypatch.setattr(jar, "_suffixes", watched)
    assert await sent("http://b.test/", ["x=1; domain=test", "y=1; Domain=b.test"], "http://b.test/") == ["y=1"]
    assert threads == [False]
