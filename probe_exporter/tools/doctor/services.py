"""Check what probes need of others: name servers, certificate authorities, and the time.

Only the name servers of /etc/resolv.conf are asked, for ``localhost``, which they answer themselves (RFC 6761, 6.3). An
NTP server is asked only if the command line names it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import time
from collections.abc import Sequence

from probe_exporter.addresses.endpoints import join_host_port
from probe_exporter.config import one_module
from probe_exporter.config.module import Module
from probe_exporter.network.dns_query import Question
from probe_exporter.network.lookup import PORT
from probe_exporter.network.name_servers import Plan, Server, ask
from probe_exporter.network.resolv_conf import RESOLV_CONF, ResolvConf, resolv_conf
from probe_exporter.plugins.loader import load_probers
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.runner import run_in_new_loop
from probe_exporter.tls import system_authorities
from probe_exporter.tools.doctor.finding import Finding

SLOW_SECONDS = 0.5
"""A name server that takes longer spoils the durations of probes."""

MAX_BUNDLE_DAYS = 365
"""Authorities are added and distrusted several times a year."""

MAX_OFFSET_SECONDS = 0.1
"""As in the shipped module ntp_close."""

CLOCK_TIMEOUT_SECONDS = 10.0

STUB = "127.0.0.53"
"""The address on which systemd-resolved listens."""

INSTALLERS = {
    "apt-get": "apt-get install --yes ca-certificates",
    "dnf": "dnf install -y ca-certificates",
    "apk": "apk add ca-certificates",
    "zypper": "zypper --non-interactive install ca-certificates-mozilla",
}


def name_servers(conf: ResolvConf | None = None, port: int = PORT) -> list[Finding]:
    """Ask each name server of /etc/resolv.conf for a name, all at once.

    Args:
        conf: other settings, for tests.
        port: the port of the servers.
    """
    settings = conf or resolv_conf()
    servers = [(address, port) for address in settings.servers]
    outcomes = asyncio.run(_ask_all(servers, settings))
    others = any(failure is None for failure, _ in outcomes)
    return [_judged(*one, others=others) for one in zip(servers, outcomes, strict=True)]


Outcome = tuple[ProbeFailed | None, float]
"""The failure of a question, and its duration in seconds."""


async def _ask_all(servers: Sequence[Server], conf: ResolvConf) -> list[Outcome]:
    return await asyncio.gather(*[_ask(Plan([server], conf.timeout, 1, conf.tcp)) for server in servers])


async def _ask(plan: Plan) -> Outcome:
    began = time.perf_counter()
    try:
        await ask(Question("localhost.", 4), plan)
    except ProbeFailed as failed:
        if failed.reason != Reason.DNS_NAME_NOT_FOUND:  # that is an answer too
            return failed, time.perf_counter() - began
    return None, time.perf_counter() - began


def _judged(server: Server, outcome: Outcome, *, others: bool) -> Finding:
    failure, seconds = outcome
    where = server[0] if server[1] == PORT else join_host_port(*server)
    if failure is not None:
        return Finding("name servers", "fail", f"{where}: {failure.message}", _mend_server(server[0], others=others))
    message = f"{where} answered in {seconds * 1000:.0f} ms"
    if seconds > SLOW_SECONDS:
        fix = f"name a closer server in {RESOLV_CONF}, or in `resolver` of the modules"
        return Finding("name servers", "warn", f"{message}: each lookup of a probe takes as long", fix)
    return Finding("name servers", "pass", message)


def _mend_server(address: str, *, others: bool) -> str:
    """Return what to do about a server that does not answer; `others` says whether another one does."""
    if address == STUB:
        return "systemctl restart systemd-resolved"
    if others:
        pattern = address.replace(".", r"\.")
        return f"sed -i '/^nameserver {pattern}$/d' {RESOLV_CONF}"
    return f"in {RESOLV_CONF}, name a server that answers: nameserver ADDRESS"


def authorities(files: Sequence[str] | None = None) -> Finding:
    """Check that the system has certificate authorities, and how old the file is."""
    bundle = system_authorities.bundle(files)
    if bundle is None:
        named = os.environ.get(system_authorities.FILE_VARIABLE)
        what = f"{named} (SSL_CERT_FILE) is no file" if named else "this machine has no bundle of authorities"
        return Finding("authorities", "fail", f"{what}: certificates can't be verified", _install())
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(bundle)
    except OSError as error:  # ssl.SSLError is one
        return Finding("authorities", "fail", f"{bundle} can't be read: {error.strerror or error}", _install())
    days = int((time.time() - bundle.stat().st_mtime) / 86400)
    message = f"{bundle} has {context.cert_store_stats()['x509']} certificates and is {days} days old"
    if days > MAX_BUNDLE_DAYS:
        return Finding("authorities", "warn", message, _install())
    return Finding("authorities", "pass", message)


def _install() -> str:
    """Return the command that installs the newest authorities here."""
    found = [command for program, command in INSTALLERS.items() if shutil.which(program)]
    return found[0] if found else "install the package ca-certificates"


def clock(server: str | None) -> Finding:
    """Compare the clock with an NTP server.

    Args:
        server: a target of the ntp prober; None if the command line names none.
    """
    if server is None:
        return Finding("clock", "skip", "compare it with a server: --ntp SERVER")
    result = run_in_new_loop(_ntp(), server, CLOCK_TIMEOUT_SECONDS)
    if result.failure is not None:
        return Finding("clock", "fail", f"{server}: {result.failure.message}", "--ntp with a server that answers")
    (offset,) = [
        sample.value
        for family in result.probe.samples.collect()
        for sample in family.samples
        if sample.name == "probe_ntp_offset_seconds"
    ]
    message = f"{abs(offset) * 1000:.1f} ms {'behind' if offset > 0 else 'ahead of'} {server}"
    if abs(offset) > MAX_OFFSET_SECONDS:
        return Finding("clock", "fail", message, "chronyc makestep" if shutil.which("chronyc") else SET_NTP)
    return Finding("clock", "pass", message)


SET_NTP = "timedatectl set-ntp true"


def _ntp() -> Module:
    return one_module.with_settings(load_probers([])["ntp"], b"{}", "ntp")
