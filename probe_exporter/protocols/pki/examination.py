"""Examine the certificates of a finished probe's TLS connection, as the keys of `CertificateSettings` ask for it.

The runner calls `examine` after the prober, within the same deadline. The examination keeps a part of the time back,
so that a slow authority does not make the probe time out: metrics that it would have given are missing, and the probe
does not fail.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from probe_exporter.prober.metrics import Metric
from probe_exporter.prober.run import Probe
from probe_exporter.protocols.pki import crl_check, ocsp_check, renewal
from probe_exporter.protocols.pki.crl_check import CrlCheck, revoked_failure
from probe_exporter.protocols.pki.fetching import client_of
from probe_exporter.protocols.pki.ocsp_check import OcspCheck
from probe_exporter.settings.block import Settings
from probe_exporter.tls import certificate_details, evidence
from probe_exporter.tls.certificates import Certificate
from probe_exporter.tls.handshake import Handshake
from probe_exporter.tls.settings import CertificateSettings

PHASE = "certificates"

STATUS_METRICS: dict[str, tuple[Metric, ...]] = {
    "": (),
    "stapled": ocsp_check.STAPLED_METRICS,
    "request": ocsp_check.METRICS,
}
"""The metrics for each value of the key `ocsp`."""

SHARE = 0.9
"""The part of the probe's remaining time that the examination may take."""


def prepare(probe: Probe, settings: Settings) -> None:
    """Set what handshakes of the probe have to request, before the prober begins."""
    probe.requests_ocsp = isinstance(settings, CertificateSettings) and bool(settings.ocsp)


async def examine(probe: Probe, settings: Settings) -> None:
    """Set the metrics that the settings ask for; nothing if the probe had no complete TLS handshake.

    Args:
        settings: the prober's block, derived from `CertificateSettings`.
    """
    shown = probe.handshake
    if not isinstance(settings, CertificateSettings) or not isinstance(shown, Handshake):
        return
    chain = chain_of(shown)
    if not chain or shown.verify_errors:
        return
    before = probe.current_phase
    with probe.phase(PHASE):
        until = asyncio.get_running_loop().time() + probe.remaining * SHARE
        if settings.certificate_details:
            certificate_details.report(probe, chain, time.time())
        revoked = await _look_for_revoked(probe, settings, shown, chain, until)
        if settings.renewal_directory:
            await renewal.report(probe, chain[0], settings.renewal_directory, client_of(settings), until)
        if revoked and settings.fail_if_revoked:
            probe.fail(revoked_failure(revoked))
    probe.current_phase = before


async def _look_for_revoked(
    probe: Probe, settings: CertificateSettings, shown: Handshake, chain: Sequence[Certificate], until: float
) -> list[Certificate]:
    """Return the certificates of the chain that are revoked, by a list or by OCSP."""
    client, revoked = client_of(settings), list[Certificate]()
    if settings.ocsp:
        check = OcspCheck(probe, client, until)
        revoked += await check.run(chain, shown.stapled, request=settings.ocsp == "request")
        for one in revoked:
            evidence.mark(probe, chain[0], one, evidence.REVOKED_BY["ocsp"])
    if settings.check_revoked:
        lists = CrlCheck(probe, client, until)
        listed = await lists.run(chain)
        for one in listed:
            evidence.mark(probe, chain[0], one, evidence.REVOKED_BY["crl"])
        for one in lists.stale:
            evidence.mark(probe, chain[0], one, evidence.STALE_CRL)
        revoked += [one for one in listed if one not in revoked]
    return revoked


def metrics_for(settings: Settings) -> list[Metric]:
    """Return the metrics that `examine` can set."""
    if not isinstance(settings, CertificateSettings):
        return []
    listed = crl_check.METRICS if settings.check_revoked else ()
    window = renewal.METRICS if settings.renewal_directory else ()
    detailed = certificate_details.METRICS if settings.certificate_details else ()
    return [*detailed, *listed, *STATUS_METRICS[settings.ocsp], *window]


def chain_of(shown: Handshake) -> Sequence[Certificate]:
    """Return the verified chain, or else the one that the peer sent."""
    return shown.verified or shown.sent
