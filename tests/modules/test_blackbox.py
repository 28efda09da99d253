"""The default modules (blackbox.yml): their names, and that each passes against its kind of server."""

from __future__ import annotations

import dataclasses
import gzip
import shutil
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from probe_exporter.config import loading
from probe_exporter.config.module import Module
from probe_exporter.plugins import loader
from probe_exporter.prober.failure import Reason
from probe_exporter.protocols.dialogue.steps import EXPECT_INFO
from probe_exporter.runner import Result, run
from probe_exporter.tls.settings import TLSSettings
from tests.deadlines import in_phase, run_until
from tests.modules.library import PROBERS
from tests.outcomes import reason_of
from tests.servers.bind import SERIAL, Bind
from tests.servers.dovecot import Dovecot
from tests.servers.grpc_health import GrpcHealth
from tests.servers.openssh import OpenSsh
from tests.servers.postgresql import PostgreSql
from tests.targets import Answer, Pki, Site, Tls, http3, reply
from tests.targets.scripted_server import Hear, ScriptedServer, then_silence

SHIPPED = loading.load([loader.library() / "blackbox.yml"], PROBERS, strict=True).modules

DEFAULT = (
    "http_2xx", "http_post_2xx", "tcp_connect", "pop3s_banner", "grpc", "grpc_plain", "ssh_banner",
    "ssh_banner_extract", "irc_banner", "icmp", "icmp_ttl5", "http_3xx", "postgresql", "websocket",
)  # fmt: skip
"""Module names of the original's default configuration."""

EXAMPLES = (
    "http_2xx_example", "http_with_proxy", "http_with_proxy_and_headers", "http_post_2xx", "http_post_body_file",
    "http_basic_auth_example", "http_json_cel_match", "http_2xx_oauth_client_credentials", "http_custom_ca_example",
    "http_gzip", "http_gzip_with_accept_encoding", "tls_connect", "tcp_connect_example", "imap_starttls",
    "smtp_starttls", "irc_banner_example", "icmp_example", "dns_udp_example", "dns_soa", "dns_tcp_example",
)  # fmt: skip
"""Module names of the original's example configuration."""

OURS = (
    "smtp_banner", "smtps_banner", "imap_banner", "imaps_banner", "pop3_banner", "pop3_starttls", "dns_tls_example",
    "dns_mx_example",
)  # fmt: skip


def test_shipped_names_are_those_of_the_original_and_ours() -> None:
    assert set(SHIPPED) == {*DEFAULT, *EXAMPLES, *OURS}
    assert next(iter(SHIPPED)) == "http_2xx"


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_module_has_a_description_of_one_line(name: str) -> None:
    assert 10 < len(SHIPPED[name].description) < 120
    assert "\n" not in SHIPPED[name].description


# --- against real servers ----------------------------------------------------------------------------------


def shipped(name: str, pki: Pki | None = None) -> Module:
    """Return a shipped module; with `pki` it trusts the test root."""
    module = SHIPPED[name]
    if pki is None:
        return module
    trust: dict[str, Any] = {"tls_config": TLSSettings(ca_file=str(pki.directory / "root.pem"))}
    return dataclasses.replace(module, settings=module.settings.model_copy(update=trust))


async def probe(name: str, target: str, pki: Pki | None = None) -> Result:
    """Probe with a shipped module."""
    return await run(shipped(name, pki), target, 20.0)


MAIL = {
    "smtp_banner": "postfix.port", "smtp_starttls": "postfix.port", "smtps_banner": "postfix.tls_port",
    "imap_banner": "dovecot.imap", "imap_starttls": "dovecot.imap", "imaps_banner": "dovecot.imaps",
    "pop3_banner": "dovecot.pop3", "pop3_starttls": "dovecot.pop3", "pop3s_banner": "dovecot.pop3s",
}  # fmt: skip
"""The port that each mail module is for."""

NO_MAIL = {
    "smtp": "dovecot.imap", "smtps": "dovecot.imaps", "imap": "dovecot.pop3", "imaps": "dovecot.pop3s",
    "pop3": "dovecot.imap", "pop3s": "dovecot.imaps",
}  # fmt: skip
"""A port of another protocol, by the beginning of the module's name."""


def target(port: str, request: pytest.FixtureRequest) -> str:
    """Start a server's fixture; return the address of one of its ports."""
    name, _, attribute = port.partition(".")
    return f"127.0.0.1:{getattr(request.getfixturevalue(name), attribute)}"


@pytest.fixture
def mail(request: pytest.FixtureRequest, name: str) -> str:
    """Return the target that the module is for."""
    return target(MAIL[name], request)


@pytest.fixture
def no_mail(request: pytest.FixtureRequest, name: str) -> str:
    """Return a target that speaks another protocol."""
    return target(NO_MAIL[name.partition("_")[0]], request)


@pytest.mark.slow
@pytest.mark.parametrize("name", MAIL)
async def test_mail_module_verifies_certificates(name: str, mail: str, pki: Pki) -> None:
    """A module over TLS passes with a trusted certificate and fails without trust."""
    assert reason_of(await probe(name, mail, pki)) is None
    stranger = Reason.CERTIFICATE_UNKNOWN_AUTHORITY if "starttls" in name or name.endswith("s_banner") else None
    assert reason_of(await probe(name, mail)) is stranger


@pytest.mark.slow
@pytest.mark.parametrize("name", MAIL)
async def test_mail_module_times_out_on_another_protocol(name: str, no_mail: str, pki: Pki) -> None:
    result = await run_until(in_phase("dialogue"), shipped(name, pki), no_mail, grace=0.3)
    assert reason_of(result) is Reason.TIMEOUT_DIALOGUE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssh_banner", "ssh_banner_extract"])
async def test_ssh_modules_read_the_banner(name: str, openssh: OpenSsh) -> None:
    result = await probe(name, f"127.0.0.1:{openssh.port}")
    assert reason_of(result) is None
    shown = result.probe.samples.labelled.items()
    said = [labels for metric, rows in shown if metric.name == EXPECT_INFO.name for labels in rows]
    if name == "ssh_banner":
        assert said == []
    else:
        ((version, comments),) = said
        assert version.startswith("OpenSSH_")
        assert comments.startswith("Debian")


@pytest.mark.slow
async def test_tcp_and_tls_modules_connect(dovecot: Dovecot, pki: Pki) -> None:
    for name in ("tcp_connect", "tcp_connect_example"):
        assert reason_of(await probe(name, f"127.0.0.1:{dovecot.imap}")) is None
    assert reason_of(await probe("tls_connect", f"127.0.0.1:{dovecot.imaps}", pki)) is None
    assert reason_of(await probe("tls_connect", f"127.0.0.1:{dovecot.imap}", pki)) is Reason.TLS_HANDSHAKE


@pytest.mark.slow
async def test_postgresql_module_verifies_certificates(postgresql: PostgreSql, openssh: OpenSsh, pki: Pki) -> None:
    assert reason_of(await probe("postgresql", f"127.0.0.1:{postgresql.port}", pki)) is None
    assert reason_of(await probe("postgresql", f"127.0.0.1:{postgresql.port}")) is Reason.CERTIFICATE_UNKNOWN_AUTHORITY
    # "SSH-2.0-…" begins with S, the agreement to TLS, and goes on in plain text.
    assert reason_of(await probe("postgresql", f"127.0.0.1:{openssh.port}", pki)) is Reason.TLS_HANDSHAKE


@pytest.mark.slow
async def test_dns_modules_pass_over_each_transport(bind: Bind, pki: Pki) -> None:
    for name in ("dns_udp_example", "dns_tcp_example", "dns_mx_example", "dns_soa"):
        assert reason_of(await probe(name, f"127.0.0.1:{bind.port}")) is None, name
    assert reason_of(await probe("dns_tls_example", f"127.0.0.1:{bind.tls_port}", pki)) is None
    result = await probe("dns_soa", f"127.0.0.1:{bind.port}")
    assert f"probe_dns_serial {SERIAL}" in [
        f"{metric.name} {value:.0f}" for metric, value in result.probe.samples.plain.items()
    ]


@pytest.mark.parametrize("name", ["irc_banner", "irc_banner_example"])
async def test_irc_modules_answer_the_ping(name: str, pki: Pki) -> None:
    """The server sends a PING before it welcomes the client."""
    script = then_silence(
        b":irc.test NOTICE * :*** Looking up your hostname\r\n", Hear(lines=2), b"PING :4711\r\n", Hear(),
        b":irc.test 001 probe :Welcome\r\n",
    )  # fmt: skip
    async with ScriptedServer(script, pki.directory) as scripted:
        assert reason_of(await probe(name, scripted.fill("127.0.0.1:{port}"))) is None
        await scripted.finished()
    assert scripted.heard == [repr(b"NICK probe\nUSER probe 0 * :probe-exporter\n"), repr(b"PONG 4711\n")]


@pytest.mark.slow
async def test_grpc_modules_check_health(grpc_health: GrpcHealth, pki: Pki) -> None:
    assert reason_of(await probe("grpc_plain", f"127.0.0.1:{grpc_health.plain}")) is None
    assert reason_of(await probe("grpc", f"127.0.0.1:{grpc_health.secure}", pki)) is None
    assert reason_of(await probe("grpc", f"127.0.0.1:{grpc_health.secure}")) is Reason.CERTIFICATE_UNKNOWN_AUTHORITY


async def test_websocket_module_connects() -> None:
    async def listen(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async with serve(listen, "127.0.0.1", 0) as server:
        (listening,) = server.sockets
        assert reason_of(await probe("websocket", f"ws://127.0.0.1:{listening.getsockname()[1]}/")) is None


@pytest.mark.parametrize("name", ["icmp", "icmp_ttl5", "icmp_example"])
async def test_icmp_modules_ping(name: str) -> None:
    result = await probe(name, "127.0.0.1")
    if reason_of(result) is Reason.ICMP_PERMISSION:
        pytest.skip("neither ping_group_range nor CAP_NET_RAW lets us ping")
    assert reason_of(result) is None


# --- web pages ---------------------------------------------------------------------------------------------

JSON = reply(200, b'{"foo": "bar", "baz": "qux"}')
PAGES: dict[str, Answer] = {
    "http_2xx": JSON,
    "http_post_2xx": JSON,
    "http_post_body_file": JSON,
    "http_basic_auth_example": JSON,
    "http_json_cel_match": JSON,
    "http_gzip": reply(200, gzip.compress(b"ok"), ("Content-Encoding", "gzip")),
    "http_gzip_with_accept_encoding": reply(200, gzip.compress(b"ok"), ("Content-Encoding", "gzip")),
    "http_2xx_example": reply(200, b"Download the latest version here", ("Access-Control-Allow-Origin", "*")),
}
"""A page that passes each module."""


@pytest.mark.parametrize("name", PAGES)
async def test_http_modules_pass_their_page_and_fail_another(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No module passes a page with status 500."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "body.txt").write_text("body")
    async with Site({"/": PAGES[name], "/other": reply(500, b"{}")}) as site:
        assert reason_of(await probe(name, site.fill("http://127.0.0.1:{port}/"))) is None
        assert reason_of(await probe(name, site.fill("http://127.0.0.1:{port}/other"))) is Reason.HTTP_STATUS
    (asked, _) = site.requests
    assert asked.line.startswith("POST" if "post" in name or "auth" in name else "GET")
    assert asked.body == (b"body" if name == "http_post_body_file" else b"")
    assert asked.all("Authorization") == (["Basic dXNlcm5hbWU6bXlzZWNyZXQ="] if "auth" in name else [])
    assert asked.all("Accept-Encoding") == (["gzip"] if "gzip" in name else [])


async def test_http_module_trusts_its_own_authority(pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with Site({"/": JSON}, Tls(), pki.directory) as site:
        target = site.fill("https://localhost:{tls_port}/")
        assert reason_of(await probe("http_custom_ca_example", target)) is Reason.SETTINGS_UNUSABLE
        shutil.copy(pki.directory / "root.pem", "my_ca.pem")
        assert reason_of(await probe("http_custom_ca_example", target)) is None


async def test_http_module_passes_over_http3(pki: Pki) -> None:
    async with Site({"/": http3.reply(200, b"ok")}, quic=http3.Quic(), pki=pki.directory) as site:
        assert reason_of(await probe("http_3xx", site.fill("https://localhost:{quic_port}/"), pki)) is None
