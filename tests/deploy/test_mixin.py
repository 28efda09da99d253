"""The rules of deploy/mixin: promtool tests every alert, and every alert has its severity and its runbook."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.mixin import render
from probe_exporter.prober.failure import Reason
from tests.exporters import ROOT, peer

MIXIN = ROOT / "deploy" / "mixin"
RULES = MIXIN / "rules.yml"
UNIT_TESTS = sorted(MIXIN.glob("unit/*.yml"))
RUNBOOKS = ROOT / "docs" / "runbooks"
MIN_METRICS = 15

Rule = dict[str, Any]


def rules_of(text: str) -> list[Rule]:
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


ALL = rules_of(RULES.read_text(encoding="utf-8"))
ALERTS = {rule["alert"]: rule for rule in ALL if "alert" in rule}
RECORDED = {rule["record"] for rule in ALL if "record" in rule}


def unit_tests(name: str) -> Iterator[dict[str, Any]]:
    """Yield the tests of an alert in the files for promtool."""
    for file in UNIT_TESTS:
        for test in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]:
            yield from (one for one in test.get("alert_rule_test", ()) if one["alertname"] == name)


def promtool(*words: str) -> None:
    done = subprocess.run([peer("promtool"), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda path: path.stem)
def test_alerts_do_what_their_unit_tests_say(file: Path) -> None:
    promtool("test", "rules", str(file))


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--exporter", 'job=~"blackbox|probes",cluster="a"', "--objective", "0.995"),
        ("--runbook", "https://wiki.example.org/ALERT.md", "--severities", "critical", "warning"),
    ],
    ids=["as it is", "job and objective", "runbooks and severities"],
)
def test_promtool_accepts_the_rendered_rules(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    render.main(words)
    (tmp_path / "rules.yml").write_text(capsys.readouterr().out, encoding="utf-8")
    promtool("check", "rules", "--lint=all", str(tmp_path / "rules.yml"))


@pytest.mark.parametrize("name", ALERTS)
def test_alert_has_a_unit_test_in_which_it_fires(name: str) -> None:
    assert any(one.get("exp_alerts") for one in unit_tests(name))


@pytest.mark.parametrize("name", ALERTS)
def test_alert_has_a_severity_a_summary_and_a_runbook(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in render.SEVERITIES
    assert alert["annotations"]["summary"]
    assert alert["annotations"]["runbook_url"] == render.RUNBOOK.replace("ALERT", name)


@pytest.mark.parametrize("name", ALERTS)
def test_runbook_page_has_every_section(name: str) -> None:
    page = (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {name}\n")
    headings = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert headings == ["What it means", "What to look at", "How to mend it", "When to silence it"]


def test_index_of_runbooks_lists_every_alert_once() -> None:
    listed = re.findall(r"\]\((\w+)\.md\)", (RUNBOOKS / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(ALERTS)
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {*ALERTS, "README"}


def test_metrics_of_rules_and_runbooks_exist() -> None:
    reference = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(\w+)`", reference, re.MULTILINE))
    texts = [rule["expr"] for rule in ALL]
    for page in RUNBOOKS.glob("*.md"):
        texts += re.findall(r"```promql\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    texts = [re.sub(r'"[^"]*"', "", text) for text in texts]
    names = {name for text in texts for name in re.findall(r"(?<![:\w])(?:probe|blackbox)_\w+(?!\w*:)", text)}
    assert len(names) > MIN_METRICS
    assert names - documented == set()
    assert {name for text in texts for name in re.findall(r"\b(?:job|instance):[a-z0-9_:]+", text)} <= RECORDED


@pytest.mark.slow
def test_queries_of_runbooks_are_valid(tmp_path: Path) -> None:
    """promtool reads them as the rules of one file."""
    rules = [
        {"record": f"{page.stem}:query_{number}", "expr": query}
        for page in sorted(RUNBOOKS.glob("*.md"))
        for number, query in enumerate(re.findall(r"```promql\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
    ]
    assert len(rules) > len(ALERTS)
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    promtool("check", "rules", str(tmp_path / "rules.yml"))


def test_every_reason_belongs_to_one_alert() -> None:
    """The target is down, its certificate is bad, or the exporter could not probe."""
    at_target = reasons_in(ALERTS["ProbeFailed"])
    certificate = reasons_in(ALERTS["CertificateNotTrusted"])
    own = reasons_in(ALERTS["ProbeMisconfigured"])
    assert at_target == certificate | own
    assert not certificate & own
    assert own == {"target_invalid", "target_denied", "settings_unusable", "icmp_permission", "internal_error"}
    assert certificate == {str(reason) for reason in Reason if str(reason).startswith("certificate_")}


def test_reasons_that_are_not_the_targets_fault_are_the_same_everywhere() -> None:
    lists = re.findall(r'reason[=!]~"(?:certificate_\.\+\|)?(\w+\|[^"]+)"', RULES.read_text(encoding="utf-8"))
    assert len(lists) == RULES.read_text(encoding="utf-8").count("target_denied")
    assert len(set(lists)) == 1


def reasons_in(rule: Rule) -> set[str]:
    """Return the reasons that the expression of a rule selects."""
    (pattern,) = re.findall(r'reason=~"([^"]+)"', rule["expr"])
    return {str(reason) for reason in Reason if re.fullmatch(pattern, str(reason))}


def test_render_changes_nothing_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    render.main([])
    assert capsys.readouterr().out == RULES.read_text(encoding="utf-8")


def test_render_replaces_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    render.main(
        ["--exporter", 'job="blackbox"', "--objective", "0.99", "--runbook", "https://wiki.example.org/a/?title=ALERT",
         "--severities", "critical", "warning"]
    )  # fmt: skip
    written = rules_of(capsys.readouterr().out)
    assert len(written) == len(ALL)
    text = "".join(rule["expr"] for rule in written)
    assert 'job="probe-exporter"' not in text
    assert text.count('job="blackbox"') == "".join(rule["expr"] for rule in ALL).count(render.EXPORTER)
    (objective,) = [rule["expr"] for rule in written if rule.get("record") == "job:probe_objective:ratio"]
    assert objective.startswith("0.99 * group by (job)")
    for rule in written:
        if "alert" in rule:
            assert rule["labels"]["severity"] in {"critical", "warning"}
            assert rule["annotations"]["runbook_url"] == f"https://wiki.example.org/a/?title={rule['alert']}"


def test_render_writes_a_resource_of_the_operator(capsys: pytest.CaptureFixture[str]) -> None:
    render.main(["--operator"])
    resource = yaml.safe_load(capsys.readouterr().out)
    assert (resource["apiVersion"], resource["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert resource["spec"] == yaml.safe_load(RULES.read_text(encoding="utf-8"))


@pytest.mark.parametrize("objective", ["99.9", "0", "1", "much"])
def test_render_refuses_an_objective_that_is_no_share(objective: str) -> None:
    with pytest.raises(SystemExit):
        render.main(["--objective", objective])


PAGE = (ROOT / "docs" / "alerting.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
def test_promtool_accepts_the_configurations_of_the_page(tmp_path: Path) -> None:
    shutil.copy(RULES, tmp_path)
    scraping, objectives, _ = BLOCKS
    (tmp_path / "prometheus.yml").write_text(scraping)
    promtool("check", "config", "--lint=all", str(tmp_path / "prometheus.yml"))
    rules = {"groups": [{"name": "objectives", "rules": yaml.safe_load(objectives)}]}
    (tmp_path / "own.yml").write_text(yaml.safe_dump(rules))
    promtool("check", "rules", "--lint=all", str(tmp_path / "own.yml"))


def test_inhibitions_of_the_page_name_alerts() -> None:
    for rule in yaml.safe_load(BLOCKS[2])["inhibit_rules"]:
        for (matcher,) in (rule["source_matchers"], rule["target_matchers"]):
            pattern = re.fullmatch(r'alertname=~?"(.+)"', matcher)
            assert pattern is not None
            for name in pattern[1].split("|"):
                assert any(re.fullmatch(name, alert) for alert in ALERTS), name


def test_commands_of_the_page_are_accepted() -> None:
    text = PAGE.replace("\\\n", " ")
    commands = re.findall(r"^python -m deploy\.mixin\.render (.*?) [|>]", text, re.MULTILINE)
    assert len(commands) == 2
    for words in commands:
        render.parser().parse_args(shlex.split(words))


def test_options_of_the_page_are_those_of_the_program() -> None:
    documented = set(re.findall(r"^\| `(--[a-z]+)`", PAGE, re.MULTILINE))
    assert documented == set(re.findall(r"--[a-z]+", render.parser().format_help())) - {"--help"}
