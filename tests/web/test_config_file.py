"""Test --web.config.file: validation, TLS, basic authentication, headers and rate limit, with curl and openssl."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import pytest

from probe_exporter.config.module import ConfigError
from probe_exporter.web import accepting, serving
from probe_exporter.web.answers import Answer
from probe_exporter.web.config_file import LiveWebConfig, load
from probe_exporter.web.connections import Connections
from probe_exporter.web.listening import Listener, listen
from probe_exporter.web.request import WebRequest
from tests import exporters
from tests.cost import expect_cheaper
from tests.exporters import Response, Server
from tests.http_client import ask
from tests.programs import find
from tests.targets import Pki
from tests.test_cli import run
from tests.waiting import wait_until
from tests.web.test_routes import PLUGINS, cpu_seconds

Start = Callable[..., AbstractContextManager[Server]]

HASH = bcrypt.hashpw(b"right", b"$2b$04$" + b"." * 22).decode()  # the same in each xdist worker: it is in test ids
TLS = "tls_server_config: {cert_file: leaf.pem, key_file: leaf.key, %s}\n"
VERIFYING = "client_ca_file: root.pem, client_auth_type: RequireAndVerifyClientCert"


def write_web_directory(directory: Path, pki: Pki) -> Path:
    """Write certificates and a configuration. The web config has a directory of its own, to test relative paths."""
    web = directory / "web"
    web.mkdir()
    for name in ("leaf", "rsa", "root", "client", "foreign_client"):
        for kind in ("pem", "key"):
            shutil.copy(pki.directory / f"{name}.{kind}", web)
    (directory / "blackbox.yml").write_text("modules: {http_2xx: {prober: actor}}\n")
    return directory


@contextmanager
def started(directory: Path, text: str) -> Iterator[Server]:
    """Run an exporter with this web config."""
    (directory / "web" / "web.yml").write_text(text)
    with exporters.ours(directory, "--web.config.file=web/web.yml", f"--modules.dir={PLUGINS}") as exporter:
        yield exporter


@pytest.fixture
def directory(tmp_path: Path, pki: Pki) -> Path:
    """Return a directory that the test may change."""
    return write_web_directory(tmp_path, pki)


@pytest.fixture
def start(directory: Path) -> Start:
    """Return a function that starts an exporter with a web config."""
    return lambda text: started(directory, text)


@dataclass(frozen=True, slots=True)
class SharedExporter:
    """An exporter that several tests share. It reloads its web config when the file changes."""

    server: Server
    directory: Path

    def configured(self, text: str) -> Server:
        """Write the web config and return the exporter, which uses it for the next client."""
        replace(self.directory / "web" / "web.yml", text)
        return self.server


@pytest.fixture(scope="module")
def over_tls(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[SharedExporter]:
    directory = write_web_directory(tmp_path_factory.mktemp("tls"), pki)
    with started(directory, TLS % "") as server:
        yield SharedExporter(server, directory)


@pytest.fixture(scope="module")
def in_clear(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[SharedExporter]:
    directory = write_web_directory(tmp_path_factory.mktemp("clear"), pki)
    with started(directory, "{}\n") as server:
        yield SharedExporter(server, directory)


def curl(directory: Path, url: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run curl, which trusts the test root certificate."""
    command = [find("curl"), "-sS", "-i", "--max-time", "60", "--cacert", "root.pem", *flags, url]
    return subprocess.run(command, cwd=directory / "web", capture_output=True, text=True, timeout=120)


def s_client(directory: Path, port: int, *flags: str) -> str:
    """Return the output of `openssl s_client`."""
    command = [find("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", "root.pem", *flags]
    done = subprocess.run(command, cwd=directory / "web", input=b"", capture_output=True, timeout=120)
    return (done.stdout + done.stderr).decode("utf-8", "replace")


def login(port: int, name: str, password: str, path: str = "/-/healthy") -> Response:
    given = base64.b64encode(f"{name}:{password}".encode()).decode()
    return ask(port, path, headers={"Authorization": f"Basic {given}"})


# --- validation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        (
            "tls_server_config:\n  cert_flie: x\n",
            "web.yml:2:3: tls_server_config.cert_flie",
            "did you mean `cert_file`",
        ),
        ("tls_server_config:\n  cert_file: leaf.pem\n", "tls_server_config.key_file", "key of its certificate"),
        (TLS % "client_auth_type: RequireAnyClientCert", "client_auth_type", "Python's TLS can't do"),
        (TLS % "client_auth_type: RequestClientCert", "client_auth_type", "RequireAndVerifyClientCert"),
        (TLS % "curve_preferences: [X25519, CurveP256]", "curve_preferences", "takes one of"),
        (TLS % "client_ca_file: root.pem", "client_ca_file", "client_auth_type"),
        (TLS % "min_version: TLS13, max_version: TLS12", "max_version", "no client could connect"),
        (TLS % "cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]", "cipher_suites[0]", "expected TLS_AES_128_GCM_SHA256"),
        ("tls_server_config: {cert_file: no.pem, key_file: leaf.key}\n", "cert_file", "No such file"),
        ("tls_server_config: {cert_file: leaf.key, key_file: leaf.key}\n", "cert_file", "no certificate in PEM"),
        (
            "tls_server_config: {cert_file: leaf.pem, key_file: root.key}\n",
            "key_file",
            "does not belong to the certificate",
        ),
        ("tls_server_config: {cert_file: leaf.pem, key: hunter2}\n", "tls_server_config.key", "no private key in PEM"),
        ("http_server_config:\n  headers:\n    X-Other: x\n", "web.yml:2:3: http_server_config.headers", "X-Other"),
        ("basic_auth_users:\n  who: hunter2\n", "web.yml:2:3: basic_auth_users.who", "bcrypt"),
        ("rate_limit: {interval: 1d}\n", "rate_limit.interval", "1d"),
    ],
)
def test_load_rejects_errors_with_their_place_and_without_secrets(
    directory: Path, text: str, place: str, says: str
) -> None:
    path = directory / "web" / "web.yml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert place in str(refused.value)
    assert says in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("http_server_config: {http2: true}\n", "http2: has no effect"),
        (TLS % "prefer_server_cipher_suites: true", "prefer_server_cipher_suites: has no effect"),
        (TLS % "client_allowed_sans: [a]", "client_allowed_sans: has no effect"),
        (TLS % f"client_allowed_sans: [], {VERIFYING}", "refuses all clients"),
        (TLS % "client_auth_type: RequireAndVerifyClientCert", "any certificate that this system trusts"),
        (TLS % "min_version: TLS10", "RFC 8996"),
        ("rate_limit: {interval: 1s}\n", "refuses every request"),
        (f"basic_auth_users: {{who: {HASH.replace('$04', '$15')}}}\n", "takes seconds"),
    ],
)
def test_load_warns_of_questionable_settings_and_rejects_them_when_strict(
    directory: Path, text: str, says: str
) -> None:
    path = directory / "web" / "web.yml"
    path.write_text(text)
    assert any(says in str(warning) for warning in load(path).warnings)
    with pytest.raises(ConfigError, match=says):
        load(path, strict=True)


def test_load_names_a_missing_file(directory: Path) -> None:
    with pytest.raises(ConfigError, match=r"nope\.yml: can't be read"):
        load(directory / "nope.yml")


def test_config_check_includes_the_web_config(directory: Path) -> None:
    path = directory / "web" / "web.yml"
    flags = ("--config.check", "--web.config.file=web/web.yml", f"--modules.dir={PLUGINS}")
    path.write_text(TLS % "")
    assert run(directory, *flags).returncode == 0
    path.write_text("basic_auth_users: {who: plain}\n")
    done = run(directory, *flags)
    assert done.returncode == 1
    assert "web.yml:1:20: basic_auth_users.who" in done.stderr


def test_start_exits_with_1_if_the_web_config_is_invalid(directory: Path) -> None:
    (directory / "web" / "web.yml").write_text("bogus: 1\n")
    done = run(directory, "--web.config.file=web/web.yml", f"--modules.dir={PLUGINS}")
    assert done.returncode == 1
    assert "web.yml:1:1: bogus: unknown key" in done.stderr


# --- TLS -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_tls_serves_curl_with_a_verified_certificate(over_tls: SharedExporter) -> None:
    exporter = over_tls.configured(TLS % "")
    answer = curl(over_tls.directory, f"https://localhost:{exporter.port}/probe?target=x")
    assert answer.stdout.startswith("HTTP/1.1 200 OK"), answer.stderr
    assert "probe_success 1\n" in answer.stdout
    wait_until(lambda: "tls=true" in exporter.log.read_text())


@pytest.mark.slow
def test_tls_takes_certificate_and_key_from_the_web_config_itself(start: Start, directory: Path) -> None:
    blocks = {
        name: (directory / "web" / f"leaf.{kind}").read_text() for name, kind in (("cert", "pem"), ("key", "key"))
    }
    lines = [
        f"  {name}: |\n" + "".join([f"    {line}\n" for line in text.splitlines()]) for name, text in blocks.items()
    ]
    with start("tls_server_config:\n" + "".join(lines)) as exporter:
        assert curl(directory, f"https://localhost:{exporter.port}/-/healthy").stdout.endswith("Healthy")


@pytest.mark.slow
def test_tls_port_answers_plain_http_with_400(over_tls: SharedExporter) -> None:
    exporter = over_tls.configured(TLS % "")
    answer = curl(over_tls.directory, f"http://localhost:{exporter.port}/metrics")
    assert answer.returncode == 0
    assert answer.stdout.startswith("HTTP/1.0 400 Bad Request")
    assert "HTTPS" in answer.stdout


@pytest.mark.parametrize(
    ("keys", "flags", "agreed"),
    [
        ("", ["-tls1_2"], "TLSv1.2"),
        ("", ["-tls1_3"], "TLSv1.3"),
        ("min_version: TLS13", ["-tls1_2"], ""),
        ("max_version: TLS12", ["-tls1_3"], ""),
        ("max_version: TLS12", [], "TLSv1.2"),
        ("min_version: TLS10", ["-tls1", "-cipher", "DEFAULT@SECLEVEL=0"], "TLSv1"),
        ("cipher_suites: [TLS_AES_128_GCM_SHA256]", ["-tls1_2"], ""),
        ("cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]", ["-tls1_2"], "ECDHE-ECDSA-AES256-GCM-SHA384"),
        ("cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA]", ["-tls1_2"], "ECDHE-ECDSA-AES256-SHA"),
        ("cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]",
         ["-tls1_2"], "ECDHE-ECDSA-AES128-GCM-SHA256"),  # Go's order of preference, not that of the file
        ("cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]",
         ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"], ""),
        ("curve_preferences: [CurveP384]", ["-tls1_3"], "ECDH, secp384r1, 384 bits"),
    ],
)  # fmt: skip
def test_tls_negotiates_only_configured_versions_ciphers_and_curves(
    over_tls: SharedExporter, keys: str, flags: list[str], agreed: str
) -> None:
    """A client without a common version, cipher or curve gets a TLS alert."""
    exporter = over_tls.configured(TLS % keys)
    said = s_client(over_tls.directory, exporter.port, *flags)
    if agreed:
        assert agreed in said
        assert "Verify return code: 0 (ok)" in said
    else:
        assert "alert" in said
        assert "Cipher is (NONE)" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "client", "served"),
    [
        (VERIFYING, "client", True),
        (VERIFYING, "foreign_client", False),
        (VERIFYING, "leaf", False),  # a server's certificate
        (VERIFYING, "", False),
        ("client_ca_file: root.pem, client_auth_type: VerifyClientCertIfGiven", "", True),
        ("client_ca_file: root.pem, client_auth_type: VerifyClientCertIfGiven", "client", True),
        ("client_ca_file: root.pem, client_auth_type: VerifyClientCertIfGiven", "foreign_client", False),
        (VERIFYING + ", client_allowed_sans: [www.example.test]", "client", True),
        (VERIFYING + ", client_allowed_sans: ['::1', other.example.test]", "client", True),
        (VERIFYING + ", client_allowed_sans: [other.example.test, client]", "client", False),
        ("client_ca_file: root.pem, client_auth_type: VerifyClientCertIfGiven, client_allowed_sans: [a]", "", False),
        (VERIFYING + ", client_allowed_sans: []", "client", False),
        ("client_ca_file: client.pem, client_auth_type: RequireAndVerifyClientCert", "client", True),
    ],
)
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_tls_client_auth_policy_decides_which_clients_are_served(
    over_tls: SharedExporter, keys: str, client: str, served: bool, version: str
) -> None:
    exporter = over_tls.configured(TLS % keys)
    own = ["--cert", f"{client}.pem", "--key", f"{client}.key"] if client else []
    flags = [*own, f"--tlsv{version}", "--tls-max", version]
    answer = curl(over_tls.directory, f"https://localhost:{exporter.port}/-/healthy", *flags)
    assert answer.stdout.endswith("Healthy") is served, answer.stderr


@pytest.mark.slow
def test_tls_certificate_change_applies_to_the_next_client_unless_it_is_invalid(start: Start, directory: Path) -> None:
    web = directory / "web"
    with start(TLS % "") as exporter:
        assert "CN = leaf" in s_client(directory, exporter.port)
        replace(web / "leaf.pem", (web / "rsa.pem").read_text())  # the key follows later
        assert "CN = leaf" in s_client(directory, exporter.port)
        wait_until(lambda: "The web configuration has changed and is refused" in exporter.log.read_text())
        log = exporter.log.read_text()
        assert log.count("The web configuration has changed and is refused") == 1
        assert "the key does not belong to the certificate" in log
        replace(web / "leaf.key", (web / "rsa.key").read_text())
        assert "CN = rsa" in s_client(directory, exporter.port)
        wait_until(lambda: "The web configuration has changed and is in force" in exporter.log.read_text())


@pytest.mark.slow
def test_tls_stays_on_if_the_changed_file_has_none(start: Start, directory: Path) -> None:
    with start(TLS % "") as exporter:
        replace(directory / "web" / "web.yml", "{}\n")
        assert curl(directory, f"https://localhost:{exporter.port}/-/healthy").stdout.endswith("Healthy")
        wait_until(lambda: "TLS can't be switched on or off without a restart" in exporter.log.read_text())


def test_tls_handshake_garbage_is_not_logged(start: Start, directory: Path) -> None:
    with start(TLS % VERIFYING) as exporter:
        wait_until(lambda: "Listening" in exporter.log.read_text())
        before = exporter.logged()
        for sent in (b"", b"\x16", b"\x16\x03\x01\x00\x05hello", b"GET / HTTP/1.1\r\n\r\n", os.urandom(3000)):
            with socket.create_connection(("127.0.0.1", exporter.port), 60) as connection:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                while received(connection):
                    pass
        own = ["--cert", "client.pem", "--key", "client.key"]
        assert curl(directory, f"https://localhost:{exporter.port}/-/healthy", *own).stdout.endswith("Healthy")
        assert exporter.logged() == before


async def test_tls_handshake_times_out(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert accepting.HANDSHAKE_SECONDS == 10.0
    monkeypatch.setattr(accepting, "HANDSHAKE_SECONDS", 0.3)
    path = directory / "web" / "web.yml"
    path.write_text(TLS % "")
    async with AsyncExitStack() as cleanup:
        listener = cleanup.enter_context(listen("127.0.0.1:0"))
        port = listener.getsockname()[1]
        connections = Connections(no_answer)
        cleanup.push_async_callback(connections.close)
        serving._accept(Listener(listener), connections, LiveWebConfig(path), cleanup)
        before = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01")
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        assert time.monotonic() - before >= 0.3
        writer.close()


async def no_answer(request: WebRequest) -> Answer:
    raise AssertionError("there was no request")


def received(connection: socket.socket) -> bytes:
    """Return what is received; nothing if the connection is closed or reset."""
    try:
        return connection.recv(1000)
    except ConnectionResetError:
        return b""


def replace(path: Path, text: str) -> None:
    """Replace a file atomically, as configuration management does."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


# --- basic authentication, headers, rate limit ---------------------------------------------------------------


@pytest.mark.parametrize("path", ["/-/healthy", "/metrics", "/probe?target=x", "/nope"])
def test_basic_auth_protects_every_path(in_clear: SharedExporter, path: str) -> None:
    exporter = in_clear.configured(f"basic_auth_users: {{who: {HASH}}}\n")
    answer = ask(exporter.port, path)
    assert (answer.status, answer.text) == (401, "Unauthorized\n")
    assert answer.headers["www-authenticate"] == "Basic"
    assert login(exporter.port, "who", "right", path).status in (200, 404)


@pytest.mark.parametrize(
    "header",
    ["Basic", "Basic x", "Basic " + base64.b64encode(b"who").decode(), "Bearer right", "Basic \xff", f"Basic {HASH}"],
)
def test_basic_auth_refuses_malformed_credentials(in_clear: SharedExporter, header: str) -> None:
    exporter = in_clear.configured(f"basic_auth_users: {{who: {HASH}}}\n")
    assert ask(exporter.port, "/metrics", headers={"Authorization": header}).status == 401


def test_basic_auth_follows_changed_users_without_a_restart(start: Start, directory: Path) -> None:
    with start(f"basic_auth_users: {{who: {HASH}}}\n") as exporter:
        for name, password, status in (("who", "right", 200), ("who", "wrong", 401), ("else", "right", 401)):
            assert login(exporter.port, name, password).status == status
            assert login(exporter.port, name, password).status == status  # the verdict is cached
        replace(directory / "web" / "web.yml", f"basic_auth_users: {{else: {HASH}}}\n")
        assert login(exporter.port, "who", "right").status == 401
        assert login(exporter.port, "else", "right").status == 200
        replace(directory / "web" / "web.yml", "basic_auth_users: {else: broken}\n")
        assert ask(exporter.port, "/-/healthy").status == 401
        assert login(exporter.port, "else", "right").status == 200
        refused = login(exporter.port, "else", "right", "/health")
        assert refused.status == 200
        assert "A change was refused: web/web.yml:1:20: basic_auth_users.else" in refused.text
        replace(directory / "web" / "web.yml", "{}\n")
        assert ask(exporter.port, "/-/healthy").status == 200


def test_basic_auth_accepts_passwords_with_colons_and_beyond_72_bytes(in_clear: SharedExporter) -> None:
    long = "a:" * 50
    hashed = bcrypt.hashpw(long.encode()[:72], bcrypt.gensalt(4)).decode()
    exporter = in_clear.configured(f"basic_auth_users: {{who: {hashed}}}\n")
    assert login(exporter.port, "who", long).status == 200


@pytest.mark.slow
def test_basic_auth_guesses_cost_the_same_for_any_user_and_delay_no_remembered_login(start: Start) -> None:
    """A hash of cost 9 takes 25 ms of CPU. A login that is cached needs no hash and does not wait for the others."""
    hashed = bcrypt.hashpw(b"right", bcrypt.gensalt(9)).decode()
    with start(f"basic_auth_users: {{who: {hashed}}}\n") as exporter:
        assert login(exporter.port, "who", "right").status == 200
        times = {"who": 0.0, "nobody": 0.0}
        for number in range(3):  # alternate, so that noise affects both alike
            for name in times:
                before = cpu_seconds(exporter)
                assert login(exporter.port, name, f"guess {number}").status == 401
                times[name] += cpu_seconds(exporter) - before
        expect_cheaper(times["who"], 2 * times["nobody"], "guesses of a user's password")
        expect_cheaper(times["nobody"], 2 * times["who"], "guesses of the password of nobody")
        with ThreadPoolExecutor(8) as guessers:
            guesses = [guessers.submit(login, exporter.port, "who", f"another {number}") for number in range(16)]
            wait(guesses, return_when=FIRST_COMPLETED)
            assert login(exporter.port, "who", "right").status == 200
            assert not all(guess.done() for guess in guesses), "the login waited for the guesses before it"
            assert {guess.result().status for guess in guesses} == {401}


def test_configured_headers_are_in_every_answer(in_clear: SharedExporter) -> None:
    values = {
        "Strict-Transport-Security": "max-age=60",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "deny",
        "X-XSS-Protection": "1; mode=block",
        "Content-Security-Policy": "default-src https:",
    }
    lines = "".join([f'    {name}: "{value}"\n' for name, value in values.items()])
    exporter = in_clear.configured(f"http_server_config:\n  headers:\n{lines}basic_auth_users: {{who: {HASH}}}\n")
    for answer in (login(exporter.port, "who", "right"), ask(exporter.port, "/-/healthy")):
        assert values.items() == {name: answer.headers[name.lower()] for name in values}.items()


def test_unauthorized_requests_are_counted_by_path_and_status(start: Start) -> None:
    with start(f"basic_auth_users: {{who: {HASH}}}\n") as exporter:
        for path in ("/probe?target=x", "/probe?target=y", "/metrics", "/nowhere"):
            assert ask(exporter.port, path).status == 401
        shown = login(exporter.port, "who", "right", "/metrics").text
        for handler, number in (("/probe", 2), ("/metrics", 1), ("other", 1)):
            assert f'probe_exporter_http_requests_total{{code="401",handler="{handler}"}} {number}\n' in shown


def test_rate_limit_answers_429_before_authentication(start: Start) -> None:
    limit = "rate_limit: {interval: 1s, burst: 2}\n"
    with start(f"{limit}http_server_config: {{headers: {{X-Frame-Options: deny}}}}\n") as exporter:
        assert [ask(exporter.port, path).status for path in ("/-/healthy", "/nope")] == [200, 404]
        # At once, unless a second has passed meanwhile.
        wait_until(lambda: ask(exporter.port, "/metrics").status == 429)
        while (refused := ask(exporter.port, "/metrics")).status != 429:
            pass
        assert "x-frame-options" not in refused.headers  # as in the original
        wait_until(lambda: ask(exporter.port, "/-/healthy").status == 200)
    with start(f"rate_limit: {{interval: 1h, burst: 1}}\nbasic_auth_users: {{who: {HASH}}}\n") as exporter:
        assert [login(exporter.port, "who", "right").status for _ in range(2)] == [200, 429]
