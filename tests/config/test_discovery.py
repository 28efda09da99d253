"""The key `discovery`: sources of targets, and what is refused at load."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe_exporter.config import dump, loading
from probe_exporter.config.module import ConfigError
from tests.config.test_loading import PROBERS, load, refusal

MODULES = "modules: {tcp_connect: {prober: tcp}, smtp: {prober: tcp}}\n"


def source(keys: str) -> str:
    """Return the text of a configuration with one source."""
    return f"{MODULES}discovery: {{edge: {{{keys}}}}}\n"


def test_configuration_without_the_key_has_no_sources(tmp_path: Path) -> None:
    assert load(tmp_path, MODULES).discovery == {}


@pytest.mark.parametrize(
    ("keys", "kind", "name"),
    [
        ("file: targets.yml", "file", ""),
        ("file: targets.yml, module: smtp", "file", ""),
        ("addresses: api.example.org, module: tcp_connect, port: 443", "addresses", "api.example.org"),
        ("addresses: bücher.example, module: tcp_connect", "addresses", "xn--bcher-kva.example"),
        ("mx: example.org, module: 'smtp,tcp_connect', port: 25", "mx", "example.org"),
        ("ns: example.org., module: smtp", "ns", "example.org."),
    ],
)
def test_source_has_one_kind(tmp_path: Path, keys: str, kind: str, name: str) -> None:
    found = load(tmp_path, source(keys)).discovery["edge"]
    assert (found.kind, found.name) == (kind, name)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("module: smtp", "discovery.edge.file: a source needs one of `file`, `addresses`, `mx`, `ns`"),
        ("file: a.yml, mx: example.org, module: smtp", "discovery.edge.mx: `mx` and `file` exclude each other"),
        ("file: a.yml, port: 25", "discovery.edge.port: `port` has no effect with `file`"),
        ("mx: example.org", "discovery.edge.module: `module` is required"),
        ("mx: example.org, module: smpt", "discovery.edge.module: unknown module `smpt`; did you mean `smtp`?"),
        ("mx: example.org, module: 'smtp,nope'", "discovery.edge.module: unknown module `nope`"),
        ("mx: example.org, module: smtp, hostname: true", "discovery.edge.hostname: `hostname` is for `addresses`"),
        ("mx: 192.0.2.1, module: smtp", "discovery.edge.mx: '192.0.2.1' is not a name that DNS can be asked for"),
        ("mx: a b, module: smtp", "discovery.edge.mx: 'a b' is not a name that DNS can be asked for"),
        ("mx: example.org, module: smtp, path: /x", "discovery.edge.path: `path` needs a `scheme`"),
        ("mx: example.org, module: smtp, scheme: https, path: x", "discovery.edge.path: expected a path that begins"),
        ("mx: example.org, module: smtp, scheme: 'a b'", "discovery.edge.scheme: 'a b' is not the scheme of a URL"),
        ("mx: example.org, module: smtp, port: 0", "discovery.edge.port: expected 1 or more"),
        ("addresses: a.test, module: smtp, ip_protocol: ip5", "discovery.edge.ip_protocol: expected"),
        ("mx: example.org, module: smtp, labels: {a-b: x}", "discovery.edge.labels: 'a-b' is no name of a label"),
        ("mx: example.org, module: smtp, labels: {__address__: x}", "discovery.edge.labels: '__address__' is no name"),
        ("mx: example.org, module: smtp, ttl: 5", "discovery.edge.ttl: unknown key `ttl`"),
    ],
)
def test_bad_source_is_refused_with_its_key(tmp_path: Path, keys: str, says: str) -> None:
    [line] = refusal(tmp_path, source(keys))
    assert line.startswith("blackbox.yml:2:")
    assert says in line


def test_source_of_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("a.yml", "b.yml"):
        (tmp_path / name).write_text("discovery: {edge: {file: targets.yml}}")
    with pytest.raises(ConfigError, match="source `edge` is defined twice"):
        loading.load([tmp_path / "a.yml", tmp_path / "b.yml"], PROBERS)


def test_module_of_a_source_may_be_in_another_file(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(MODULES)
    (tmp_path / "b.yml").write_text("discovery: {edge: {mx: example.org, module: smtp}}")
    assert loading.load([tmp_path / "a.yml", tmp_path / "b.yml"], PROBERS).discovery["edge"].name == "example.org"


def test_sources_read_back_as_written(tmp_path: Path) -> None:
    config = load(tmp_path, source("addresses: a.test, module: smtp, port: 25, hostname: true, labels: {site: x}"))
    shown = dump.to_yaml(config)
    assert shown.endswith(
        "discovery:\n    edge:\n        addresses: a.test\n        module: smtp\n        port: 25\n"
        "        hostname: true\n        labels:\n            site: x\n"
    )
    assert load(tmp_path, shown).discovery == config.discovery
