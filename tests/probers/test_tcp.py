"""The tcp prober so far: its settings, and what the request's hostname does to them."""

from __future__ import annotations

import pytest

from probe_exporter.prober import Probe, ProbeFailed, Reason
from probe_exporter.probers.tcp import TcpSettings, prober, with_hostname


def test_the_hostname_of_a_request_becomes_the_server_name() -> None:
    settings = TcpSettings.model_validate({"tls_config": {"insecure_skip_verify": True}})
    named = with_hostname(settings, "mail.example")
    assert named.tls_config.server_name == "mail.example"
    assert named.tls_config.insecure_skip_verify is True
    assert settings.tls_config.server_name == ""


def test_a_server_name_in_the_settings_wins() -> None:
    settings = TcpSettings.model_validate({"tls_config": {"server_name": "mail.example"}})
    assert with_hostname(settings, "other.example") is settings


async def test_this_version_says_that_it_does_not_probe() -> None:
    with pytest.raises(ProbeFailed, match="does not probe them yet") as failed:
        await prober.probe(Probe("localhost:1", 1.0), TcpSettings())
    assert failed.value.reason is Reason.SETTINGS_UNSUPPORTED
