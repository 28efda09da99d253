"""Tests of targets: how host:port is parsed and which text is refused."""

from __future__ import annotations

import pytest

from probe_exporter.addresses import endpoints
from probe_exporter.prober.failure import ProbeFailed, Reason


@pytest.mark.parametrize(
    ("host", "port", "text"),
    [("a.test", 80, "a.test:80"), ("::1", "http", "[::1]:http"), ("127.0.0.1", 1, "127.0.0.1:1")],
)
def test_join_host_port_brackets_ipv6_addresses(host: str, port: int | str, text: str) -> None:
    assert endpoints.join_host_port(host, port) == text


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("host:80", ("host", "80")),
        ("[::1]:80", ("::1", "80")),
        ("[fe80::1%lo]:http", ("fe80::1%lo", "http")),
        ("127.0.0.1:", ("127.0.0.1", "")),
        (":80", ("", "80")),
        (":", ("", "")),
    ],
)
def test_host_and_port_splits_targets(target: str, parts: tuple[str, str]) -> None:
    assert endpoints.split_host_port(target) == parts


@pytest.mark.parametrize(
    "target", ["", "host", "::1", "::1:80", "[::1]", "[::1]80", "[::1]:80:90", "a[b]:1", "[::1:80"]
)
def test_host_and_port_refuses_malformed_targets(target: str) -> None:
    with pytest.raises(ProbeFailed) as failed:
        endpoints.split_host_port(target)
    assert failed.value.reason is Reason.TARGET_INVALID


@pytest.mark.parametrize(
    ("port", "number"), [("80", 80), ("http", 80), ("HTTPS", 443), ("ssh", 22), ("+7", 7), ("-1", -1), ("", 0)]
)
def test_port_accepts_numbers_and_service_names(port: str, number: int) -> None:
    assert endpoints.port_number(port) == number


def test_port_looks_services_up_per_protocol() -> None:
    assert endpoints.port_number("domain", "udp") == endpoints.port_number("domain", "tcp") == 53
    with pytest.raises(ProbeFailed):
        endpoints.port_number("ssh", "udp")


@pytest.mark.parametrize("port", ["nosuchservice", "8_0", "0x50", "é", "\udcff", "9" * 40, "a\0b"])
def test_port_refuses_other_text(port: str) -> None:
    with pytest.raises(ProbeFailed) as failed:
        endpoints.port_number(port)
    assert failed.value.reason is Reason.TARGET_INVALID


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("a.test", ("a.test", 6379)),
        ("a.test:7000", ("a.test", 7000)),
        ("127.0.0.1", ("127.0.0.1", 6379)),
        ("::1", ("::1", 6379)),
        ("[::1]", ("::1", 6379)),
        ("[::1]:7000", ("::1", 7000)),
        ("a.test:ssh", ("a.test", 22)),
    ],
)
def test_host_and_port_uses_default_port(target: str, parts: tuple[str, int]) -> None:
    assert endpoints.host_and_port(target, 6379) == parts


@pytest.mark.parametrize("target", ["", ":", ":80", "[]", "a.test:", "a.test:0", "a.test:65536", "[::1]x", "a.test:-1"])
def test_host_and_port_refuses_target_without_host_or_port(target: str) -> None:
    with pytest.raises(ProbeFailed) as failed:
        endpoints.host_and_port(target, 6379)
    assert failed.value.reason is Reason.TARGET_INVALID
