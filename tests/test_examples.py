"""Tests of examples/: the programs run, promtool accepts every configuration, and a real Prometheus runs most of them.

The tests change targets, addresses and intervals of a configuration. Discovery in a cluster is replaced by a list with
the labels that it would find; the relabeling stays. tests/peers has the tests of prometheus.yml and
prometheus-parameters.yml.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import runpy
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import prometheus_client
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests import exporters, namespaces
from tests.deploy.test_helm import problems
from tests.discovery.test_dns import says
from tests.exporters import ROOT, Server, peer
from tests.peers.test_prometheus import ARRIVES_WITHIN, LOOKS_EVERY, ask, wait_for_value
from tests.processes import free_port, listening, running
from tests.targets import Site, reply
from tests.targets.dns import record
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples"
CONFIGURATIONS = sorted([*EXAMPLES.glob("prometheus*.yml"), *EXAMPLES.glob("vantage/*.yml")])
RESOURCES = sorted(EXAMPLES.glob("operator/*.yml"))
Json = dict[str, Any]

GROWING, STILL = "myapp_processed_ops_total", "myapp_processed_ops_total1"


@contextmanager
def example(name: str, directory: Path) -> Iterator[int]:
    """Run one of the programs on a free port, its only argument."""
    port = free_port()
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), str(port)]
    with running(command, directory, directory / f"{name}.log", listening(port)):
        yield port


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        body: bytes = answer.read()
    return body.decode()


def value(text: str, name: str) -> float:
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return next(sample.value for sample in samples if sample.name == name)


def test_instrumented_app_counts_every_two_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    with example("instrumented_app", tmp_path) as port:
        first = value(scrape(port), GROWING)
        wait_until(lambda: value(scrape(port), GROWING) > first)

    class Enough(Exception):
        pass

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise Enough

    monkeypatch.setattr(time, "sleep", pause)
    monkeypatch.setattr(prometheus_client, "start_http_server", lambda port: None)
    application = runpy.run_path(str(ROOT / "examples" / "instrumented_app.py"))
    with pytest.raises(Enough):
        application["main"]()
    prometheus_client.REGISTRY.unregister(application["PROCESSED"])
    assert pauses == [2, 2, 2]


def test_smallest_exporter_exposes_one_counter(tmp_path: Path) -> None:
    with example("smallest_exporter", tmp_path) as port:
        lines = scrape(port).splitlines()
    assert lines[0].startswith(f"# HELP {STILL} ")
    assert lines[1:] == [f"# TYPE {STILL} counter", f'{STILL}{{date="Thursday"}} 1622']


def test_prometheus_scrapes_both_examples(tmp_path: Path) -> None:
    with example("instrumented_app", tmp_path) as growing, example("smallest_exporter", tmp_path) as still:
        jobs = [{"job_name": "app", "static_configs": [{"targets": [f"127.0.0.1:{growing}", f"127.0.0.1:{still}"]}]}]
        config = tmp_path / "prometheus.yml"
        config.write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
        with exporters.prometheus(tmp_path, f"--config.file={config.name}") as prometheus:
            asyncio.run(_arrives(prometheus))


async def _arrives(prometheus: exporters.Server) -> None:
    await wait_for_value(prometheus, f"count({GROWING} >= 2)", 1)
    await wait_for_value(prometheus, f'count({STILL}{{date="Thursday"}} == 1622)', 1)
    await wait_for_value(prometheus, 'sum(up{job="app"})', 2)


def test_exporter_prober_probes_both_examples(tmp_path: Path) -> None:
    """The application has no lint findings; the smallest exporter has a counter with an unusual name."""
    with (
        example("instrumented_app", tmp_path) as growing,
        example("smallest_exporter", tmp_path) as still,
        exporters.ours(tmp_path) as exporter,
    ):
        for port, findings, samples in ((growing, 0, 12), (still, 1, 1)):
            text = asyncio.run(exporter.probe("exporter", f"localhost:{port}")).text
            assert value(text, "probe_success") == 1
            assert value(text, "probe_exporter_healthy") == 1
            assert sum_of(text, "probe_exporter_lint_findings") == findings
            assert f'probe_exporter_samples{{type="counter"}} {samples}\n' in text
        strict = asyncio.run(exporter.probe("exporter_strict", f"localhost:{still}")).text
        assert 'probe_failure_info{phase="lint",reason="exporter_lint"} 1\n' in strict


def sum_of(text: str, name: str) -> float:
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == name)


def test_index_lists_every_file() -> None:
    """The README of a folder below counts as the folder."""
    linked = set(re.findall(r"\]\(([^)#]+)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8")))
    files = {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*") if path.is_file()}
    files = {name for name in files if "__pycache__" not in name and not name.startswith("vantage/")} - {"README.md"}
    assert files | {"vantage/README.md", "../docs/alerting.md"} == linked


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=lambda path: path.stem)
def test_promtool_accepts_the_configuration(file: Path) -> None:
    assert not promtool_complaints(file)


@pytest.mark.parametrize("file", RESOURCES, ids=lambda path: path.stem)
def test_promtool_accepts_what_the_operator_makes_of_the_resource(file: Path, tmp_path: Path) -> None:
    jobs = [scrape_config(one) for one in yaml.safe_load_all(file.read_text(encoding="utf-8"))]
    assert len(jobs) > 1
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": jobs}))
    assert not promtool_complaints(tmp_path / "prometheus.yml")


@pytest.mark.parametrize("file", RESOURCES, ids=lambda path: path.stem)
def test_resource_is_valid_for_the_operator(file: Path) -> None:
    assert problems(list(yaml.safe_load_all(file.read_text(encoding="utf-8")))) == []


def promtool_complaints(file: Path) -> str:
    """Return what promtool says about a configuration that it does not accept."""
    command = [peer("promtool"), "check", "config", "--lint=all", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout + done.stderr if done.returncode else ""


def scrape_config(resource: Json) -> Json:
    """Return the scrape configuration of a ScrapeConfig, or of the targets of a Probe."""
    spec = resource["spec"]
    if resource["kind"] == "ScrapeConfig":
        return {
            "job_name": spec["jobName"],
            "metrics_path": spec["metricsPath"],
            "scrape_interval": spec["scrapeInterval"],
            "scrape_timeout": spec["scrapeTimeout"],
            "params": spec.get("params", {}),
            "static_configs": spec.get("staticConfigs", []),
            "http_sd_configs": [snake_case(one) for one in spec.get("httpSDConfigs", ())],
            "relabel_configs": [snake_case(one) for one in spec["relabelings"]],
        }
    assert resource["kind"] == "Probe"
    targets = spec["targets"]
    lists = targets.get("staticConfig")
    to_prober = [
        {"source_labels": ["__address__"], "target_label": "__param_target"},
        {"target_label": "__address__", "replacement": spec["prober"]["url"]},
    ]
    return {
        "job_name": spec["jobName"],
        "metrics_path": spec["prober"]["path"],
        "scrape_interval": spec["interval"],
        "scrape_timeout": spec["scrapeTimeout"],
        "params": {"module": [spec["module"]]},
        "static_configs": [{"targets": lists["static"], "labels": lists["labels"]}] if lists else [],
        "relabel_configs": [
            *to_prober,
            *(snake_case(one) for one in targets.get("ingress", {}).get("relabelingConfigs", ())),
        ],
    }


def snake_case(block: Json) -> Json:
    """Return a block of the operator with the keys of Prometheus."""
    return {re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", key): value for key, value in block.items()}


PAGES = [f"/{name}" for name in "abcdefgh"]
SHARDS = ("0", "1", "2")

OFFICE = """
modules: {http_2xx: {prober: http}, tcp_connect: {prober: tcp}}
discovery:
  sites: {file: sites.yml, module: http_2xx}
"""
"""The configuration of the exporter of all jobs but those of the agent `home`."""

INGRESS = {
    "__meta_kubernetes_ingress_annotation_probe": "true",
    "__meta_kubernetes_ingress_scheme": "http",
    "__meta_kubernetes_ingress_path": "/a",
    "__meta_kubernetes_ingress_name": "shop",
    "__meta_kubernetes_namespace": "web",
}
SERVICE = {
    "__meta_kubernetes_service_annotation_probe_module": "tcp_connect",
    "__meta_kubernetes_service_name": "db",
    "__meta_kubernetes_namespace": "data",
}


@dataclass(frozen=True)
class ExampleStack:
    """A site as target, an exporter, and a directory for the files of Prometheus."""

    directory: Path
    site: Site
    exporter: Server

    def jobs(self, name: str) -> dict[str, Json]:
        """Return the jobs of an example by name, with the exporter's address and a short interval."""
        text = (EXAMPLES / name).read_text(encoding="utf-8")
        text = re.sub(r"(127\.0\.0\.1|probe-exporter\.monitoring\.svc):9115", f"127.0.0.1:{self.exporter.port}", text)
        jobs = yaml.safe_load(text)["scrape_configs"]
        return {job["job_name"]: job | {"scrape_interval": "10s", "scrape_timeout": "10s"} for job in jobs}

    def write(self, name: str, config: Json) -> str:
        """Write a configuration, and return the flag for it."""
        (self.directory / name).write_text(yaml.safe_dump(config))
        return f"--config.file={name}"

    def files(self) -> Iterator[Json]:
        """Yield the jobs that read targets from a file, one of them for each shard."""
        entries = [
            {"targets": [self.site.fill("http://127.0.0.1:{port}") + page for page in PAGES],
             "labels": {"module": "http_2xx", "team": "shop"}},
            {"targets": [self.site.fill("127.0.0.1:{port}")], "labels": {"module": "tcp_connect"}},
        ]  # fmt: skip
        (self.directory / "targets").mkdir()
        (self.directory / "targets" / "all.yml").write_text(yaml.safe_dump(entries))
        yield self.jobs("prometheus-files.yml")["inventory"]
        job = self.jobs("prometheus-sharding.yml")["sharded"]
        keep = next(rule for rule in job["relabel_configs"] if rule.get("action") == "keep")
        assert keep["regex"] == SHARDS[0]
        for shard in SHARDS:
            rules = [rule | {"regex": shard} if rule is keep else rule for rule in job["relabel_configs"]]
            yield job | {"job_name": f"shard-{shard}", "relabel_configs": rules}

    def services(self) -> Iterator[Json]:
        """Yield the job that discovers targets by HTTP, and those whose discovery in a cluster is replaced."""
        yield self.jobs("prometheus-http-sd.yml")["discovered"]
        page, nothing = self.site.fill("127.0.0.1:{port}"), self.site.fill("127.0.0.1:{dead}")
        found: dict[str, list[tuple[str, Json]]] = {
            "ingresses": [
                (page, {**INGRESS, "__meta_kubernetes_ingress_host": page}),
                (nothing, {"__meta_kubernetes_ingress_host": nothing}),
                (nothing, INGRESS),
            ],
            "services": [(page, SERVICE), (nothing, {"__meta_kubernetes_service_name": "other"})],
        }
        jobs = self.jobs("prometheus-kubernetes.yml")
        for name, targets in found.items():
            job = {key: value for key, value in jobs[name].items() if not key.endswith("_sd_configs")}
            yield job | {"static_configs": [{"targets": [address], "labels": labels} for address, labels in targets]}

    def central(self) -> Json:
        """Return the configuration of the server, which has all jobs and receives what the agents send."""
        config: Json = yaml.safe_load((EXAMPLES / "vantage" / "central.yml").read_text(encoding="utf-8"))
        rules = [str(EXAMPLES / "vantage" / name) for name in config["rule_files"]]
        own = {"global": {"evaluation_interval": "1s"}, "rule_files": rules}
        return config | own | {"scrape_configs": [*self.files(), *self.services()]}

    def agent(self, vantage: str, server: Server) -> Json:
        """Return the configuration of an agent, which probes a page and a port on which nothing listens."""
        jobs = self.jobs("vantage/agent.yml")
        targets = [self.site.fill("http://127.0.0.1:{port}/a"), self.site.fill("http://127.0.0.1:{dead}/")]
        jobs["web"]["static_configs"] = [{"targets": targets}]
        config: Json = yaml.safe_load((EXAMPLES / "vantage" / "agent.yml").read_text(encoding="utf-8"))
        (write,) = config["remote_write"]
        write["url"] = f"http://127.0.0.1:{server.port}/api/v1/write"
        labels = {"external_labels": {"vantage": vantage}}
        return config | {"global": labels, "scrape_configs": [*jobs.values()]}


Series = list[tuple[dict[str, str], float]]


@dataclass(frozen=True)
class ServerState:
    """What the server has in the end: all series, and its alerts, pending or firing."""

    series: Series
    alerts: list[Json]

    def select(self, job: str, name: str = "probe_success") -> Series:
        """Return the series of a job with a name."""
        return [one for one in self.series if (one[0]["__name__"], one[0].get("job")) == (name, job)]


async def collect(directory: Path) -> ServerState:
    """Run site, exporters, server and two agents; return what the server has.

    The exporter of the agent `home` accepts no page with status 200, so that all targets fail there.
    """
    (directory / "office.yml").write_text(OFFICE)
    (directory / "home.yml").write_text("modules: {http_2xx: {prober: http, http: {valid_status_codes: [404]}}}")
    (directory / "password").write_text("secret")
    async with Site(dict.fromkeys(PAGES, reply(200, b"ok"))) as site:
        (directory / "sites.yml").write_text(site.fill("- targets: ['http://127.0.0.1:{port}/a']"))
        with contextlib.ExitStack() as stack:
            exporter = stack.enter_context(exporters.ours(directory, "--config.file=office.yml"))
            strict = stack.enter_context(exporters.ours(directory, "--config.file=home.yml"))
            stage = ExampleStack(directory, site, exporter)
            flag = stage.write("central-prometheus.yml", stage.central())
            server = stack.enter_context(exporters.prometheus(directory, flag, "--web.enable-remote-write-receiver"))
            for vantage, near in (("home", strict), ("office", exporter)):
                flag = stage.write(f"{vantage}-agent.yml", ExampleStack(directory, site, near).agent(vantage, server))
                (directory / vantage).mkdir()
                agent = exporters.prometheus_agent(directory / vantage, f"--config.file=../{vantage}-agent.yml")
                stack.enter_context(agent)
            await all_arrived(server)
            result = (await ask(server, "query", query='{job=~".+"}'))["result"]
            alerts = await settled_alerts(server)
    return ServerState([(found["metric"], float(found["value"][1])) for found in result], alerts)


def pages_of_web(alerts: list[Json]) -> list[Json]:
    """Return the alerts about the job `web` that page somebody, but for those about an error budget.

    Rules about budgets are evaluated once a minute: they come only if the test lasts that long.
    """
    return [
        one
        for one in alerts
        if (one["labels"].get("job"), one["labels"]["severity"]) == ("web", "page")
        if not one["labels"]["alertname"].startswith("ProbeErrorBudget")
    ]


async def settled_alerts(server: Server) -> list[Json]:
    """Return the alerts once those that stood for half of the series have gone: as long as only one place reports."""
    alerts: list[Json] = []
    for _ in range(round(ARRIVES_WITHIN / LOOKS_EVERY)):
        alerts = (await ask(server, "alerts"))["alerts"]
        if len(pages_of_web(alerts)) == 1:
            break
        await asyncio.sleep(LOOKS_EVERY)
    return alerts


async def all_arrived(server: Server) -> None:
    for job, number in {
        "inventory": len(PAGES) + 1, "shard-.": len(PAGES) + 1, "discovered": 1, "ingresses": 1, "services": 1,
        "web": 4,
    }.items():  # fmt: skip
        await wait_for_value(server, f'count(probe_success{{job=~"{job}"}})', number)
    await wait_for_value(server, 'count(ALERTS{alertname="ProbeFailedFromVantagePoints"})', 1)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> ServerState:
    """Return the result of one run for the tests below."""
    peer("prometheus")
    return asyncio.run(collect(tmp_path_factory.mktemp("examples")))


def test_targets_of_files_have_their_module_and_labels(found: ServerState) -> None:
    results = [(labels["module"], labels.get("team"), value) for labels, value in found.select("inventory")]
    assert sorted(results, key=str) == [("http_2xx", "shop", 1)] * len(PAGES) + [("tcp_connect", None, 1)]


def test_each_shard_probes_its_share_of_the_targets(found: ServerState) -> None:
    shares = [{labels["instance"] for labels, _ in found.select(f"shard-{shard}")} for shard in SHARDS]
    assert sum(map(len, shares)) == len(set.union(*shares)) == len(PAGES) + 1


def test_discovered_targets_are_probed(found: ServerState) -> None:
    ((labels, value),) = found.select("discovered")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/a", labels["instance"])
    assert value == 1


def test_ingress_becomes_a_url(found: ServerState) -> None:
    ((labels, value),) = found.select("ingresses")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/a", labels["instance"])
    assert (labels["namespace"], labels["ingress"], value) == ("web", "shop", 1)


def test_service_is_probed_with_the_module_of_its_annotation(found: ServerState) -> None:
    ((labels, value),) = found.select("services")
    assert (labels["namespace"], labels["service"], value) == ("data", "db", 1)
    assert found.select("services", "probe_tcp_duration_seconds")


WITH_RESOLV_CONF = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"')
"""Execute a program that has another /etc/resolv.conf: its path comes next, then the command."""


class NameServer(asyncio.DatagramProtocol):
    """Has one address of a name and one service of an SRV record, both on loopback."""

    def __init__(self, port: int) -> None:
        self.service = says([record("_ldap._tcp.example.com", "SRV", f"0 0 {port} localhost.")])
        self.address = says([record("www.example.com", "A", "127.0.0.1")])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self.service if b"_ldap" in data.lower() else self.address
        for part in answer(data):
            assert isinstance(part, bytes)
            self.transport.sendto(part, addr)


async def test_prometheus_finds_targets_in_dns(tmp_path: Path) -> None:
    """The name server has an address of loopback of its own, since Prometheus only asks the port 53."""
    namespaces.require()
    (tmp_path / "office.yml").write_text(OFFICE)
    number = free_port()
    address = f"127.53.{number >> 8}.{number & 255}"
    (tmp_path / "resolv.conf").write_text(f"nameserver {address}\n")
    async with Site({}) as site:
        server = NameServer(site["port"])
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: server, (address, 53))
        with contextlib.closing(transport), exporters.ours(tmp_path, "--config.file=office.yml") as exporter:
            stage = ExampleStack(tmp_path, site, exporter)
            flag = stage.write("prometheus.yml", {"scrape_configs": [*stage.jobs("prometheus-dns.yml").values()]})
            through = [*WITH_RESOLV_CONF, str(tmp_path / "resolv.conf")]
            with exporters.prometheus(tmp_path, flag, through=through) as prometheus:
                await wait_for_value(prometheus, f'probe_success{{job="ldap",instance="localhost:{site["port"]}"}}', 1)
                page = "https://127.0.0.1:443/health"
                await wait_for_value(prometheus, f'count(probe_success{{job="every-address",instance="{page}"}})', 1)


def test_vantage_points_page_only_together(found: ServerState) -> None:
    """One target fails from both places, and the other only from home."""
    results = {(labels["vantage"], labels["instance"].endswith("/a")): value for labels, value in found.select("web")}
    assert results == {("home", True): 0, ("office", True): 1, ("home", False): 0, ("office", False): 0}
    (alert,) = pages_of_web(found.alerts)
    assert alert["labels"]["alertname"] == "ProbeFailedFromVantagePoints"
    assert not alert["labels"]["instance"].endswith("/a")
    assert alert["annotations"]["description"].strip() == "home: connect_refused. office: connect_refused."
