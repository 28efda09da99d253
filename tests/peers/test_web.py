"""The web interface and the command line behave like the original's, except for the differences stated here."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from probe_exporter.start import IGNORED_SIGNALS
from tests import exporters
from tests.exporters import Server, peer
from tests.http_client import ask
from tests.metrics_proto import decode
from tests.processes import free_port

pytestmark = pytest.mark.slow

CONFIG = """
modules:
  http_2xx: {prober: http}
  hosted: {prober: http, http: {headers: {Host: configured.example}}}
  brief: {prober: http, timeout: 300ms}
"""
NO_GUESSING = "x-content-type-options"
"""On every answer of ours; the original has it on errors and documents."""

SHOWN = ("content-type", "location", NO_GUESSING, "content-encoding")
TARGET = "target=127.0.0.1:1"  # the probe fails at once; its result does not matter here


@dataclass(frozen=True)
class Request:
    """One request, and what differs in our response."""

    path: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    ours: Mapping[str, object] = field(default_factory=dict)  # what differs
    why: str = ""

    def __str__(self) -> str:
        return " ".join([self.method, self.path, *(f"{k}: {v}" for k, v in self.headers.items())])


TEXT = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"
PLAIN = "text/plain; charset=utf-8"
CHARSET = "says its charset, so that browsers show UTF-8 as it is, and forbids guessing another type"
NO_PAGE = "404 for unknown paths: the landing page with 200 hides typing errors"
GET_ONLY = "probing takes GET: a HEAD or POST from a crawler or a health check ran a whole probe"
OPENMETRICS = "OpenMetrics is offered; the original never offers it"
TIDY = "the redirect says what it is in plain text, as all replies do"
HTML = "says its charset"
NEW = "a path of ours; the original shows the landing page"
PAGES_ONLY_GET = "pages take GET and HEAD only"

MESSAGES = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily"

_DOCUMENT = {"content-type": PLAIN}
_MISSING = {"status": 404, "content-type": PLAIN}
_JSON = {"content-type": "application/json"}
_GONE = {"status": 404, "content-type": PLAIN}
_ONLY_GET = {"status": 405, "content-type": PLAIN}


def timeout(value: str) -> dict[str, str]:
    return {"X-Prometheus-Scrape-Timeout-Seconds": value}


REQUESTS = [
    Request(f"/probe?{TARGET}"),
    Request(f"/probe?{TARGET}&module=http_2xx"),
    Request(f"/probe?{TARGET}&module="),
    Request(f"/probe?{TARGET}&module=no_such"),
    Request("/probe?module=no_such", headers=timeout("abc")),
    Request(f"/probe?{TARGET}&module=http_2xx&module=no_such"),
    Request(f"/probe?{TARGET}&module=http_2xx,no_such"),
    Request(f"/probe?{TARGET}&module=,"),
    Request(f"/probe?{TARGET}&path=undeclared"),
    Request(
        f"/probe?{TARGET}&module=http_2xx,hosted",
        ours={"status": 200, "content-type": TEXT},
        why="several modules in one request",
    ),
    Request(f"/probe?{TARGET}&x=grün"),
    Request("/probe?target=grün:1"),
    Request("/probe"),
    Request("/probe?target="),
    Request("/probe?target=%zz"),
    Request("/probe?target=a;b"),
    Request(f"/probe?{TARGET}&target=%zz"),
    Request(f"/probe?x=a;b&{TARGET}"),
    Request(f"/probe?module=hosted&{TARGET}&hostname=other.example"),
    Request(f"/probe?module=hosted&{TARGET}&hostname=configured.example"),
    Request(f"/probe?{TARGET}&hostname=other.example"),
    Request(f"/probe?{TARGET}", headers=timeout("10")),
    Request(f"/probe?{TARGET}", headers=timeout("1e1")),
    Request(f"/probe?{TARGET}", headers=timeout("0x1p3")),
    Request(f"/probe?{TARGET}", headers=timeout("1_0")),
    Request(f"/probe?{TARGET}", headers=timeout("")),
    Request(
        f"/probe?{TARGET}",
        headers=timeout("abc"),
        ours={"status": 400},
        why="a bad timeout header is the client's mistake, not ours",
    ),
    Request(
        "/probe",
        headers=timeout("1s"),
        ours={"status": 400},
        why="the same; and still before the missing target",
    ),
    Request(f"/probe?{TARGET}&debug=true", ours=_DOCUMENT, why=CHARSET),
    Request(f"/probe?{TARGET}&debug=true", headers={"Accept-Encoding": "gzip"}, ours=_DOCUMENT, why=CHARSET),
    Request(f"/probe?{TARGET}&debug=True"),
    Request(f"/probe?{TARGET}&debug=1"),
    Request(f"/probe?{TARGET}", method="HEAD", ours=_ONLY_GET, why=GET_ONLY),
    Request(f"/probe?{TARGET}", method="POST", ours=_ONLY_GET, why=GET_ONLY),
    Request(f"/probe?{TARGET}", headers={"Accept": "text/plain"}),
    Request(f"/probe?{TARGET}", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}),
    Request(f"/probe?{TARGET}", headers={"Accept": "application/json"}),
    Request(f"/probe?{TARGET}", headers={"Accept": "text/plain;version=0.0.4;escaping=allow-utf-8"}),
    Request(
        f"/probe?{TARGET}",
        headers={"Accept": "application/openmetrics-text"},
        ours={"content-type": "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"},
        why=OPENMETRICS,
    ),
    Request(
        f"/probe?{TARGET}",
        headers={"Accept": "text/plain;version=1.0.0"},
        ours={"content-type": "text/plain; version=1.0.0; charset=utf-8; escaping=underscores"},
        why="text 1.0.0 is offered as well",
    ),
    Request(f"/probe?{TARGET}", headers={"Accept": f"{MESSAGES};encoding=delimited"}),
    Request(f"/probe?{TARGET}", headers={"Accept": f"{MESSAGES};encoding=delimited", "Accept-Encoding": "gzip"}),
    Request(f"/probe?{TARGET}", headers={"Accept": f"{MESSAGES};encoding=text"}),
    Request(f"/probe?{TARGET}", headers={"Accept": f"{MESSAGES};encoding=compact-text;escaping=values"}),
    Request(f"/probe?{TARGET}", headers={"Accept": f"{MESSAGES};encoding=delimited;q=0.4,text/plain;q=0.5"}),
    Request(f"/probe?{TARGET}", headers={"Accept": f"text/plain;q=0.3,{MESSAGES};encoding=delimited;q=0.4"}),
    Request(f"/probe?{TARGET}", headers={"Accept": f"{MESSAGES};encoding=bogus"}),
    Request(f"/probe?{TARGET}", headers={"Accept": MESSAGES}),
    Request(f"/probe?{TARGET}", headers={"Accept": "application/vnd.google.protobuf;encoding=delimited"}),
    Request(f"/probe?{TARGET}", headers={"Accept": "application/openmetrics-text;version=0.0.1"}),
    Request(f"/probe?{TARGET}", headers={"Accept": f"{MESSAGES};encoding=delimited;q=0.6,*/*;q=0.1"}),
    Request("/metrics", headers={"Accept": f"{MESSAGES};encoding=delimited"}),
    Request("/metrics", headers={"Accept": f"{MESSAGES};encoding=text"}),
    Request(f"/probe?{TARGET}", headers={"Accept-Encoding": "gzip"}),
    Request(f"/probe?{TARGET}", headers={"Accept-Encoding": "br, gzip;q=0.1"}),
    Request(f"/probe?{TARGET}", headers={"Accept-Encoding": "gzip;q=0"}),
    Request(f"/probe?{TARGET}", headers={"Accept-Encoding": "*"}),
    Request(f"/probe?{TARGET}", headers={"Accept-Encoding": "br, zstd, deflate"}),
    Request("/metrics"),
    Request("/metrics", method="HEAD"),
    Request("/metrics", method="POST", ours=_ONLY_GET, why=PAGES_ONLY_GET),
    Request("/metrics", headers={"Accept-Encoding": "gzip"}),
    Request("/%6detrics"),
    Request("/-/healthy"),
    Request("/-/healthy", method="POST", ours={"status": 405}, why=PAGES_ONLY_GET),
    Request("/-/reload"),
    Request("/-/reload", method="PUT"),
    Request("/-/reload", method="POST", ours=_DOCUMENT, why="an empty body has a type too"),
    Request("/config", ours=_DOCUMENT, why=CHARSET),
    Request("/config?module=http_2xx", ours=_DOCUMENT, why=CHARSET),
    Request("/config?module=no_such", ours=_MISSING, why="/config shows single modules, and this one is none"),
    Request("/logs?id=0", ours=_DOCUMENT, why=CHARSET),
    Request(f"/logs?{TARGET}", ours=_DOCUMENT, why=CHARSET),
    Request(f"/logs?{TARGET}&module=http_2xx", ours=_DOCUMENT, why=CHARSET),
    Request(f"/logs?{TARGET}&id=nonsense", ours=_DOCUMENT, why=CHARSET),
    Request("/logs"),
    Request("/logs?id="),
    Request("/logs?id=-1"),
    Request("/logs?id=-2"),
    Request("/logs?id=+5"),
    Request("/logs?id=1_0"),
    Request("/logs?id=99999999"),
    Request("/logs?id=0&module=http_2xx"),
    Request(f"/logs?id=0&{TARGET}"),
    Request("/logs?module=http_2xx"),
    Request("/logs?target=never+probed"),
    Request(f"/logs?{TARGET}&module=brief"),
    Request("/", ours={"content-type": "text/html; charset=utf-8"}, why=HTML),
    Request("/nope", ours=_MISSING, why=NO_PAGE),
    Request("/-/ready", ours=_DOCUMENT, why=NEW),
    Request("/-/ready", method="POST", ours=_ONLY_GET, why=NEW),
    Request("/health", ours=_JSON, why=NEW),
    Request("/metadata", ours=_JSON, why=NEW),
    Request("/openapi.json", ours=_JSON, why=NEW),
    Request("/probe/", ours=_MISSING, why=NO_PAGE),
    Request("/debug/pprof/", ours=_GONE, why="there is no Go profiler"),
    Request("//probe?x=1", ours=_DOCUMENT, why=TIDY),
    Request("/./metrics", ours=_DOCUMENT, why=TIDY),
    Request("/a/../metrics?y=%20", ours=_DOCUMENT, why=TIDY),
]

UNDER_A_PREFIX = [
    Request(f"/p/probe?{TARGET}"),
    Request("/p/metrics"),
    Request("/p/-/healthy"),
    Request("/p/", ours={"content-type": "text/html; charset=utf-8"}, why=HTML),
    Request("/p", ours=_DOCUMENT, why=TIDY),
    Request("/p//probe", ours=_DOCUMENT, why=TIDY),
    Request("/metrics"),
    Request("/nope"),
    Request("/p/nope", ours=_MISSING, why=NO_PAGE),
    Request("/", ours=_DOCUMENT, why=TIDY),
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the working directory of both."""
    directory = tmp_path_factory.mktemp("front")
    (directory / "blackbox.yml").write_text(CONFIG)
    return directory


@pytest.fixture(scope="module")
def both(directory: Path) -> Iterator[tuple[Server, Server]]:
    """Start ours and the original with one configuration; each has the result of one probe."""
    with exporters.original(directory) as original, exporters.ours(directory) as ours:
        for server in (ours, original):
            assert ask(server.port, f"/probe?{TARGET}&module=http_2xx").status == 200
        yield ours, original


@pytest.fixture(scope="module")
def both_under_a_prefix(directory: Path) -> Iterator[tuple[Server, Server]]:
    """Start both with a path prefix, as behind a reverse proxy."""
    flag = "--web.external-url=http://front.example/p/"
    with exporters.original(directory, flag) as original, exporters.ours(directory, flag) as ours:
        yield ours, original


def outcome(server: Server, request: Request) -> dict[str, object]:
    """Return the status and the headers that clients use."""
    answer = ask(server.port, request.path, method=request.method, headers=request.headers)
    return {"status": answer.status} | {name: answer.headers.get(name) for name in SHOWN}


def compare(servers: tuple[Server, Server], request: Request) -> None:
    ours, original = (outcome(server, request) for server in servers)
    assert (ours.pop(NO_GUESSING), original.pop(NO_GUESSING)) in (("nosniff", None), ("nosniff", "nosniff"))
    assert ours == original | dict(request.ours)
    assert {key for key in ours if ours[key] != original[key]} == request.ours.keys(), "the table says too much"
    assert bool(request.ours) == bool(request.why), "a difference has a reason, and a reason a difference"


@pytest.mark.parametrize("request_", REQUESTS, ids=str)
def test_request_gets_the_response_of_the_original(both: tuple[Server, Server], request_: Request) -> None:
    compare(both, request_)


@pytest.mark.parametrize("request_", UNDER_A_PREFIX, ids=str)
def test_request_under_a_prefix_gets_the_response_of_the_original(
    both_under_a_prefix: tuple[Server, Server], request_: Request
) -> None:
    compare(both_under_a_prefix, request_)


@pytest.mark.parametrize("ignored", IGNORED_SIGNALS, ids=lambda one: one.name)
def test_signal_that_the_original_ignores_is_ignored(both: tuple[Server, Server], ignored: signal.Signals) -> None:
    for server in both:
        server.process.send_signal(ignored)
        assert ask(server.port, "/-/healthy").status == 200


@pytest.mark.parametrize(
    ("flags", "path"),
    [
        (["--web.external-url=myhost:9115"], "/-/healthy"),
        (["--web.external-url=http://front.example/p", "--web.route-prefix="], "/p/-/healthy"),
        (["--web.route-prefix=//p//q/.."], "/p/-/healthy"),
    ],
)
def test_odd_prefix_leads_to_the_paths_of_the_original(directory: Path, flags: list[str], path: str) -> None:
    with exporters.original(directory, *flags) as original, exporters.ours(directory, *flags) as ours:
        assert ask(ours.port, path).text == ask(original.port, path).text == "Healthy"


def test_unspecified_ipv6_address_accepts_ipv4_as_in_the_original(directory: Path) -> None:
    for start in (exporters.original, exporters.ours):
        port = free_port()
        with start(directory, f"--web.listen-address=[::]:{port}"):
            assert ask(port, "/-/healthy").text == "Healthy"


def test_error_is_one_line_of_text(both: tuple[Server, Server]) -> None:
    for server in both:
        for request in REQUESTS:
            answer = ask(server.port, request.path, method=request.method, headers=request.headers)
            if answer.status >= 400 and answer.body:
                assert answer.text.endswith("\n"), request
                assert answer.text.count("\n") == 1, request


def test_exporter_metrics_have_the_names_and_types_of_the_original(both: tuple[Server, Server]) -> None:
    """Values are not compared: they differ from process to process."""

    def kept(server: Server) -> dict[str, str]:
        lines = ask(server.port, "/metrics").text.splitlines()
        kept = ("blackbox_", "process_", "promhttp_")
        types = {f"TYPE {line.split(' ')[2]}": line.split(" ")[3] for line in lines if line.startswith("# TYPE")}
        return {name: type for name, type in types.items() if name.removeprefix("TYPE ").startswith(kept)}

    ours, original = (kept(server) for server in both)
    only_go = {
        "TYPE process_network_receive_bytes_total",
        "TYPE process_network_transmit_bytes_total",
        "TYPE process_virtual_memory_max_bytes",
    }
    assert ours == {name: type for name, type in original.items() if name not in only_go}


def test_protobuf_has_the_names_types_and_labels_of_the_original(both: tuple[Server, Server]) -> None:
    """One schema decodes both responses."""

    def read(server: Server) -> dict[str, tuple[int, set[tuple[tuple[str, str], ...]]]]:
        answer = ask(server.port, f"/probe?{TARGET}", headers={"Accept": f"{MESSAGES};encoding=delimited"})
        return {
            family.name: (
                family.type,
                {tuple((pair.name, pair.value) for pair in metric.label) for metric in family.metric},
            )
            for family in decode(answer.body)
        }

    ours, original = (read(server) for server in both)
    assert len(original) > 10
    assert {name: ours[name] for name in original} == original


# --- command lines -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Invocation:
    """A command line that exits by itself, and our exit code if it differs."""

    flags: tuple[str, ...]
    ours: int | None = None
    why: str = ""

    def __str__(self) -> str:
        return " ".join(self.flags) or "(none)"


def line(*flags: str, ours: int | None = None, why: str = "") -> Invocation:
    return Invocation(flags, ours, why)


INVOCATIONS = [
    line("--config.check"),
    line("--config.check", "--no-config.enable-auto-reload"),
    line("--config.check", "--config.file=blackbox.yml"),
    line("--config.check", "--config.file", "blackbox.yml"),
    line("--config.check", "--config.file=missing.yml"),
    line("--config.check", "--config.file=bad.yml"),
    line("--config.check", "--config.file=empty.yml"),
    line("--config.file=bad.yml"),
    line("--config.file="),
    line("--config.check", "--log.level=WARN"),
    line("--config.check", "--log.level=loud"),
    line("--config.check", "--log.format=json"),
    line("--config.check", "--log.format=JSON"),
    line("--config.check", "--log.prober=loud"),
    line("--config.check", "--history.limit=0x10"),
    line("--config.check", "--history.limit=-1"),
    line("--config.check", "--history.limit=08"),
    line("--config.check", "--history.limit=0b11"),
    line("--config.check", "--history.limit=0o17"),
    line("--config.check", "--history.limit=1_000"),
    line("--config.check", "--history.limit=18446744073709551615"),
    line("--config.check", "--config.auto-reload-interval=18446744073709551616"),
    line("--config.check", "--history.limit=1.5"),
    line("--config.check", "--history.limit=1", "--history.limit=1"),
    line("--config.check", "--timeout-offset=-1"),
    line("--config.check", "--timeout-offset=1_0"),
    line("--config.check", "--timeout-offset=0x1p3"),
    line("--config.check", "--timeout-offset=1s"),
    line("--config.check", "--timeout-offset"),
    line("--config.check", "--config.auto-reload-interval=0"),
    line("--config.check", "--config.auto-reload-interval=30s"),
    line("--config.check", "--config.check"),
    line("--config.check=true"),
    line("--no-config.check=1"),
    line("-config.check"),
    line("--config.che"),
    line("--config.check", "stray"),
    line("--config.check", "--", "stray"),
    line("--config.check", "--web.external-url=%zz"),
    line("--config.check", "--web.listen-address=nowhere"),
    line("--web.external-url=%zz"),
    line("--web.external-url='http://x/'"),
    line("--web.external-url=:"),
    line("--web.external-url=127.0.0.1:9115"),
    line("--web.external-url=my_host:9115"),
    line("--web.external-url=http://a b/"),
    line("--web.listen-address=nowhere"),
    line("--web.listen-address=192.0.2.1:1"),
    line("--web.systemd-socket"),
    line("--web.config.file=missing.yml"),
    line("@flags"),
    line("@missing"),
    line("--help"),
    line("--help-long"),
    line("--help-man"),
    line("-h"),
    line("--version"),
    line("--nope"),
    line(
        "--config.check",
        "--config.file=blackbox.yml",
        "--config.file=more.yml",
        ours=0,
        why="--config.file may be repeated",
    ),
    line("config", "schema", ours=0, why="a subcommand of ours"),
    line(
        "--config.check",
        "--web.config.file=missing.yml",
        ours=1,
        why="a check looks at this file too; this version refuses it as it does at start",
    ),
]


@pytest.mark.parametrize("invocation", INVOCATIONS, ids=str)
def test_command_line_exits_like_the_original(directory: Path, invocation: Invocation) -> None:
    (directory / "bad.yml").write_text("modules: {one: {prober: http, nope: 1}}\n")
    (directory / "empty.yml").write_text("# nothing\n")
    (directory / "more.yml").write_text("modules: {more: {prober: http}}\n")
    (directory / "flags").write_text("# of this host\n--config.check\n\n#--nope\n--history.limit\n5\n")

    command, environment = [peer("blackbox_exporter"), *invocation.flags], exporters._environment()
    original = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300)
    ours = exporters.run_ours(directory, *invocation.flags)
    assert ours.returncode == (original.returncode if invocation.ours is None else invocation.ours)
    different = ours.returncode != original.returncode
    assert different == bool(invocation.why), "a difference has a reason, and a reason a difference"
    if not different:
        assert bool(ours.stdout) == bool(original.stdout)
        assert not (ours.returncode and not ours.stderr), "a refusal says why"
