"""Targets as Prometheus reads them: labels, and limits in number and bytes."""

from __future__ import annotations

import json

import pytest

from probe_exporter.discovery import groups
from probe_exporter.discovery.groups import DiscoveryError, Target, encode


def test_labels_of_a_target_make_its_request() -> None:
    [group] = json.loads(encode("shops", [Target("https://a.test/", "http_2xx", {"hostname": "b.test"})]))
    assert group == {
        "targets": ["https://a.test/"],
        "labels": {
            "__meta_probe_source": "shops",
            "__param_target": "https://a.test/",
            "__param_module": "http_2xx",
            "__param_hostname": "b.test",
            "instance": "https://a.test/",
        },
    }


def test_label_of_a_target_replaces_instance() -> None:
    [group] = json.loads(encode("shops", [Target("192.0.2.1", "icmp", labels={"instance": "gateway"})]))
    assert group["labels"]["instance"] == "gateway"


def test_params_can_not_replace_target_and_module() -> None:
    [group] = json.loads(encode("shops", [Target("a", "icmp", {"target": "b", "module": "c"})]))
    assert (group["labels"]["__param_target"], group["labels"]["__param_module"]) == ("a", "icmp")


def test_no_targets_are_an_empty_list() -> None:
    assert encode("shops", []) == b"[]"


def test_targets_are_limited_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "MAX_TARGETS", 3)
    few = [Target(f"192.0.2.{number}", "icmp") for number in range(4)]
    assert len(json.loads(encode("shops", few[:3]))) == 3
    with pytest.raises(DiscoveryError, match='"shops" has more than 3 targets: divide it'):
        encode("shops", few)


def test_labels_are_limited_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "MAX_BODY_BYTES", 1 << 20)
    endless = (Target(str(number), "icmp", labels={"a": "x" * 10_000}) for number in range(10_000))
    with pytest.raises(DiscoveryError, match="has more than 1 MiB of labels"):
        encode("shops", endless)
    assert next(endless).target == "104", "the rest was not encoded"
