"""The Helm chart: what it renders is what API servers accept, what the exporter runs with, and what is checked in."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # it has annotations, and no py.typed
import pytest
import yaml

from probe_exporter.version import VERSION
from tests import exporters
from tests.peers.test_prometheus import ask, wait_for_value
from tests.programs import find

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "probe-exporter"
RENDER = [sys.executable, str(ROOT / "deploy" / "render.py")]
"""Helm's engine runs in a process of its own: it brings the runtime of Go, with threads and signal handlers."""

SETS = sorted(path.stem for path in (ROOT / "tests" / "deploy" / "values").glob("*.yml"))
VERSIONS = ["1.25", "1.31", "1.37"]
"""The oldest that the chart claims, one with a preStop sleep, and the newest whose schemas are there."""

NOT_OF_KUBERNETES = ("monitoring.coreos.com/", "gateway.networking.k8s.io/", "autoscaling.k8s.io/")
"""Groups of objects whose definitions are installed separately."""

Object = dict[str, Any]


def run_render(*arguments: str, values: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run deploy/render.py, with these values as its last file if there are any."""
    files = [] if values is None else ["/dev/stdin"]
    return subprocess.run([*RENDER, *arguments, *files], input=values, capture_output=True, text=True, timeout=600)


@functools.cache
def rendered(name: str | None = None, *, values: str | None = None) -> list[Object]:
    """Return the objects that the chart makes of a set of values, of these values, or of both."""
    done = run_render(*([str(ROOT / "tests" / "deploy" / "values" / f"{name}.yml")] if name else []), values=values)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def only(objects: list[Object], kind: str) -> Object:
    """Return the one object of this kind."""
    (found,) = [one for one in objects if one["kind"] == kind]
    return found


def pod(objects: list[Object]) -> Object:
    """Return the specification of the pods."""
    (workload,) = [one for one in objects if one["kind"] in {"Deployment", "DaemonSet"}]
    found: Object = workload["spec"]["template"]["spec"]
    return found


def container(objects: list[Object]) -> Object:
    """Return the exporter's container."""
    found: Object = pod(objects)["containers"][0]
    return found


# --- files that are generated ----------------------------------------------------------------------------------------


def test_generated_files_are_up_to_date() -> None:
    """If this fails, run `make manifests` and review the diff."""
    done = run_render("--check")
    assert done.returncode == 0, done.stderr


def test_chart_is_of_this_version() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))["appVersion"] == VERSION


# --- API servers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", SETS)
def test_objects_are_valid_for_kubernetes(name: str, version: str) -> None:
    checked = []
    for one in rendered(name, values=f"kubeVersionOverride: {version}.0"):
        if not one["apiVersion"].startswith(NOT_OF_KUBERNETES):
            kubernetes_validate.validate(one, version, strict=True)
            checked.append(one["kind"])
    assert {"Deployment", "PodDisruptionBudget", "Service", "ServiceAccount"} <= set(checked)


def problems(objects: list[Object]) -> list[str]:
    """Return what the operator's own types reject. Without their models, skip the test; in CI, fail it."""
    models = os.environ.get("PROBE_EXPORTER_OPERATOR_MODELS")
    if models is None:
        message = "PROBE_EXPORTER_OPERATOR_MODELS does not name the directory that .ci/operator-models prints"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(message)
    command = [find("node"), str(Path(__file__).with_name("operator.mjs")), models]
    done = subprocess.run(command, input=json.dumps(objects), capture_output=True, text=True, timeout=600, check=True)
    found: list[str] = json.loads(done.stdout)
    return found


def of_operator(name: str) -> list[Object]:
    """Return the objects of the operator that the chart makes of a set of values."""
    return [one for one in rendered(name) if one["apiVersion"].startswith("monitoring.coreos.com/")]


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("community", {"ServiceMonitor", "PrometheusRule"}),
        ("operator", {"ServiceMonitor", "Probe", "ScrapeConfig"}),
    ],
)
def test_objects_are_valid_for_the_operator(name: str, kinds: set[str]) -> None:
    objects = of_operator(name)
    assert {one["kind"] for one in objects} == kinds
    assert problems(objects) == []


def test_check_of_the_operators_objects_finds_wrong_and_unknown_keys() -> None:
    (probe, *_) = [one for one in of_operator("operator") if one["kind"] == "Probe"]
    wrong = {**probe, "spec": {**probe["spec"], "interval": 30}}
    unknown = {**probe, "spec": {**probe["spec"], "targets": {"static": {}}}}
    found = problems([wrong, unknown])
    assert len(found) == 2
    assert "interval" in found[0]
    assert found[1].endswith("unknown key /spec/targets/static")


# --- the exporter ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_exporter_accepts_its_arguments_and_configuration(name: str, tmp_path: Path) -> None:
    objects = rendered(name)
    arguments = container(objects)["args"]
    assert arguments[0] == "--config.file=/config/blackbox.yaml"
    kind, key = ("Secret", "stringData") if name == "community" else ("ConfigMap", "data")
    configuration = next(one for one in objects if one["kind"] == kind and one["metadata"]["name"] != "further")
    file = tmp_path / "blackbox.yaml"
    file.write_text(configuration[key]["blackbox.yaml"], encoding="utf-8")
    done = exporters.run_ours(ROOT, f"--config.file={file}", "--config.check", *arguments[1:])
    assert done.returncode == 0, done.stderr


def test_pods_live_long_enough_to_drain() -> None:
    spec = pod(rendered("defaults"))
    drain = 20
    assert spec["terminationGracePeriodSeconds"] == 25
    assert container(rendered("defaults"))["lifecycle"]["preStop"]["sleep"]["seconds"] + drain < 25


def test_sleep_before_the_stop_is_left_out_where_kubernetes_has_none() -> None:
    assert "lifecycle" not in container(rendered("defaults", values="kubeVersionOverride: 1.25.0"))


@pytest.mark.parametrize(
    ("values", "workers"),
    [
        ("{}", "1"),
        ("resources: {requests: {cpu: 1500m}}", "2"),
        ("resources: {requests: {cpu: 3}}", "3"),
        ("resources: {requests: null}", "1"),
        ("resources: {limits: {cpu: 500m}}", "auto"),
        ("workers: 4", "4"),
    ],
)
def test_workers_follow_the_cpu_of_the_pod_and_never_that_of_the_node(values: str, workers: str) -> None:
    """Without a CPU limit `auto` would start one worker for each core of the node."""
    assert f"--workers={workers}" in container(rendered(values=values))["args"]


def test_container_has_no_cpu_limit_no_privileges_and_a_read_only_root() -> None:
    exporter = container(rendered("defaults"))
    assert set(exporter["resources"]["requests"]) == {"cpu", "memory"}
    assert set(exporter["resources"]["limits"]) == {"memory"}
    security = exporter["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert (security["readOnlyRootFilesystem"], security["allowPrivilegeEscalation"]) == (True, False)
    assert {one["name"] for one in pod(rendered("defaults"))["securityContext"]["sysctls"]} == {
        "net.ipv4.ping_group_range"
    }


# --- values ----------------------------------------------------------------------------------------------------------


def test_values_of_the_community_chart_keep_their_meaning() -> None:
    objects = rendered("community")
    exporter = container(objects)
    assert exporter["image"] == f"images.example.org/probe-exporter:{VERSION}"
    assert exporter["args"][-2:] == ["--history.limit=1000", "--log.level=warn"]
    assert "sysctls" not in pod(objects)["securityContext"]  # forbidden with hostNetwork
    assert only(objects, "PodDisruptionBudget")["spec"]["minAvailable"] == 1
    assert "maxUnavailable" not in only(objects, "PodDisruptionBudget")["spec"]
    assert only(objects, "Ingress")["spec"]["rules"][0]["host"] == "blackbox.example.org"
    assert only(objects, "PrometheusRule")["metadata"]["namespace"] == "rules"
    monitors = {one["metadata"]["name"]: one for one in objects if one["kind"] == "ServiceMonitor"}
    assert set(monitors) == {"blackbox", "blackbox-home", "blackbox-database", "blackbox-by-name"}
    (endpoint,) = monitors["blackbox-database"]["spec"]["endpoints"]
    assert endpoint["params"] == {"module": ["tcp_connect"], "target": ["db.example.org:5432"]}
    assert (endpoint["interval"], endpoint["scrapeTimeout"]) == ("15s", "10s")


def test_pods_of_a_probed_service_differ_in_no_label() -> None:
    """So Prometheus makes one target of all pods. With one per pod, each would probe every target."""
    for one in rendered("community"):
        if one["kind"] == "ServiceMonitor" and one["metadata"]["name"] != "blackbox":
            address, drop, instance, *_ = one["spec"]["endpoints"][0]["relabelings"]
            assert (address["targetLabel"], address["replacement"]) == ("__address__", "blackbox.monitoring.svc:9115")
            assert drop == {"action": "labeldrop", "regex": "pod|container|node|endpoint"}
            assert instance["targetLabel"] == "instance"


def test_rules_are_those_of_the_mixin_for_the_job_of_the_release(tmp_path: Path) -> None:
    rule = only(rendered("community", values="prometheusRule: {defaultRules: true}"), "PrometheusRule")
    assert problems([rule]) == []
    spec = rule["spec"]
    text = json.dumps(spec)
    assert 'job=\\"probe-exporter\\"' not in text
    assert 'job=\\"blackbox\\"' in text
    mixin = yaml.safe_load((ROOT / "deploy" / "mixin" / "rules.yml").read_text(encoding="utf-8"))
    assert [group["name"] for group in spec["groups"]] == [
        *(group["name"] for group in mixin["groups"]),
        "probe-exporter.rules",
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump(spec), encoding="utf-8")
    done = subprocess.run([exporters.peer("promtool"), "check", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_default_rules_can_be_left_out() -> None:
    assert only(rendered(values="prometheusRule: {enabled: true, defaultRules: false}"), "PrometheusRule")["spec"] == {
        "groups": []
    }


def test_configuration_file_among_the_extra_arguments_replaces_the_charts() -> None:
    """The exporter would read both; the original reads the last one."""
    arguments = container(rendered(values="extraArgs: [--config.file=/etc/mine.yml]"))["args"]
    assert [one for one in arguments if one.startswith("--config.file")] == ["--config.file=/etc/mine.yml"]


def test_null_turns_off_what_is_on_by_default() -> None:
    objects = rendered(values="{config: null, podDisruptionBudget: null, maxConnectionAge: null}")
    assert {one["kind"] for one in objects} == {"Deployment", "Service", "ServiceAccount"}
    assert container(objects)["args"] == ["--workers=1"]
    assert "volumes" not in pod(objects)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("replicas: two", "replicas"),
        ("image: {name: x}", "name"),
        ("serviceMonitor: {targets: [{name: x}]}", "url"),
        ("serviceMonitor: {defaults: {interval: 30}}", "interval"),
        ("image: {digest: latest}", "digest"),
        ("probe: {enabled: true, probes: [{name: x}]}", "probes"),
        ("kind: StatefulSet", "kind"),
        ("podMonitoring: {enabled: true}", "podMonitoring is not supported"),
    ],
)
def test_wrong_values_are_rejected(values: str, message: str) -> None:
    done = run_render(values=values)
    assert done.returncode == 1
    assert message in done.stderr


# --- Prometheus ------------------------------------------------------------------------------------------------------


def test_prometheus_probes_a_target_once_however_many_pods_there_are(tmp_path: Path) -> None:
    """Give a real Prometheus two pods of the Service, with the labels that the operator sets, and our relabelings."""
    (monitor,) = [one for one in rendered("community") if one["metadata"]["name"] == "blackbox-home"]
    endpoint = monitor["spec"]["endpoints"][0]
    pods = [{"pod": name, "container": "blackbox-exporter", "endpoint": "http", "node": name} for name in "ab"]
    names = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    with exporters.ours(tmp_path) as exporter:
        address = f"127.0.0.1:{exporter.port}"
        url = f"http://{address}/-/healthy"
        text = json.dumps([{names.get(k, k): v for k, v in one.items()} for one in endpoint["relabelings"]])
        scrape = {
            "job_name": "blackbox",
            "scrape_interval": "10s",
            "metrics_path": endpoint["path"],
            "params": {**endpoint["params"], "target": [url]},
            "static_configs": [{"targets": [f"192.0.2.{n}:9115"], "labels": one} for n, one in enumerate(pods)],
            "relabel_configs": json.loads(text.replace("blackbox.monitoring.svc:9115", address)),
        }
        config = tmp_path / "prometheus.yml"
        config.write_text(yaml.safe_dump({"scrape_configs": [scrape]}), encoding="utf-8")
        with exporters.prometheus(tmp_path, f"--config.file={config.name}") as prometheus:
            found = asyncio.run(_targets_after_a_probe(prometheus))
    assert [one["labels"] for one in found] == [
        {"job": "blackbox", "instance": "https://example.org/", "target": "home", "module": "http_2xx"}
    ]


async def _targets_after_a_probe(prometheus: exporters.Server) -> list[Object]:
    """Wait until a probe's result has arrived. Return all targets that Prometheus scrapes."""
    await wait_for_value(prometheus, 'count(probe_success{instance="https://example.org/"} == 1)', 1)
    found: list[Object] = (await ask(prometheus, "targets"))["activeTargets"]
    return found
