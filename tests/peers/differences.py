"""The table of deliberate differences from blackbox_exporter 0.28: which lines, in which cases, and why.

An entry matches lines of an `Outcome`. The comparison fails for a difference without an entry, and for an entry that
does not occur in one of its cases. docs/migration.md is generated from the table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from tests.peers.cases import Case, Outcome

Where = Callable[[Case, Outcome], bool]
"""Tells from a case and our outcome whether a difference must occur; in other cases it must not."""


class Named:
    """Match the cases with these names."""

    def __init__(self, *names: str) -> None:
        self.names = frozenset(names)

    def __call__(self, case: Case, ours: Outcome) -> bool:
        return case.name in self.names


def every_probe(case: Case, ours: Outcome) -> bool:
    """Return whether a probe ran, with any result."""
    return "status 200" in ours.lines


def every_failure(case: Case, ours: Outcome) -> bool:
    """Return whether a probe ran and failed."""
    return "probe_success 0" in ours.lines


def introduced(case: Case, ours: Outcome) -> bool:
    """Return whether the target or a proxy received our own User-Agent, not one from the module."""
    return any(re.match(r"(?i)(proxy )?request \d+: User-Agent: Blackbox-Exporter", line) for line in ours.lines)


def not_verified(case: Case, ours: Outcome) -> bool:
    """Return whether the TLS handshake ended with a rejected certificate."""
    return any(line.startswith("probe_ssl_verify_error_info") for line in ours.lines)


def compression_alone(case: Case, ours: Outcome) -> bool:
    """Return whether the module expects a coding that no header requests. Over HTTP/3 the original requests gzip."""
    coding = case.settings.get("compression")
    return bool(coding) and "headers" not in case.settings and (coding, over_http3(case, ours)) != ("gzip", True)


def over_http3(case: Case, ours: Outcome) -> bool:
    """Return whether the module uses HTTP/3."""
    return bool(case.settings.get("enable_http3"))


def gzip_over_http3(case: Case, ours: Outcome) -> bool:
    """Return whether the original sends Accept-Encoding: gzip over HTTP/3 in this case."""
    requested = any(line.startswith("request ") for line in ours.lines)
    settled = case.settings.get("method") == "HEAD" or case.settings.get("compression") == "gzip"
    return over_http3(case, ours) and requested and not settled and "Accept-Encoding" not in str(case.settings)


def redirected_by_name(case: Case, ours: Outcome) -> bool:
    """Return whether a redirect leaves a URL with a resolved host name, so that the next request has a Referer."""
    looked_up = not {"skip_resolve_phase_with_proxy", "enable_http3"} & set(case.settings)
    by_name = re.compile(r"(?i)(proxy )?request \d+: Referer: https?://localhost")
    return looked_up and any(by_name.match(line) for line in ours.lines)


def tunnelled_by_name(case: Case, ours: Outcome) -> bool:
    """Return whether an HTTP proxy received a CONNECT for a host name that the probe has resolved."""
    looked_up = not {"skip_resolve_phase_with_proxy", "oauth2"} & set(case.settings)
    return looked_up and "proxy request 1: CONNECT localhost:{tls_port} HTTP/1.1" in ours.lines


def timed_by_phase(case: Case, ours: Outcome) -> bool:
    """Return whether a tcp or unix probe began a phase."""
    return any(re.match("probe_(tcp|unix)_duration_seconds", line) for line in ours.lines)


def secure_talk(case: Case, ours: Outcome) -> bool:
    """Return whether a tcp or unix probe accepted a certificate."""
    secure = any(line.startswith("probe_tls_cipher_info") for line in ours.lines)
    return secure and case.prober in ("tcp", "unix") and not not_verified(case, ours)


def dns_probe(case: Case, ours: Outcome) -> bool:
    """A probe of a DNS server whose module has a name to ask for."""
    return any(line.startswith("probe_dns_response_truncated") for line in ours.lines)


def dns_over_tls(case: Case, ours: Outcome) -> bool:
    """Return whether a dns probe accepted a certificate."""
    secure = any(line.startswith("probe_tls_cipher_info") for line in ours.lines)
    return secure and case.prober == "dns" and not not_verified(case, ours)


def grpc_timed_by_part(case: Case, ours: Outcome) -> bool:
    """Return whether a grpc probe connected."""
    return any(line.startswith("probe_grpc_check_duration_seconds") for line in ours.lines)


def grpc_without_call(case: Case, ours: Outcome) -> bool:
    """Return whether a grpc probe failed before its call."""
    called = any(line.startswith("probe_grpc_duration_seconds{phase='check'}") for line in ours.lines)
    return case.prober == "grpc" and not called


def grpc_over_tls(case: Case, ours: Outcome) -> bool:
    """Return whether a gRPC call over TLS succeeded."""
    return "probe_grpc_ssl 1" in ours.lines


def grpc_failed_over_tls(case: Case, ours: Outcome) -> bool:
    """Return whether a gRPC call failed after its TLS handshake."""
    secure = any(line.startswith("probe_tls_cipher_info") for line in ours.lines)
    return secure and "probe_grpc_ssl 0" in ours.lines and not not_verified(case, ours)


Section = Literal["every", "http", "redirect", "proxy", "http2", "http3", "tcp", "dns", "grpc", "icmp"]
SECTIONS: tuple[Section, ...] = get_args(Section)
"""The lists of differences in docs/migration.md: one for each prober, and several for http."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One deliberate difference.

    Args:
        why: one sentence for docs/migration.md.
        section: the list in docs/migration.md.
        where: the cases in which it occurs.
        original: regexp of the lines that only the original has.
        ours: regexp of the lines that only ours has. With both, there are as many of one as of the other.
        source: the standard that requires it, if any.
        wholly: the outcomes differ in every line; the golden file pins ours.
    """

    why: str
    section: Section
    where: Where
    original: str | None = None
    ours: str | None = None
    source: str = ""
    wholly: bool = False


LOST = r"probe_http_(status_code|version|content_length|redirects) 0"
KEPT = r"probe_http_(status_code 302|version (1\.1|2|3)|content_length 5|redirects 1)"

DIFFERENCES = (
    Difference(
        "The timeout of the probe is reported (`probe_timeout_seconds`), as in the original's development tree.",
        "every", every_probe,
        ours=r"probe_timeout_seconds [\d.e+-]+",
    ),
    Difference(
        "A failed probe says why (`probe_failure_info`).",
        "every", every_failure,
        ours=r"probe_failure_info\{phase='\w*',reason='\w+'\} 1",
    ),
    Difference(
        "The duration of each phase is reported (`probe_tcp_duration_seconds`, `probe_unix_duration_seconds`).",
        "tcp", timed_by_phase,
        ours=r"probe_(tcp|unix)_duration_seconds\{phase='\w+'\} .*",
    ),
    Difference(
        "The cipher suite is reported (`probe_tls_cipher_info`).",
        "tcp", secure_talk,
        ours=r"probe_tls_cipher_info\{cipher='\w+'\} 1",
    ),
    Difference(
        "A prompt without a newline matches once the peer has been silent for a second.",
        "tcp", Named("tcp expect a prompt"),
        wholly=True,
    ),
    Difference(
        "The bytes of `expect_bytes` may arrive in pieces, or together with a line before them.",
        "tcp", Named("tcp expect_bytes in pieces", "tcp expect_bytes that a line came with"),
        original="probe_success 0", ours="probe_success 1",
    ),
    Difference(
        "The User-Agent is the original's, followed by the name and version of probe-exporter. It is sent with "
        "CONNECT too.",
        "every", introduced,
        original=r"(?i)(proxy )?request \d+: User-Agent: (Blackbox-Exporter/0\.28\.0|Go-http-client/1\.1|grpc-go/\S+)",
        ours=r"(?i)(proxy )?request \d+: User-Agent: Blackbox-Exporter/0\.28\.0 probe-exporter/\S+",
    ),
    Difference(
        "An https proxy is verified by its own name, not by the target's.",
        "proxy", Named("proxy of TLS by a name that the target lacks"),
        wholly=True,
    ),
    Difference(
        "An interim response to CONNECT is skipped, as for any other request.",
        "proxy", Named("proxy tunnel after 100"), source="RFC 9110, 15.2",
        wholly=True,
    ),
    Difference(
        "`socks5h` sends the target's name to the proxy; `socks5` sends the address that was looked up.",
        "proxy", Named("proxy of SOCKS5h for a name"),
        original=r"proxy request 2: SOCKS connect to address .*", ours=r"proxy request 2: SOCKS connect to name .*",
    ),
    Difference(
        "A SOCKS5 proxy that demands a password fails the probe if none is configured; the original goes on without.",
        "proxy", Named("proxy of SOCKS5 wants a password"),
        original=r"proxy request 2: SOCKS user .*",
    ),
    Difference(
        "The lifetime of an OAuth 2.0 token may be any number, also a fraction.",
        "proxy", Named("oauth2 answer with expiry of a fraction"),
        wholly=True,
    ),
    Difference(
        "An HTTP proxy is asked for a tunnel to the target's name, not to the address that was looked up.",
        "proxy", tunnelled_by_name,
        original=r"proxy request 1: (CONNECT|Host:) 127\.0\.0\.1:.*",
        ours=r"proxy request 1: (CONNECT|Host:) localhost:.*",
    ),
    Difference(
        "A certificate that fails verification is reported, with what is wrong with it "
        "(`probe_ssl_verify_error_info`).",
        "every", not_verified,
        ours=r"probe_(ssl_(earliest_cert_expiry|last_chain_info|verify_error_info)|tls_(cipher|version)_info)\b.*",
    ),
    Difference(
        "A response head has at most 10,000 lines, so that no response holds up other probes.",
        "http", Named("answer with header lines by the ten thousand"),
        wholly=True,
    ),
    Difference(
        "A module that expects a coding (`compression`) sends Accept-Encoding for it.",
        "http", compression_alone,
        ours=r"(?i)request \d+: Accept-Encoding: (gzip|deflate|br|identity|zstd)",
    ),
    Difference(
        "The scheme of a target may be in upper case, as in the original's development tree.",
        "every", Named("target of an upper-case scheme", "grpc target in upper case"),
        wholly=True,
    ),
    Difference(
        "An address with a zone that is no interface of this machine fails the probe; the original ignores the zone "
        "of `::1`.",
        "every", Named("dns default target of IPv6 with a zone that is not there",
              "tcp of loopback with a zone that is not there"),
        wholly=True,
    ),
    Difference(
        "A timeout header that is not a number is answered with 400, not with 500.",
        "every", Named("front timeout header of a word"),
        original="status 500", ours="status 400",
    ),
    Difference(
        "A timeout header of NaN counts as no timeout, not as one that has passed.",
        "every", Named("front timeout header not a number"),
        wholly=True,
    ),
    Difference(
        "A failure after redirects keeps the values of the last response, instead of reporting status 0.",
        "redirect", Named(
            "redirect location with a bad escape", "redirect location to a dead port",
            "redirect location to a bad name", "redirect location to no host",
            "redirect location of another scheme", "redirect location of mailto",
            "redirect location with a bad port", "redirect to a malformed answer", "redirect to silence",
            "redirect to https of a stranger",
        ),
        original=LOST, ours=KEPT,
    ),
    Difference(
        "A failure after redirects reports whether the last response came over TLS (`probe_http_ssl`).",
        "redirect",
        Named("http3 redirect to plain http", "http3 redirect to a dead port", "http3 redirect to nobody on QUIC",
              "http2 redirect to a broken answer"),
        original=rf"{LOST}|probe_http_ssl 0", ours=rf"{KEPT}|probe_http_ssl 1",
    ),
    Difference(
        "A failure after redirects reports the certificate of the last response.",
        "redirect",
        Named("http3 redirect to plain http", "http3 redirect to a dead port", "http3 redirect to nobody on QUIC",
              "http2 redirect to a broken answer"),
        ours=r"probe_(ssl|tls)_.+",
    ),
    Difference(
        "The Referer has the URL as it was written, not the address that was dialled.",
        "redirect", redirected_by_name,
        original=r"(?i)(proxy )?request \d+: Referer: (https?)://127\.0\.0\.1:.*",
        ours=r"(?i)(proxy )?request \d+: Referer: (https?)://localhost:.*",
    ),
    Difference(
        "A redirect to the same host name stays on the host: credentials are sent again.",
        "redirect", Named(*(f"redirect to the same name with {name}" for name in (
            "basic_auth", "authorization", "header Authorization", "header Cookie", "http_headers")),
            "oauth2 and a redirect to the same name"),
        ours=r"request [23]: (Authorization|Cookie): .+",
    ),
    Difference(
        "A redirect from a host name to its address leaves the host: credentials are dropped.",
        "redirect", Named(*(f"redirect elsewhere with {name}" for name in (
            "basic_auth", "authorization", "header Authorization", "header Cookie", "http_headers"))),
        original=r"request 2: (Authorization|Cookie): .+",
    ),
    Difference(
        "A redirect to the same host name keeps the configured `server_name`.",
        "redirect", Named("redirect on https to the same name with server_name"),
        original=r"request 2: server name 'localhost'", ours=r"request 2: server name 'www\.example\.test'",
    ),
    Difference(
        "A redirect from a host name to its address drops the configured `server_name`.",
        "redirect", Named("redirect on https elsewhere with server_name"),
        original=r"request 2: server name 'www\.example\.test'", ours=r"request 2: server name ''",
    ),
    Difference(
        "The body of a redirect that is not followed is read if the module checks bodies.",
        "redirect", Named("body check on a refused redirect"),
        original=r"(probe_failed_due_to_regex 1|probe_http_uncompressed_body_length 0|probe_success 0)",
        ours=r"(probe_failed_due_to_regex 0|probe_http_uncompressed_body_length 5|probe_success 1)",
    ),
    Difference(
        "A response without a body passes `compression`; in the original it is a broken gzip stream.",
        "http",
        Named("compression gzip with HEAD", "compression gzip on 204", "compression gzip of a refused redirect"),
        original="probe_success 0", ours="probe_success 1",
    ),
    Difference(
        "A port in the configured Host header is not part of the TLS server name.",
        "http", Named("server name of the Host header with port", "http3 header Host with a port"),
        wholly=True,
    ),
    Difference(
        "A query is percent-encoded where HTTP demands it; the original sends blanks and raw bytes.",
        "http", Named("target with a blank in the query", "target with UTF-8 in the query",
              "http2 target with UTF-8 in the query"), source="RFC 9112, 3.2",
        original=r"request 1: GET /\?q=(a b|é) HTTP/(1\.1|2)", ours=r"request 1: GET /\?q=(a%20b|%C3%A9) HTTP/(1\.1|2)",
    ),
    Difference(
        "An invalid Host header is replaced by the target's; the original sends an empty one.",
        "http", Named("header Host with a blank"), source="RFC 9110, 7.2",
        original=r"request 1: Host: ", ours=r"request 1: Host: 127\.0\.0\.1:\{port\}",
    ),
    Difference(
        "The Referer of a URL without a path ends in the path that was requested (`/`).",
        "redirect", Named("redirect location without path"), source="RFC 9110, 4.2.3",
        original=r"request \d+: Referer: http://127\.0\.0\.1:\{port\}",
        ours=r"request \d+: Referer: http://127\.0\.0\.1:\{port\}/",
    ),
    Difference(
        "A body that is not gzip at all fails the regular expressions of the module, like every other unreadable body.",
        "http", Named("compression gzip with a match and garbage"),
        original="probe_failed_due_to_regex 0", ours="probe_failed_due_to_regex 1",
    ),
    Difference(
        "A `body_file` that can't be read fails the probe before it connects.",
        "http", Named("body file is a directory"),
        original=r"probe_http_duration_seconds\{phase='(connect|tls|processing|transfer)'\} \S+",
    ),
    Difference(
        "`probe_http_uncompressed_body_length` of a broken stream differs: each decoder gives up at another byte.",
        "http", Named("compression gzip of much plain text"),
        original=r"probe_http_uncompressed_body_length 7946", ours=r"probe_http_uncompressed_body_length 0",
    ),
    Difference(
        "CEL expressions are evaluated by cel-cpp, in the original by cel-go; unusual conversions differ (see below).",
        "http", Named(*(f"json {name}" for name in (
            "key in brackets as a text", "duration in microseconds", "duration negated", "duration as a number",
            "duration in milliseconds", "duration as a text", "time with a fraction as a text", "time in lower case",
            "infinity as a text", "number with blanks", "number with an underscore", "boolean as a number"))),
        original=r"(probe_failed_due_to_cel|probe_success) [01]", ours=r"(probe_failed_due_to_cel|probe_success) [01]",
    ),
    Difference(
        "A port in the configured Host header is not part of the TLS server name.",
        "http2", Named("http2 header Host with port"),
        original=r"request 1: server name 'www\.example\.test:8443'",
        ours=r"request 1: server name 'www\.example\.test'",
    ),
    Difference(
        "Blanks around a configured header value are removed.",
        "http2", Named("http2 headers trimmed"), source="RFC 9113, 8.2.1",
        original=r"request 1: x-a:   a\tb  ", ours=r"request 1: x-a: a\tb",
    ),
    Difference(
        "Headers that HTTP/2 forbids or does not use are not sent: TE other than trailers, Trailer.",
        "http2",
        Named("http2 header Te gzip", "http2 header Te trailers, gzip", "http2 header Trailer X-T"),
        source="RFC 9113, 8.2.2",
        original=r"request 1: (te|trailer): .*",
    ),
    Difference(
        "A Connection header without a meaning in HTTP/2 is left out; in the original it fails the probe.",
        "http2", Named("http2 header Connection x-y"), source="RFC 9113, 8.2.2",
        wholly=True,
    ),
    Difference(
        "A request for any upgrade goes over HTTP/1.1, which has upgrades; in the original only one for "
        "websocket does.",
        "http2",
        Named("http2 header websocket", "http2 header Connection Upgrade of another protocol"), source="RFC 9110, 7.8",
        wholly=True,
    ),
    Difference(
        "The response to HEAD is complete with its headers, even if the server does not end the stream.",
        "http2", Named("http2 method HEAD answered without an end"), source="RFC 9110, 9.3.2",
        wholly=True,
    ),
    Difference(
        "A 204 or 304 may announce a length and have no body.",
        "http2",
        Named("http2 status 304 valid with a length", "http2 status 204 with a length and none"),
        source="RFC 9110, 8.6",
        original="probe_success 0", ours="probe_success 1",
    ),
    Difference(
        "Headers beyond the size limit end the probe at the limit, before the response is known.",
        "http2", Named("http2 fields of 10 megabytes and a byte", "http2 hpack bomb"),
        original=r"probe_http_duration_seconds\{phase='processing'\} <positive>",
        ours=r"probe_http_duration_seconds\{phase='processing'\} <zero>",
    ),
    Difference(
        "A request that the server refuses to process is sent once more; the original repeats it hundreds of times.",
        "http2", Named("http2 opening refused", "http2 opening with going away"), source="RFC 9113, 8.7",
        wholly=True,
    ),
    Difference(
        "A GOAWAY with an error and without our request fails the probe.",
        "http2",
        Named("http2 going away before us with an answer", "grpc going away with an error"), source="RFC 9113, 6.8",
        wholly=True,
    ),
    Difference(
        "Accept-Encoding is sent only if the module asks for it; the original always asks for gzip.",
        "http3", gzip_over_http3,
        original=r"request \d+: accept-encoding: gzip",
    ),
    Difference(
        "The body is counted as it was received, as over HTTP/1 and 2; the original decompresses gzip that the "
        "module did not ask for.",
        "http3", Named("http3 gzip not asked for"),
        original=r"probe_http_(content_length -1|uncompressed_body_length 1024)",
        ours=r"probe_http_(content_length|uncompressed_body_length) \d+",
    ),
    Difference(
        "`compression: gzip` works; in the original the body has been decompressed already, and the probe fails.",
        "http3", Named("http3 compression gzip"),
        original=r"(probe_http_(content_length -1|uncompressed_body_length 0)|probe_success 0)",
        ours=r"(probe_http_(content_length|uncompressed_body_length) \d+|probe_success 1)",
    ),
    Difference(
        "Credentials and `http_headers` are sent too.",
        "http3", Named(
            "http3 http_headers", "http3 basic_auth", "http3 authorization", "http3 bearer_token_file",
            "http3 redirect with credentials", "http3 redirect elsewhere with credentials",
        ),
        ours=r"request \d+: (authorization|x-a(\[\d\])?): .+",
    ),
    Difference(
        "A redirect to another host asks for that host's certificate.",
        "http3", Named("http3 redirect to a name", "http3 redirect elsewhere with credentials"),
        original=r"request 2: server name ''", ours=r"request 2: server name 'localhost'",
    ),
    Difference(
        "A body that ends before its announced length, or within a frame, fails the probe.",
        "http3", Named("http3 length too long", "http3 length without a body", "http3 a frame cut"),
        original="probe_success 1", ours="probe_success 0",
    ),
    Difference(
        "Any number of interim responses may precede the final one, as over HTTP/1.",
        "http3", Named("http3 after twenty 103"),
        wholly=True,
    ),
    Difference(
        "A redirect is followed at once, even if its own body never ends.",
        "redirect", Named("silence in the body of a followed redirect"),
        wholly=True,
    ),
    Difference(
        "A target without a host, or with an invalid port, fails the probe before the name is looked up.",
        "dns", Named(
            *(f"dns default target of {words}" for words in (
                "IPv6 with an empty port", "brackets with nothing in them", "half a bracket", "a colon",
                "a port before a blank", "a port before a path")), "dns default tls to an empty port",
            "dns target with a large port", "dns target with a port of letters", "dns target with an empty port",
            "dns target with a port of zero", "dns target with an unknown named port",
            "dns target with a named port of udp", "dns target without a host",
        ),
        wholly=True,
    ),
    Difference(
        "An address in brackets needs no port.",
        "dns", Named(
            "dns target IPv6 in brackets without a port", "dns default target of an address in brackets without a port",
            "dns default tls to IPv6 in brackets",
        ),
        wholly=True,
    ),
    Difference(
        "A module without a `dns` block fails, since it has no name to query; the original queries the root.",
        "dns", Named("dns default without a block"),
        wholly=True,
    ),
    Difference(
        "An invalid `query_name` fails the probe before it connects.",
        "dns", Named(
            "dns query name with an empty label", "dns query name with a long label", "dns query name too long",
            "dns query name ending in an escape",
        ),
        original=r"probe_dns_duration_seconds\{phase='(connect|request)'\} <positive>",
        ours=r"probe_dns_duration_seconds\{phase='(connect|request)'\} <zero>",
    ),
    Difference(
        "`BADVERS` is a name of response code 16, beside `BADSIG`.",
        "dns", Named("dns rcode BADVERS wanted"),
        original="probe_success 0", ours="probe_success 1",
    ),
    Difference(
        "An answer has to be a response, and to the question that was asked.",
        "dns", Named(*(
            f"dns {what} over {transport}"
            for what in ("another question", "no response flag", "an echo") for transport in ("udp", "tcp")
        )),
        original=r"probe_(dns_answer_rrs|dns_query_succeeded|success) 1",
        ours=r"probe_(dns_answer_rrs|dns_query_succeeded|success) 0",
    ),
    Difference(
        "An answer over UDP may be larger than 512 bytes.",
        "dns", Named("dns large over udp"),
        original=r"probe_(dns_answer_rrs|dns_query_succeeded|success) 0",
        ours=r"probe_(dns_answer_rrs|dns_query_succeeded|success) \d",
    ),
    Difference(
        "Whether the server truncated its response is reported (`probe_dns_response_truncated`).",
        "dns", dns_probe,
        ours=r"probe_dns_response_truncated [01]",
    ),
    Difference(
        "A header field over HTTP/2 has at most 1 MiB, and all header blocks have at most 10,000 fields.",
        "http2", Named("http2 fields of 9 megabytes in one"),
        wholly=True,
    ),
    Difference(
        "DNS over TLS reports the metrics of TLS.",
        "dns", dns_over_tls, ours=r"probe_(ssl|tls)_\w+(\{.*\})? \S+",
    ),
    Difference(
        "A module without a `grpc` block has the defaults of the block; in the original it reaches IPv6 only.",
        "grpc", Named("grpc without a block"),
        wholly=True,
    ),
    Difference(
        "A call ends with the probe's timeout, with status 4 (DEADLINE_EXCEEDED).",
        "grpc", Named("grpc too late"),
        original=r"probe_(grpc_healthcheck_response\{serving_status='SERVING'\} 1|grpc_status_code 0|success 1)",
        ours=r"probe_(grpc_healthcheck_response\{serving_status='SERVING'\} 0|grpc_status_code 4|success 0)",
    ),
    Difference(
        "The server may be an IPv6 address.",
        "grpc", Named("grpc target of IPv6", "grpc target of IPv6 as a URL", "grpc over TLS by IPv6"),
        wholly=True,
    ),
    Difference(
        "If no call was made, the status is 14 (UNAVAILABLE); the original reports 0, which means OK.",
        "grpc", grpc_without_call,
        original="probe_grpc_status_code 0", ours="probe_grpc_status_code 14",
    ),
    Difference(
        "The durations of connecting, TLS and the call are reported (`probe_grpc_check_duration_seconds`).",
        "grpc", grpc_timed_by_part,
        ours=r"probe_grpc_check_duration_seconds\{phase='(connect|tls|call)'\} .*",
    ),
    Difference(
        "The cipher suite and the end of the verified chain are reported.",
        "grpc", grpc_over_tls,
        ours=r"probe_(tls_cipher_info\{cipher='\w+'\} 1|ssl_last_chain_expiry_timestamp_seconds \d+)",
    ),
    Difference(
        "The certificate is reported also if the call fails.",
        "grpc", grpc_failed_over_tls,
        ours=r"probe_(ssl|tls)_\w+(\{.*\})? \S+",
    ),
    Difference(
        "A response without a gRPC status gets the status that its HTTP status means, whatever its content type.",
        "grpc", Named("grpc http status 404 of gRPC without a status"), source="gRPC over HTTP/2, HTTP status mapping",
        original="probe_grpc_status_code 2", ours="probe_grpc_status_code 12",
    ),
    Difference(
        "A server that breaks HTTP/2 is unavailable (14), whatever part of HTTP/2 it breaks.",
        "grpc", Named("grpc a bad field"),
        original="probe_grpc_status_code 13", ours="probe_grpc_status_code 14",
    ),
    Difference(
        "An IPv6 address may stand in brackets.",
        "icmp", Named("icmp of IPv6 in brackets"),
        wholly=True,
    ),
    Difference(
        "A loopback address with a zone can be pinged; the original does not match the zone in the reply's address.",
        "icmp", Named("icmp of IPv6 with a zone", "icmp of IPv6 with a zone by number"),
        wholly=True,
    ),
    Difference(
        "A zone that is no interface of this machine fails the probe before anything is sent.",
        "icmp", Named("icmp of IPv6 with a zone that is not there", "icmp of IPv6 with a zone beyond 32 bits"),
        original=r"probe_icmp_duration_seconds\{phase='setup'\} <positive>",
        ours=r"probe_icmp_duration_seconds\{phase='setup'\} <zero>",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Comparison:
    """The differences between two outcomes that the table does not explain."""

    only_original: tuple[str, ...]
    only_ours: tuple[str, ...]
    stale: tuple[Difference, ...]
    """Entries that should occur in this case and do not."""

    def __str__(self) -> str:
        rows = [f"only the original: {line}" for line in self.only_original]
        rows += [f"only ours:         {line}" for line in self.only_ours]
        rows += [f"does not occur:    {entry.why}" for entry in self.stale]
        return "\n".join(rows)


def compare(case: Case, original: Outcome, ours: Outcome, table: Iterable[Difference] = DIFFERENCES) -> Comparison:
    """Return the differences between two outcomes that the table does not explain."""
    theirs, mine = set(original.lines) - set(ours.lines), set(ours.lines) - set(original.lines)
    entries = [entry for entry in table if entry.where(case, ours)]
    if wholly := [entry for entry in entries if entry.wholly]:
        return Comparison((), (), () if theirs and mine else tuple(wholly))
    stale = []
    for entry in entries:
        gone, new = _matching(entry.original, theirs), _matching(entry.ours, mine)
        unequal = entry.original and entry.ours and len(gone) != len(new)
        if unequal or not gone | new:
            stale.append(entry)
        else:
            theirs, mine = theirs - gone, mine - new
    return Comparison(tuple(sorted(theirs)), tuple(sorted(mine)), tuple(stale))


def _matching(pattern: str | None, lines: set[str]) -> set[str]:
    return {line for line in lines if pattern is not None and re.fullmatch(pattern, line)}
