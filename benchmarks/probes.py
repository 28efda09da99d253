"""List the probes to measure, one entry per prober. To add a prober to the benchmark, add an entry here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe to measure.

    Args:
        name: its name in the table and on the command line.
        module: the module, the same for both exporters.
        target: the target, with placeholders for ports (``{http}``, ``{http2}``, ``{grpc}`` and so on).
        budget: upper limit of our CPU per probe divided by the original's; None if the original has no such prober.
    """

    name: str
    module: Mapping[str, object]
    target: str
    budget: float | None = None


PROBES = (
    Probe(
        "http",
        {"prober": "http", "http": {"enable_http2": False}},
        "http://127.0.0.1:{http}/",
        budget=0.40,
    ),
    Probe(
        "http-regexp",
        {
            "prober": "http",
            "http": {
                "enable_http2": False,
                "fail_if_body_not_matches_regexp": ["good (morning|evening)"],
                "fail_if_header_not_matches": [{"header": "Content-Type", "regexp": "^text/html"}],
            },
        },
        "http://127.0.0.1:{http}/",
        budget=0.40,
    ),
    Probe(
        "https",
        {"prober": "http", "http": {"enable_http2": False, "tls_config": {"ca_file": "root.pem"}}},
        "https://127.0.0.1:{https}/",
        budget=0.90,
    ),
    Probe(
        "https-http2",
        {"prober": "http", "http": {"valid_http_versions": ["HTTP/2.0"], "tls_config": {"ca_file": "root.pem"}}},
        "https://127.0.0.1:{http2}/",
        budget=0.75,
    ),
    Probe(
        "http3",
        {
            "prober": "http",
            "http": {"enable_http3": True, "enable_http2": False, "tls_config": {"ca_file": "root.pem"}},
        },
        "https://127.0.0.1:{http3}/",
        budget=1.0,
    ),
    Probe("tcp", {"prober": "tcp"}, "127.0.0.1:{http}", budget=0.40),
    Probe(
        "tls",
        {"prober": "tcp", "tcp": {"tls": True, "tls_config": {"ca_file": "root.pem"}}},
        "127.0.0.1:{https}",
        budget=0.90,
    ),
    Probe(
        "dns",
        {
            "prober": "dns",
            "dns": {
                "query_name": "www.example.test",
                "query_type": "A",
                "validate_answer_rrs": {"fail_if_not_matches_regexp": [r"\tA\t192\.0\.2\.1$"]},
            },
        },
        "127.0.0.1:{dns}",
        budget=0.40,
    ),
    Probe("grpc", {"prober": "grpc", "grpc": {"preferred_ip_protocol": "ip4"}}, "127.0.0.1:{grpc}", budget=0.40),
    Probe("icmp", {"prober": "icmp"}, "127.0.0.1", budget=0.25),
    Probe(
        "websocket",
        {"prober": "websocket", "websocket": {"query_response": [{"send": "good morning"}, {"expect": "^good"}]}},
        "ws://127.0.0.1:{websocket}/",
    ),
    Probe(
        "udp",
        {"prober": "udp", "udp": {"query_response": [{"send_bytes": "01 and a question"}, {"expect": "^01"}]}},
        "127.0.0.1:{dns}",
    ),
)
