"""Dump a configuration: the YAML of the settings in effect, with secrets masked."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from probe_exporter.config import dump, loading
from probe_exporter.config.module import Config, ConfigError, Module
from probe_exporter.plugins import loader
from probe_exporter.settings.secrets import MASK
from tests import shared

PROBERS = loader.load_probers([])


def load(path: Path, text: str) -> Config:
    """Load a configuration from `text`."""
    file = path / "blackbox.yml"
    file.write_text(text)
    return loading.load([file], PROBERS)


def http(keys: str) -> str:
    """Return the text of a configuration with one http module."""
    return f"modules: {{m: {{prober: http, http: {{{keys}}}}}}}\n"


def test_dumped_configuration_shows_what_is_in_effect(tmp_path: Path) -> None:
    """The dump has non-empty defaults, false booleans whose default is true, and only the prober's own block."""
    text = "modules: {z: {prober: icmp}, m: {prober: http, timeout: 90s, http: {follow_redirects: no, body: ''}}}"
    assert (
        dump.to_yaml(load(tmp_path, text))
        == """\
modules:
    m:
        prober: http
        timeout: 1m30s
        http:
            preferred_ip_protocol: ip6
            ip_protocol_fallback: true
            follow_redirects: false
            enable_http2: true
            method: GET
            body: ""
    z:
        prober: icmp
        icmp:
            preferred_ip_protocol: ip6
            ip_protocol_fallback: true
            ttl: 64
            count: 1
            interval: 1s
"""
    )


def test_module_is_dumped_alone(tmp_path: Path) -> None:
    text = "modules: {m: {prober: tcp, tcp: {query_response: [{send: QUIT}, {expect_bytes: !!binary /wA=}]}}}"
    assert (
        dump.module_to_yaml(load(tmp_path, text).modules["m"])
        == """\
prober: tcp
tcp:
  preferred_ip_protocol: ip6
  ip_protocol_fallback: true
  query_response:
    - send: QUIT
    - expect_bytes: !!binary |
        /wA=
"""
    )


MASKED = http("""
  basic_auth: {username: alice, password: hunter2},
  http_headers: {X: {values: [shown], secrets: [hunter2]}},
  proxy_url: 'http://bob:hunter2@proxy.example:3128', proxy_connect_header: {P: [hunter2]},
  tls_config: {cert: shown, key: hunter2}
""")
MASKED_OAUTH2 = http(
    "oauth2: {client_id: shown, client_secret: hunter2, client_certificate_key: hunter2, token_url: t}"
)


@pytest.mark.parametrize("text", [MASKED, MASKED_OAUTH2, http("bearer_token: hunter2")])
def test_secrets_are_masked_in_the_dump(tmp_path: Path, text: str) -> None:
    loaded = load(tmp_path, text)
    for printed in (dump.to_yaml(loaded), dump.module_to_yaml(loaded.modules["m"]), repr(loaded), str(loaded)):
        assert "hunter2" not in printed
    assert MASK in dump.to_yaml(loaded)


def test_proxy_passwords_are_masked_in_the_dump(tmp_path: Path) -> None:
    assert "proxy_url: http://bob:xxxxx@proxy.example:3128\n" in dump.to_yaml(load(tmp_path, MASKED))


def comparable(modules: Mapping[str, Module]) -> dict[str, object]:
    """Return modules as plain values, without places and without deprecated spellings."""
    return {
        name: (m.prober, m.settings.model_dump(), m.timeout, m.description, m.strays.keys())
        for name, m in modules.items()
    }


@shared.needed
@pytest.mark.parametrize(
    "path", [*shared.files(shared.EXAMPLES), *shared.files(shared.CORPUS)], ids=lambda path: path.name
)
def test_dump_loads_as_the_same_configuration(tmp_path: Path, path: Path) -> None:
    """Masked values are the exception."""
    with suppress(ConfigError):
        original = loading.load([path], PROBERS)
        printed = dump.to_yaml(original)
        again = load(tmp_path, printed)
        assert dump.to_yaml(again) == printed
        if MASK not in printed and "xxxxx" not in printed:
            assert comparable(again.modules) == comparable(original.modules)
