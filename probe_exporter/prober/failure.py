"""Why probes fail: the closed list of reasons, and the exception that carries one of them."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """Why a probe failed: the values of ``probe_failure_info{reason=…}``, each with its `meaning`.

    The list is closed and documented; every name begins with what failed. To add one is to change the public interface.
    """

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        reason = str.__new__(cls, value)
        reason._value_ = value
        reason.meaning = meaning
        return reason

    TARGET_INVALID = "target_invalid", "The target is not of the form that the prober takes."
    TARGET_DENIED = "target_denied", "The configuration's `targets` do not permit to connect there; nothing was sent."
    SETTINGS_UNUSABLE = "settings_unusable", "A file, a secret or an option of the module can't be used."
    DNS_RESOLUTION = "dns_resolution", "The resolver failed, or answered with an error."
    DNS_NAME_NOT_FOUND = "dns_name_not_found", "There is no such name."
    DNS_NO_ADDRESS = "dns_no_address", "The name has no address of a permitted IP version."
    DNS_TIMEOUT = "dns_timeout", "No answer from the resolver in time."
    DNS_QUERY_TIMEOUT = "dns_query_timeout", "The DNS server that is probed did not answer the query in time."
    DNS_RESPONSE_MALFORMED = "dns_response_malformed", "What the DNS server says can't be decoded."
    DNS_RESPONSE_WRONG_ID = "dns_response_wrong_id", "Answers came, and none has the id of the query."
    DNS_RESPONSE_WRONG_QUESTION = "dns_response_wrong_question", "The DNS server answers another question."
    DNS_RESPONSE_NO_FLAG = "dns_response_no_flag", "What the DNS server sends lacks the flag of a response."
    DNS_RCODE = "dns_rcode", "The response code is none of the valid ones."
    DNS_ANSWER_MISMATCH = "dns_answer_mismatch", "The records of the answer are not as the module demands."
    DNS_AUTHORITY_MISMATCH = "dns_authority_mismatch", "Those of the authority section are not as demanded."
    DNS_ADDITIONAL_MISMATCH = "dns_additional_mismatch", "Those of the additional section are not as demanded."
    CONNECT_REFUSED = "connect_refused", "Nothing listens there, or a firewall says so."
    CONNECT_TIMEOUT = "connect_timeout", "No answer to the attempt to connect in time."
    CONNECT_UNREACHABLE = "connect_unreachable", "There is no way to the host or its network."
    CONNECT_RESET = "connect_reset", "The peer reset the connection."
    CONNECT_CLOSED = "connect_closed", "The peer closed the connection before it said anything."
    CONNECT_FAILED = "connect_failed", "Anything else that the system says about a connection."
    PROXY_CONNECT = "proxy_connect", "The proxy can't be reached: its name, its port or its TLS fails."
    PROXY_REFUSED = "proxy_refused", "The proxy refuses: credentials, a rule of its own, or a target it can't reach."
    PROXY_PROTOCOL_ERROR = "proxy_protocol_error", "What the proxy says is not the protocol that its URL promises."
    PROXY_TIMEOUT = "proxy_timeout", "The proxy did not open the way to the target in time."
    OAUTH2_CONNECT = "oauth2_connect", "The token endpoint can't be reached."
    OAUTH2_TOKEN = "oauth2_token", "The token endpoint refuses, or what it answers is no token."
    OAUTH2_TIMEOUT = "oauth2_timeout", "No token in time."
    TLS_HANDSHAKE = "tls_handshake", "No common version or cipher, an alert of the peer, or no TLS at all."
    TLS_TIMEOUT = "tls_timeout", "The TLS handshake did not end in time."
    TLS_REQUIRED = "tls_required", "The answer did not come over TLS (fail_if_not_ssl)."
    TLS_FORBIDDEN = "tls_forbidden", "The answer came over TLS (fail_if_ssl)."
    CERTIFICATE_EXPIRED = "certificate_expired", "A certificate of the chain has ended."
    CERTIFICATE_NOT_YET_VALID = "certificate_not_yet_valid", "A certificate of the chain has not begun."
    CERTIFICATE_WRONG_NAME = "certificate_wrong_name", "The certificate is for other names than the one asked for."
    CERTIFICATE_UNKNOWN_AUTHORITY = "certificate_unknown_authority", "No trusted authority signed the certificate."
    CERTIFICATE_INVALID = "certificate_invalid", "The certificate does not verify for another reason."
    HTTP_STATUS = "http_status", "The status code is none of the valid ones."
    HTTP_VERSION = "http_version", "The HTTP version is none of the valid ones."
    HTTP_REDIRECT = "http_redirect", "Too many redirects, or one that can't be followed."
    HTTP_HEADER_MISMATCH = "http_header_mismatch", "A header matches what it must not, or not what it must."
    HTTP_BODY_MISMATCH = "http_body_mismatch", "The body matches what it must not, or not what it must."
    HTTP_BODY_TOO_LARGE = "http_body_too_large", "The body is larger than the limit."
    HTTP_BODY_TRUNCATED = "http_body_truncated", "The body ended before the length that was announced."
    HTTP_CONTENT_ENCODING = "http_content_encoding", "The body can't be decompressed as the module expects."
    HTTP_PROTOCOL_ERROR = "http_protocol_error", "The answer is not HTTP."
    HTTP_HEADERS_TOO_LARGE = "http_headers_too_large", "The answer's headers are larger than the limit."
    DIALOGUE_REJECTED = "dialogue_rejected", "The peer said something that matches `reject`."
    DIALOGUE_NO_MATCH = "dialogue_no_match", "What the peer said, a message or all of it, does not match `expect`."
    DIALOGUE_BYTES_MISMATCH = "dialogue_bytes_mismatch", "Other bytes came than `expect_bytes` says."
    DIALOGUE_CLOSED = "dialogue_closed", "The peer closed the connection where something was expected."
    DIALOGUE_LINE_TOO_LONG = "dialogue_line_too_long", "A line is longer than the limit."
    DIALOGUE_LABEL_INVALID = "dialogue_label_invalid", "What matched is not UTF-8 and can't be the value of a label."
    TIMEOUT_DIALOGUE = "timeout_dialogue", "The dialogue did not get to its end in time."
    WEBSOCKET_UPGRADE_REFUSED = "websocket_upgrade_refused", "The server answers with another status code than 101."
    WEBSOCKET_HANDSHAKE_INVALID = "websocket_handshake_invalid", "It answers with 101, and not as WebSocket demands."
    WEBSOCKET_CLOSED = "websocket_closed", "The server closed the WebSocket where a message was expected."
    WEBSOCKET_PROTOCOL_ERROR = "websocket_protocol_error", "What the server sends breaks the rules for frames."
    WEBSOCKET_MESSAGE_TOO_LARGE = "websocket_message_too_large", "A message is larger than the limit."
    UDP_NO_ANSWER = "udp_no_answer", "Not one datagram came back in time."
    UDP_PORT_UNREACHABLE = "udp_port_unreachable", "The host says by ICMP that nobody listens on the port."
    ICMP_PERMISSION = "icmp_permission", "The exporter may not ping: see ping_group_range and CAP_NET_RAW."
    ICMP_SEND_FAILED = "icmp_send_failed", "The system did not take the echo request: no route, no such source address."
    ICMP_PACKET_TOO_BIG = "icmp_packet_too_big", "The echo request is larger than a link on its way takes in one piece."
    ICMP_UNREACHABLE = "icmp_unreachable", "A router or the host says that the echo request can't be delivered."
    ICMP_TIME_EXCEEDED = "icmp_time_exceeded", "The echo request passed more routers than its ttl allows."
    ICMP_TIMEOUT = "icmp_timeout", "No reply to any echo request in time."
    GRPC_NOT_HTTP2 = "grpc_not_http2", "The server does not speak HTTP/2, without which there is no gRPC."
    GRPC_NOT_GRPC = "grpc_not_grpc", "The answer is HTTP and not gRPC: a proxy or a web server gave it."
    GRPC_PROTOCOL_ERROR = "grpc_protocol_error", "The answer breaks HTTP/2 or gRPC: no status, or no whole message."
    GRPC_TRUNCATED = "grpc_truncated", "The connection ended within the answer."
    GRPC_STREAM_RESET = "grpc_stream_reset", "The server reset the call's stream."
    GRPC_GOING_AWAY = "grpc_going_away", "The server said that it is going away, and did not answer."
    GRPC_UNIMPLEMENTED = "grpc_unimplemented", "The server has no health service (UNIMPLEMENTED)."
    GRPC_PERMISSION = "grpc_permission", "The server wants to know who asks (UNAUTHENTICATED, PERMISSION_DENIED)."
    GRPC_SERVICE_UNKNOWN = "grpc_service_unknown", "The server does not know the service that it is asked about."
    GRPC_STATUS = "grpc_status", "The call ended with any other status than OK."
    GRPC_NOT_SERVING = "grpc_not_serving", "The server answers, and the service is not SERVING."
    GRPC_TIMEOUT = "grpc_timeout", "Connected, but no answer to the health check in time."
    PROTOCOL_ERROR = "protocol_error", "What the target says is not the protocol that the prober speaks."
    AUTHENTICATION = "authentication", "The target refuses the credentials, or wants some where there are none."
    TARGET_ERROR = "target_error", "The target answers with an error of its own."
    TARGET_NOT_READY = "target_not_ready", "The target answers that it is starting, loading or shutting down."
    TARGET_FULL = "target_full", "The target has as many clients as it takes, and takes no more."
    VALUE_MISSING = "value_missing", "The answer lacks a value that the module's `metrics` require."
    EXPECTATION = "expectation", "The target answers, and not what the module expects."
    TIMEOUT_RESPONSE = "timeout_response", "Connected, but no (whole) response head in time."
    TIMEOUT_TRANSFER = "timeout_transfer", "The response began, and its body did not end in time."
    TIMEOUT_PROBE = "timeout_probe", "The time ran out in any other phase."
    INTERNAL_ERROR = "internal_error", "A bug of the exporter's or of a prober's: its log has more."


class OwnReason(str):
    """A reason that one prober alone has: ``STALE = OwnReason("ntp_stale", "The server has lost its own source.")``.

    A prober says which it has, `Prober.reasons`, so that the list stays closed.

    Args:
        value: the prober's name, an underscore and what failed.
        meaning: one sentence for people.

    Raises:
        ValueError: the value is not made of small letters, digits and underscores.
    """

    __slots__ = ("meaning",)
    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        if not _REASON.fullmatch(value):
            raise ValueError(f"{value!r} can't be a reason: small letters, digits and underscores make one")
        reason = str.__new__(cls, value)
        reason.meaning = meaning
        return reason

    @property
    def value(self) -> str:
        """The word itself, as of a `Reason`."""
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
"""What the deadline means when it passes in a phase; any other phase is `Reason.TIMEOUT_PROBE`."""


class ProbeFailed(Exception):
    """The target failed the probe. Raised by probers and by what they stand on.

    Args:
        reason: one of `Reason`, or one of the prober's own.
        message: one plain sentence for a person; no secrets.
        fields: details for the log line.
    """

    def __init__(self, reason: Reason | OwnReason, message: str, **fields: object) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.fields = fields
