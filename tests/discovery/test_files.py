"""Targets from a file: its format, its errors with their places, and changes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from probe_exporter.config.discovery import DiscoverySettings
from probe_exporter.discovery import files, groups
from probe_exporter.discovery.files import MAX_ITEMS, FileOfTargets
from probe_exporter.discovery.groups import DiscoveryError

MODULES = ("http_2xx", "icmp")

ONE_TARGET = "- {{module: icmp, targets: [{}.test]}}\n"
TWO_TARGETS = "- {{module: icmp, targets: [{0}.a, {0}.b]}}\n"
"""Entries of a file, to be formatted with a number."""


class Written:
    """A file of targets that a test writes."""

    def __init__(self, directory: Path, **keys: object) -> None:
        self.path = directory / "targets.yml"
        settings = DiscoverySettings.model_validate({"file": str(self.path), **keys})
        self.file = FileOfTargets("shops", settings, MODULES)
        self._writes = 0

    def write(self, text: str) -> None:
        """Write the file; its time differs from that of the last write, however coarse the clock of the disk is."""
        self.path.write_text(text)
        self._writes += 1
        os.utime(self.path, (1e9, 1e9 + self._writes))

    def targets(self) -> list[str]:
        return [group["targets"][0] for group in json.loads(self.file.read())]

    def refusal(self) -> str:
        with pytest.raises(DiscoveryError) as refused:
            self.file.read()
        assert refused.value.status == 500
        return str(refused.value).replace(f"{self.path.parent}/", "")


def test_entries_have_targets_module_params_and_labels(tmp_path: Path) -> None:
    shops = Written(tmp_path, labels={"team": "shop", "tier": "1"})
    shops.write(
        "- {module: http_2xx, targets: [https://a.test/, https://b.test/], params: {hostname: c.test}}\n"
        "- {module: 'icmp,http_2xx', targets: [192.0.2.1], labels: {tier: '2'}}\n"
    )
    found = json.loads(shops.file.read())
    assert [group["targets"] for group in found] == [["https://a.test/"], ["https://b.test/"], ["192.0.2.1"]]
    assert [group["labels"]["__param_module"] for group in found] == ["http_2xx", "http_2xx", "icmp,http_2xx"]
    assert [group["labels"].get("__param_hostname") for group in found] == ["c.test", "c.test", None]
    assert [group["labels"]["tier"] for group in found] == ["1", "1", "2"]
    assert {group["labels"]["team"] for group in found} == {"shop"}


def test_file_may_be_json_and_empty(tmp_path: Path) -> None:
    shops = Written(tmp_path, module="icmp")
    shops.write('[{"targets": ["192.0.2.1", "192.0.2.2"]}]')
    assert shops.targets() == ["192.0.2.1", "192.0.2.2"]
    for empty in ("[]", "null", "# none yet\n---\n"):
        shops.write(empty)
        assert shops.targets() == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- {module: icmp, targets: ['', ' ']}", "targets.yml:1:28: [0].targets[0]: a target is empty; "),
        ("- {module: ',', targets: [a]}", "targets.yml:1:4: [0].module: `module` is required"),
        ("- {module: http_2x, targets: [a]}", "targets.yml:1:4: [0].module: unknown module `http_2x`; did you mean"),
        ("- {targets: [a]}", "[0].module: `module` is required, as the source has none"),
        ("- {module: icmp}", "[0].targets: `targets` is required"),
        ("- {module: icmp, targets: []}", "[0].targets: "),
        ("- {module: icmp, target: a}", "[0].target: unknown key `target`; did you mean `targets`?"),
        ("- {module: icmp, targets: a}", "[0].targets: expected a list of strings, found a string"),
        ("- {module: icmp, targets: [a], labels: {a-b: c}}", "[0].labels: 'a-b' is no name of a label"),
        ("- {module: icmp, targets: [a], params: {a-b: c}}", "[0].params: 'a-b' can't be sent by Prometheus"),
        ("module: icmp", "expected a list of mappings, found a mapping"),
        ("- [", "targets.yml:2:1: not valid YAML"),
    ],
)
def test_error_of_a_file_has_its_place(tmp_path: Path, text: str, says: str) -> None:
    shops = Written(tmp_path)
    shops.write(text)
    assert says in shops.refusal()


def test_many_errors_are_shortened(tmp_path: Path) -> None:
    shops = Written(tmp_path)
    shops.write("- {module: nope, targets: [a]}\n" * 100)
    assert shops.refusal().endswith("; and 95 more problems")


def test_file_is_read_again_only_after_a_change(tmp_path: Path) -> None:
    shops = Written(tmp_path, module="icmp")
    shops.write("- {targets: [a]}")
    first = shops.file.read()
    assert shops.file.read() is first
    shops.write("- {targets: [b]}")
    assert shops.targets() == ["b"]
    shops.path.replace(tmp_path / "old.yml")
    assert shops.refusal() == "targets.yml can't be read: No such file or directory"
    shops.write("- {targets: [c]}")
    assert shops.targets() == ["c"]


def test_bad_file_is_not_parsed_again_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shops = Written(tmp_path, module="icmp")
    shops.write("- [")
    assert "not valid YAML" in shops.refusal()
    monkeypatch.setattr(files, "validated", None)
    assert "not valid YAML" in shops.refusal()


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_what_is_no_file_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """To read a FIFO would never end, and the exporter would wait for it when it exits."""
    shops = Written(tmp_path, module="icmp")
    make(shops.path)
    assert shops.refusal().startswith("targets.yml can't be read: ")
    if not shops.path.is_dir():
        shops.path.unlink()
        shops.write("- {targets: [a]}")
        assert shops.targets() == ["a"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("".join(map(ONE_TARGET.format, range(80_000))), id="one target each"),
        pytest.param("".join(map(TWO_TARGETS.format, range(80_000))), id="two targets each"),
        pytest.param("- {module: icmp, targets: [" + "a," * 400_000 + "]}\n", id="one list"),
        pytest.param("- &one {module: icmp, targets: [a]}\n" + "- *one\n" * 400_000, id="aliases"),
    ],
)
def test_reading_stops_after_many_more_targets_than_are_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """The parser is asked for a fraction of the events of the file: reading all of it takes seconds."""
    shops = Written(tmp_path)
    shops.write(text)
    parse, asked = yaml.parse, 0

    def counted(*arguments: Any, **more: Any) -> Iterator[yaml.Event]:
        nonlocal asked
        for event in parse(*arguments, **more):
            asked += 1
            yield event

    monkeypatch.setattr(yaml, "parse", counted)
    assert shops.refusal() == 'Source "shops" has more than 10000 targets: divide it'
    assert asked <= 8 * MAX_ITEMS


@pytest.mark.parametrize(("entries", "entry"), [(60, ONE_TARGET), (30, TWO_TARGETS)])
def test_file_with_as_many_targets_as_allowed_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: int, entry: str
) -> None:
    most = 60
    monkeypatch.setattr(files, "MAX_ITEMS", 2 * most)
    monkeypatch.setattr(groups, "MAX_TARGETS", most)
    shops = Written(tmp_path)
    shops.write("".join([entry.format(number) for number in range(entries)]))
    assert len(shops.targets()) == most


def test_large_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 1 << 20)
    shops = Written(tmp_path, module="icmp")
    shops.write("#" * ((1 << 20) + 1))
    assert shops.refusal() == "targets.yml has more than 1 MiB: divide it"
