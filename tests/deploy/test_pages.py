"""The pages in docs/deploy: their blocks are what the chart, the exporter and systemd accept."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.deploy.test_helm import only, rendered
from tests.exporters import run_ours

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "deploy"
KUBERNETES = re.findall(r"```yaml\n(.*?)```", (PAGES / "kubernetes.md").read_text(encoding="utf-8"), re.DOTALL)
VALUES = [text for text in KUBERNETES if not text.startswith(("apiVersion:", "rules:"))]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("values", VALUES, ids=[text.partition(":")[0] for text in VALUES])
def test_values_on_the_page_of_kubernetes_are_rendered(values: str) -> None:
    assert only(rendered(values=values), "Deployment")


def test_kustomization_on_the_page_of_kubernetes_names_the_image_of_the_manifests() -> None:
    (text,) = [text for text in KUBERNETES if text.startswith("apiVersion:")]
    deployment = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "deployment.yaml").read_text(encoding="utf-8"))
    image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    assert [one["name"] for one in yaml.safe_load(text)["images"]] == [image.partition(":")[0]]


def test_metrics_of_the_adapter_are_those_that_the_chart_scales_on() -> None:
    (text,) = [text for text in KUBERNETES if text.startswith("rules:")]
    rules = yaml.safe_load(text)["rules"]["custom"]
    served = {rule.get("name", {}).get("as") or rule["seriesQuery"].partition("{")[0] for rule in rules}
    scaling = only(rendered("operator"), "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert {one["pods"]["metric"]["name"] for one in scaling if one["type"] == "Pods"} == served
    metrics = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert all(rule["seriesQuery"].partition("{")[0] in metrics for rule in rules)


@pytest.mark.parametrize("name", ["systemd.md", "containers.md"])
def test_flags_on_the_page_are_accepted(name: str, tmp_path: Path) -> None:
    """Flags whose values are files of the target machine get one that exists here."""
    text = (PAGES / name).read_text(encoding="utf-8")
    flags = set(re.findall(r"--(?:web|config|workers|history|log|modules)[a-z.-]*=[^\s`]+", text))
    assert flags
    (tmp_path / "blackbox.yml").write_text("modules: {m: {prober: tcp}}\n", encoding="utf-8")
    local = [re.sub(r"=/etc/probe-exporter.*", f"={tmp_path}", flag) for flag in sorted(flags)]
    done = run_ours(ROOT, "--config.check", *local)
    assert done.returncode == 0, done.stderr
