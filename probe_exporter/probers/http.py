"""The http prober: what a module may ask of a web page, and the story of asking."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, model_validator

from probe_exporter.addressing import AddressSettings
from probe_exporter.fields import Cel, FilePath, Regexp, Size, Text
from probe_exporter.http.accept import accepts
from probe_exporter.http.settings import HttpClientSettings
from probe_exporter.prober import Settings
from probe_exporter.rules import Written, exclusive, required

# --- settings ----------------------------------------------------------------------------------------------

CODINGS = ("gzip", "br", "deflate", "identity")
VERSIONS = ("HTTP/1.0", "HTTP/1.1", "HTTP/2.0", "HTTP/3.0")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]*")  # RFC 9110, 5.6.2; empty means GET


class HeaderMatcher(Settings):
    """One entry of ``fail_if_header_matches`` or ``fail_if_header_not_matches``."""

    rules = (required("header", "regexp"),)
    header: Text = ""
    regexp: Regexp = Regexp("")
    allow_missing: bool = False


def _compression_is_accepted(block: Written) -> Iterator[tuple[str, str]]:
    """A header that asks for other codings than the one expected is a mistake."""
    compression, headers = block.get("compression"), block.get("headers")
    if not compression or not isinstance(headers, Mapping):
        return
    for name, value in headers.items():
        if str(name).lower() == "accept-encoding" and value and not accepts(str(value), str(compression)):
            yield "compression", f"the {name} header does not allow the compression {compression}"


def _http3_is_consistent(block: Written) -> Iterator[tuple[str, str]]:
    """HTTP/3 is asked for by its own key and goes with no other version."""
    valid = block.get("valid_http_versions") or ()
    if block.get("enable_http3"):
        if "HTTP/1.1" in valid or "HTTP/2.0" in valid:
            yield "valid_http_versions", "with `enable_http3` only HTTP/3.0 can be valid"
        if block.get("enable_http2", True):
            yield "enable_http3", "`enable_http3` needs `enable_http2: false`"
    elif "HTTP/3.0" in valid:
        yield "valid_http_versions", "HTTP/3.0 needs `enable_http3: true`"


class HttpSettings(HttpClientSettings, AddressSettings):
    """The ``http`` block of a module."""

    rules = (
        *HttpClientSettings.rules,
        exclusive("body", "body_file"),
        _compression_is_accepted,
        _http3_is_consistent,
    )
    valid_status_codes: tuple[int, ...] = ()
    valid_http_versions: tuple[Text, ...] = ()
    skip_resolve_phase_with_proxy: bool = False
    no_follow_redirects: bool | None = Field(
        default=None, exclude=True, json_schema_extra={"deprecated": True}
    )
    fail_if_ssl: bool = False
    fail_if_not_ssl: bool = False
    method: Text = "GET"
    headers: dict[Text, Text] = Field(default_factory=dict)
    fail_if_body_matches_regexp: tuple[Regexp, ...] = ()
    fail_if_body_not_matches_regexp: tuple[Regexp, ...] = ()
    fail_if_body_json_matches_cel: Cel | None = None
    fail_if_body_json_not_matches_cel: Cel | None = None
    fail_if_header_matches: tuple[HeaderMatcher, ...] = ()
    fail_if_header_not_matches: tuple[HeaderMatcher, ...] = ()
    body: Text = ""
    body_file: FilePath = ""
    compression: Text = ""
    body_size_limit: Size = 0
    enable_http3: bool = False

    @model_validator(mode="before")
    @classmethod
    def _fold_no_follow_redirects(cls, written: Any) -> Any:
        """The deprecated spelling wins where both are given, as it always has."""
        if isinstance(written, Mapping) and isinstance(written.get("no_follow_redirects"), bool):
            return {**written, "follow_redirects": not written["no_follow_redirects"]}
        return written

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        if self.no_follow_redirects is not None:
            yield "no_follow_redirects", "`no_follow_redirects` is deprecated; use `follow_redirects`"
        if self.enable_http3:
            yield "enable_http3", "HTTP/3 is experimental"
        if not _TOKEN.fullmatch(self.method):
            yield "method", "not a legal HTTP method: every probe of this module will fail"
        if self.compression and self.compression.lower() not in CODINGS:
            yield "compression", f"unknown: expected one of {', '.join(CODINGS)}; every probe will fail"
        for version in self.valid_http_versions:
            if version not in VERSIONS:
                yield "valid_http_versions", f"{version} never matches; the names are {', '.join(VERSIONS)}"
