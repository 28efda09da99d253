"""Run all checks of ``probe-exporter doctor`` and print the findings."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

from probe_exporter.config.reloading import Source
from probe_exporter.tools.doctor import exporter, machine, services
from probe_exporter.tools.doctor.finding import Finding, as_json, as_text, healthy, print_in_colour


class Plan(NamedTuple):
    """What the exporter will be started with.

    Args:
        addresses: as --web.listen-address.
        history_path, history_max_bytes, max_probes: as the flags of these names.
        ntp_server: a server to compare the clock with; None to skip that.
    """

    source: Source
    addresses: Sequence[str]
    history_path: str
    history_max_bytes: int
    max_probes: int
    ntp_server: str | None


def examine(plan: Plan, *, as_json_document: bool) -> int:
    """Run all checks, print the findings, and return the exit code: 1 if a check failed."""
    findings = _findings(plan)
    if not as_json_document and sys.stdout.isatty():
        print_in_colour(findings, sys.stdout)
    else:
        sys.stdout.write(as_json(findings) if as_json_document else as_text(findings))
    return 0 if healthy(findings) else 1


def _findings(plan: Plan) -> list[Finding]:
    return [
        *exporter.configuration(plan.source),
        *exporter.listen_addresses(plan.addresses),
        exporter.history(plan.history_path, plan.history_max_bytes),
        machine.open_files(plan.max_probes),
        machine.source_ports(plan.max_probes),
        machine.ping(),
        machine.ipv6(),
        *services.name_servers(),
        services.authorities(),
        services.clock(plan.ntp_server),
    ]
