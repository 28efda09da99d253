"""The keys `addresses` and `attempts`: their words and blocks, what is refused and where, and how they read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe_exporter.config import dump
from probe_exporter.config.module import Module
from probe_exporter.config.schema import json_schema
from probe_exporter.config.series import metrics_of, series_of
from probe_exporter.runs.settings import AddressesSettings, AttemptsSettings
from tests.config.test_loading import PROBERS, load, refusal


def a_module(directory: Path, keys: str) -> Module:
    return load(directory, f"modules: {{m: {{prober: tcp, {keys}}}}}\n").modules["m"]


@pytest.mark.parametrize(
    ("written", "settings"),
    [
        ("all", AddressesSettings()),
        ("one", None),
        ("", None),
        ("{}", AddressesSettings()),
        ("{policy: quorum}", AddressesSettings(policy="quorum")),
        (
            "{policy: any, max: 3, one_after_another: yes}",
            AddressesSettings(policy="any", max=3, one_after_another=True),
        ),
    ],
)
def test_addresses_are_a_word_or_a_block(tmp_path: Path, written: str, settings: AddressesSettings | None) -> None:
    module = a_module(tmp_path, f"addresses: {written}")
    assert module.runs.addresses == settings
    assert (module.several is None) == (settings is None)


def test_attempts_have_defaults(tmp_path: Path) -> None:
    assert a_module(tmp_path, "attempts: {}").runs.attempts == AttemptsSettings()
    written = a_module(tmp_path, "attempts: {max: 5, delay: 200ms, only: [connect_timeout]}").runs.attempts
    assert written is not None
    assert (written.max, written.delay, written.only) == (5, 0.2, ("connect_timeout",))


def test_module_without_the_keys_makes_one_run(tmp_path: Path) -> None:
    assert a_module(tmp_path, "tcp: {}").several is None
    assert a_module(tmp_path, "attempts: {max: 1}").several is None


WORDS = "expected one or all or a block with `policy`, found"

MISTAKES = {
    "addresses: every": f"1:28: modules.m.addresses: {WORDS} `every`",
    "addresses: any": f"1:28: modules.m.addresses: {WORDS} `any`: write `addresses: {{policy: any}}`",
    "addresses: {policy: qourum}": "1:40: modules.m.addresses.policy: unknown policy `qourum`; "
    "did you mean `quorum`? (one of all, any, quorum)",
    "addresses: {max: 0}": "1:40: modules.m.addresses.max: expected 1 or more",
    "addresses: {max: 65}": "1:40: modules.m.addresses.max: expected 64 or less",
    "addresses: {polcy: any}": "1:40: modules.m.addresses.polcy: unknown key `polcy`; did you mean `policy`?",
    "attempts: 3": "1:28: modules.m.attempts: expected a mapping of settings, found an integer",
    "attempts: {max: 11}": "1:39: modules.m.attempts.max: expected 10 or less",
    "attempts: {delay: -1s}": "1:39: modules.m.attempts.delay: expected 0 or more",
    "attempts: {only: [tls_handshake, connect_timout]}": "1:61: modules.m.attempts.only[1]: unknown reason "
    "`connect_timout`; did you mean `connect_timeout`? (docs/metrics.md lists them)",
}
"""Keys, and the line that refuses them."""


@pytest.mark.parametrize(("keys", "line"), MISTAKES.items())
def test_mistake_is_refused_with_its_place_and_what_to_write(tmp_path: Path, keys: str, line: str) -> None:
    assert refusal(tmp_path, f"modules: {{m: {{prober: tcp, {keys}}}}}\n") == [f"blackbox.yml:{line}"]


def test_reasons_of_the_prober_itself_are_known(tmp_path: Path) -> None:
    own = PROBERS["ldap"]
    reason = own.reasons[0].value
    text = f"modules: {{m: {{prober: {own.name}, attempts: {{only: [{reason}]}}}}}}\n"
    attempts = load(tmp_path, text).modules["m"].runs.attempts
    assert attempts is not None
    assert attempts.only == (reason,)
    [line] = refusal(tmp_path, f"modules: {{m: {{prober: tcp, attempts: {{only: [{reason}]}}}}}}\n")
    assert f"unknown reason `{reason}`" in line


@pytest.mark.parametrize(
    "keys", ["addresses: all", "addresses: {policy: any, max: 2}", "attempts: {max: 2, delay: 1s, only: [dns_timeout]}"]
)
def test_keys_read_back_as_written(tmp_path: Path, keys: str) -> None:
    config = load(tmp_path, f"modules: {{m: {{prober: tcp, {keys}}}}}\n")
    assert load(tmp_path, dump.to_yaml(config)).modules["m"].runs == config.modules["m"].runs


def test_module_with_parameters_keeps_its_runs(tmp_path: Path) -> None:
    text = "params: {host: {pattern: x}}, addresses: all, http: {headers: {A: '${param:host}'}}"
    module = load(tmp_path, f"modules: {{m: {{prober: http, {text}}}}}\n").modules["m"]
    assert module.given({"host": "x"}).several is module.several is not None


def test_schema_has_words_and_blocks() -> None:
    schema = json_schema(PROBERS)
    keys = schema["$defs"]["Module"]["properties"]
    assert {"enum": ["one", "all"], "type": "string"} in keys["addresses"]["anyOf"]
    assert {"$ref": "#/$defs/AddressesSettings"} in keys["addresses"]["anyOf"]
    assert {"$ref": "#/$defs/AttemptsSettings"} in keys["attempts"]["anyOf"]


def test_metrics_and_series_of_a_module_count_those_of_its_runs(tmp_path: Path) -> None:
    plain, both = a_module(tmp_path, "tcp: {}"), a_module(tmp_path, "addresses: all, attempts: {}")
    added = {metric.name for metric in metrics_of(both)} - {metric.name for metric in metrics_of(plain)}
    assert {"probe_addresses", "probe_address_success", "probe_attempts"} <= added
    assert series_of(both).failed - series_of(plain).failed >= len(added)
    assert series_of(both).plain < series_of(both).failed
    assert a_module(tmp_path, "addresses: all, drop: ['probe_address_.*']").filter is not None
