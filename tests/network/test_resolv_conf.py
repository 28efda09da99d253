"""/etc/resolv.conf means what it means to Go's resolver, which the original uses."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from probe_exporter.network import resolv_conf
from probe_exporter.network.resolv_conf import ResolvConf


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "resolv.conf"
    monkeypatch.setattr(resolv_conf, "RESOLV_CONF", path)
    monkeypatch.setattr(socket, "gethostname", lambda: "host.example.test")
    return path


DEFAULT = ("127.0.0.1", "::1")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("", ResolvConf(DEFAULT, ("example.test",))),
        ("nameserver 192.0.2.1\n", ResolvConf(("192.0.2.1",), ("example.test",))),
        ("nameserver fe80::1%2\nsearch .\n", ResolvConf(("fe80::1%2",), ())),
        ("nameserver nobody\nnameserver\n", ResolvConf(DEFAULT, ("example.test",))),
        ("\n".join(f"nameserver 192.0.2.{one}" for one in range(9)), ResolvConf(
            ("192.0.2.0", "192.0.2.1", "192.0.2.2"), ("example.test",))),
        ("domain a.test\nsearch b.test c.test.\n", ResolvConf(DEFAULT, ("b.test", "c.test"))),
        ("search b.test c.test\ndomain a.test.\n", ResolvConf(DEFAULT, ("a.test",))),
        ("# nameserver 192.0.2.1\n;search a.test\n", ResolvConf(DEFAULT, ("example.test",))),
        ("search a.test\noptions ndots:3 timeout:7 attempts:4 rotate use-vc edns0\n", ResolvConf(
            DEFAULT, ("a.test",), 3, 7.0, 4, True, True)),
        ("search a.test\noptions ndots:99 timeout:0 attempts:0\n", ResolvConf(DEFAULT, ("a.test",), 15, 1.0, 1)),
        ("search a.test\noptions ndots:x timeout: attempts\n", ResolvConf(DEFAULT, ("a.test",))),
        ("search a.test\noptions timeout:99999999999999999999\n", ResolvConf(DEFAULT, ("a.test",), 1, 3600)),
    ],
)  # fmt: skip
def test_resolv_conf_is_read_as_go_reads_it(conf: Path, text: str, read: ResolvConf) -> None:
    conf.write_text(text)
    assert resolv_conf.resolv_conf() == read


def test_defaults_hold_without_resolv_conf(conf: Path) -> None:
    assert resolv_conf.resolv_conf() == ResolvConf(DEFAULT, ("example.test",))


def test_changed_resolv_conf_is_read_again(conf: Path) -> None:
    conf.write_text("nameserver 192.0.2.1\n")
    assert resolv_conf.resolv_conf().servers == ("192.0.2.1",)
    conf.write_text("nameserver 192.0.2.2\n")
    os.utime(conf, ns=(1, 1))
    assert resolv_conf.resolv_conf().servers == ("192.0.2.2",)


@pytest.mark.parametrize(
    ("host", "ndots", "names"),
    [
        ("a", 1, ["a.x.test.", "a.y.test.", "a."]),
        ("a.b", 1, ["a.b.", "a.b.x.test.", "a.b.y.test."]),
        ("a.b", 2, ["a.b.x.test.", "a.b.y.test.", "a.b."]),
        ("a.", 1, ["a."]),
        ("a.onion", 1, ["a.onion.x.test.", "a.onion.y.test."]),
        ("a.Onion.", 1, []),
        (f"{'a.' * 124}ab", 1, [f"{'a.' * 124}ab."]),
    ],
)
def test_search_domains_follow_ndots(host: str, ndots: int, names: list[str]) -> None:
    assert ResolvConf(search=("x.test", "y.test"), ndots=ndots).names(host) == names
