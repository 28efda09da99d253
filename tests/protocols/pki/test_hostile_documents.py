"""Documents that authorities, or attackers in their place, may send: parsers return a sentence and never raise."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from probe_exporter.probers.certificate_file import parse_der, parse_pem, parse_pkcs12
from probe_exporter.tls import ocsp
from probe_exporter.tls.crl import RevocationList, public_key_of, read_list
from tests.targets.authority import PEM, Authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    directory: Path = tmp_path_factory.mktemp("authority")
    return Authority(directory)


changes = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=8)


def changed(data: bytes, edits: list[tuple[int, int]], size: int) -> bytes:
    """Return data with some bytes replaced, cut to a size."""
    altered = bytearray(data)
    for place, value in edits:
        altered[place % len(altered)] = value
    return bytes(altered[: max(1, size % (len(altered) + 1))])


@given(edits=changes, size=st.integers(0, 4000))
@example(edits=[(0, 0x30)], size=-1)
def test_changed_list_is_refused_in_a_sentence(authority: Authority, edits: list[tuple[int, int]], size: int) -> None:
    good = authority.crl(1, 2, 3)
    bad = changed(good, edits, size)
    found = read_list(bad, public_key_of(authority.root))
    assert isinstance(found, str) or bad == good


@given(edits=changes, size=st.integers(0, 4000))
def test_changed_ocsp_response_says_nothing(authority: Authority, edits: list[tuple[int, int]], size: int) -> None:
    leaf = authority.issue()
    good = authority.status(leaf, revoked=True)
    bad = changed(good, edits, size)
    answer = ocsp.read_response(bad, leaf, authority.root)
    assert answer.status in ("unusable", "revoked")


@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_by_every_parser(authority: Authority, data: bytes) -> None:
    key = public_key_of(authority.root)
    for found in (read_list(data, key), parse_der(data), parse_pem(data), parse_pkcs12(data, "word")):
        assert isinstance(found, str)
    assert ocsp.read_response(data, authority.root, authority.root).status == "unusable"


@given(edits=changes)
def test_changed_certificate_in_pem_does_not_raise(authority: Authority, edits: list[tuple[int, int]]) -> None:
    pem = authority.root.public_bytes(PEM)
    assert isinstance(parse_pem(changed(pem, edits, len(pem))), str | list)


def test_list_finds_exactly_the_serial_numbers_on_it(authority: Authority) -> None:
    serials = [1, 127, 128, 255, 256, 1 << 64, (1 << 159) - 1]
    found = read_list(authority.crl(*serials), public_key_of(authority.root))
    assert isinstance(found, RevocationList)
    assert all(found.has(serial) for serial in serials)
    assert not any(found.has(serial) for serial in (0, 2, 129, -1, (1 << 64) + 1))
