"""ACME renewal information (RFC 9773): when an authority wants a certificate to be renewed.

The directory of the authority names the resource; the resource for one certificate has a window of time. A window is
kept until the authority's Retry-After, by directory and certificate, so that probes don't ask at each scrape.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections import OrderedDict
from datetime import datetime
from typing import Any, NamedTuple

from cryptography import x509

from probe_exporter.prober.deadline import Late, within
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.metrics import Metric
from probe_exporter.prober.run import Probe
from probe_exporter.protocols.http.settings import HttpClientSettings
from probe_exporter.protocols.pki.fetching import fetch
from probe_exporter.tls.certificates import Certificate, extension_of
from probe_exporter.values import documents

START = Metric(
    "probe_ssl_renewal_window_start_timestamp_seconds",
    "Start of the time in which the authority wants the peer's certificate to be renewed (ARI), in Unix seconds.",
)
END = Metric("probe_ssl_renewal_window_end_timestamp_seconds", "End of that time, in Unix seconds.")
METRICS = (START, END)

MAX_DOCUMENT_BYTES = 64 << 10
"""Bytes of a directory or of renewal information; usual ones have less than 2,000."""

MAX_KEPT = 4096
MIN_KEPT_SECONDS, DEFAULT_KEPT_SECONDS, MAX_KEPT_SECONDS = 60.0, 6 * 3600.0, 86400.0
"""How long a window is kept: as Retry-After says, within these limits (RFC 9773, 4.3)."""

SHARE = 0.9
"""The part of the remaining time that the two requests get."""


class Window(NamedTuple):
    """The time in which to renew a certificate, in Unix seconds."""

    start: float
    end: float


class _CachedWindow(NamedTuple):
    window: Window
    until: float  # by `time.monotonic`


_kept: OrderedDict[tuple[str, str], _CachedWindow] = OrderedDict()
"""By the URL of the directory and the fingerprint of the certificate."""


def forget() -> None:
    """Drop every kept window."""
    _kept.clear()


def identifier(certificate: x509.Certificate) -> str:
    """Return the identifier of a certificate (RFC 9773, 4.1): key identifier of its issuer, and its serial number.

    Raises:
        ValueError: it does not name the key of its issuer.
    """
    extension = extension_of(certificate, x509.AuthorityKeyIdentifier)
    named = None if extension is None else extension.key_identifier
    if named is None:
        raise ValueError("the certificate has no authority key identifier")
    serial = certificate.serial_number
    return f"{_encode(named)}.{_encode(serial.to_bytes(serial.bit_length() // 8 + 1, 'big', signed=True))}"


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


async def report(
    probe: Probe, certificate: Certificate, directory: str, client: HttpClientSettings, until: float
) -> None:
    """Set the metrics of a certificate's window; log if there is none.

    Args:
        directory: the URL of the authority's directory.
        until: the end of the examination, on the event loop's clock.
    """
    key = (directory, certificate.summary.fingerprint_sha256)
    known = _kept.get(key)
    if known is None or known.until <= time.monotonic():
        try:
            with within(max(0.0, (until - asyncio.get_running_loop().time()) * SHARE)):
                known = await _ask(probe, certificate, directory, client)
        except (ProbeFailed, ValueError, Late) as failed:
            probe.log("No renewal information", level=logging.WARNING, directory=directory, err=str(failed))
            return
        _kept.pop(key, None)
        if len(_kept) >= MAX_KEPT:
            _kept.popitem(last=False)
        _kept[key] = known
    probe.set(START, known.window.start)
    probe.set(END, known.window.end)


async def _ask(probe: Probe, certificate: Certificate, directory: str, client: HttpClientSettings) -> _CachedWindow:
    wanted = identifier(certificate.x509)
    data, _ = await fetch(directory, client, probe.network, MAX_DOCUMENT_BYTES)
    resource = _parsed(data).get("renewalInfo")
    if not isinstance(resource, str):
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the directory has no renewalInfo")
    data, exchange = await fetch(f"{resource.rstrip('/')}/{wanted}", client, probe.network, MAX_DOCUMENT_BYTES)
    window = _parsed(data).get("suggestedWindow")
    if not isinstance(window, dict):
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the renewal information has no suggestedWindow")
    found = Window(_seconds(window.get("start")), _seconds(window.get("end")))
    if found.end <= found.start:  # RFC 9773, 4.2
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the suggestedWindow does not end after its start")
    return _CachedWindow(found, time.monotonic() + _kept_seconds(exchange.response.get("retry-after")))


def _parsed(data: bytes) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        ValueError: it is none.
    """
    found = documents.parse(data)
    if not isinstance(found, dict):
        raise ValueError("the document is no JSON object")
    return found


def _seconds(text: object) -> float:
    """Return a time (RFC 3339) in Unix seconds.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(text, str) or len(text) > 64:
        raise ValueError("a time of the suggestedWindow is missing")
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("a time of the suggestedWindow has no zone")
    return found.timestamp()


def _kept_seconds(retry_after: str | None) -> float:
    text = (retry_after or "").strip()
    wanted = float(text) if text.isascii() and text.isdigit() and len(text) < 10 else DEFAULT_KEPT_SECONDS
    return min(max(wanted, MIN_KEPT_SECONDS), MAX_KEPT_SECONDS)
