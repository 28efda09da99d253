"""Test listen addresses, external URLs and route prefixes, as the original interprets them."""

from __future__ import annotations

import socket

import pytest

from probe_exporter.web.listening import ListenError, Place, listen, open_for_workers, place, split_address


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        (":9115", "", "9115"),
        ("127.0.0.1:9115", "127.0.0.1", "9115"),
        ("localhost:http", "localhost", "http"),
        ("[::1]:9115", "::1", "9115"),
        ("[::]:9115", "::", "9115"),
        ("127.0.0.1:", "127.0.0.1", ""),
    ],
)
def test_address_is_split_into_host_and_port(address: str, host: str, port: str) -> None:
    assert split_address(address) == (host, port)


@pytest.mark.parametrize("address", ["", "foo", "9115", "::1:9115", "[::1]", "[::1", "[::1]9115", "a]b:1"])
def test_malformed_address_is_refused_with_the_valid_forms(address: str) -> None:
    with pytest.raises(ListenError, match=r"\[v6\]:port"):
        split_address(address)


@pytest.mark.parametrize(
    ("address", "clients"),
    [
        ("127.0.0.1:0", ["127.0.0.1"]),
        ("localhost:0", ["127.0.0.1"]),
        ("[::1]:0", ["::1"]),
        (":0", ["127.0.0.1", "::1"]),
        ("[::]:0", ["127.0.0.1", "::1"]),
        ("[0::0]:0", ["127.0.0.1", "::1"]),
    ],
)
def test_listening_socket_accepts_connections(address: str, clients: list[str]) -> None:
    with listen(address) as listener:
        for client in clients:
            with socket.create_connection((client, listener.getsockname()[1]), 60):
                pass


def test_workers_get_separate_sockets_on_the_same_address() -> None:
    shares = open_for_workers(["127.0.0.1:0", ":0"], 3)
    names = [[listener.name for listener in share] for share in shares]
    assert names[0] == names[1] == names[2]
    assert len({listener.socket for share in shares for listener in share}) == 6
    port = shares[0][1].socket.getsockname()[1]
    try:
        for client in ("127.0.0.1", "::1"):
            with socket.create_connection((client, port), 60):
                pass
        with pytest.raises(ListenError, match="Address already in use"):
            open_for_workers([names[0][0]], 3)
    finally:
        for listener in (listener for share in shares for listener in share):
            listener.close()


def test_port_in_use_is_reported() -> None:
    with listen("127.0.0.1:0") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            listen(f"127.0.0.1:{port}")


@pytest.mark.parametrize(
    "address", ["192.0.2.1:1", "no-such-host.invalid:1", "127.0.0.1:99999", "127.0.0.1:no-such-service"]
)
def test_unusable_address_is_named_in_the_error(address: str) -> None:
    with pytest.raises(ListenError, match=f"cannot listen on {address}: "):
        listen(address)


@pytest.mark.parametrize(
    ("url", "prefix", "where", "shown"),
    [
        (None, None, Place("/", "/"), "http://HOST:9115"),
        (None, "", Place("/", "/"), "http://HOST:9115"),
        (None, "/", Place("/", "/"), "http://HOST:9115"),
        (None, "p", Place("/p/", "/p/"), "http://HOST:9115"),
        (None, "/p/q/", Place("/p/q/", "/p/q/"), "http://HOST:9115"),
        ("http://x.example/", None, Place("/", "http://x.example"), "http://x.example"),
        ("http://x.example/p/", None, Place("/p/", "http://x.example/p"), "http://x.example/p"),
        (
            "https://x.example:8443/a/b",
            None,
            Place("/a/b/", "https://x.example:8443/a/b"),
            "https://x.example:8443/a/b",
        ),
        ("http://x.example/a", "/b", Place("/b/", "http://x.example/a"), "http://x.example/a"),
        ("http://x.example/a", "/", Place("/", "http://x.example/a"), "http://x.example/a"),
        ("http://x.example/a", "", Place("/a/", "http://x.example/a"), "http://x.example/a"),
        ("//x.example/a", None, Place("/a/", "//x.example/a"), "//x.example/a"),
        ("myhost:9115", None, Place("/", ""), ""),
        ("myhost:9115/a", None, Place("/", ""), ""),
        (
            "http://x.example/grün a",
            None,
            Place("/grün a/", "http://x.example/gr%C3%BCn%20a"),
            "http://x.example/grün a",
        ),
        (None, "/\udcff", Place("/\udcff/", "/%FF/"), "http://HOST:9115"),
        (None, "/grün?", Place("/grün?/", "/gr%C3%BCn%3F/"), "http://HOST:9115"),
        (None, "//p//q/./r/..", Place("/p/q/", "/p/q/"), "http://HOST:9115"),
        (None, "/../", Place("/", "/"), "http://HOST:9115"),
        ("foo", None, Place("/foo/", "/foo"), "/foo"),
        ("/foo/", None, Place("/foo/", "/foo"), "/foo"),
    ],
)
def test_route_prefix_and_external_url_follow_from_the_flags(
    url: str | None, prefix: str | None, where: Place, shown: str
) -> None:
    assert place(url, prefix, [":9115"]) == (where, shown.replace("HOST", socket.gethostname()))


@pytest.mark.parametrize(
    "url",
    [
        *("'http://x/'", '"x"', "http://x/'", "%zz", ":", "http://[::1", "http://x:port/", "a\nb"),
        *("127.0.0.1:9115", "my_host:9115", "[::1]:9115", "http://a b/p", "http://a\\b/p"),
    ],
)
def test_malformed_external_url_is_refused(url: str) -> None:
    with pytest.raises(ListenError, match="external URL"):
        place(url, None, [":9115"])


def test_address_without_port_is_refused_without_an_external_url() -> None:
    with pytest.raises(ListenError, match="foo"):
        place(None, None, ["foo"])
