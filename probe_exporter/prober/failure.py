"""Reasons for failure: the closed list of them, and `ProbeFailed`, the exception that has one."""

from __future__ import annotations

import errno
import os
import re
from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """Why a probe failed: the values of ``probe_failure_info{reason=…}``, each with its `meaning`.

    The list is closed and documented; every name begins with the part that failed. A new reason changes the interface.
    """

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        reason = str.__new__(cls, value)
        reason._value_ = value
        reason.meaning = meaning
        return reason

    TARGET_INVALID = "target_invalid", "The target does not have the syntax that the prober expects."
    TARGET_DENIED = "target_denied", "The configuration's `targets` forbid this address or name; nothing was sent."
    SETTINGS_UNUSABLE = "settings_unusable", "A file, a secret or an option of the module can't be used."
    DNS_RESOLUTION = "dns_resolution", "The resolver failed or answered with an error."
    DNS_NAME_NOT_FOUND = "dns_name_not_found", "The name does not exist."
    DNS_NO_ADDRESS = "dns_no_address", "The name has no address of a permitted IP version."
    DNS_TIMEOUT = "dns_timeout", "The resolver did not answer in time."
    DNS_QUERY_TIMEOUT = "dns_query_timeout", "The probed DNS server did not answer the query in time."
    DNS_RESPONSE_MALFORMED = "dns_response_malformed", "The DNS server's response can't be decoded."
    DNS_RESPONSE_WRONG_ID = "dns_response_wrong_id", "No response has the id of the query."
    DNS_RESPONSE_WRONG_QUESTION = "dns_response_wrong_question", "The DNS server's response is to another question."
    DNS_RESPONSE_NO_FLAG = "dns_response_no_flag", "The DNS server's message lacks the flag of a response."
    DNS_RCODE = "dns_rcode", "The response code is not among the valid ones."
    DNS_ANSWER_MISMATCH = "dns_answer_mismatch", "Records of the answer section violate the module's rules."
    DNS_AUTHORITY_MISMATCH = "dns_authority_mismatch", "Records of the authority section violate the rules."
    DNS_ADDITIONAL_MISMATCH = "dns_additional_mismatch", "Records of the additional section violate the rules."
    CONNECT_REFUSED = "connect_refused", "Nothing listens on the port, or a firewall rejects the connection."
    CONNECT_TIMEOUT = "connect_timeout", "The peer did not answer the connection attempt in time."
    CONNECT_UNREACHABLE = "connect_unreachable", "There is no route to the host or its network."
    CONNECT_RESET = "connect_reset", "The peer reset the connection."
    CONNECT_CLOSED = "connect_closed", "The peer closed the connection before it sent anything."
    CONNECT_FAILED = "connect_failed", "The system reported any other error of the connection."
    PROXY_CONNECT = "proxy_connect", "The proxy can't be reached: its name, its port or its TLS fails."
    PROXY_REFUSED = "proxy_refused", "The proxy refuses: credentials, a rule of its own, or an unreachable target."
    PROXY_PROTOCOL_ERROR = "proxy_protocol_error", "The proxy does not speak the protocol that its URL names."
    PROXY_TIMEOUT = "proxy_timeout", "The proxy did not open a tunnel to the target in time."
    OAUTH2_CONNECT = "oauth2_connect", "The token endpoint can't be reached."
    OAUTH2_TOKEN = "oauth2_token", "The token endpoint refuses the request, or its response has no token."
    OAUTH2_TIMEOUT = "oauth2_timeout", "The token endpoint did not send a token in time."
    TLS_HANDSHAKE = "tls_handshake", "No common version or cipher, an alert of the peer, or a peer without TLS."
    TLS_TIMEOUT = "tls_timeout", "The TLS handshake did not end in time."
    TLS_REQUIRED = "tls_required", "The response did not come over TLS (fail_if_not_ssl)."
    TLS_FORBIDDEN = "tls_forbidden", "The response came over TLS (fail_if_ssl)."
    CERTIFICATE_EXPIRED = "certificate_expired", "A certificate of the chain has expired."
    CERTIFICATE_NOT_YET_VALID = "certificate_not_yet_valid", "A certificate of the chain is not valid yet."
    CERTIFICATE_WRONG_NAME = "certificate_wrong_name", "The certificate is for other names than the requested one."
    CERTIFICATE_UNKNOWN_AUTHORITY = "certificate_unknown_authority", "No trusted authority signed the certificate."
    CERTIFICATE_REVOKED = (
        "certificate_revoked",
        "An authority has revoked a certificate (fail_if_revoked).",
    )
    CERTIFICATE_INVALID = "certificate_invalid", "The verification of the certificate failed for another reason."
    HTTP_STATUS = "http_status", "The status code is not among the valid ones."
    HTTP_VERSION = "http_version", "The HTTP version is not among the valid ones."
    HTTP_REDIRECT = "http_redirect", "Too many redirects, or a redirect that can't be followed."
    HTTP_HEADER_MISMATCH = "http_header_mismatch", "A header matches a forbidden expression, or no required one."
    HTTP_BODY_MISMATCH = "http_body_mismatch", "The body matches a forbidden expression, or no required one."
    HTTP_BODY_TOO_LARGE = "http_body_too_large", "The body is larger than the limit."
    HTTP_BODY_TRUNCATED = "http_body_truncated", "The body ended before its announced length."
    HTTP_CONTENT_ENCODING = "http_content_encoding", "The body can't be decompressed as the module expects."
    HTTP_PROTOCOL_ERROR = "http_protocol_error", "The response is not HTTP."
    HTTP_HEADERS_TOO_LARGE = "http_headers_too_large", "The response's headers are larger than the limit."
    DIALOGUE_REJECTED = "dialogue_rejected", "The peer sent something that matches `reject`."
    DIALOGUE_NO_MATCH = "dialogue_no_match", "What the peer sent (a message, or all of it) does not match `expect`."
    DIALOGUE_BYTES_MISMATCH = "dialogue_bytes_mismatch", "The peer sent other bytes than `expect_bytes`."
    DIALOGUE_CLOSED = "dialogue_closed", "The peer closed the connection before it sent what a step expects."
    DIALOGUE_LINE_TOO_LONG = "dialogue_line_too_long", "A line is longer than the limit."
    DIALOGUE_LABEL_INVALID = "dialogue_label_invalid", "The matched text is not UTF-8, as label values must be."
    TIMEOUT_DIALOGUE = "timeout_dialogue", "The dialogue did not end in time."
    WEBSOCKET_UPGRADE_REFUSED = "websocket_upgrade_refused", "The server responded with another status code than 101."
    WEBSOCKET_HANDSHAKE_INVALID = "websocket_handshake_invalid", "The response with status 101 violates WebSocket."
    WEBSOCKET_CLOSED = "websocket_closed", "The server closed the WebSocket before it sent an expected message."
    WEBSOCKET_PROTOCOL_ERROR = "websocket_protocol_error", "The server violates the WebSocket protocol."
    WEBSOCKET_MESSAGE_TOO_LARGE = "websocket_message_too_large", "A message is larger than the limit."
    UDP_NO_ANSWER = "udp_no_answer", "No datagram came back in time."
    UDP_PORT_UNREACHABLE = "udp_port_unreachable", "The host answered with an ICMP error: nothing listens on the port."
    ICMP_PERMISSION = "icmp_permission", "The exporter may not send pings: see ping_group_range and CAP_NET_RAW."
    ICMP_SEND_FAILED = "icmp_send_failed", "The system did not send the echo request: no route or source address."
    ICMP_PACKET_TOO_BIG = "icmp_packet_too_big", "The echo request is larger than the MTU of a link on its path."
    ICMP_UNREACHABLE = "icmp_unreachable", "A router or the host reported that the echo request can't be delivered."
    ICMP_TIME_EXCEEDED = "icmp_time_exceeded", "The echo request passed more routers than its TTL permits."
    ICMP_TIMEOUT = "icmp_timeout", "No echo request was answered in time."
    GRPC_NOT_HTTP2 = "grpc_not_http2", "The server does not speak HTTP/2, which gRPC needs."
    GRPC_NOT_GRPC = "grpc_not_grpc", "The response is HTTP but not gRPC, such as that of a proxy or a web server."
    GRPC_PROTOCOL_ERROR = (
        "grpc_protocol_error",
        "The response violates HTTP/2 or gRPC: no status, or half a message.",
    )
    GRPC_TRUNCATED = "grpc_truncated", "The connection ended within the response."
    GRPC_STREAM_RESET = "grpc_stream_reset", "The server reset the call's stream."
    GRPC_GOING_AWAY = "grpc_going_away", "The server sent GOAWAY and did not respond."
    GRPC_UNIMPLEMENTED = "grpc_unimplemented", "The server has no health service (UNIMPLEMENTED)."
    GRPC_PERMISSION = "grpc_permission", "The server denies access (UNAUTHENTICATED, PERMISSION_DENIED)."
    GRPC_SERVICE_UNKNOWN = "grpc_service_unknown", "The server does not know the service."
    GRPC_STATUS = "grpc_status", "The call ended with any other status than OK."
    GRPC_NOT_SERVING = "grpc_not_serving", "The server responded that the service is not SERVING."
    GRPC_TIMEOUT = "grpc_timeout", "Connected, but the health check was not answered in time."
    PROTOCOL_ERROR = "protocol_error", "The target does not speak the prober's protocol."
    AUTHENTICATION = "authentication", "The target refuses the credentials, or requires some and the module has none."
    TARGET_ERROR = "target_error", "The target responded with an error of its own."
    TARGET_NOT_READY = "target_not_ready", "The target responded that it is starting, loading or shutting down."
    TARGET_FULL = "target_full", "The target refuses further clients: it has as many as it accepts."
    VALUE_MISSING = "value_missing", "The response lacks a value that the module's `metrics` require."
    EXPECTATION = "expectation", "The target responded, but not as the module expects."
    TIMEOUT_RESPONSE = "timeout_response", "Connected, but the response head did not arrive in time."
    TIMEOUT_TRANSFER = "timeout_transfer", "The response began, but its body did not end in time."
    TIMEOUT_PROBE = "timeout_probe", "The probe timed out in a phase whose timeout has no reason of its own."
    INTERNAL_ERROR = "internal_error", "A bug in the exporter or in a prober; the exporter's log has the traceback."


class OwnReason(str):
    """A reason of one prober: ``STALE = OwnReason("ntp_stale", "The server has lost its own source.")``.

    A prober declares them in `Prober.reasons`, so that the list of reasons stays closed.

    Args:
        value: the prober's name, an underscore and the part that failed.
        meaning: one sentence for people.
        advice: what to check or to try, for the person on call; empty if the meaning says it.

    Raises:
        ValueError: the value has characters other than lower-case letters, digits and underscores.
    """

    __slots__ = ("advice", "meaning")
    meaning: str
    advice: str

    def __new__(cls, value: str, meaning: str, advice: str = "") -> Self:
        if not _REASON.fullmatch(value):
            raise ValueError(f"{value!r} can't be a reason: small letters, digits and underscores make one")
        reason = str.__new__(cls, value)
        reason.meaning = meaning
        reason.advice = advice
        return reason

    @property
    def value(self) -> str:
        """The value of the label ``reason``, as for a `Reason`."""
        return str(self)


_REASON = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)+")

TIMEOUTS = {
    "resolve": Reason.DNS_TIMEOUT,
    "token": Reason.OAUTH2_TIMEOUT,
    "proxy": Reason.PROXY_TIMEOUT,
    "connect": Reason.CONNECT_TIMEOUT,
    "tls": Reason.TLS_TIMEOUT,
    "dialogue": Reason.TIMEOUT_DIALOGUE,
    "processing": Reason.TIMEOUT_RESPONSE,
    "transfer": Reason.TIMEOUT_TRANSFER,
    "check": Reason.GRPC_TIMEOUT,
    "rtt": Reason.ICMP_TIMEOUT,
}
"""The reason of a timeout in each phase; in any other phase it is `Reason.TIMEOUT_PROBE`."""


class ProbeFailed(Exception):
    """The target failed the probe. Probers and the functions that they call raise it.

    Args:
        reason: a `Reason`, or an `OwnReason` of the prober.
        message: one sentence for a person, without secrets.
        fields: details for the log line.
    """

    def __init__(self, reason: Reason | OwnReason, message: str, **fields: object) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.fields = fields


class OutOfFiles(ProbeFailed):
    """The exporter has no file descriptor left, so the probe says nothing about its target."""


def check_files(error: BaseException, what: str) -> None:
    """Raise `OutOfFiles` if `error` means that no file descriptor is left.

    Args:
        what: what failed, for the message: ``reading /etc/hosts``.
    """
    if needs_files(error):
        raise OutOfFiles(
            Reason.CONNECT_FAILED,
            f"{what} failed: the exporter has no file descriptor left; raise its limit of open files",
        ) from None


def needs_files(error: BaseException | None) -> bool:
    """Return whether an exception, or one that led to it, means that no file descriptor is left.

    An import of a shared library has no number of the error, only its text.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_FILES:
            return True
        if isinstance(error, ImportError) and any(text in str(error) for text in _NO_FILES.values()):
            return True
        error = error.__cause__ or error.__context__
    return False


_NO_FILES = {number: os.strerror(number) for number in (errno.EMFILE, errno.ENFILE)}
