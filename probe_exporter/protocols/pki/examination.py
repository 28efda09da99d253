"""Examine the certificates of a finished probe's TLS connection, as the keys of `CertificateSettings` ask for it.

The runner calls `examine` after the prober, within the same deadline. The examination keeps a part of the time back,
so that a slow authority does not make the probe time out: what it could not find out is missing, and no failure.
"""

from __future__ import annotations

from collections.abc import Sequence

from probe_exporter.prober.metrics import Metric
from probe_exporter.prober.run import Probe
from probe_exporter.protocols.pki import revocation
from probe_exporter.protocols.pki.fetching import client_of
from probe_exporter.protocols.pki.revocation import RevocationCheck, revoked_failure
from probe_exporter.settings.block import Settings
from probe_exporter.tls.certificates import Certificate
from probe_exporter.tls.handshake import Handshake
from probe_exporter.tls.settings import CertificateSettings

PHASE = "certificates"

SHARE = 0.9
"""The part of the probe's remaining time that the examination may take."""


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
        if settings.check_revoked:
            check = RevocationCheck(probe, client_of(settings), probe.remaining * SHARE)
            revoked = await check.run(chain)
            if revoked and settings.fail_if_revoked:
                probe.fail(revoked_failure(revoked))
    probe.current_phase = before


def metrics_for(settings: Settings) -> list[Metric]:
    """Return the metrics that `examine` can set."""
    if not isinstance(settings, CertificateSettings):
        return []
    return [*revocation.METRICS] if settings.check_revoked else []


def chain_of(shown: Handshake) -> Sequence[Certificate]:
    """Return the verified chain, or else the one that the peer sent."""
    return shown.verified or shown.sent
