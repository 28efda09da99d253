"""Test the checks of name servers, certificate authorities and the clock, against servers on loopback."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import dns.message
import dns.rcode
import dns.rrset
import pytest

from probe_exporter.network.resolv_conf import ResolvConf
from probe_exporter.testing import Certificate, serve_udp
from probe_exporter.tools.doctor import services
from probe_exporter.tools.doctor.finding import Finding

EPOCH = 2_208_988_800  # seconds from 1900 to 1970


def answer(query: bytes, code: int = dns.rcode.NOERROR) -> list[bytes]:
    response = dns.message.make_response(dns.message.from_wire(query), recursion_available=True)
    response.set_rcode(dns.rcode.Rcode(code))
    if code == dns.rcode.NOERROR:
        response.answer.append(dns.rrset.from_text("localhost.", 60, "IN", "A", "127.0.0.1"))
    return [response.to_wire()]


@pytest.mark.parametrize("code", [dns.rcode.NOERROR, dns.rcode.NXDOMAIN])
def test_name_server_passes_with_any_answer(code: int) -> None:
    with serve_udp(lambda query: answer(query, code)) as server:
        (found,) = services.name_servers(ResolvConf(("127.0.0.1",), timeout=60), server.port)
    assert found.verdict == "pass"
    assert found.message.startswith(f"127.0.0.1:{server.port} answered in ")


def test_name_server_that_refuses_has_a_fix() -> None:
    with serve_udp(lambda query: answer(query, dns.rcode.REFUSED)) as server:
        (found,) = services.name_servers(ResolvConf(("127.0.0.1",), timeout=60), server.port)
    assert found.verdict == "fail"
    assert found.message.endswith(f"127.0.0.1:{server.port} answered REFUSED")
    assert found.fix == "in /etc/resolv.conf, name a server that answers: nameserver ADDRESS"


def test_silent_name_server_is_removed_if_another_one_answers() -> None:
    with serve_udp(answer) as server:
        found = services.name_servers(ResolvConf(("127.0.0.1", "127.0.0.2", "127.0.0.53"), timeout=60), server.port)
    assert [one.verdict for one in found] == ["pass", "fail", "fail"]
    assert found[1].fix == r"sed -i '/^nameserver 127\.0\.0\.2$/d' /etc/resolv.conf"
    assert found[2].fix == "systemctl restart systemd-resolved"


def test_slow_name_server_is_a_warning() -> None:
    found = services._judged(("127.0.0.1", 53), (None, 0.75), others=True)
    assert found.verdict == "warn"
    assert found.message == "127.0.0.1 answered in 750 ms: each lookup of a probe takes as long"


def bundle(directory: Path, days: float, text: str = "") -> Path:
    """Write a bundle of authorities that is so many days old."""
    path = directory / "bundle.pem"
    path.write_text(text or Certificate().pem)
    then = time.time() - days * 86400 - 60
    os.utime(path, (then, then))
    return path


def judged(*files: Path, environment: pytest.MonkeyPatch) -> Finding:
    environment.delenv("SSL_CERT_FILE", raising=False)
    return services.authorities([str(file) for file in files])


def test_authorities_are_counted_and_have_an_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = bundle(tmp_path, 3)
    assert judged(tmp_path / "none", fresh, environment=monkeypatch) == Finding(
        "authorities", "pass", f"{fresh} has 1 certificates and is 3 days old"
    )
    found = judged(bundle(tmp_path, 400), environment=monkeypatch)
    assert (found.verdict, found.fix) == ("warn", services._install())


def test_missing_and_broken_authorities_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = judged(tmp_path / "none", environment=monkeypatch)
    assert (found.verdict, found.message) == (
        "fail",
        "this machine has no bundle of authorities: certificates can't be verified",
    )
    assert "ca-certificates" in found.fix
    assert judged(bundle(tmp_path, 1, "nothing"), environment=monkeypatch).verdict == "fail"
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    assert "(SSL_CERT_FILE) is no file" in services.authorities().message


def ntp_answer(request: bytes, offset: float) -> list[bytes]:
    """Answer with a clock that is `offset` seconds ahead."""
    now = int((time.time() + offset + EPOCH) * 2**32)
    (sent,) = struct.unpack_from("!Q", request, 40)
    return [struct.pack("!BBbbII4sQQQQ", 0x24, 2, 4, -20, 0, 0, b"LOCL", now, sent, now, now)]


def test_clock_is_compared_with_a_named_server() -> None:
    with serve_udp(lambda request: ntp_answer(request, 3600)) as server:
        found = services.clock(str(server))
    assert found.verdict == "fail"
    assert f" ms behind {server}" in found.message
    assert found.fix in ("chronyc makestep", "timedatectl set-ntp true")


def test_clock_is_skipped_without_a_server_and_fails_without_an_answer() -> None:
    assert services.clock(None).verdict == "skip"
    found = services.clock("127.0.0.1:1")
    assert (found.verdict, found.fix) == ("fail", "--ntp with a server that answers")
