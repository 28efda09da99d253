"""TLS as a client: `TLSSettings` to a context, a handshake to metrics. Sans-I/O; `connection` carries the bytes."""

from probe_exporter.tls.context import MOST_CONTEXTS, ClientContext, Identity, client_context, forget_contexts
from probe_exporter.tls.handshake import (
    CERTIFICATE_INFO,
    CHAIN_EXPIRY,
    CIPHER_INFO,
    EARLIEST_EXPIRY,
    NO_CHAIN,
    VERIFY_ERROR_INFO,
    VERSION_INFO,
    Handshake,
    report,
    report_no_chain,
)
from probe_exporter.tls.layer import Layer, VerificationFailed
from probe_exporter.tls.quic import QuicContext, quic_context
from probe_exporter.tls.settings import TLSSettings, with_server_name
from probe_exporter.tls.suites import CIPHERS, TLS13_CIPHERS

__all__ = [
    "CERTIFICATE_INFO",
    "CHAIN_EXPIRY",
    "CIPHERS",
    "CIPHER_INFO",
    "EARLIEST_EXPIRY",
    "MOST_CONTEXTS",
    "NO_CHAIN",
    "TLS13_CIPHERS",
    "VERIFY_ERROR_INFO",
    "VERSION_INFO",
    "ClientContext",
    "Handshake",
    "Identity",
    "Layer",
    "QuicContext",
    "TLSSettings",
    "VerificationFailed",
    "client_context",
    "forget_contexts",
    "quic_context",
    "report",
    "report_no_chain",
    "with_server_name",
]
