"""The memcached prober against memcached and scripted peers."""

from __future__ import annotations

import pytest

from probe_exporter.exposition.encoding import encode
from probe_exporter.exposition.formats import TEXT
from probe_exporter.prober.failure import Reason
from tests.modules.library import (
    STRANGERS,
    cuts,
    damaged,
    expect_failure,
    expect_no_bug,
    measured,
    phases,
    probe,
    probe_every_address,
    probe_scripted,
    shipped,
)
from tests.outcomes import why
from tests.targets import Pki
from tests.targets.scripted_server import Hear, Script, talk, then_silence

VERSION = b"VERSION 1.6.18\r\n"
STATS = (
    b"STAT uptime 7\r\nSTAT version 1.6.18 of a build\r\nSTAT curr_connections 2\r\nSTAT curr_items 3\r\n"
    b"STAT bytes 4\r\nSTAT limit_maxbytes 5\r\nSTAT evictions 6\r\nEND\r\n"
)
GOOD = (Hear(), VERSION, Hear(), STATS)


async def test_memcached_version_and_statistics_are_reported(memcached: int) -> None:
    result = await probe(shipped("memcached"), f"127.0.0.1:{memcached}")
    assert why(result) is None
    values = measured(result)
    ((version,),) = values["probe_memcached_server_info"]
    assert version.startswith("1.")
    assert values["probe_memcached_limit_bytes"] == {(): 8 * 1024 * 1024}
    assert values["probe_memcached_connections"][()] >= 1
    assert phases(result) == {"resolve", "connect", "version", "stats"}


async def test_every_address_of_a_name_is_probed(memcached: int) -> None:
    result = await probe_every_address(shipped("memcached"), memcached)
    assert "probe_memcached_server_info" in measured(result)


async def test_each_statistic_has_its_metric(pki: Pki) -> None:
    result, heard = await probe_scripted(shipped("memcached"), then_silence(*GOOD), pki)
    assert why(result) is None
    assert measured(result) == {
        "probe_memcached_server_info": {("1.6.18",): 1},
        "probe_memcached_uptime_seconds": {(): 7},
        "probe_memcached_connections": {(): 2},
        "probe_memcached_items": {(): 3},
        "probe_memcached_bytes": {(): 4},
        "probe_memcached_limit_bytes": {(): 5},
        "probe_memcached_evictions_total": {(): 6},
    }
    assert heard == b"version\r\nstats\r\n"


async def test_statistics_can_be_left_out(pki: Pki) -> None:
    result, heard = await probe_scripted(shipped("memcached", stats=False), then_silence(Hear(), VERSION), pki)
    assert why(result) is None
    assert set(measured(result)) == {"probe_memcached_server_info"}
    assert heard == b"version\r\n"


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (b"ERROR\r\n", Reason.TARGET_ERROR),
        (b"SERVER_ERROR out of memory\r\n", Reason.TARGET_ERROR),
        (b"ERROR Too many open connections\r\n", Reason.TARGET_FULL),
        (b"VERSION\r\n", Reason.PROTOCOL_ERROR),
    ],
)
async def test_invalid_version_has_its_reason(pki: Pki, version: bytes, reason: Reason) -> None:
    result, _ = await probe_scripted(shipped("memcached"), then_silence(Hear(), version), pki)
    assert why(result) == (reason, "version")


@pytest.mark.parametrize(
    ("stats", "err"),
    [
        (b"STAT uptime\r\n", "the reply is not a memcached reply"),
        (b"STAT uptime soon\r\nSTAT curr_items -1\r\nEND\r\n", None),
        (b"STAT a b\r\n" * 1001, "the statistics have more than 1000 lines"),
        (b"CLIENT_ERROR no\r\n", "the server replied with an error: CLIENT_ERROR no"),
    ],
)
async def test_unusable_statistics_are_left_out(pki: Pki, stats: bytes, err: str | None) -> None:
    result, _ = await probe_scripted(shipped("memcached"), then_silence(Hear(), VERSION, Hear(), stats), pki)
    assert why(result) is None
    assert set(measured(result)) == {"probe_memcached_server_info"}
    assert [event.fields["err"] for event in result.probe.events if "question" in event.fields] == [err] * bool(err)


async def test_proxy_that_closes_at_stats_passes(pki: Pki) -> None:
    """twemproxy closes the connection at a command that it does not know."""
    result, _ = await probe_scripted(shipped("memcached"), talk(Hear(), VERSION, Hear()), pki)
    assert why(result) is None


async def test_extreme_values_can_be_exported(pki: Pki) -> None:
    stats = b"STAT uptime " + b"9" * 2000 + b"\r\nEND\r\n"
    script = then_silence(Hear(), b"VERSION " + b"x" * 2000 + b"\r\n", Hear(), stats)
    result, _ = await probe_scripted(shipped("memcached"), script, pki)
    assert why(result) is None
    assert measured(result)["probe_memcached_server_info"] == {("x" * 128,): 1}
    assert b"probe_memcached_uptime_seconds +Inf" in encode(result.probe.samples, TEXT)


@pytest.mark.parametrize("script", STRANGERS.values(), ids=STRANGERS)
async def test_other_protocol_fails_the_probe(pki: Pki, script: Script) -> None:
    await expect_failure(shipped("memcached"), script, pki)


async def test_truncated_dialogue_is_connection_closed(pki: Pki) -> None:
    for script in cuts(GOOD[:2]):
        result = await expect_failure(shipped("memcached"), script, pki)
        assert result.failure is not None
        assert result.failure.reason is Reason.CONNECT_CLOSED


async def test_damaged_dialogue_is_no_internal_error(pki: Pki) -> None:
    for script in damaged(GOOD):
        await expect_no_bug(shipped("memcached"), script, pki)
