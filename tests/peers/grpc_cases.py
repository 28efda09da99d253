"""The grpc cases: each setting, each form of a target, each status, and each way a call can fail.

Cases state no expectation: the comparison and the golden files do. The server is scripted frame by frame;
tests/probers/test_grpc.py probes real ones.
"""

from __future__ import annotations

import gzip
import ssl
from collections.abc import Mapping

from tests.peers.cases import AMPLE, SHORT, Case
from tests.targets import Answer, End, Pause, Tls, grpc, http2, raw, silence
from tests.targets.grpc import (
    CONTENT_TYPE,
    NOT_SERVING,
    OPENED,
    READ,
    SERVICE_UNKNOWN,
    SERVING,
    UNKNOWN,
    content,
    failed,
    healthy,
    message,
    opened,
    status,
    trailers,
)
from tests.targets.http2 import data, frame, goaway, head, headers, ping, reset, said, settings

HEALTHY = healthy()
TRUST = {"ca_file": "pki/root.pem"}
PLAINLY = "127.0.0.1:{port}"
SECURELY = "127.0.0.1:{tls_port}"
H2 = Tls(alpn=("h2",))


def call(
    name: str,
    answer: Answer = HEALTHY,
    target: str = PLAINLY,
    *,
    timeout: str = AMPLE,
    opening: bytes = http2.OPENING,
    parameters: Mapping[str, str | None] | None = None,
    **asked: object,
) -> Case:
    """Return a case of a health check over plaintext HTTP/2."""
    return Case(
        f"grpc {name}", asked, target, grpc.at(answer), timeout=timeout, prober="grpc", opening=opening,
        parameters=parameters or {},
    )  # fmt: skip


def secure(
    name: str,
    tls: Tls | Answer = H2,
    answer: Answer = HEALTHY,
    target: str = SECURELY,
    *,
    timeout: str = AMPLE,
    config: Mapping[str, object] = TRUST,
    parameters: Mapping[str, str | None] | None = None,
    **asked: object,
) -> Case:
    """Return a case of a health check over TLS."""
    return Case(
        f"grpc {name}", {"tls": True, "tls_config": dict(config), **asked}, target, grpc.at(answer), tls,
        timeout=timeout, prober="grpc", parameters=parameters or {},
    )  # fmt: skip


TARGETS = (
    call("plain"),
    Case("grpc without a block", target=PLAINLY, pages=grpc.at(HEALTHY), prober="grpc", block=False),
    call("target of http", target="http://127.0.0.1:{port}"),
    call("target of https without TLS", target="https://127.0.0.1:{port}"),
    call("target with a path", target="http://127.0.0.1:{port}/ignored?q=1#f"),
    call("target with a path and no scheme", target="127.0.0.1:{port}/ignored"),
    call("target in upper case", target="HTTP://127.0.0.1:{port}"),
    call("target of another scheme", target="dns://127.0.0.1:{port}"),
    call("target with user info", target="http://me:pw@127.0.0.1:{port}"),
    call("target by name", target="localhost:{port}", preferred_ip_protocol="ip4"),
    call("target by name that prefers IPv6", target="localhost:{port}"),
    call("target of IPv6", target="[::1]:{port}"),
    call("target of IPv6 as a URL", target="http://[::1]:{port}/"),
    call("target of IPv6 unwanted", target="[::1]:{port}", preferred_ip_protocol="ip4", ip_protocol_fallback=False),
    call("target of IPv4 unwanted", preferred_ip_protocol="ip6", ip_protocol_fallback=False),
    call("target of an unknown name", target="nobody.invalid:{port}"),
    call("target without a host", target=":{port}"),
    call("target empty but for a scheme", target="http://"),
    call("target of a blank", target=" "),
    call("target with a port of letters", target="127.0.0.1:grpc"),
    call("target with a port too large", target="127.0.0.1:70000"),
    call("target with a port of zero", target="127.0.0.1:0"),
    call("target of a dead port", target="127.0.0.1:{dead}"),
    call("with hostname", parameters={"hostname": "www.example.test"}),
)

ASKING = (
    call("service", service="my.Service"),
    call("service beyond ASCII", service="dienst-grün"),
    call("service of 300 bytes", service="s" * 300),
    call("metadata", metadata={"x-one": ["1"], "x-two": ["a", "b"], "authorization": ["Bearer token"]}),
    call("metadata without a value", metadata={"x-none": []}),
    call("metadata with an empty value", metadata={"x-empty": [""]}),
    call("metadata with blanks around", metadata={"x-blank": ["  a  "]}),
    call("metadata of bytes", metadata={"x-data-bin": [b"\x00\xff\x10"], "x-text-bin": ["hello"]}),
    call("metadata of bytes without any", metadata={"x-data-bin": [""]}),
    call("metadata with dots and dashes", metadata={"x_a.b-c9": ["1"]}),
    call("metadata in upper case", metadata={"X-One": ["1"]}),
    call("metadata with a blank in its key", metadata={"x one": ["1"]}),
    call("metadata with an empty key", metadata={"": ["1"]}),
    call("metadata of a pseudo-header", metadata={":path": ["/x"]}),
    call("metadata beyond ASCII", metadata={"x-one": ["grün"]}),
    call("metadata of a line end", metadata={"x-one": ["a\nb"]}),
    call("metadata of a tab", metadata={"x-one": ["a\tb"]}),
    call("metadata content-type", metadata={"content-type": ["text/plain"]}),
    call("metadata user-agent", metadata={"user-agent": ["me/1"]}),
    call("metadata te", metadata={"te": ["gzip"]}),
    call("metadata grpc-timeout", metadata={"grpc-timeout": ["1n"]}),
    call("metadata grpc-encoding", metadata={"grpc-encoding": ["gzip"]}),
    call("metadata grpc-of-mine", metadata={"grpc-of-mine": ["1"]}),
    call("metadata host", metadata={"host": ["www.example.test"]}),
    call("metadata connection", metadata={"connection": ["close"]}),
    call("metadata of 20 kB", metadata={"x-large": ["a" * 20_000]}),
)

ANSWERS = (
    *(
        call(f"status {name}", healthy(number))
        for name, number in {
            "unknown": UNKNOWN, "not serving": NOT_SERVING, "service unknown": SERVICE_UNKNOWN, "4": 4, "127": 127,
            "128": 128, "of minus one": -1, "of 2^31": 1 << 31, "of 2^32 and 1": (1 << 32) + 1,
        }.items()
    ),
    call("message with a status of zero", content(b"\x08\x00")),
    call("message with two statuses", content(status(NOT_SERVING) + status(SERVING))),
    call("message with unknown fields", content(
        b"\x10\x96\x01" + b"\x19" + bytes(8) + b"\x22\x03abc" + b"\x2d" + bytes(4) + status(SERVING))),
    call("message with 999 unknown fields", content(b"\x10\x01" * 999 + status(SERVING))),
    call("message with a group", content(b"\x13\x08\x02\x14" + status(SERVING))),
    call("message with a group in a group", content(b"\x13\x1b\x08\x02\x1c\x14" + status(SERVING))),
    call("message with a group that does not end", content(b"\x13\x08\x02")),
    call("message with a group that ends as another", content(b"\x13\x08\x02\x1c" + status(SERVING))),
    call("message with the end of a group", content(b"\x14" + status(SERVING))),
    call("message with a status of bytes", content(b"\x0a\x01\x01")),
    call("message with a status in a long form", content(b"\x88\x00\x81\x00")),
    call("message of field 0", content(b"\x00\x01")),
    call("message of wire type 6", content(b"\x0e")),
    call("message of wire type 7", content(b"\x0f")),
    call("message cut in a number", content(b"\x08\x81")),
    call("message cut in a field", content(b"\x22\x05abc")),
    call("message cut in a fixed field", content(b"\x19\x01\x02")),
    call("message of an endless number", content(b"\x08" + b"\xff" * 10 + b"\x01")),
    call("message of a number of ten bytes", content(b"\x08" + b"\x81" + b"\x80" * 8 + b"\x01")),
    call("message of a number beyond 64 bits", content(b"\x08" + b"\x81" + b"\x80" * 8 + b"\x02")),
    call("message of a field number too large", content(b"\x80\x80\x80\x80\x10\x01")),
    call("message of a key of more than 32 bits", content(b"\x88\x80\x80\x80\x10\x01")),
    *(
        call(f"call fails with {code}", failed(code, text))
        for code, text in {
            1: "cancelled", 2: "what", 3: "", 4: "too late", 5: "unknown service", 7: "go away", 8: "full",
            12: "unknown service grpc.health.v1.Health", 13: "oops", 14: "down", 16: "who are you", 17: "new",
            99: "odd",
        }.items()
    ),
    call("call fails without words", failed(14)),
    call("call fails in percents", failed(14, "gr%C3%BCn 100%25 %zz %")),
    call("call fails after a message", opened(data(message(status(SERVING)), end=False), trailers(13, "late"))),
    call("call fails after its head", opened(trailers(5, "unknown"))),
    call("call fails with status -1", failed("-1")),
    call("call fails with status of letters", failed("OK")),
    call("call fails with status empty", failed("")),
    call("call fails with status 2^32", failed(1 << 32)),
    call("call fails with status 00", failed("00")),
    call("call fails with details", failed(14, "down", ("grpc-status-details-bin", "CA4SBGRvd24"))),
    call("call succeeds without a message", failed(0)),
    call("call succeeds without a message after its head", opened(trailers())),
    call("call succeeds with two messages", opened(data(message(status(SERVING)) * 2, end=False), trailers())),
    call("call has no status", opened(data(message(status(SERVING)), end=False), headers(("x-a", "1"), end=True))),
    call("call has no trailers", opened(data(message(status(SERVING))))),
    call("call has no trailers and no message", opened(data(b""))),
    call("call has no status in its head", said(head(200, CONTENT_TYPE, end=True))),
    call("call has two statuses", opened(
        data(message(status(SERVING)), end=False), headers(("grpc-status", "0"), ("grpc-status", "5"), end=True))),
    call("call has its status in its head and no end", said(
        head(200, CONTENT_TYPE, ("grpc-status", "0")), data(message(status(SERVING)), end=False), trailers(5))),
)  # fmt: skip

GZIPPED = gzip.compress(status(SERVING), mtime=0)

FRAMING = (
    call("message in pieces", opened(
        *(data(bytes((byte,)), end=False) for byte in message(status(SERVING))), trailers())),
    call("message with padding", opened(http2.padded(message(status(SERVING)), 100, end=False), trailers())),
    call("message cut by trailers", opened(data(message(status(SERVING), length=9), end=False), trailers())),
    call("message cut in its head", opened(data(b"\0\0", end=False), trailers())),
    call("message and more", opened(data(message(status(SERVING)) + b"\0", end=False), trailers())),
    call("message that claims to be compressed", opened(
        data(message(status(SERVING), flag=1), end=False), trailers())),
    call("message that claims to be compressed as identity", said(
        head(200, CONTENT_TYPE, ("grpc-encoding", "identity")), data(message(status(SERVING), flag=1), end=False),
        trailers())),
    call("message compressed by gzip", said(
        head(200, CONTENT_TYPE, ("grpc-encoding", "gzip")), data(message(GZIPPED, flag=1), end=False), trailers())),
    call("message not compressed where gzip is announced", said(
        head(200, CONTENT_TYPE, ("grpc-encoding", "gzip")), data(message(status(SERVING)), end=False), trailers())),
    call("message with another flag", opened(data(message(status(SERVING), flag=2), end=False), trailers())),
    call("message of 50 kB", content(b"\x22" + grpc.varint(50_000) + bytes(50_000) + status(SERVING))),
    call("message of 5 MB announced", opened(data(message(status(SERVING), length=5 << 20)))),
    *(
        call(f"content type {kind}", said(
            head(200, ("content-type", kind)), data(message(status(SERVING)), end=False), trailers()))
        for kind in ("application/grpc+proto", "application/grpc;x=1", "application/grpc+json", "application/grpcx",
                     "application/json", "Application/GRPC")
    ),
    call("content type missing", said(head(200), data(message(status(SERVING)), end=False), trailers())),
    *(
        call(f"http status {code}", said(head(code, ("content-type", "text/html")), data(b"<html>no</html>")))
        for code in (200, 204, 302, 400, 401, 403, 404, 429, 500, 502, 503, 504)
    ),
    call("http status 503 without a body", said(head(503, end=True))),
    call("http status 503 of gRPC", said(head(503, CONTENT_TYPE, ("grpc-status", "7"), end=True))),
    call("http status 404 of gRPC without a status", said(head(404, CONTENT_TYPE, end=True))),
    call("after a 103", said(head(103), OPENED, data(message(status(SERVING)), end=False), trailers())),
    *(
        call(f"reset with {http2_code}", said(reset(http2_code)))
        for http2_code in (0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 99)
    ),
    call("reset after the head", opened(reset(http2.CANCEL))),
    call("reset after the message", opened(data(message(status(SERVING)), end=False), reset(http2.INTERNAL_ERROR))),
    call("reset after all", opened(data(message(status(SERVING)), end=False), trailers(), reset(0))),
    call("going away", said(
        goaway(1), OPENED, data(message(status(SERVING)), end=False), trailers())),
    call("going away before us", said(goaway(0))),
    call("going away with an error", said(goaway(0, http2.ENHANCE_YOUR_CALM, b"too_many_pings"))),
    call("going away and the end", said(goaway(1, http2.INTERNAL_ERROR, b"why"), READ, end=End.CLOSE)),
    call("a ping", said(ping(), OPENED, data(message(status(SERVING)), end=False), trailers())),
    call("the end before the head", said(READ, end=End.CLOSE)),
    call("the end after the head", opened(READ, end=End.CLOSE)),
    call("the end after the message", opened(data(message(status(SERVING)), end=False), READ, end=End.CLOSE)),
    call("the end in the message", opened(data(message(status(SERVING))[:3], end=False), READ, end=End.CLOSE)),
    call("a reset connection", said(Pause(0.1), end=End.RESET)),
    call("a bad frame", said(frame(6, b"1234567"))),
    call("a bad field", said(headers((":status", "200"), CONTENT_TYPE, ("x-Upper", "1")))),
    call("late but in time", said(Pause(0.3), OPENED, data(message(status(SERVING)), end=False), trailers())),
    # The original waits for the answer, however late it is; ours has long given up by then.
    call("too late", said(Pause(4.0), OPENED, data(message(status(SERVING)), end=False), trailers()), timeout=SHORT),
    Case("grpc of a server that speaks HTTP/1", target=PLAINLY, prober="grpc",
         greeting=silence(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")),
    Case("grpc of a server that speaks SMTP", target=PLAINLY, prober="grpc",
         greeting=silence(b"220 mail.example.test ESMTP\r\n")),
    Case("grpc of a server that hangs up", target=PLAINLY, prober="grpc", greeting=raw()),
)  # fmt: skip

SECURE = (
    secure("over TLS"),
    secure("over TLS by IPv6", target="[::1]:{tls_port}"),
    secure("over TLS 1.2", Tls(alpn=("h2",), maximum=ssl.TLSVersion.TLSv1_2)),
    secure("over TLS 1.3", Tls(alpn=("h2",), minimum=ssl.TLSVersion.TLSv1_3)),
    secure("over TLS 1.3 where 1.2 is the most", Tls(alpn=("h2",), minimum=ssl.TLSVersion.TLSv1_3),
           config={**TRUST, "max_version": "TLS12"}),
    secure("over TLS 1.2 where 1.3 is the least", Tls(alpn=("h2",), maximum=ssl.TLSVersion.TLSv1_2),
           config={**TRUST, "min_version": "TLS13"}),
    secure("over TLS with a target of https", target="https://127.0.0.1:{tls_port}/x"),
    secure("over TLS with a target of http", target="http://127.0.0.1:{tls_port}"),
    secure("over TLS by name", Tls("localhost_only", alpn=("h2",)), target="localhost:{tls_port}",
           preferred_ip_protocol="ip4"),
    secure("over TLS with server_name", Tls("localhost_only", alpn=("h2",)),
           config={**TRUST, "server_name": "localhost"}),
    secure("over TLS with another server_name", config={**TRUST, "server_name": "other.test"}),
    secure("over TLS with hostname", parameters={"hostname": "www.example.test"}),
    secure("over TLS with a client certificate", Tls(alpn=("h2",), client_ca="root"),
           config={**TRUST, "cert_file": "pki/client.pem", "key_file": "pki/client.key"}),
    secure("over TLS with a client certificate wanted", Tls(alpn=("h2",), client_ca="root")),
    secure("over TLS 1.2 with a client certificate wanted",
           Tls(alpn=("h2",), client_ca="root", maximum=ssl.TLSVersion.TLSv1_2)),
    *(
        secure(f"over TLS {name.replace('_', ' ')}", Tls(name, alpn=("h2",)))
        for name in ("expired", "not_yet_valid", "wrong_name", "self_signed", "unknown_root", "no_intermediate",
                     "rsa", "rich", "with_root", "for_clients", "by_old_intermediate")
    ),
    secure("over TLS with an intermediate as ca_file", Tls("no_intermediate", alpn=("h2",)),
           config={"ca_file": "pki/intermediate.pem"}),
    secure("over TLS unverified", Tls("expired", alpn=("h2",)), config={"insecure_skip_verify": True}),
    secure("over TLS with a CA that is not there", config={"ca_file": "pki/none.pem"}),
    secure("over TLS with a CA that is none", config={"ca_file": "pki/garbage.pem"}),
    secure("over TLS without ALPN", Tls()),
    secure("over TLS without h2", Tls(alpn=("http/1.1",))),
    secure("over TLS of more than h2", Tls(alpn=("http/1.1", "h2"))),
    secure("over TLS where there is none", raw(b"220 hello\r\n")),
    secure("over TLS and the end", raw()),
    secure("over TLS not serving", answer=healthy(NOT_SERVING)),
    secure("over TLS call fails", answer=failed(5, "unknown service")),
    secure("over TLS call fails after its head", answer=opened(trailers(5, "unknown service"))),
    secure("over TLS reset", answer=said(reset(http2.INTERNAL_ERROR))),
    secure("over TLS and the end before the head", answer=said(READ, end=End.CLOSE)),
    secure("over TLS http status 404", answer=said(head(404), data(b"no"))),
    secure("over TLS of a dead port", target="127.0.0.1:{dead}"),
    secure("over TLS with a window of 3 bytes",
           Tls(alpn=("h2",), opening=settings((http2.INITIAL_WINDOW_SIZE, 0)), grant=3)),
    Case("grpc plain with a CA that is not there", {"tls_config": {"ca_file": "pki/none.pem"}}, PLAINLY,
         grpc.at(HEALTHY), prober="grpc"),
    Case("grpc plain on a TLS port", {}, SECURELY, grpc.at(HEALTHY), H2, prober="grpc"),
)  # fmt: skip

GROUPS: dict[str, tuple[Case, ...]] = {
    "grpc_targets": TARGETS,
    "grpc_asking": ASKING,
    "grpc_answers": ANSWERS,
    "grpc_framing": FRAMING,
    "grpc_tls": SECURE,
}
"""Every case, by its golden file."""
