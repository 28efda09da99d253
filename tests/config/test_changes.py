"""Test how settings of a module are changed in the tree of its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from probe_exporter.config import one_module
from probe_exporter.config.module import ConfigError
from probe_exporter.config.reloading import Source

FILE = """
modules:
  base: &base
    prober: http
    http: &http
      method: POST
      headers: {X-One: a, X-Two: b}
      tls_config: &tls {insecure_skip_verify: true, server_name: one.test}
  plain: {prober: http, http: {method: PUT, tls_config: *tls}}
  other: {prober: http, http: *http}
  merged: {<<: *base, timeout: 3s}
  bare: {prober: http}
  dotted.name: {prober: http}
"""


@pytest.fixture
def source(tmp_path: Path) -> Source:
    (tmp_path / "own.yml").write_text(FILE)
    return Source((str(tmp_path / "own.yml"),))


def changed(source: Source, module: str, *settings: str) -> Any:
    """Return the settings of a module with changes, each as ``KEY=VALUE``."""
    pairs = [(key, value) for key, _, value in (setting.partition("=") for setting in settings)]
    return one_module.of_source(source, module, pairs).settings


def test_change_keeps_the_other_settings(source: Source) -> None:
    settings = changed(source, "plain", "tls_config.server_name=two.test", "valid_status_codes=[200, 404]")
    assert (settings.method, settings.valid_status_codes) == ("PUT", (200, 404))
    assert (settings.tls_config.server_name, settings.tls_config.insecure_skip_verify) == ("two.test", True)


def test_change_of_a_module_with_aliases_does_not_reach_other_modules(source: Source) -> None:
    assert changed(source, "other", "method=GET", "tls_config.server_name=x").tls_config.server_name == "x"
    config = source.read()
    assert {name: config.modules[name].settings.method for name in ("base", "other")} == {  # type: ignore[attr-defined]  # of the http prober
        "base": "POST",
        "other": "POST",
    }


def test_change_reaches_what_a_module_merges(source: Source) -> None:
    settings = changed(source, "merged", "headers.X-Two=c")
    assert (settings.method, settings.headers) == ("POST", {"X-One": "a", "X-Two": "c"})
    assert one_module.of_source(source, "merged", [("method", "GET")]).timeout == 3.0


def test_change_adds_a_block_that_is_missing(source: Source) -> None:
    assert changed(source, "bare", "tls_config.server_name=x").tls_config.server_name == "x"
    assert changed(source, "dotted.name", "method=HEAD").method == "HEAD"


def test_value_that_is_a_mapping_replaces_the_old_one(source: Source) -> None:
    assert changed(source, "merged", "headers={X-Three: d}").headers == {"X-Three": "d"}


@pytest.mark.parametrize(
    ("module", "setting", "says"),
    [
        ("bare", "metod=GET", "--set metod: unknown key `metod`; did you mean `method`?"),
        ("dotted.name", "metod=GET", "--set metod: unknown key `metod`; did you mean `method`?"),
        ("bare", "tls_config.insecure_skip_verify=3", "--set tls_config.insecure_skip_verify: expected true or false"),
        ("bare", "method.x=3", "--set method: expected a string, found a mapping"),
        ("missing", "method=GET", "unknown module `missing`"),
    ],
)
def test_wrong_change_is_told_as_the_flag(source: Source, module: str, setting: str, says: str) -> None:
    with pytest.raises(one_module.NoModule) as refused:
        changed(source, module, setting)
    assert str(refused.value).startswith(says)


def test_problems_of_the_file_keep_their_places(source: Source) -> None:
    path = Path(source.files[0])
    path.write_text(FILE.replace("timeout: 3s", "tiemout: 3s"))
    with pytest.raises(ConfigError, match=r"own\.yml:\d+:\d+: modules.merged.tiemout"):
        changed(source, "bare", "method=GET")
