"""Parse targets and redirect locations, keep them as typed, refuse what is no URL."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.protocols.http.url import (
    MAX_HOST_CHARACTERS,
    MAX_LOCATION_CHARACTERS,
    URL,
    has_authority,
    host_only,
    parse,
    parse_target,
)
from tests.cost import dearest_call_costs_at_most


def target(text: str) -> tuple[str, str, int, str, str]:
    """Return scheme, host, port, Host header and path of a target."""
    url = parse_target(text)
    return url.scheme, url.host, url.port, url.authority, url.path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.test", ("http", "a.test", 80, "a.test", "/")),
        ("a.test:81", ("http", "a.test", 81, "a.test:81", "/")),
        ("a.test/p", ("http", "a.test", 80, "a.test", "/p")),
        ("http://a.test", ("http", "a.test", 80, "a.test", "/")),
        ("https://a.test/", ("https", "a.test", 443, "a.test", "/")),
        ("HTTPS://a.test/", ("https", "a.test", 443, "a.test", "/")),
        ("http://a.test:443/", ("http", "a.test", 443, "a.test:443", "/")),
        ("https://a.test:443/", ("https", "a.test", 443, "a.test:443", "/")),
        ("http://a.test:/", ("http", "a.test", 80, "a.test", "/")),
        ("http://a.test:0080/", ("http", "a.test", 80, "a.test:0080", "/")),
        ("http://A.Test/", ("http", "A.Test", 80, "A.Test", "/")),
        ("http://a.test./", ("http", "a.test.", 80, "a.test.", "/")),
        ("http://a_b-c.test/", ("http", "a_b-c.test", 80, "a_b-c.test", "/")),
        ("http://127.0.0.1:81/", ("http", "127.0.0.1", 81, "127.0.0.1:81", "/")),
        ("http://[::1]:81/", ("http", "::1", 81, "[::1]:81", "/")),
        ("[::1]:81", ("http", "::1", 81, "[::1]:81", "/")),
        ("http://[::1]", ("http", "::1", 80, "[::1]", "/")),
        ("http://::1:81/", ("http", "::1", 81, "::1:81", "/")),
        ("http://[::ffff:127.0.0.1]:81/", ("http", "::ffff:127.0.0.1", 81, "[::ffff:127.0.0.1]:81", "/")),
        ("http://[fe80::1%25eth0]:81/", ("http", "fe80::1%eth0", 81, "[fe80::1]:81", "/")),
        ("http://b\u00fccher.test:81/", ("http", "b\u00fccher.test", 81, "xn--bcher-kva.test:81", "/")),
        ("http://a.test:81:82/", ("http", "a.test:81", 82, "a.test:81:82", "/")),
        ("http://a\u00e9..test/", ("http", "a\u00e9..test", 80, "a%C3%A9..test", "/")),
        ("ftp://a.test/", ("http", "ftp", 80, "ftp", "//a.test/")),
        ("unix:/run/x", ("http", "unix", 80, "unix", "/run/x")),
        ("//a.test/", ("http", "", 80, "", "//a.test/")),
        ("http://", ("http", "", 80, "", "/")),
        ("https:///p", ("https", "", 443, "", "/p")),
    ],
)
def test_target_may_omit_the_scheme(text: str, expected: tuple[str, str, int, str, str]) -> None:
    assert target(text) == expected


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("", "/"),
        ("?q=1", "/?q=1"),
        ("#top", "/"),
        ("/a?b#c?d", "/a?b"),
        ("/a?", "/a?"),
        ("/a b", "/a%20b"),
        ("/ ", "/%20"),
        ("/\u00e9", "/%C3%A9"),
        ("/a%2Fb%c3%a9%7E", "/a%2Fb%c3%a9%7E"),
        ('/"<>|^`{}\\', "/%22%3C%3E%7C%5E%60%7B%7D%5C"),
        ("/!$&'()*+,;=:@[]~-._", "/!$&'()*+,;=:@[]~-._"),
        ("//a/../b/./c", "//a/../b/./c"),
        ("/p;x=1?a=b;c=d&e=f+g%20h%zz", "/p;x=1?a=b;c=d&e=f+g%20h%zz"),
        ("/?a=/b?c@d", "/?a=/b?c@d"),
        ("/\udcff", "/%FF"),
    ],
)
def test_path_and_query_are_sent_as_typed(typed: str, sent: str) -> None:
    """Nothing is decoded, cleaned or normalised; the fragment is dropped."""
    assert parse_target(f"http://a.test{typed}").path == sent


@pytest.mark.parametrize(
    ("typed", "user", "password"),
    [
        ("", None, None),
        ("user:secret@", "user", "secret"),
        ("us%40er:se%3Acret@", "us@er", "se:cret"),
        ("user@", "user", None),
        ("user:@", "user", ""),
        (":secret@", "", "secret"),
        ("@", "", None),
        ("user:a:b@", "user", "a:b"),
        ("user:a@b@", "user", "a@b"),
    ],
)
def test_user_information_is_decoded(typed: str, user: str | None, password: str | None) -> None:
    url = parse_target(f"http://{typed}a.test:81/p")
    assert (url.user, url.password, url.host, url.authority) == (user, password, "a.test", "a.test:81")


def test_user_information_is_not_shown() -> None:
    """A URL appears in logs and in Referer headers."""
    assert str(parse_target("http://user:secret@a.test:81/p?q#f")) == "http://a.test:81/p?q"


@pytest.mark.parametrize(
    "text",
    [
        " ",
        " http://a.test/",
        "http://a b/",
        "http://a.test :81/",
        "http://a%61.test/",
        "http://%zz/",
        'http://a"b/',
        "http://a<b>/",
        "http://a.test/\t",
        "http://a.test/\n",
        "http://a.test/?\x7f",
        "http://a\x00.test/",
        "http://a.test/%",
        "http://a.test/%zz",
        "http://a.test/%2",
        "http://a.test:x/",
        "http://a.test:81x/",
        "http://a.test:-1/",
        "http://a.test:+1/",
        "http://a.test:\u0661/",
        "http://[::1/",
        "http://[::1]x/",
        "http://[::1%eth0]/",
        "http://[::1%25]/",
        "http://[::1%25e 0]/",
        "http://[::1%25%zz]/",
        "http://[127.0.0.1]/",
        "http://[localhost]/",
        "http://[]/",
        "http://[::1]:81@a.test/",
        "http://a b@a.test/",
        "http://\u00fc@a.test/",
        "http://a^b:c@a.test/",
        "http://a:b%zz@a.test/",
        "http://a.test/#%zz",
    ],
)
def test_invalid_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_target(text)


@pytest.mark.parametrize("text", ["ftp://a.test/", "//a.test/", "/p", "", "http:/a.test", "mailto:a@b.test"])
def test_url_of_another_scheme_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an http or https URL"):
        parse(text)


BASE = "https://user:secret@a.test:81/p/q?r#s"


@pytest.mark.parametrize(
    ("location", "leads_to"),
    [
        ("https://b.test/x", "https://b.test/x"),
        ("HTTP://B.test:82", "http://B.test:82/"),
        ("//b.test/x", "https://b.test/x"),
        ("/x", "https://a.test:81/x"),
        ("x", "https://a.test:81/p/x"),
        ("./x", "https://a.test:81/p/x"),
        ("../x", "https://a.test:81/x"),
        ("../../../x", "https://a.test:81/x"),
        ("?x", "https://a.test:81/p/q?x"),
        ("#x", "https://a.test:81/p/q?r"),
        ("x y", "https://a.test:81/p/x%20y"),
        ("/\u00e9?\u00e9", "https://a.test:81/%C3%A9?%C3%A9"),
        ("/x//y", "https://a.test:81/x//y"),
        ("/x/../y/./z", "https://a.test:81/y/z"),
        ("https://b.test/x/../y/./z?../q", "https://b.test/y/z?../q"),
        ("https://b.test/x/..", "https://b.test/"),
        ("https://b.test/../x/.", "https://b.test/x/"),
        ("https://b.test//x//../y", "https://b.test//x/y"),
        ("http://[::1]:82/x", "http://[::1]:82/x"),
    ],
)
def test_location_is_resolved_as_in_rfc_3986(location: str, leads_to: str) -> None:
    assert str(parse(BASE).join(location)) == leads_to


@pytest.mark.parametrize(
    "location",
    [
        "ftp://b.test/",
        "mailto:a@b.test",
        "javascript:x()",
        "/%zz",
        "/a\tb",
        "/a\nb",
        "http:///x",
        "http://b.test:x/",
        "http://b c/",
    ],
)
def test_invalid_location_is_refused(location: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse(BASE).join(location)


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("http://b.test/", True),
        ("HTTPS://b.test", True),
        ("//b.test/", True),
        ("/x", False),
        ("x//y", False),
        ("?x", False),
    ],
)
def test_location_with_an_authority_is_recognised(location: str, expected: bool) -> None:
    assert has_authority(location) is expected


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("", ""),
        ("a.test", "a.test"),
        ("a.test:81", "a.test"),
        ("a.test:", "a.test"),
        ("[::1]:81", "::1"),
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("a.test:b", "a.test:b"),
    ],
)
def test_host_name_is_taken_from_the_authority(authority: str, host: str) -> None:
    """TLS verifies the name without the port."""
    assert host_only(authority) == host


# --- limits ------------------------------------------------------------------------------------------------


def test_location_is_limited_in_length() -> None:
    longest = "/" + "a" * (MAX_LOCATION_CHARACTERS - 1)
    assert parse(BASE).join(longest).path == longest
    with pytest.raises(ValueError, match="more than"):
        parse(BASE).join(longest + "a")


def test_host_is_limited_in_length() -> None:
    longest = "a" * MAX_HOST_CHARACTERS
    assert parse(f"http://{longest}/").host == longest
    with pytest.raises(ValueError, match="more than"):
        parse(f"http://{longest}a/")


@pytest.mark.parametrize(
    "location",
    [
        "a/../" * 13_000,
        "/" + "a/" * 16_000 + "../" * 10_000,
        "http://b.test/" + "a/../" * 13_000,
        "/" + "\u20ac" * 65_000,
        "/" + "a\u20ac" * 32_000,
        "?" + "\udcff" * 65_000,
        "//" + "a" * 65_000 + "/",
        "//" + "\u00fc" * 1000 + "/",
        "//" + "a." * 500 + "/",
        "//" + "a:" * 500 + "/",
        "//" + "a:" * 32_000 + "@b/",
        "/" + "%61" * 21_000,
        "http://" + "//" * 32_000,
        "\u00fc" * 65_000 + ":",
        "a" * 65_000 + "://",
    ],
    ids=lambda location: repr(location[:12]),
)
@pytest.mark.slow
def test_location_is_resolved_in_a_few_milliseconds(location: str) -> None:
    """The budget for one turn of the event loop is 20 ms, about a million additions."""
    url = parse(BASE)
    with dearest_call_costs_at_most(0.7) as call, suppress(ValueError):
        call(url.join, location)


TEXT = st.text(st.characters(codec="utf-8"), max_size=30)


@given(TEXT)
def test_any_text_is_a_target_or_refused(text: str) -> None:
    """The request target is one line of ASCII without blanks."""
    try:
        url = parse_target(text)
    except ValueError:
        return
    assert url.path.startswith("/")
    assert f"{url.path}{url.authority}".isascii()
    assert not any(c.isspace() or not c.isprintable() for c in f"{url.path}{url.authority}")


@given(TEXT)
def test_any_location_is_resolved_or_refused(location: str) -> None:
    try:
        url = parse(BASE).join(location)
    except ValueError:
        return
    assert isinstance(url, URL)
    assert str(url).isascii()
    assert not any(c.isspace() for c in str(url))
