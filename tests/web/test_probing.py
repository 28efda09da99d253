"""Test /probe with several modules and with parameters, and /config of them, on an exporter process."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
import yaml

from tests import exporters
from tests.exporters import Response, Server, peer
from tests.http_client import ask
from tests.targets import Site, reply
from tests.waiting import wait_until
from tests.web.test_routes import PLUGINS, hang_up_on

RIVAL = '''
"""A prober whose metric conflicts with the actor's, and that has a label named `module`."""

from probe_exporter import Metric, Probe, Prober, Settings

WORDS = Metric("probe_actor_words", "Otherwise.", ("module",), type="counter")


async def probe_rival(probe: Probe, settings: Settings) -> None:
    """Set the metric."""
    probe.set(WORDS, 7, "core")


prober = Prober("rival", Settings, probe_rival)
'''
SHORTAGE = '''
"""A prober that finds no file descriptor."""

import errno

from probe_exporter import Probe, Prober, Settings
from probe_exporter.prober.failure import check_files


async def probe_shortage(probe: Probe, settings: Settings) -> None:
    """Fail as a socket does."""
    check_files(OSError(errno.EMFILE, "Too many open files"), "connecting")


prober = Prober("shortage", Settings, probe_shortage)
'''
CONFIG = """
modules:
  http_2xx: {prober: actor}
  named: {prober: actor, actor: {host: configured.example}}
  brief: {prober: actor, timeout: 200ms}
  rival: {prober: rival}
  "a,b": {prober: actor, actor: {host: of the comma}}
  a: {prober: actor}
  b: {prober: actor}
  given:
    prober: actor
    params:
      host: {pattern: "[a-z.]*", max_length: 20, default: d.example}
      token: {pattern: ".+"}
    actor: {host: "<${param:host}>", password: "hunter2${param:token}"}
  page:
    prober: http
    params: {limit: {pattern: ".*", default: 1MB}}
    http: {body_size_limit: "${param:limit}"}
  tenant:
    prober: http
    params: {tenant: {pattern: "(?s).*"}}
    http: {headers: {X-Tenant: "t ${param:tenant}"}, http_headers: {X-Other: {values: ["o ${param:tenant}"]}}}
"""
UNKNOWN = "blackbox_module_unknown_total"
INFO = re.compile(r'probe_actor_seen_info\{host="([^"]*)"')


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run one exporter for all tests of this file."""
    directory = tmp_path_factory.mktemp("probing")
    (directory / "blackbox.yml").write_text(CONFIG)
    (directory / "plugins").mkdir()
    (directory / "plugins" / "rival.py").write_text(RIVAL)
    with exporters.ours(directory, f"--modules.dir={PLUGINS}", "--modules.dir=plugins", "--log.level=debug") as running:
        yield running


def probe(
    exporter: Server, module: str, target: str = "x", headers: Mapping[str, str] | None = None, **more: str
) -> Response:
    query = urlencode({"module": module, "target": target, **more}, safe=",")
    return ask(exporter.port, f"/probe?{query}", headers=headers)


def values(body: str, name: str) -> dict[str, float]:
    """Return the values of one metric by its labels as written."""
    found = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", body, re.MULTILINE)
    return {labels: float(value) for labels, value in found}


def own_metric(exporter: Server, name: str) -> float:
    return values(ask(exporter.port, "/metrics").text, name)[""]


def held(exporter: Server) -> list[int]:
    """Return the ids of the probes in the history, newest first."""
    return [int(number) for number in re.findall(r'href="logs\?id=(\d+)"', ask(exporter.port, "/").text)]


# --- several modules -----------------------------------------------------------------------------------------


def test_several_modules_give_one_answer_with_a_module_label(exporter: Server) -> None:
    body = probe(exporter, "named,brief", "two words").text
    assert values(body, "probe_success") == {'module="named"': 1, 'module="brief"': 1}
    assert values(body, "probe_actor_seen_info") == {
        'host="",module="brief",target="two words"': 1,
        'host="configured.example",module="named",target="two words"': 1,
    }
    series = [line for line in body.splitlines() if not line.startswith("#")]
    assert all('module="' in line for line in series)
    for comment in ("HELP", "TYPE"):
        names = re.findall(rf"^# {comment} (\S+)", body, re.MULTILINE)
        assert len(names) == len(set(names)) > 4


def test_several_modules_keep_their_own_results_and_timeouts(exporter: Server) -> None:
    """The timeout of the scrape applies to all, and the timeout of a module to that module."""
    answer = probe(exporter, "http_2xx,brief,named", "wait 0.6", {"X-Prometheus-Scrape-Timeout-Seconds": "60"})
    assert values(answer.text, "probe_success") == {'module="http_2xx"': 1, 'module="brief"': 0, 'module="named"': 1}
    assert values(answer.text, "probe_timeout_seconds") == {
        'module="http_2xx"': 59.5,
        'module="brief"': 0.2,
        'module="named"': 59.5,
    }
    assert values(answer.text, "probe_failure_info") == {'module="brief",phase="acting",reason="timeout_probe"': 1}


def test_several_modules_run_at_once(exporter: Server, tmp_path: Path) -> None:
    """Each probe waits until the other one runs."""
    answer = probe(exporter, "http_2xx,named", f"meet {tmp_path / 'place'}")
    assert values(answer.text, "probe_success") == {'module="http_2xx"': 1, 'module="named"': 1}


@pytest.mark.parametrize("asked", ["named", "named,", ",named", "named,named"])
def test_single_module_has_no_module_label(exporter: Server, asked: str) -> None:
    assert values(probe(exporter, asked).text, "probe_success") == {"": 1}


def test_module_name_with_a_comma_is_matched_exactly_first(exporter: Server) -> None:
    assert INFO.findall(probe(exporter, "a,b").text) == ["of the comma"]
    assert len(values(probe(exporter, "b,a").text, "probe_success")) == 2


def test_repeated_module_parameter_uses_the_first(exporter: Server) -> None:
    body = ask(exporter.port, "/probe?target=x&module=named&module=brief").text
    assert values(body, "probe_success") == {"": 1}
    assert INFO.findall(body) == ["configured.example"]


@pytest.mark.parametrize(
    ("asked", "name"),
    [("named,no_such,brief", "no_such"), ("no_such,neither", "no_such"), (",", ","), ("named, a", " a")],
)
def test_unknown_module_among_several_is_refused_and_none_runs(exporter: Server, asked: str, name: str) -> None:
    before, entries = own_metric(exporter, UNKNOWN), held(exporter)
    answer = probe(exporter, asked)
    assert answer.status == 400
    assert answer.text.startswith(f'Unknown module "{name}"')
    assert own_metric(exporter, UNKNOWN) == before + 1
    assert held(exporter) == entries


@pytest.mark.parametrize(("asked", "nearest"), [("htp_2xx", "http_2xx"), ("name", "named"), ("named,briefe", "brief")])
def test_unknown_module_is_told_the_nearest_name(exporter: Server, asked: str, nearest: str) -> None:
    wrong = asked.rpartition(",")[2]
    answer = probe(exporter, asked)
    line = f'Unknown module "{wrong}"; did you mean `{nearest}`? /config lists all modules\n'
    assert (answer.status, answer.text) == (400, line)


def test_unknown_module_of_any_length_is_shown_shortened(exporter: Server) -> None:
    answer = probe(exporter, "x" * 60_000)
    assert (answer.status, answer.text) == (400, f'Unknown module "{"x" * 100}…". /config lists all modules\n')


@pytest.mark.parametrize(("query", "warned"), [("target=x&target=y", True), ("target=x%26target=y", False)])
def test_second_target_is_a_warning_in_the_debug_log(exporter: Server, query: str, warned: bool) -> None:
    text = ask(exporter.port, f"/probe?module=named&debug=true&{query}").text
    assert ("The query has several target parameters: only the first is used" in text) is warned


def test_number_of_parameters_of_a_request_is_limited(exporter: Server) -> None:
    many = "&".join(f"p{number}=" for number in range(256))
    for path in ("/probe", "/config", "/logs", "/history"):
        answer = ask(exporter.port, f"{path}?target=x&{many}")
        assert (answer.status, answer.text) == (400, "The query has more than 256 parameters\n")


def test_number_of_modules_is_limited(exporter: Server) -> None:
    answer = probe(exporter, ",".join(f"m{number}" for number in range(17)))
    assert (answer.status, answer.text) == (400, "A request may name 16 modules, and this one names 17\n")


def test_conflicting_metric_declarations_give_a_valid_exposition(exporter: Server) -> None:
    answer = probe(exporter, "rival,named")
    assert values(answer.text, "probe_actor_words") == {'module="named"': 1}
    assert values(answer.text, "probe_actor_words_total") == {'exported_module="core",module="rival"': 7}
    done = subprocess.run([peer("promtool"), "check", "metrics"], input=answer.body, capture_output=True, timeout=120)
    assert done.returncode in (0, 3), done.stderr  # 3: promtool only dislikes a name
    assert b"error" not in done.stderr.lower(), done.stderr


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=1.0.0",
        "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
    ],
)
def test_several_modules_are_in_every_exposition_format(exporter: Server, accept: str) -> None:
    answer = probe(exporter, "named,brief", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith(accept.partition(";")[0])
    assert answer.body.count(b"configured.example") == 1
    assert answer.body.count(b"brief") == answer.body.count(b"named") > 3


def test_several_modules_have_separate_history_entries_and_log_lines(exporter: Server) -> None:
    before = held(exporter)[:1] or [-1]
    target = f"fail {time.monotonic_ns()}"
    assert probe(exporter, "named,brief", target).status == 200
    assert [number - before[0] for number in held(exporter)[:2]] == [2, 1]
    for module in ("named", "brief"):
        assert ask(exporter.port, f"/logs?target={quote(target)}&module={module}").status == 200
        line = f'msg="Probe failed" module={module} target="{target}"'
        wait_until(lambda line=line: exporter.log.read_text().count(line) == 1)  # type: ignore[misc]


def test_debug_shows_each_module_with_its_settings(exporter: Server) -> None:
    text = probe(exporter, "named,brief", debug="true").text
    assert re.findall("^Module (.*)$", text, re.MULTILINE)[::2] == ["named", "brief"]
    assert text.count("Logs for the probe:\n") == text.count("Module configuration:\n") == 2
    assert values(text, "probe_success") == {"": 1}, "each module is shown as if requested alone"


def test_disconnected_client_cancels_the_probes_of_all_modules(exporter: Server, tmp_path: Path) -> None:
    def running() -> list[float]:
        found = values(ask(exporter.port, "/metrics").text, "probe_exporter_probes_in_flight")
        return [found.get(f'module="{module}"', 0) for module in ("http_2xx", "named")]

    witness = tmp_path / "witness"
    path = f"/probe?module=http_2xx,named&target=hang+{quote(str(witness))}"
    hang_up_on(exporter, path, lambda: running() == [1, 1])
    wait_until(lambda: running() == [0, 0])
    assert witness.read_text() == "cancelled"
    assert str(witness) not in ask(exporter.port, "/").text


def test_several_modules_take_one_slot_each(tmp_path: Path) -> None:
    """One slot is enough. Without a slot in time the whole request is refused."""
    (tmp_path / "blackbox.yml").write_text(CONFIG.replace("  rival: {prober: rival}\n", ""))
    with exporters.ours(tmp_path, f"--modules.dir={PLUGINS}", "--probe.max-concurrent=1") as crowded:
        answer = probe(crowded, "http_2xx,named", "wait 0.1")
        assert set(values(answer.text, "probe_success").values()) == {1}
        answer = probe(crowded, "http_2xx,named", "wait 10", {"X-Prometheus-Scrape-Timeout-Seconds": "1"})
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert probe(crowded, "named").status == 200, "a slot was not freed"


def test_hostname_and_parameters_apply_to_every_module(exporter: Server) -> None:
    assert INFO.findall(probe(exporter, "http_2xx,brief", hostname="h.example").text) == ["h.example"] * 2
    answer = probe(exporter, "http_2xx,named", hostname="h.example")
    assert (answer.status, answer.text) == (400, 'the module says "configured.example" and the request "h.example"\n')
    assert INFO.findall(probe(exporter, "http_2xx,given", token="t", host="p.example").text) == ["", "<p.example>"]


# --- parameters ----------------------------------------------------------------------------------------------


def test_parameters_reach_the_prober(exporter: Server) -> None:
    assert INFO.findall(probe(exporter, "given", token="t").text) == ["<d.example>"]
    assert INFO.findall(probe(exporter, "given", token="t", host="p.example").text) == ["<p.example>"]
    assert INFO.findall(probe(exporter, "given", token="t", host="").text) == ["<>"]
    assert INFO.findall(probe(exporter, "given", token="t", other="${param:x}").text) == ["<d.example>"]


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({}, 'Module "given" needs the parameter "token", which matches .+'),
        ({"token": ""}, 'The parameter "token" of module "given" does not match .+'),
        ({"token": "t", "host": "A"}, 'The parameter "host" of module "given" does not match [a-z.]*'),
        ({"token": "t", "host": "a\nb"}, 'The parameter "host" of module "given" does not match [a-z.]*'),
        ({"token": "t", "host": "a" * 21}, 'The parameter "host" of module "given" is longer than 20 characters'),
    ],
)
@pytest.mark.parametrize("asked", ["given", "named,given"])
def test_invalid_parameters_are_refused_before_any_probe_runs(
    exporter: Server, asked: str, more: dict[str, str], line: str
) -> None:
    entries = held(exporter)
    answer = probe(exporter, asked, headers=None, **more)
    assert (answer.status, answer.text) == (400, f"{line}\n")
    assert held(exporter) == entries


def test_parameter_that_its_field_rejects_gives_400(exporter: Server) -> None:
    answer = probe(exporter, "page", limit="lots")
    assert answer.status == 400
    assert answer.text.startswith('Module "page" can\'t take these parameters: http.body_size_limit: ')
    assert answer.text.count("\n") == 1


@pytest.mark.parametrize("value", ["blue", "a\r\nX-Injected: yes", "a\nX-Injected: yes", "a\r\n\r\nGET /two HTTP/1.1"])
async def test_parameter_in_a_header_can_not_inject_another(exporter: Server, value: str) -> None:
    async with Site({"/": reply(200)}) as site:
        query = urlencode({"module": "tenant", "target": site.fill("http://127.0.0.1:{port}/"), "tenant": value})
        assert (await exporter.get(f"/probe?{query}")).status == 200
    for request in site.requests:
        assert (request.line, request.all("X-Injected")) == ("GET / HTTP/1.1", [])
        assert [name for name, _ in request.headers].count("X-Tenant") == 1
    if value == "blue":
        assert [request.all("X-Tenant") for request in site.requests] == [["t blue"]]


def test_missing_target_is_reported_before_parameters(exporter: Server) -> None:
    assert ask(exporter.port, "/probe?module=given").text == "The target parameter is missing\n"


def test_debug_shows_the_settings_with_parameters_applied(exporter: Server) -> None:
    text = probe(exporter, "given", f"fail {time.monotonic_ns()}", token="sesame", host="p.example", debug="true").text
    shown = yaml.safe_load(text.partition("Module configuration:\n")[2])
    assert shown == {"prober": "actor", "actor": {"host": "<p.example>", "password": "<secret>"}}
    assert "hunter2" not in text


# --- /config of some modules ---------------------------------------------------------------------------------


def test_config_shows_a_module_with_parameters_applied(exporter: Server) -> None:
    answer = ask(exporter.port, "/config?module=given&host=p.example&token=sesame")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    actor = {"host": "<p.example>", "password": "<secret>"}
    assert yaml.safe_load(answer.text) == {"modules": {"given": {"prober": "actor", "actor": actor}}}
    assert "\n    given:\n        prober: actor\n" in answer.text
    assert "sesame" not in answer.text
    assert "hunter2" not in answer.text


def test_config_shows_several_modules_with_hostname_applied(exporter: Server) -> None:
    shown = yaml.safe_load(ask(exporter.port, "/config?module=brief,http_2xx&hostname=h.example").text)["modules"]
    assert list(shown) == ["brief", "http_2xx"]
    assert [module["actor"]["host"] for module in shown.values()] == ["h.example"] * 2


def test_config_without_a_module_shows_all_with_parameter_declarations(exporter: Server) -> None:
    for query in ("", "?module=", "?path=x&token=y"):
        shown = yaml.safe_load(ask(exporter.port, f"/config{query}").text)["modules"]
        assert shown.keys() == yaml.safe_load(CONFIG)["modules"].keys()
        assert shown["given"]["params"]["host"] == {"pattern": "[a-z.]*", "max_length": 20, "default": "d.example"}
        assert shown["given"]["actor"] == {"host": "<${param:host}>", "password": "<secret>"}


@pytest.mark.parametrize(
    ("query", "status", "line"),
    [
        ("module=no_such", 404, 'Unknown module "no_such". /config lists all modules'),
        ("module=named,no_such", 404, 'Unknown module "no_such". /config lists all modules'),
        ("module=given", 400, 'Module "given" needs the parameter "token", which matches .+'),
        ("module=given&token=t&host=A", 400, 'The parameter "host" of module "given" does not match [a-z.]*'),
        ("module=named&hostname=x", 400, 'the module says "configured.example" and the request "x"'),
    ],
)
def test_config_refuses_unknown_modules_and_invalid_parameters(
    exporter: Server, query: str, status: int, line: str
) -> None:
    before = own_metric(exporter, UNKNOWN)
    answer = ask(exporter.port, f"/config?{query}")
    assert (answer.status, answer.text) == (status, f"{line}\n")
    assert own_metric(exporter, UNKNOWN) == before, "no probe was requested"


def test_probe_without_a_file_descriptor_is_503_and_no_failed_probe(tmp_path: Path) -> None:
    (tmp_path / "blackbox.yml").write_text("modules: {a: {prober: shortage}, b: {prober: shortage}}")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "shortage.py").write_text(SHORTAGE)
    with exporters.ours(tmp_path, "--modules.dir=plugins") as exporter:
        for asked, module in enumerate(("a", "a,b"), 1):
            answer = probe(exporter, module)
            assert answer.status == 503
            assert answer.headers["retry-after"] == "1"
            assert answer.text == "The exporter has no file descriptor left: raise its limit of open files\n"
            assert own_metric(exporter, "probe_exporter_probes_rejected_total") >= asked
        assert 'result="failure"' not in ask(exporter.port, "/metrics").text


@pytest.mark.parametrize(("flags", "has"), [((), False), (("--probe.event-loop-delay",), True)])
def test_probe_reports_the_event_loops_delay_if_a_flag_says_so(
    tmp_path: Path, flags: tuple[str, ...], has: bool
) -> None:
    (tmp_path / "blackbox.yml").write_text("modules: {http_2xx: {prober: actor}}\n")
    with exporters.ours(tmp_path, f"--modules.dir={PLUGINS}", *flags) as exporter:
        text = ask(exporter.port, "/probe?target=x").text
    assert ("\nprobe_event_loop_delay_seconds " in text) is has
    assert "\nprobe_success 1\n" in text
