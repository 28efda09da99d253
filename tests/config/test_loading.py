"""Load configuration files: acceptance, error messages with places, warnings, settings."""

from __future__ import annotations

import copy
import functools
import random
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator

from probe_exporter.config import dump, loading, schema
from probe_exporter.config.module import Config, ConfigError
from probe_exporter.plugins import loader
from probe_exporter.prober.declaration import Prober
from probe_exporter.settings.block import Settings
from probe_exporter.settings.fields import Text
from tests import shared
from tests.cost import costs_at_most

PROBERS = loader.load_probers([])


def load(path: Path, text: str | bytes, **options: Any) -> Config:
    """Write `text` to a file in the directory `path` and load it."""
    file = path / "blackbox.yml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return loading.load([file], PROBERS, **options)


def refusal(path: Path, text: str | bytes, **options: Any) -> list[str]:
    """Return the lines of the error for `text`, without the directory."""
    with pytest.raises(ConfigError) as refused:
        load(path, text, **options)
    return str(refused.value).replace(f"{path}/", "").splitlines()


def http(keys: str) -> str:
    """Return the text of a configuration with one http module."""
    return f"modules: {{m: {{prober: http, http: {{{keys}}}}}}}\n"


# --- the examples and the files of real users --------------------------------------------------------------

INVALID = {
    "authorization-type-basic": "3:44: modules.m.http.authorization.type: the type Basic is not allowed",
    "basic-auth-two-passwords": "3:67: modules.m.http.basic_auth.password_file: `password_file` and `password` exclude",
    "basic-auth-two-usernames": "3:54: modules.m.http.basic_auth.username_file: `username_file` and `username` exclude",
    "bearer-token-twice": "3:45: modules.m.http.bearer_token_file: `bearer_token_file` and `bearer_token` exclude each",
    "body-and-body-file": "3:37: modules.m.http.body_file: `body_file` and `body` exclude each other",
    "body-size-lowercase-unit": "3:28: modules.m.http.body_size_limit: 'kb' in '10kb' is not a unit",
    "body-size-without-unit": "3:28: modules.m.http.body_size_limit: '1024' lacks a unit",
    "bool-quoted": "3:28: modules.m.http.fail_if_ssl: expected true or false, found a quoted string",
    "cel-empty": "3:28: modules.m.http.fail_if_body_json_not_matches_cel: not a CEL expression over `body`: the expr",
    "cel-unknown-variable": "3:28: modules.m.http.fail_if_body_json_matches_cel: not a CEL expression over `body`: und",
    "compression-not-accepted": "3:28: modules.m.http.compression: the accept-encoding header does not allow the compr",
    "compression-zero-quality": "3:28: modules.m.http.compression: the Accept-Encoding header does not allow the compr",
    "connect-header-without-proxy": "3:28: modules.m.http.proxy_connect_header: `proxy_connect_header` needs",
    "dns-class-unknown": "3:49: modules.m.dns.query_class: unknown query class 'XX'",
    "dns-type-lowercase": "3:49: modules.m.dns.query_type: unknown query type 'aaaa'; did you mean `AAAA`?",
    "dns-validator-unknown-key": "3:71: modules.m.dns.validate_answer_rrs.fail_if_matches: unknown key `fail_if_match",
    "dns-without-query-name": "3:20: modules.m.dns.query_name: `query_name` is required",
    "duplicate-module-name": "4:3: modules.twin: `twin` is here twice; the first is in line 3, column 3",
    "empty-file": " the file holds no YAML document",
    "expect-and-expect-bytes": "3:55: modules.m.tcp.query_response[0].expect_bytes: `expect_bytes` and `expect` exclu",
    "grpc-metadata-scalar": "3:39: modules.m.grpc.metadata.x-k: expected a list of strings, found a string",
    "header-match-empty-regexp": "3:74: modules.m.http.fail_if_header_not_matches[0].regexp: `regexp` is required",
    "header-match-without-header": "3:53: modules.m.http.fail_if_header_matches[0].header: `header` is required",
    "header-value-list": "3:38: modules.m.http.headers.X-A: expected a string, found a list",
    "http-headers-plain-string": "3:43: modules.m.http.http_headers.X-A: expected a mapping of settings, found a str",
    "http-headers-reserved": "3:28: modules.m.http.http_headers: the header content-type may not be set here",
    "http3-valid-version-1-1": "3:69: modules.m.http.valid_http_versions: with `enable_http3` only HTTP/3.0 can be va",
    "http3-version-without-http3": "3:28: modules.m.http.valid_http_versions: HTTP/3.0 needs `enable_http3: true`",
    "http3-with-http2": "3:28: modules.m.http.enable_http3: `enable_http3` needs `enable_http2: false`",
    "icmp-ttl-negative": "3:28: modules.m.icmp.ttl: expected 0 or more",
    "icmp-ttl-too-large": "3:28: modules.m.icmp.ttl: expected 255 or less",
    "module-unknown-key": "3:20: modules.m.interval: unknown key `interval`",
    "no-proxy-without-proxy-url": "3:28: modules.m.http.no_proxy: `no_proxy` needs `proxy_url`",
    "oauth2-jwt-algorithm": "6:125: modules.m.http.oauth2.signature_algorithm: expected RS256, RS384 or RS512",
    "oauth2-two-secrets": "3:105: modules.m.http.oauth2.client_secret_file: `client_secret_file` and `client_secret` ",
    "oauth2-without-client-id": "3:28: modules.m.http.oauth2.client_id: `client_id` is required",
    "oauth2-without-token-url": "3:28: modules.m.http.oauth2.token_url: `token_url` is required",
    "proxy-url-and-environment": "3:56: modules.m.http.proxy_from_environment: `proxy_from_environment` and `proxy_ur",
    "proxy-url-malformed": "3:28: modules.m.http.proxy_url: not a URL",
    "query-response-unknown-key": "3:44: modules.m.tcp.query_response[0].expects: unknown key `expects`; did you mean",
    "regexp-backreference": r"3:44: modules.m.tcp.query_response[0].expect: not a regular expression (RE2): invalid es",
    "regexp-list-expected": "3:28: modules.m.http.fail_if_body_not_matches_regexp: expected a list of regular express",
    "regexp-lookahead": "3:58: modules.m.http.fail_if_body_matches_regexp[0]: not a regular expression (RE2)",
    "status-codes-scalar": "3:28: modules.m.http.valid_status_codes: expected a list of integers, found an integer",
    "status-codes-string-item": "3:49: modules.m.http.valid_status_codes[0]: expected an integer, found a quoted",
    "timeout-bare-integer": "3:20: modules.m.timeout: a duration needs a unit, as in 5s",
    "timeout-day-unit": "3:20: modules.m.timeout: 'd' in '1d' is not a unit; the units are ns, us, µs, ms, s, m and h",
    "tls-cert-without-key": "3:52: modules.m.grpc.tls_config.cert_file: a client certificate needs a key",
    "tls-key-without-cert": "3:52: modules.m.unix.tls_config.key_file: a client key needs a certificate",
    "tls-two-ca-sources": "3:57: modules.m.tcp.tls_config.ca_file: `ca_file` and `ca` exclude each other",
    "tls-version-unknown": "3:50: modules.m.tcp.tls_config.min_version: expected TLS10, TLS11, TLS12 or TLS13",
    "top-level-list": "2:1: expected a mapping of settings, found a list",
    "top-level-unknown-key": "2:1: modulez: unknown key `modulez`; did you mean `modules`?",
    "two-auth-methods": "3:55: modules.m.http.authorization: `authorization` and `basic_auth` exclude each other",
    "unix-ip-protocol": "3:28: modules.m.unix.preferred_ip_protocol: unknown key `preferred_ip_protocol`",
    "yaml-syntax": "3:1: not valid YAML: ",
}
"""Each invalid example and the beginning of its only problem, after the file's name and a colon."""


@shared.needed
def test_every_invalid_example_has_an_expected_error() -> None:
    assert {path.stem for path in shared.files(shared.EXAMPLES / "invalid")} == INVALID.keys()


@shared.needed
@pytest.mark.parametrize("name", INVALID)
def test_invalid_example_is_refused_for_its_one_reason(name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loading.load([shared.EXAMPLES / "invalid" / f"{name}.yml"], PROBERS)
    (problem,) = refused.value.problems
    assert str(problem).partition(f"{name}.yml:")[2].startswith(INVALID[name])


@shared.needed
@pytest.mark.parametrize("name", ["full.yml", "websocket-unreleased.yml"])
def test_valid_examples_load(name: str) -> None:
    assert loading.load([shared.EXAMPLES / name], PROBERS).modules


@shared.needed
@pytest.mark.parametrize(("name", "accepted"), shared.verdicts().items())
def test_real_configurations_get_the_verdict_of_the_original(name: str, accepted: bool) -> None:
    problems = ""
    try:
        loading.load([shared.CORPUS / name], PROBERS)
    except ConfigError as error:
        problems = str(error)
    assert (not problems) is accepted, problems


# --- problems ----------------------------------------------------------------------------------------------

MANY = """\
modules:
  a:
    prober: htp
    timeout: 5
  b:
    prober: http
    http:
      metod: GET
      body: x
      body_file: y
      fail_if_ssl: "true"
      fail_if_body_matches_regexp: ["(", ok, "["]
      tls_config: {cert_file: c, min_version: TLS9}
      headers: {Accept-Encoding: br}
      compression: gzip
  c:
    prober: dns
    dns: {query_type: A}
"""


def test_all_problems_of_a_file_are_reported_at_once_in_order(tmp_path: Path) -> None:
    """The file has type errors, unknown keys and violated rules between keys, several in a block."""
    assert [line.partition(": ")[0] + ": " + line.split(": ")[1] for line in refusal(tmp_path, MANY)] == [
        "blackbox.yml:3:5: modules.a.prober",
        "blackbox.yml:4:5: modules.a.timeout",
        "blackbox.yml:8:7: modules.b.http.metod",
        "blackbox.yml:10:7: modules.b.http.body_file",
        "blackbox.yml:11:7: modules.b.http.fail_if_ssl",
        "blackbox.yml:12:37: modules.b.http.fail_if_body_matches_regexp[0]",
        "blackbox.yml:12:46: modules.b.http.fail_if_body_matches_regexp[2]",
        "blackbox.yml:13:20: modules.b.http.tls_config.cert_file",
        "blackbox.yml:13:34: modules.b.http.tls_config.min_version",
        "blackbox.yml:15:7: modules.b.http.compression",
        "blackbox.yml:18:5: modules.c.dns.query_name",
    ]


def test_problems_of_several_files_are_reported_at_once(tmp_path: Path) -> None:
    files = [tmp_path / "a.yml", tmp_path / "b.yml"]
    files[0].write_text("modules: {a: {prober: x}}")
    files[1].write_text("[")
    with pytest.raises(ConfigError) as refused:
        loading.load(files, PROBERS)
    assert [problem.place.file for problem in refused.value.problems] == [str(file) for file in files]


def test_duplicate_module_is_reported_with_both_places(tmp_path: Path) -> None:
    files = [tmp_path / "a.yml", tmp_path / "b.yml"]
    for file in files:
        file.write_text("modules:\n  one: {prober: tcp}\n")
    with pytest.raises(ConfigError) as refused:
        loading.load(files, PROBERS)
    twice = f"{files[1]}:2:3: modules.one: module `one` is defined twice; the first is at {files[0]}:2:3"
    assert str(refused.value) == twice
    files[0].write_text("modules:\n  one: {prober: tcp, timeout: 5}\n")  # another problem does not hide it
    with pytest.raises(ConfigError) as refused:
        loading.load(files, PROBERS)
    assert str(refused.value).splitlines()[1] == twice


def test_all_unreadable_files_are_reported(tmp_path: Path) -> None:
    files = [tmp_path / "none.yml", tmp_path]
    with pytest.raises(ConfigError) as refused:
        loading.load(files, PROBERS)
    assert [str(problem).removeprefix(str(tmp_path)) for problem in refused.value.problems] == [
        "/none.yml: can't be read: No such file or directory",
        ": can't be read: Is a directory",
    ]


@pytest.mark.parametrize("body", ["", "{}", "{timeout: 5s}", "{prober: }", "{prober: ''}"])
def test_module_without_a_prober_is_refused(tmp_path: Path, body: str) -> None:
    (line,) = refusal(tmp_path, f"modules: {{m: {body}}}")
    assert f"`prober` is required: one of {', '.join(sorted(PROBERS))}" in line


def test_unknown_prober_is_reported_with_the_known_ones(tmp_path: Path) -> None:
    (line,) = refusal(tmp_path, "modules: {m: {prober: HTTP}}")
    assert f"unknown prober `HTTP`; did you mean `http`? (loaded: {', '.join(sorted(PROBERS))})" in line


@pytest.mark.parametrize(
    ("key", "word", "meant"),
    [
        ("query_class", "CHAOS", "; did you mean `CH`?"),
        ("query_class", "chaos", "; did you mean `CH`?"),
        ("query_class", "Internet", "; did you mean `IN`?"),
        ("query_class", "in", "; did you mean `IN`?"),
        ("query_class", "XX", ""),
        ("query_type", "CNAMES", "; did you mean `CNAME`?"),
        ("query_type", "aaaa", "; did you mean `AAAA`?"),
        ("query_type", "TLSSA", "; did you mean `TLSA`?"),
        ("query_type", "CHAOS", ""),
    ],
)
def test_unknown_class_or_type_of_dns_names_the_nearest_word(tmp_path: Path, key: str, word: str, meant: str) -> None:
    (line,) = refusal(tmp_path, f"modules: {{m: {{prober: dns, dns: {{query_name: x, {key}: {word}}}}}}}")
    assert line.endswith(f"unknown {key.replace('_', ' ')} '{word}'{meant}")


def test_prober_without_a_block_has_default_settings(tmp_path: Path) -> None:
    """The original leaves grpc without a default: such a module could use IPv6 only."""
    modules = load(tmp_path, "modules: {g: {prober: grpc}, h: {prober: http, http: null}}").modules
    assert getattr(modules["g"].settings, "ip_protocol_fallback") is True  # noqa: B009
    assert modules["h"].settings == PROBERS["http"].settings()


@pytest.mark.parametrize("dns", [", dns: {}", ", dns: {query_name: ''}"])
def test_dns_module_without_a_query_name_is_refused(tmp_path: Path, dns: str) -> None:
    (line,) = refusal(tmp_path, f"modules: {{m: {{prober: dns{dns}}}}}")
    assert line.endswith("modules.m.dns.query_name: `query_name` is required")


def test_bytes_in_an_error_are_escaped(tmp_path: Path) -> None:
    (line,) = refusal(tmp_path, "modules: {m: {prober: !!binary /w==}}")
    assert "unknown prober `\\udcff`" in line
    (line,) = refusal(tmp_path, "modules: {m: {prober: dns, dns: {query_name: a, query_type: !!binary /w==}}}")
    assert "'\\udcff'" in line
    lines = refusal(tmp_path, http("http_headers: {!!binary /w==: {value: x}, !!binary /g==: {values: x}}"))
    assert [line.split(": ")[1] for line in lines] == [
        "modules.m.http.http_headers.\\udcff.value",
        "modules.m.http.http_headers.\\udcfe.values",
    ]
    (line,) = refusal(tmp_path, "modules: {!!binary /w==: {prober: http, http: {method: 5, method: 6}}}")
    assert ": modules.\\udcff.http.method: " in line
    (line,) = refusal(tmp_path, "modules: {!!binary /w==: {prober: icmp, icmp: {ttl: 300}}}")
    assert line.endswith(".icmp.ttl: expected 255 or less")


SECRETS = [
    "basic_auth: {password: [hunter2]}",
    "basic_auth: {password: {hunter2: x}}",
    "basic_auth: {password: !!int hunter2}",
    "basic_auth: {password: !!binary hunter2}",
    "basic_auth: {password: hunter2, password_file: x}",
    "authorization: {credentials: [hunter2], type: [x]}",
    "bearer_token: [hunter2]",
    "bearer_token: hunter2, basic_auth: {}",
    "oauth2: {client_secret: {a: hunter2}}",
    "tls_config: {key: hunter2}",
    "http_headers: {X: {secrets: hunter2}}",
    "http_headers: {X: {secrets: [[hunter2]]}}",
    "proxy_connect_header: {X: hunter2}",
    "proxy_connect_header: {X: [hunter2]}",
    "proxy_url: 'http://u:hunter2@ x'",
    "proxy_url: [hunter2]",
    "proxy_url: 'http://u:hunter2@x', proxy_from_environment: true",
]


@pytest.mark.parametrize("keys", SECRETS)
def test_errors_hide_secrets(tmp_path: Path, keys: str) -> None:
    assert not [line for line in refusal(tmp_path, http(keys)) if "hunter2" in line]


# --- cautions ----------------------------------------------------------------------------------------------

CAUTIONS = {
    "modules: {m: {prober: http, http: {no_follow_redirects: true}}}": "http.no_follow_redirects: `no_follow_",
    "modules: {m: {prober: http, http: {bearer_token: t}}}": "http.bearer_token: `bearer_token` is deprecated",
    "modules: {m: {prober: http, http: {bearer_token_file: t}}}": "http.bearer_token_file: `bearer_token_file` is dep",
    "modules: {m: {prober: http, http: {method: A B}}}": "http.method: not a valid HTTP method",
    "modules: {m: {prober: http, http: {compression: lzma}}}": "http.compression: unknown",
    "modules: {m: {prober: http, http: {valid_http_versions: [HTTP/2]}}}": "http.valid_http_versions: HTTP/2 never",
    "modules: {m: {prober: http, http: {preferred_ip_protocol: ipv4}}}": "http.preferred_ip_protocol: neither",
    "modules: {m: {prober: http, http: {tls_config: {ca_ref: x}}}}": "http.tls_config.ca_ref: there is no secret",
    "modules: {m: {prober: http, http: {basic_auth: {password_ref: x}}}}": "http.basic_auth.password_ref: there is no",
    "modules: {m: {prober: http, http: {authorization: {credentials_ref: x}}}}": "http.authorization.credentials_ref",
    "modules: {m: {prober: tcp, http: {}}}": "http: a block of another prober has no effect: this module's is tcp",
    "modules: {m: {prober: tcp, tcp: {source_ip_address: x}}}": "tcp.source_ip_address: not an IP address",
    "modules: {m: {prober: tcp, tcp: {tls_config: {min_version: TLS13, max_version: TLS12}}}}": (
        "tcp.tls_config.min_version: greater than `max_version`"
    ),
    "modules: {m: {prober: tcp, tcp: {query_response: [{}, {expect: x, labels: [{name: a-b}]}]}}}": (
        "tcp.query_response[1].labels[0].name: not a label name"
    ),
    "modules: {m: {prober: tcp, tcp: {tls: true, query_response: [{expect: x}, {starttls: true}]}}}": (
        "tcp.tls: TLS begins at once, and a step has `starttls`"
    ),
    "modules: {m: {prober: unix, unix: {tls: true, tls_config: {server_name: x}, query_response: [{starttls: y}]}}}": (
        "unix.tls: TLS begins at once"
    ),
    "modules: {m: {prober: dns}}": "dns.query_name: `query_name` is required: every probe",
    "modules: {m: {prober: dns, dns: null}}": "dns.query_name: `query_name` is required: every probe",
    "modules: {m: {prober: dns, dns: {query_name: a, transport_protocol: sctp}}}": "dns.transport_protocol: neither",
    "modules: {m: {prober: dns, dns: {query_name: a, dns_over_tls: true}}}": "dns.dns_over_tls: DNS over TLS needs",
    "modules: {m: {prober: dns, dns: {query_name: a, valid_rcodes: [NXDOMIAN]}}}": "dns.valid_rcodes: unknown response",
    "modules: {m: {prober: dns, dns: {query_name: a, validate_answer_rrs: {fail_if_matches_regexp: ['(']}}}}": (
        "dns.validate_answer_rrs.fail_if_matches_regexp: not a regular expression"
    ),
    "modules: {m: {prober: grpc, grpc: {metadata: {A: [b]}}}}": "grpc.metadata: A has characters other than",
    "modules: {m: {prober: websocket, websocket: {http_config: {bearer_token: x}}}}": (
        "websocket.http_config.bearer_token: `bearer_token` is deprecated"
    ),
    "modules: {m: {prober: http, http: {headers: {~: x}}}}": "http.headers: a null key",
}


@pytest.mark.parametrize(("text", "caution"), CAUTIONS.items())
def test_questionable_setting_is_a_warning(tmp_path: Path, text: str, caution: str) -> None:
    (warning,) = load(tmp_path, text).warnings
    assert warning.place.line == 1
    assert warning.place.column > 1
    assert str(warning).partition("modules.m.")[2].startswith(caution)


def test_strict_loading_turns_warnings_into_errors(tmp_path: Path) -> None:
    (line,) = refusal(tmp_path, http("no_follow_redirects: true"), strict=True)
    assert "deprecated" in line


def test_block_of_another_prober_is_validated_too(tmp_path: Path) -> None:
    (line,) = refusal(tmp_path, "modules: {m: {prober: tcp, icmp: {ttl: 256}}}")
    assert "modules.m.icmp.ttl" in line


def test_shipped_modules_load_without_a_warning() -> None:
    shipped = loading.load([loader.library() / "blackbox.yml"], PROBERS, strict=True)
    assert next(iter(shipped.modules)) == "http_2xx"


# --- settings ----------------------------------------------------------------------------------------------


def test_module_has_the_values_of_the_file(tmp_path: Path) -> None:
    text = "modules:\n  m:\n    description: A page\n    prober: http\n    timeout: 1m30s\n    tcp: {tls: yes}\n"
    module = load(tmp_path, text).modules["m"]
    assert (module.name, module.description, module.timeout) == ("m", "A page", 90.0)
    assert module.prober is PROBERS["http"]
    assert (module.place.line, module.place.column) == (2, 3)
    assert module.strays.keys() == {"tcp"}


def test_deprecated_settings_become_the_new_ones(tmp_path: Path) -> None:
    text = """
modules:
  token: {prober: http, http: {bearer_token: t}}
  file: {prober: http, http: {bearer_token_file: f}}
  follow: {prober: http, http: {no_follow_redirects: false, follow_redirects: false}}
  stay: {prober: http, http: {no_follow_redirects: true}}
"""
    blocks: dict[str, Any] = {name: module.settings for name, module in load(tmp_path, text).modules.items()}
    assert blocks["token"].authorization.credentials.reveal() == "t"
    assert blocks["file"].authorization.credentials_file == "f"
    assert blocks["follow"].follow_redirects is True
    assert blocks["stay"].follow_redirects is False


def test_configuration_is_frozen(tmp_path: Path) -> None:
    loaded = load(tmp_path, http("method: PUT"))
    with pytest.raises(TypeError):
        loaded.modules["x"] = loaded.modules["m"]  # type: ignore[index]
    with pytest.raises(ValueError, match="frozen"):
        loaded.modules["m"].settings.method = "GET"  # type: ignore[attr-defined]


def test_environment_variables_are_expanded_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROBE_TOKEN", "hunter2")
    monkeypatch.delenv("PROBE_NOTHING", raising=False)
    text = http("bearer_token: '${PROBE_TOKEN}'")
    settings: Any = load(tmp_path, text, expand_env=True).modules["m"].settings
    assert settings.authorization.credentials.reveal() == "hunter2"
    settings = load(tmp_path, text).modules["m"].settings
    assert settings.authorization.credentials.reveal() == "${PROBE_TOKEN}"
    (line,) = refusal(tmp_path, http("method: '${PROBE_NOTHING}'"), expand_env=True)
    assert line == "blackbox.yml:1:36: modules.m.http.method: the environment variable PROBE_NOTHING is not set"


def test_digest_changes_with_the_files(tmp_path: Path) -> None:
    files = [tmp_path / "a.yml", tmp_path / "b.yml"]
    for file in files:
        file.write_text("modules: {}")
    first = loading.digest(files)
    assert loading.load(files, PROBERS).sha256 == first == loading.digest(files)
    assert loading.digest(files[:1]) != first
    files[1].write_text("modules: {} # changed")
    assert loading.digest(files) != first


# --- a third-party prober ----------------------------------------------------------------------------------


def _quotes(text: str) -> str:
    raise ValueError(f"I don't like {text}")


class QuotingSettings(Settings):
    """A setting whose error quotes the value."""

    text: Annotated[Text, AfterValidator(_quotes)] = ""


def test_prober_error_may_quote_bytes(tmp_path: Path) -> None:
    """Pydantic can't print these bytes; the message then stands at the place of the block."""
    file = tmp_path / "x.yml"
    probers = {"quoting": Prober("quoting", QuotingSettings, _probe)}
    for value, message in {
        "x": ":1:42: modules.m.quoting.text: I don't like x",
        "!!binary /w==": ":1:32: modules.m.quoting: expected text in UTF-8",
    }.items():
        file.write_text(f"modules: {{m: {{prober: quoting, quoting: {{text: {value}}}}}}}")
        with pytest.raises(ConfigError) as refused:
            loading.load([file], probers)
        assert str(refused.value).endswith(message)


async def _probe(probe: object, settings: object) -> None:
    """Do nothing."""


def test_prober_may_have_any_legal_name(tmp_path: Path) -> None:
    """Names that pydantic uses itself are legal names of probers."""
    named: dict[str, Prober[Any]] = {
        name: Prober(name, Settings, _probe) for name in ("json", "copy", "schema", "model_x")
    }
    file = tmp_path / "x.yml"
    file.write_text("modules: {m: {prober: json, copy: {}}}")
    loaded = loading.load([file], named)
    assert loaded.modules["m"].prober.name == "json"
    assert list(loaded.modules["m"].strays) == ["copy"]
    assert schema.json_schema(named)


# --- size and arbitrary input ------------------------------------------------------------------------------

ORDINARY = """\
  m{number}:
    prober: http
    timeout: 5s
    http:
      valid_status_codes: [200, 204]
      headers: {{Accept: text/html}}
      fail_if_body_matches_regexp: ['error{number}']
      tls_config: {{insecure_skip_verify: true}}
"""


def test_a_thousand_modules_load_at_bounded_cost(tmp_path: Path) -> None:
    text = "modules:\n" + "".join(ORDINARY.format(number=number) for number in range(1000))
    with costs_at_most(100):
        assert len(load(tmp_path, text).modules) == 1000


FRAGMENTS: list[Any] = [None, True, 0, -1, 5.5, 10**20, "", "x", "5s", "gzip", "(", "http://a", "TLS12", "HTTP/3.0",
                        b"\xff\x00", [], {}, [None], ["x"], [[]], [{}], {"x": None}, {"values": ["a"]},
                        {"header": "a", "regexp": "b"}]  # fmt: skip
KEYS = sorted({key for prober in PROBERS.values() for key in prober.settings.model_fields})


def mutate(value: Any, chance: random.Random) -> Any:
    """Return the value with something in it replaced, dropped or added."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        key = chance.choice(list(value))
        return {**value, key: mutate(value[key], chance)}
    if isinstance(value, dict) and chance.random() < 0.5:
        return {**value, chance.choice(KEYS): chance.choice(FRAGMENTS)}
    if isinstance(value, list) and value and chance.random() < 0.7:
        return [mutate(value[0], chance), *value[1:]]
    return copy.deepcopy(chance.choice(FRAGMENTS))


@functools.cache
def modules_of_the_complete_example() -> dict[str, Any]:
    """Return the modules of the complete example as plain values, which no test may change."""
    modules: dict[str, Any] = yaml.safe_load((shared.EXAMPLES / "full.yml").read_bytes())["modules"]
    return modules


@shared.needed
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(chance=st.randoms(use_true_random=False))
def test_damaged_configuration_loads_or_is_refused(tmp_path: Path, chance: random.Random) -> None:
    """Only ConfigError is raised, and a configuration that loads can be dumped and loaded again."""
    modules = modules_of_the_complete_example()
    module = mutate(modules[chance.choice(list(modules))], chance)
    with suppress(ConfigError):
        printed = dump.to_yaml(load(tmp_path, yaml.safe_dump({"modules": {"m": module}})))
        assert dump.to_yaml(load(tmp_path, printed)) == printed


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=100) | st.text(max_size=100).map(str.encode))
def test_any_bytes_load_or_are_refused(tmp_path: Path, data: bytes) -> None:
    with suppress(ConfigError):
        load(tmp_path, data)
