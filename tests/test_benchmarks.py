"""Test the parts of the benchmarks that can be wrong without anybody noticing."""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import garbage, growth, instructions, machine, memory, pythons, sizing, timings
from benchmarks.pace import pace
from benchmarks.probes import PROBES, Probe
from tests import exporters

DUMP = """\
version: 1
positions: line
events: Ir
ob=(1) /usr/bin/python3.11
fl=(1) ceval.c
fn=(1) _PyEval_EvalFrameDefault
10 100
+2 20
cob=(2) /venv/cryptography/hazmat/bindings/_rust.abi3.so
cfn=(2) SSL_do_handshake
calls=3 7
12 5000
* 4

ob=(2)
fn=(2)
7 5000
ob=(3) /usr/lib/x86_64-linux-gnu/libc.so.6
fn=(3) memcpy
1 9

totals: 5133
"""


def test_instructions_of_called_functions_are_counted_once_and_openssl_apart() -> None:
    assert instructions.read_dump(DUMP) == (133, 5000)


def test_probe_beyond_the_allowance_exceeds_its_budget() -> None:
    counts = {"same": (100, 0), "little more": (104, 9), "more": (106, 0), "without": (1, 0)}
    assert instructions.exceeded(counts, {"same": 100, "little more": 100, "more": 100}) == ["more", "without"]


def test_interpreter_of_an_environment_keeps_its_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python finds the libraries of an environment beside the link, not beside its destination."""
    (tmp_path / "python").symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path)
    assert instructions.interpreter("./python") == str(tmp_path / "python")
    with pytest.raises(argparse.ArgumentTypeError, match="there is no program"):
        instructions.interpreter("./missing")


def test_version_of_an_interpreter_is_that_of_the_budget() -> None:
    assert instructions.python(sys.executable) == "CPython {}.{}".format(*sys.version_info)


def test_row_of_interpreters_has_the_median_of_the_shares_in_each_round() -> None:
    first = [100e-6, 100e-6, 900e-6]  # the last round on a machine that was busy
    other = [80e-6, 100e-6, 810e-6]
    assert pythons.row("http", [first, other]) == "| http | 100 µs | 0.90 (0.80 to 1.00) |"


def test_probe_over_its_budget_is_counted_again_and_the_least_count_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    recounts = iter([{"http": (110, 5), "tcp": (50, 0)}, {"http": (120, 5)}])
    asked: list[list[str]] = []

    def count(probes: Sequence[Probe], program: str) -> dict[str, instructions.Count]:
        asked.append([probe.name for probe in probes])
        return next(recounts)

    monkeypatch.setattr(instructions, "count", count)
    counts = {"http": (130, 5), "tcp": (60, 0), "dns": (100, 0)}
    instructions.recount(counts, {"http": 100, "tcp": 50, "dns": 100}, "python3")
    assert asked == [["http", "tcp"], ["http"]]
    assert counts == {"http": (110, 5), "tcp": (50, 0), "dns": (100, 0)}
    assert instructions.exceeded(counts, {"http": 100, "tcp": 50, "dns": 100}) == ["http"]


@pytest.mark.parametrize("path", sorted((exporters.ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.name)
def test_benchmark_starts_exporters_as_users_do(path: Path) -> None:
    """`exporters.ours` is a fork of a process with other imports: its memory and its page faults are not a user's."""
    assert not re.search(r"exporters\.ours\b|import ours\b", path.read_text(encoding="utf-8"))


def test_every_probe_of_the_benchmark_has_a_budget_of_instructions() -> None:
    budget = json.loads(instructions.BUDGET.read_text())
    assert budget["probes"].keys() == {probe.name for probe in PROBES}


@pytest.mark.parametrize(
    ("available", "exporters", "targets", "load"),
    [({5}, {5}, {5}, {5}), ({0, 1}, {0, 1}, {1}, {1}), ({0, 1, 2, 3}, {0, 1}, {2}, {3})],
)
def test_cores_are_divided_among_exporters_targets_and_load(
    available: set[int], exporters: set[int], targets: set[int], load: set[int]
) -> None:
    assert machine.share(available) == machine.Cores(frozenset(exporters), frozenset(targets), frozenset(load))


def test_noise_of_the_machine_is_reported() -> None:
    assert machine.complaints(0.2, 2, 0.001, {"http (ours)": 0.05}) == []
    load, steal, rounds = machine.complaints(7.0, 2, 0.03, {"http (ours)": 0.5, "tcp (ours)": 0.01})
    assert "load average was 7.0" in load
    assert "3.0% of the time" in steal
    assert "rounds of http (ours) differ by 50%" in rounds


def test_steal_is_the_share_of_the_time_that_passed() -> None:
    assert machine.stolen([100, 0, 50, 850, 0, 0, 0, 0], [140, 0, 60, 890, 0, 0, 0, 10]) == pytest.approx(0.1)
    assert len(machine.ticks()) == 8


async def test_pace_answers_every_request_and_counts_failures() -> None:
    """Every third answer is a failed probe, every second one is compressed."""
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        while (await reader.readline()).startswith(b"GET /probe?"):
            await reader.readuntil(b"\r\n\r\n")
            asked += 1
            body = b"# HELP\nprobe_success %d\n" % (asked % 3 != 0)
            body = gzip.compress(body) if asked % 2 else body
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        paced = await pace(port, ["/probe?target=a", "/probe?target=b"], {"Accept": "x"}, rate=500, seconds=0.2)
    assert paced.sent == len(paced.seconds) == asked > 1
    assert paced.wrong == asked // 3
    assert 0 < paced.percentile(0.5) <= paced.percentile(0.99)


def test_percentile_of_errors_ignores_their_signs() -> None:
    errors = [-0.003, 0.001, 0.002, -0.001]
    assert timings.percentile(errors, 0.5) == 0.002
    assert timings.percentile(errors, 0.99) == 0.003


def test_error_above_a_limit_or_the_original_is_reported() -> None:
    good, bad = timings.Errors([0.0002] * 9), timings.Errors([0.0004] * 9)
    assert timings.missed({(100, "ours"): good, (100, "original"): good}) == []
    median, p99 = timings.missed({(100, "ours"): bad, (100, "original"): good})
    assert median == "at 100/s the median error is 0.40 ms, above 0.3 ms"
    assert p99 == "at 100/s the p99 of the errors is 0.40 ms, above the original's"
    assert "| 100 | ours | 9 | 0.40 ms | 0.40 ms | nan ms |" in timings.table({(100, "ours"): bad})


def test_errors_of_probes_that_saw_no_delay_are_kept_apart() -> None:
    errors = timings.Errors()
    errors.add(0.5, 0.4)
    errors.add(0.1, 0.0)
    assert (errors.of_all, errors.of_undelayed) == ([0.5, 0.1], [0.1])


def test_memory_is_judged_by_its_limits() -> None:
    assert str(memory.Verdict("at rest", 58.7, 60, " MiB")) == "| at rest | 58.7 MiB | 60 MiB | met |"
    assert str(memory.Verdict("at rest", 60.1, 60, " MiB")) == "| at rest | 60.1 MiB | 60 MiB | MISSED |"


def test_memory_of_this_process_is_at_least_its_share() -> None:
    size = memory.size(os.getpid())
    assert 0 < size.proportional <= size.resident


def test_growth_beyond_the_allowance_is_reported() -> None:
    counts = {"http": growth.Counts(few=1000, many=1031), "tcp": growth.Counts(few=1000, many=1029)}
    assert growth.exceeded(counts) == ["http"]


def test_share_of_a_full_collection_grows_with_the_objects_made_since_the_last_one(tmp_path: Path) -> None:
    collections = garbage.Collections(tmp_path / "log")
    collections.collect()
    before = collections.share()
    made: list[list[object]] = [[] for _ in range(10_000)]
    assert collections.share() > before
    del made
    assert len((tmp_path / "log").read_text().splitlines()) == 1


def a_level(wanted: float, rate: float, *, keeps_up: bool = True) -> dict[str, Any]:
    times = {"median_seconds": 0.0012, "p99_seconds": 0.0345}
    return {"wanted": wanted, "share": wanted, "rate": rate, "resident": 64 << 20, "keeps_up": keeps_up, **times}


def test_page_about_sizing_has_the_measured_figures() -> None:
    levels = [a_level(0.5, 1000), a_level(0.7, 1433), a_level(0.9, 1700, keeps_up=False)]
    about = {"cpu": "A processor", "python": "Python 3.11", "version": "1.0", "date": "2026-01-01"}
    values = {"resources": {"requests": {"cpu": "250m", "memory": "128Mi"}}}
    text = sizing.page({**about, "probes": {"http": levels, "https": levels}}, values)
    assert "| http | 21,000 | 42,000 | 85,000 |" in text, "rounded down to two digits"
    assert "| http | 70% | 1,433 | 1.2 ms | 34.5 ms | 64 MiB |" in text
    assert "| http | 90% | 1,700 (falls behind) |" in text
    assert re.search(r"^Not measured yet: .*, http3, .*`make sizing ARGS=\".* http3 .*\"` adds", text, re.MULTILINE)
    assert "requests 250m CPU and 128Mi of memory" in text
    assert "is for about 350 plain HTTP probes a second, or 350 over TLS: 5,300 or\n5,300 targets" in text


@pytest.mark.parametrize(("quantity", "number"), [("250m", 0.25), ("2", 2.0), ("1500m", 1.5), ("0.5", 0.5)])
def test_cores_of_a_quantity(quantity: str, number: float) -> None:
    assert sizing.cores(quantity) == number


def test_page_about_sizing_is_up_to_date() -> None:
    """If this fails after a change of the chart, run `python -m benchmarks.sizing --render`."""
    assert sizing.PAGE.exists() == sizing.RESULTS.exists()
    if sizing.PAGE.exists():
        values = yaml.safe_load(sizing.VALUES.read_text())
        assert sizing.PAGE.read_text(encoding="utf-8") == sizing.page(json.loads(sizing.RESULTS.read_text()), values)
