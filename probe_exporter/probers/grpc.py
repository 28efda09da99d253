"""The grpc prober: check the health of a gRPC server or of one of its services (grpc.health.v1)."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

from pydantic import Field as Default

from probe_exporter.addresses.endpoints import join_host_port
from probe_exporter.addresses.host_names import to_ascii
from probe_exporter.network.address_choice import choose_address
from probe_exporter.network.connection import Connection, Secure
from probe_exporter.network.opening import dial
from probe_exporter.network.settings import AddressSettings
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.metrics import LabelledSeries, Metric, whole_nanoseconds
from probe_exporter.prober.run import Probe
from probe_exporter.protocols.grpc import health
from probe_exporter.protocols.grpc.call import (
    ALPN,
    CallFailed,
    CallUnprocessed,
    Status,
    call_fields,
    metadata_fields,
    unary,
)
from probe_exporter.protocols.http import tunnel
from probe_exporter.protocols.http.proxy import Proxies
from probe_exporter.protocols.http.url import URL, parse_target
from probe_exporter.settings.fields import Text, encode
from probe_exporter.settings.secrets import NamedLists
from probe_exporter.tls import loading, metrics
from probe_exporter.tls.settings import CertificateSettings, TLSSettings

if TYPE_CHECKING:
    from probe_exporter.protocols.http.header_block import Field


class GrpcSettings(CertificateSettings, AddressSettings):
    """The ``grpc`` block of a module.

    Args:
        service: the service to ask about; empty for the server as a whole.
        tls: use TLS.
        tls_config: settings of TLS.
        metadata: metadata to send, by name.
    """

    service: Text = ""
    tls: bool = False
    tls_config: TLSSettings = TLSSettings()
    metadata: NamedLists = Default(default_factory=dict)

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        try:
            metadata_fields(self.metadata)
        except ValueError as error:
            yield "metadata", f"{error}: every call will fail"

    @cached_property
    def sent_metadata(self) -> list[Field]:
        """Metadata as header fields.

        Raises:
            ValueError: a key or a value is invalid.
        """
        return metadata_fields(self.metadata)

    @cached_property
    def has_tls_config(self) -> bool:
        """Whether ``tls_config`` has settings, whose files are then read even without TLS."""
        return self.tls_config != TLSSettings()

    @cached_property
    def request(self) -> bytes:
        """The encoded request for the health of the service."""
        return health.request(encode(self.service))


DURATION = Metric(
    "probe_grpc_duration_seconds",
    "Duration of the phases `resolve` and `check` in seconds.",
    ("phase",),
    series=2,
)
PARTS = Metric(
    "probe_grpc_check_duration_seconds",
    "Duration of the parts of phase `check` in seconds.",
    ("phase",),
    series=3,
)
SSL = Metric("probe_grpc_ssl", "Whether the call succeeded over TLS.")
STATUS_CODE = Metric("probe_grpc_status_code", "gRPC status of the call; 14 (UNAVAILABLE) without a call.")
SERVING_STATUS = Metric(
    "probe_grpc_healthcheck_response", "Whether the server reported this serving status.", ("serving_status",)
)

_WITHOUT_CALL = {SSL: 0, STATUS_CODE: int(Status.UNAVAILABLE)}
_WITHOUT_STATUS: LabelledSeries = {(SERVING_STATUS, (name,)): 0 for name in health.STATUSES}
_CONNECT, _TLS, _CALL = ((PARTS, (part,)) for part in ("connect", "tls", "call"))
_RESOLVE, _CHECK = (DURATION, ("resolve",)), (DURATION, ("check",))


async def probe_grpc(probe: Probe, settings: GrpcSettings) -> None:
    """Checks the health of a gRPC server or of one of its services (grpc.health.v1)."""
    probe.samples.plain.update(_WITHOUT_CALL)
    probe.samples.series[_RESOLVE] = 0
    url = _parse(probe.target, settings)
    secure = await _prepare_tls(url, settings) if settings.tls or settings.has_tls_config else None
    address = await choose_address(probe, url.host, settings, DURATION)
    with probe.phase("check"):
        _judge(await _check(probe, settings, _Place(url, address, secure)))


@dataclass(frozen=True, slots=True)
class _Place:
    """The server's URL and address, and its TLS."""

    url: URL
    address: str
    secure: Secure | None


def _parse(target: str, settings: GrpcSettings) -> URL:
    """Return the target as a URL. Its scheme and path are ignored: the module decides about TLS."""
    try:
        return parse_target(_SCHEME.sub("https://" if settings.tls else "http://", target, count=1))
    except ValueError as error:
        raise ProbeFailed(Reason.TARGET_INVALID, str(error)) from None


_SCHEME = re.compile(r"(?:https?://)?", re.IGNORECASE)


async def _prepare_tls(url: URL, settings: GrpcSettings) -> Secure | None:
    """Return the TLS settings, None without TLS. Unusable settings fail the probe even without TLS."""
    config = settings.tls_config
    context = await loading.client_context(config, ALPN if settings.tls else ())
    return Secure(context, config.server_name or url.host) if settings.tls else None


def _judge(status: int) -> None:
    name = health.name_of(status)
    if status == health.SERVICE_UNKNOWN:
        raise ProbeFailed(Reason.GRPC_SERVICE_UNKNOWN, f"the server reports that the service is {name}")
    if status != health.SERVING:
        raise ProbeFailed(Reason.GRPC_NOT_SERVING, f"the server reports that the service is {name}")


async def _check(probe: Probe, settings: GrpcSettings, place: _Place) -> int:
    """Make the call, report its result, and return the serving status."""
    started = time.perf_counter()
    status: int = Status.UNAVAILABLE
    plain, series = probe.samples.plain, probe.samples.series  # `set` would check what these are
    series.update(_WITHOUT_STATUS)
    try:
        serving = await _ask(probe, settings, place)
    except CallFailed as failed:
        status = failed.status
        raise
    except asyncio.CancelledError:  # the deadline has passed
        status = Status.DEADLINE_EXCEEDED
        raise
    finally:
        series[_CHECK] = whole_nanoseconds(time.perf_counter() - started)
        plain[STATUS_CODE] = int(status)
    plain[STATUS_CODE] = 0
    plain[SSL] = 1 if place.secure is not None else 0
    probe.set(SERVING_STATUS, 1, health.name_of(serving))
    return serving


async def _ask(probe: Probe, settings: GrpcSettings, place: _Place) -> int:
    """Connect and call; repeat a call that the server did not process, as during its restart."""
    try:
        fields = call_fields(place.url.scheme, _authority(place), health.METHOD, settings.sent_metadata)
    except ValueError as error:
        raise CallFailed(Status.INTERNAL, Reason.SETTINGS_UNUSABLE, f"the call can't be made: {error}") from None
    try:
        answer = await _call(probe, place, fields, settings.request)
    except CallUnprocessed as refused:
        probe.log("The server did not process the call: repeating it", err=refused.message)
        answer = await _call(probe, place, fields, settings.request)
    try:
        return health.read_response(answer)
    except ValueError as error:
        raise CallFailed(Status.INTERNAL, Reason.GRPC_PROTOCOL_ERROR, f"the response is malformed: {error}") from None


def _authority(place: _Place) -> str:
    """Return the authority of the call; over TLS without the port, as other clients do.

    Raises:
        ValueError: the host is not a valid name.
    """
    if place.secure is None:
        return join_host_port(_plain(place.url.host), place.url.port)
    name = _plain(place.secure.server_name)
    return f"[{name}]" if ":" in name else name


def _plain(host: str) -> str:
    """Return a host in ASCII; an address without its zone, which is local (RFC 6874)."""
    return to_ascii(host.partition("%")[0])


async def _call(probe: Probe, place: _Place, fields: list[Field], message: bytes) -> bytes:
    """Make the call over a new connection. The durations of a second attempt add to those of the first."""
    connection = await _connect(probe, place)
    _add(probe, _CONNECT, connection.connect_seconds)
    if connection.handshake is not None:
        _add(probe, _TLS, connection.tls_seconds)
        metrics.report_handshake(probe, connection.handshake)
        if connection.handshake.protocol not in ALPN:
            connection.close()
            raise CallFailed(Status.UNAVAILABLE, Reason.GRPC_NOT_HTTP2, "the server does not accept HTTP/2 by ALPN")
    probe.log("Calling", method=health.METHOD, ip=place.address)
    started = time.perf_counter()
    try:
        return await unary(connection, fields, message)
    finally:
        _add(probe, _CALL, time.perf_counter() - started)


def _add(probe: Probe, part: tuple[Metric, tuple[str]], seconds: float) -> None:
    series = probe.samples.series  # `add` would check what these are
    series[part] = series.get(part, 0.0) + whole_nanoseconds(seconds)


async def _connect(probe: Probe, place: _Place) -> Connection:
    """Connect to the server, through the environment's proxy for https, as gRPC clients do."""
    proxies = _proxies()
    proxy = proxies.choose(place.url._replace(scheme="https"), [place.address]) if proxies.by_scheme else None
    if proxy is None:
        return await dial(probe, [place.address], place.url.port, secure=place.secure)
    own = await tunnel.own_tls(proxy, TLSSettings())
    destination = tunnel.destination(proxy, place.url, [place.address])
    return await tunnel.dial(probe, proxy, await tunnel.addresses(probe, proxy), own, destination, place.secure)


@cache
def _proxies() -> Proxies:
    return Proxies.from_environment(os.environ, [])


prober = Prober("grpc", GrpcSettings, probe_grpc)
