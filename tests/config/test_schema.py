"""The JSON Schema for editors accepts what loads, refuses clear errors and has descriptions."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from probe_exporter.config import loading, schema
from probe_exporter.config.module import ConfigError
from probe_exporter.plugins import loader
from tests import shared

PROBERS = loader.load_probers([])


def plain(text: str | bytes) -> object:
    """Return a file's content as an editor sees it, which reads ``!!binary`` as text."""
    return json.loads(json.dumps(yaml.safe_load(text), default=lambda data: data.decode("latin-1")))


@functools.cache
def validator() -> Draft202012Validator:
    """Return a validator of configuration files with all shipped probers."""
    return Draft202012Validator(schema.json_schema(PROBERS))


def test_schema_is_valid() -> None:
    Draft202012Validator.check_schema(schema.json_schema(PROBERS))


@shared.needed
@pytest.mark.parametrize(
    "path", [*shared.files(shared.EXAMPLES), *shared.files(shared.CORPUS)], ids=lambda path: path.name
)
def test_schema_accepts_every_file_that_loads(path: Path) -> None:
    try:
        loading.load([path], PROBERS)
    except ConfigError:
        return
    validator().validate(plain(path.read_bytes()))


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "modulez: {}",
        "modules: {m: {}}",
        "modules: {m: {prober: htp}}",
        "modules: {m: {prober: tcp, timeout: 5}}",
        "modules: {m: {prober: tcp, timeout: 1d}}",
        "modules: {m: {prober: tcp, interval: 5s}}",
        "modules: {m: {prober: http, http: {metod: GET}}}",
        "modules: {m: {prober: http, http: {valid_status_codes: 200}}}",
        "modules: {m: {prober: http, http: {valid_status_codes: ['200']}}}",
        "modules: {m: {prober: http, http: {fail_if_ssl: 'true'}}}",
        "modules: {m: {prober: http, http: {body_size_limit: 1024}}}",
        "modules: {m: {prober: http, http: {headers: {a: [b]}}}}",
        "modules: {m: {prober: http, http: {http_headers: {X: plain}}}}",
        "modules: {m: {prober: icmp, icmp: {ttl: 256}}}",
        "modules: {m: {prober: tcp, tcp: {tls_config: {min_version: tls1.2}}}}",
        "modules: {m: {prober: unix, unix: {preferred_ip_protocol: ip4}}}",
    ],
)
def test_schema_refuses_clear_errors(text: str) -> None:
    assert not validator().is_valid(plain(text))


def test_schema_accepts_placeholders_in_typed_settings() -> None:
    module = yaml.safe_load("""
        prober: http
        params: {p: {pattern: '[0-9]+', default: '200'}}
        http:
          valid_status_codes: [200, "${param:p}"]
          fail_if_ssl: ${param:p}
          body_size_limit: ${param:p}KB
          tls_config: {min_version: "TLS${param:p}"}
    """)
    validator().validate({"modules": {"m": module}})
    for text in (
        "params: {p: {}}",
        "params: {p: x}",
        "timeout: '${param:p}'",
        "params: {p: {pattern: x, max_length: '${param:p}'}}",
    ):
        wrong = {**yaml.safe_load(f"{{{text}}}"), "prober": "http"}
        assert not validator().is_valid({"modules": {"m": wrong}})


def test_schema_describes_every_setting() -> None:
    described = schema.json_schema(PROBERS)
    module = described["$defs"]["Module"]["properties"]
    assert described["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert module["prober"]["enum"] == sorted(PROBERS)
    assert all(module[name]["description"] for name in PROBERS)
