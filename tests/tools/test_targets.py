"""Test how a file of targets is read."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from probe_exporter.tools.targets import BadTargets, Line, read_targets


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "targets.txt"


def test_lines_have_a_target_and_maybe_a_module(file: Path) -> None:
    file.write_text("# all\n\nhttps://a.test/#top\nicmp 10.0.0.1   # the router\n  b.test:80\t\nhttps://a.test/#top\n")
    assert read_targets(str(file), "http_2xx") == [
        Line("http_2xx", "https://a.test/#top"),
        Line("icmp", "10.0.0.1"),
        Line("http_2xx", "b.test:80"),
    ]


def test_byte_order_mark_is_no_part_of_the_first_target(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("a.test\r\nb.test\r\n", encoding="utf-8-sig")
    assert [line.target for line in read_targets(str(file), "icmp")] == ["a.test", "b.test"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\ufeffa.test\n"))
    assert read_targets("-", "icmp") == [Line("icmp", "a.test")]


def test_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a.test\n"))
    assert read_targets("-", "icmp") == [Line("icmp", "a.test")]


@pytest.mark.parametrize(
    ("text", "module", "says"),
    [
        (b"a.test\n", None, "targets.txt:1: no module: write `MODULE TARGET`, or give --module"),
        (
            b"icmp a.test\nicmp b.test 80\n",
            "icmp",
            "targets.txt:2: expected `TARGET` or `MODULE TARGET`, found 3 words",
        ),
        (b"# a.test\n", "icmp", "targets.txt has no targets: write one a line"),
        (b"\xff\n", "icmp", "targets.txt: is not UTF-8 text"),
    ],
)
def test_wrong_lines_are_refused_with_their_place(file: Path, text: bytes, module: str | None, says: str) -> None:
    file.write_bytes(text)
    with pytest.raises(BadTargets) as refused:
        read_targets(str(file), module)
    assert says in str(refused.value)


def test_missing_file_is_refused(file: Path) -> None:
    with pytest.raises(BadTargets, match=r"targets.txt: can't be read: No such file"):
        read_targets(str(file), "icmp")
