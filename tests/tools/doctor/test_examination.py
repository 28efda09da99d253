"""Test `probe-exporter doctor` as a whole: all checks, both formats, exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from probe_exporter.network import resolv_conf
from tests.exporters import ROOT
from tests.processes import free_port
from tests.tools.test_new import tool_here

CHECKS = [
    "configuration",
    "listen",
    "history",
    "open files",
    "source ports",
    "ping",
    "ipv6",
    "name servers",
    "authorities",
    "clock",
]


@pytest.fixture(autouse=True)
def no_name_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no packet leave this machine."""
    (tmp_path / "resolv.conf").write_text("nameserver 127.255.255.253\n")
    monkeypatch.setattr(resolv_conf, "RESOLV_CONF", tmp_path / "resolv.conf")


def test_doctor_reports_every_check_and_exits_with_1_if_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("doctor", "--output=json", f"--web.listen-address=127.0.0.1:{free_port()}", "--history.path=none/file")
    code, out, errors = tool_here(tmp_path, monkeypatch, capsys, *words)
    document = json.loads(out)
    assert (code, errors, document["healthy"]) == (1, "", False)
    assert [check["check"] for check in document["checks"]] == CHECKS
    verdicts = {check["check"]: check["verdict"] for check in document["checks"]}
    assert (verdicts["history"], verdicts["name servers"], verdicts["listen"]) == ("fail", "fail", "pass")
    assert all(check["fix"] for check in document["checks"] if check["verdict"] in ("warn", "fail"))


def test_documentation_explains_every_check() -> None:
    text = (ROOT / "docs" / "terminal.md").read_text(encoding="utf-8")
    section = text.partition("## Check this machine")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(.*?)` \|", section, re.MULTILINE) == CHECKS
    assert re.findall(r"^(?:pass|warn|fail|skip)  (.*?)  ", section, re.MULTILINE) == CHECKS


def test_doctor_prints_text_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = tool_here(tmp_path, monkeypatch, capsys, "doctor", f"--web.listen-address=127.0.0.1:{free_port()}")
    assert code == 1
    assert "\x1b" not in out
    assert [line.split("  ")[1] for line in out.splitlines() if line[0] != " "] == CHECKS
