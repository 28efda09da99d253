"""Test the parts of the benchmarks that can be wrong without anybody noticing."""

from __future__ import annotations

import json

from benchmarks import instructions
from benchmarks.probes import PROBES

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


def test_every_probe_of_the_benchmark_has_a_budget_of_instructions() -> None:
    budget = json.loads(instructions.BUDGET.read_text())
    assert budget["probes"].keys() == {probe.name for probe in PROBES}
