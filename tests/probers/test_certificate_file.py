"""The certificate_file prober: every format, and paths that must not be read."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.exposition.encoding import encode
from probe_exporter.network.settings import NetworkSettings
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.probers import certificate_file
from probe_exporter.probers.certificate_file import INVALID, TOO_LARGE, UNREADABLE, CertificateFileSettings, prober
from probe_exporter.runner import Result, run
from probe_exporter.tls import certificate_details, metrics
from tests.cost import short_turns
from tests.deadlines import in_phase, run_until
from tests.targets.authority import DER, PEM, Authority

GENEROUS_SECONDS = 60.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    issuing = tmp_path / "issuing"
    issuing.mkdir()
    return Authority(issuing)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    return allowed


async def probe(target: str, directory: Path, **keys: Any) -> Result:
    written = {"directories": [str(directory)], **keys}
    settings = CertificateFileSettings.model_validate(written)
    return await run(Module("m", prober, settings, 0.0, Place("test.yml", 1)), target, GENEROUS_SECONDS)


def reason(result: Result) -> str | None:
    return None if result.failure is None else result.failure.reason.value


def expiries(result: Result) -> dict[str, float]:
    found = result.probe.samples.labelled.get(certificate_file.EXPIRY, {})
    return {labels[0]: value for labels, value in found.items()}


def seconds(certificate: x509.Certificate) -> float:
    return certificate.not_valid_after_utc.timestamp()


def bundle(authority: Authority, leaf: x509.Certificate, password: str) -> bytes:
    encryption = BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    return pkcs12.serialize_key_and_certificates(b"name", authority.key_of("leaf"), leaf, [authority.root], encryption)


@pytest.mark.parametrize("kind", ["pem", "pem with key", "der", "p12", "p12 with password", "p12 with password file"])
async def test_every_format_is_read(authority: Authority, files: Path, tmp_path: Path, kind: str) -> None:
    leaf = authority.issue(lasts=40.0)
    key = (authority.directory / "leaf.key").read_bytes()
    content, keys, count = {
        "pem": (leaf.public_bytes(PEM) + authority.root.public_bytes(PEM), {}, 2),
        "pem with key": (key + leaf.public_bytes(PEM), {}, 1),
        "der": (leaf.public_bytes(DER), {}, 1),
        "p12": (bundle(authority, leaf, ""), {}, 2),
        "p12 with password": (bundle(authority, leaf, "mysecret"), {"password": "mysecret"}, 2),
        "p12 with password file": (bundle(authority, leaf, "mysecret"), {"password_file": str(tmp_path / "word")}, 2),
    }[kind]
    (tmp_path / "word").write_text("mysecret\n")
    (files / "one").write_bytes(content)
    result = await probe(str(files / "one"), files, **keys)
    assert reason(result) is None
    assert expiries(result) == {str(files / "one"): seconds(leaf)}
    assert result.probe.samples.plain[metrics.EARLIEST_EXPIRY] == seconds(leaf)
    assert result.probe.samples.plain[certificate_file.COUNT] == count
    [labels] = result.probe.samples.labelled[metrics.CERTIFICATE_INFO]
    assert labels[1:3] == ("CN=leaf", "CN=root")


async def test_relative_target_is_below_the_first_directory(authority: Authority, files: Path) -> None:
    (files / "leaf.pem").write_bytes(authority.issue().public_bytes(PEM))
    result = await probe("leaf.pem", files)
    assert reason(result) is None
    assert set(expiries(result)) == {"leaf.pem"}


async def test_directory_reads_the_files_with_names_of_certificates(authority: Authority, files: Path) -> None:
    first, second = authority.issue(name="first", lasts=50.0), authority.issue(name="second", lasts=60.0)
    (files / "first.pem").write_bytes(first.public_bytes(PEM))
    (files / "second.CRT").write_bytes(second.public_bytes(DER))
    (files / "first.key").write_bytes(b"a key")
    (files / "README").write_text("words")
    (files / "folder.pem").mkdir()
    result = await probe(str(files), files)
    assert reason(result) is None
    assert expiries(result) == {"first.pem": seconds(first), "second.CRT": seconds(second)}
    assert result.probe.samples.plain[metrics.EARLIEST_EXPIRY] == seconds(first)


async def test_broken_file_of_a_directory_fails_the_probe_and_the_others_are_reported(
    authority: Authority, files: Path
) -> None:
    (files / "a.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (files / "b.pem").write_bytes(authority.issue().public_bytes(PEM))
    result = await probe(str(files), files)
    assert reason(result) == INVALID.value
    assert set(expiries(result)) == {"b.pem"}


@pytest.mark.parametrize(
    ("begins", "lasts", "expected"),
    [(-90.0, 60.0, Reason.CERTIFICATE_EXPIRED), (1.0, 60.0, Reason.CERTIFICATE_NOT_YET_VALID)],
)
async def test_certificate_that_is_not_valid_now_fails_the_probe(
    authority: Authority, files: Path, begins: float, lasts: float, expected: Reason
) -> None:
    (files / "leaf.pem").write_bytes(authority.issue(begins=begins, lasts=lasts).public_bytes(PEM))
    result = await probe("leaf.pem", files)
    assert reason(result) == expected.value
    assert set(expiries(result)) == {"leaf.pem"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", INVALID),
        (b"words", INVALID),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", INVALID),
        (b"\0" * (certificate_file.MAX_FILE_BYTES + 1), TOO_LARGE),
    ],
    ids=["empty", "words", "a key", "too large"],
)
async def test_file_without_certificates_fails_the_probe(files: Path, content: bytes, expected: str) -> None:
    (files / "one").write_bytes(content)
    assert reason(await probe("one", files)) == expected


async def test_wrong_password_is_told_without_the_password(authority: Authority, files: Path) -> None:
    (files / "one.p12").write_bytes(bundle(authority, authority.issue(), "mysecret"))
    result = await probe("one.p12", files, password="wrong-word")
    assert reason(result) == INVALID.value
    assert "wrong-word" not in f"{result.failure} {result.probe.events}"


async def test_missing_file_is_unreadable(files: Path) -> None:
    assert reason(await probe("missing.pem", files)) == UNREADABLE.value


async def test_fifo_is_not_waited_for(files: Path) -> None:
    os.mkfifo(files / "fifo.pem")
    assert reason(await probe("fifo.pem", files)) == UNREADABLE.value


@pytest.mark.parametrize(
    "target",
    [
        "../outside.pem",
        "sub/../../outside.pem",
        "/etc/passwd",
        "/proc/self/environ",
        "{outside}",
        "{files}/../outside.pem",
        "link.pem",
        "folder/outside.pem",
        "{files}er/outside.pem",
    ],
)
async def test_path_outside_of_the_directories_is_denied(authority: Authority, files: Path, target: str) -> None:
    outside = files.parent / "outside.pem"
    outside.write_bytes(authority.issue().public_bytes(PEM))
    (files / "link.pem").symlink_to(outside)
    (files / "folder").symlink_to(files.parent)
    result = await probe(target.format(outside=outside, files=files), files)
    assert reason(result) == Reason.TARGET_DENIED
    assert not expiries(result)


async def test_link_of_a_directory_that_leads_away_is_skipped(authority: Authority, files: Path) -> None:
    outside = files.parent / "outside.pem"
    outside.write_bytes(authority.issue().public_bytes(PEM))
    (files / "link.pem").symlink_to(outside)
    (files / "own.pem").write_bytes(outside.read_bytes())
    assert set(expiries(await probe(str(files), files))) == {"own.pem"}


async def test_secret_as_kubernetes_mounts_it_is_read(authority: Authority, files: Path) -> None:
    (files / "..2026_11_29").mkdir()
    (files / "..2026_11_29" / "tls.crt").write_bytes(authority.issue().public_bytes(PEM))
    (files / "..data").symlink_to("..2026_11_29")
    (files / "tls.crt").symlink_to("..data/tls.crt")
    assert set(expiries(await probe(str(files), files))) == {"tls.crt"}


def test_link_that_appears_after_the_check_is_not_followed(files: Path) -> None:
    """The real path was checked; then somebody puts a link in its place."""
    (files / "one.pem").symlink_to("/etc/passwd")
    with pytest.raises(ProbeFailed, match="can't be read"):
        certificate_file._open_below(str(files), str(files / "one.pem"))
    (files / "folder").symlink_to("/etc")
    with pytest.raises(ProbeFailed, match="can't be read"):
        certificate_file._open_below(str(files), str(files / "folder" / "passwd"))


async def test_target_with_a_nul_is_invalid(files: Path) -> None:
    assert reason(await probe("a\0b", files)) == Reason.TARGET_INVALID
    assert reason(await probe("", files)) == Reason.TARGET_INVALID
    assert reason(await probe("a\ud800", files)) == Reason.TARGET_INVALID


async def test_directory_with_too_many_files_is_refused(
    authority: Authority, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate_file, "MAX_FILES", 2)
    for number in range(3):
        (files / f"{number}.pem").write_bytes(authority.root.public_bytes(PEM))
    assert reason(await probe(str(files), files)) == TOO_LARGE


async def test_directory_with_too_many_entries_is_refused(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate_file, "MAX_ENTRIES", 10)
    for number in range(11):
        (files / f"{number}.txt").touch()
    result = await probe(str(files), files)
    assert reason(result) == TOO_LARGE
    assert "more than 10 entries" in str(result.failure)


async def test_too_many_certificates_are_refused(
    authority: Authority, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate_file, "MAX_CERTIFICATES", 5)
    pem = authority.root.public_bytes(PEM)
    (files / "a.pem").write_bytes(pem * 3)
    (files / "b.pem").write_bytes(pem * 2)
    assert reason(await probe(str(files), files)) is None
    (files / "c.pem").write_bytes(pem)
    assert reason(await probe(str(files), files)) == TOO_LARGE


async def test_unusable_files_of_a_directory_fail_the_probe_and_the_others_are_reported(
    authority: Authority, files: Path
) -> None:
    (files / "loop.pem").symlink_to("loop.pem")
    (files / "dangling.pem").symlink_to("missing.pem")
    os.mkfifo(files / "fifo.pem")
    (files / "large.pem").write_bytes(b"\0" * (certificate_file.MAX_FILE_BYTES + 1))
    (files / "own.pem").write_bytes(authority.issue().public_bytes(PEM))
    result = await probe(str(files), files)
    assert reason(result) == UNREADABLE
    assert set(expiries(result)) == {"own.pem"}
    said = [str(event.fields["err"]).split()[0] for event in result.probe.events if event.message == "Can't use a file"]
    assert sorted(said) == ["dangling.pem", "fifo.pem", "large.pem", "loop.pem"]


@pytest.mark.parametrize("form", ["pem", "der"])
async def test_large_certificate_is_refused_and_the_event_loop_goes_on(
    authority: Authority, files: Path, form: str
) -> None:
    names = x509.SubjectAlternativeName([x509.DNSName("a")] * 250_000)
    leaf = authority.issue(extensions=[names], begins=-1.0)
    content = leaf.public_bytes(PEM if form == "pem" else DER)
    (files / "large.pem").write_bytes(content[: certificate_file.MAX_FILE_BYTES])
    (files / "own.pem").write_bytes(authority.root.public_bytes(PEM))
    with short_turns():
        result = await probe(str(files), files)
    assert reason(result) == TOO_LARGE
    assert set(expiries(result)) == {"own.pem"}


async def test_directory_full_of_long_certificates_is_read_in_short_turns(authority: Authority, files: Path) -> None:
    names = x509.SubjectAlternativeName([x509.DNSName("a")] * 15_000)
    large = authority.issue(extensions=[names])
    assert 40_000 < len(large.public_bytes(DER)) < certificate_file.MAX_CERTIFICATE_BYTES
    for number in range(8):
        (files / f"large{number}.der").write_bytes(large.public_bytes(DER))
    small = authority.issue().public_bytes(PEM)
    (files / "bundle.pem").write_bytes(small * (certificate_file.MAX_FILE_BYTES // len(small)))
    with short_turns():
        result = await probe(str(files), files)
    assert reason(result) is None
    assert result.probe.samples.plain[certificate_file.FILES] == 9


async def test_file_with_unreadable_names_is_told_by_its_name(authority: Authority, files: Path) -> None:
    bad = authority.issue().public_bytes(DER).replace(b"\x0c\x04leaf", b"\x03\x04\0eaf", 1)
    (files / "bad.der").write_bytes(bad)
    (files / "own.pem").write_bytes(authority.root.public_bytes(PEM))
    result = await probe(str(files), files)
    assert reason(result) == INVALID
    assert str(result.failure).startswith("bad.der: ")
    assert set(expiries(result)) == {"own.pem"}


async def test_file_with_any_name_can_be_shown(authority: Authority, files: Path) -> None:
    own = os.fsencode(files)
    names = {b"\xff.pem", b"\xfe.pem", rb"\xff.pem", b"\\\xff.pem", b'a\nb"\\.pem', "ü.pem".encode()}
    for name in names:
        Path(os.fsdecode(own + b"/" + name)).write_bytes(authority.root.public_bytes(PEM))
    result = await probe(str(files), files)
    assert reason(result) is None
    text = encode(result.probe.samples).decode()
    labels = re.findall(r'^probe_certificate_file_expiry_timestamp_seconds\{file="(.*)"\}', text, re.MULTILINE)
    assert len(set(labels)) == len(names)
    assert {"ü.pem", r"\\xff.pem", r"\\xfe.pem"} < set(labels)


def test_names_of_different_files_are_printed_differently() -> None:
    pieces = [b"\\", b"x", b"\xff", b"f", "\xff".encode()]
    names = [b"".join(chosen) for length in range(6) for chosen in itertools.product(pieces, repeat=length)]
    printed = {certificate_file.printable(os.fsdecode(name)) for name in names}
    assert len(printed) == len(names)
    assert all(one.encode() for one in printed - {""})


async def test_path_outside_of_the_directories_is_not_looked_at(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To look at a path may mount a file system, or hang."""
    looked, real = list[object](), os.path.realpath

    def look(path: str) -> str:
        looked.append(path)
        return real(path)

    monkeypatch.setattr(os.path, "realpath", look)
    assert reason(await probe("/net/some-host/export/a.pem", files)) == Reason.TARGET_DENIED
    assert looked == [str(files)]


async def test_pkcs12_that_takes_forever_ends_with_the_probe(authority: Authority, files: Path) -> None:
    """The file has its password hashed two billion times."""
    (files / "one.p12").write_bytes(with_rounds(bundle(authority, authority.issue(), "mysecret"), (1 << 31) - 1))
    settings = CertificateFileSettings.model_validate({"directories": [str(files)], "password": "mysecret"})
    module = Module("m", prober, settings, 0.0, Place("test.yml", 1))
    result = await run_until(in_phase("validation"), module, "one.p12", grace=0.1)
    assert reason(result) == Reason.TIMEOUT_PROBE


def with_rounds(data: bytes, rounds: int) -> bytes:
    """Replace the rounds of the MAC, the last number of a PKCS#12 file: SEQUENCE { …, SEQUENCE { …, …, INTEGER } }."""
    at, number = len(data) - 4, rounds.to_bytes(4, "big")
    assert data[at : at + 2] == b"\2\2"
    mac = data.rindex(b"\x30", 0, data.rindex(b"\x30\x31", 0, at))
    assert data[mac + 1] == len(data) - mac - 2
    inner = data[mac + 2 : at] + b"\x02" + bytes([len(number)]) + number
    outer = data[4:mac] + b"\x30" + bytes([len(inner)]) + inner
    return data[:2] + len(outer).to_bytes(2, "big") + outer


async def test_chain_of_one_file_can_be_examined(authority: Authority, files: Path) -> None:
    (files / "leaf.pem").write_bytes(authority.issue(begins=-10.0, lasts=40.0).public_bytes(PEM))
    result = await probe("leaf.pem", files, certificate_details=True)
    assert result.probe.samples.plain[certificate_details.LIFETIME_USED] == pytest.approx(0.25, abs=0.001)


async def test_urls_that_a_file_names_are_requested_under_the_network_policy(authority: Authority, files: Path) -> None:
    policy = NetworkSettings.model_validate({"targets": {"deny": ["127.0.0.1"]}}).policy()
    settings = CertificateFileSettings.model_validate({"directories": [str(files)], "check_revoked": True})
    async with authority:
        pem = authority.issue(authority.url("/list")).public_bytes(PEM)
        (files / "leaf.pem").write_bytes(pem)
        module = Module("m", prober, settings, 0.0, Place("test.yml", 1), network=policy)
        result = await run(module, "leaf.pem", GENEROUS_SECONDS)
    assert reason(result) is None
    assert authority.requests == []
    assert [event.message for event in result.probe.events].count("No usable revocation list") == 1


def test_module_needs_directories() -> None:
    with pytest.raises(ValueError, match="`directories` is required"):
        CertificateFileSettings.model_validate({})
