"""Request OAuth 2.0 tokens: once, reused while they are valid, shown to the target only.

tests/peers compares requests and accepted responses with the original.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import gzip
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.probers import http
from probe_exporter.probers.http import HttpSettings, prober
from probe_exporter.protocols.http.http1 import Http1ResponseReader
from probe_exporter.protocols.http.oauth2 import MAX_ANSWER_BYTES, _token
from probe_exporter.protocols.http.settings import JWT_BEARER, OAuth2
from probe_exporter.runner import Result, run
from tests.cost import expect_short, turns
from tests.outcomes import why
from tests.targets import Answer, End, Pause, Pki, Repeat, Request, Site, Tls, raw, redirect, reply, silence
from tests.targets.answers import head
from tests.targets.proxy import HttpProxy, ProxyServer

OK = reply(200, b"ok")


def token(name: str = "abc", expires_in: float | None = 3600, **more: object) -> Answer:
    """Return a response with a token."""
    fields = {"access_token": name, "expires_in": expires_in, **more}
    return reply(200, json.dumps(fields).encode(), ("Content-Type", "application/json"))


REFUSED = reply(401, b'{"error": "invalid_client", "error_description": "the secret is not hunter2"}')


class Server(Site):
    """A target that is its own token server; pages may change while it runs."""

    def __init__(self, answer: Answer | None = None, tls: Tls | None = None, pki: Pki | None = None) -> None:
        self.changing: dict[str, Answer] = {"/": OK, "/token": answer or token()}
        super().__init__(self.changing, tls, pki.directory if pki else None)

    @property
    def asked(self) -> list[Request]:
        """The requests for a token."""
        return [request for request in self.requests if request.path == "/token"]

    @property
    def shown(self) -> list[str]:
        """The Authorization headers that the target received; "" for none."""
        rest = [request for request in self.requests if request.path != "/token"]
        return [value for request in rest for value in request.all("Authorization") or [""]]

    def module(self, block: Mapping[str, object] | None = None, **settings: Any) -> Module:
        """Return a module with a token of this server."""
        oauth2 = {
            "client_id": "id", "client_secret": "hunter2", "token_url": self.fill("http://127.0.0.1:{port}/token"),
            **(block or {}),
        }  # fmt: skip
        settings = {"preferred_ip_protocol": "ip4", "oauth2": oauth2, **settings}
        return Module("m", prober, HttpSettings.model_validate(settings), 0.0, Place("test.yml"))

    async def probe(self, module: Module, target: str = "http://127.0.0.1:{port}/", timeout: float = 60.0) -> Result:
        """Probe this target once."""
        return await run(module, self.fill(target), timeout)


def told(result: Result) -> str:
    """Return everything that is reported about a probe."""
    said = [f"{event.message} {event.fields}" for event in result.probe.events]
    return " ".join([result.failure.message if result.failure else "", *said])


# --- once --------------------------------------------------------------------------------------------------


async def test_token_is_reused() -> None:
    async with Server() as server:
        module = server.module()
        for _ in range(3):
            assert why(await server.probe(module)) is None
        assert len(server.asked) == 1
        assert server.shown == ["Bearer abc"] * 3


async def test_token_belongs_to_one_module() -> None:
    async with Server() as server:
        await server.probe(server.module())
        await server.probe(server.module())
        assert len(server.asked) == 2


async def test_token_is_shared_by_variants_of_a_module() -> None:
    async with Server() as server:
        module = server.module()
        for name in ("a.test", "b.test"):
            changed = replace(module, settings=module.prober.with_hostname(module.settings, name))
            assert why(await server.probe(changed)) is None
        assert len(server.asked) == 1


@pytest.mark.parametrize("expires_in", [None, 0, -5, 9])
async def test_token_without_or_with_short_lifetime_is_used_once(expires_in: float | None) -> None:
    async with Server(token(expires_in=expires_in)) as server:
        module = server.module()
        for _ in range(2):
            assert why(await server.probe(module)) is None
        assert len(server.asked) == 2


@pytest.mark.usefixtures("clock")
async def test_token_is_reused_until_shortly_before_it_expires() -> None:
    async with Server(token(expires_in=20)) as server:
        module = server.module()
        for _ in range(2):
            await server.probe(module)
        assert len(server.asked) == 1
        await asyncio.sleep(10)
        await server.probe(module)
        assert len(server.asked) == 2


@pytest.mark.usefixtures("clock")
async def test_concurrent_probes_wait_for_one_token_request() -> None:
    async with Server() as server:
        server.changing["/token"] = raw(Pause(5), *token().parts)
        module = server.module()
        results = await asyncio.gather(*(server.probe(module) for _ in range(20)))
        assert {why(result) for result in results} == {None}
        assert len(server.asked) == 1
        assert len(server.shown) == 20


@pytest.mark.usefixtures("clock")
async def test_concurrent_probes_share_a_refusal_that_is_not_kept() -> None:
    async with Server() as server:
        server.changing["/token"] = Answer((Pause(3), *REFUSED.parts))
        module = server.module()
        results = await asyncio.gather(*(server.probe(module) for _ in range(5)))
        assert {why(result) for result in results} == {(Reason.OAUTH2_TOKEN, "token")}
        assert len({id(result.failure) for result in results}) == 5
        assert len(server.asked) == 2  # once with the header and once with the form
        server.changing["/token"] = token()
        assert why(await server.probe(module)) is None


@pytest.mark.usefixtures("clock")
@pytest.mark.slow
async def test_timed_out_probe_does_not_end_the_token_request_of_others() -> None:
    """The first probe, which made the request, times out before the token arrives."""
    async with Server() as server:
        server.changing["/token"] = raw(Pause(12), *token().parts)
        module = server.module()
        impatient, patient = await asyncio.gather(server.probe(module, timeout=8), server.probe(module, timeout=25))
        assert why(impatient) == (Reason.OAUTH2_TIMEOUT, "token")
        assert why(patient) is None
        assert len(server.asked) == 1


@pytest.mark.usefixtures("clock")
async def test_cancelled_probe_does_not_end_the_token_request_of_others() -> None:
    async with Server() as server:
        server.changing["/token"] = raw(Pause(5), *token().parts)
        module = server.module()
        first = asyncio.create_task(server.probe(module))
        second = asyncio.create_task(server.probe(module))
        await server.reached(1)
        first.cancel()
        assert why(await second) is None
        assert first.cancelled()
        assert len(server.asked) == 1


@pytest.mark.usefixtures("clock")
@pytest.mark.slow
async def test_token_request_ends_when_no_probe_waits() -> None:
    async with Server(silence()) as server:
        module = server.module()
        results = await asyncio.gather(*(server.probe(module, timeout=8) for _ in range(3)))
        assert {why(result) for result in results} == {(Reason.OAUTH2_TIMEOUT, "token")}
        await asyncio.wait_for(server.abandoned.wait(), 10)
        assert len(server.asked) == 1
        server.changing["/token"] = token()
        assert why(await server.probe(module)) is None


# --- a token that the target refuses -----------------------------------------------------------------------


async def test_reused_token_that_the_target_refuses_is_replaced_at_once(tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b"all of it")
    async with Server() as server:
        module = server.module(method="POST", body_file=str(tmp_path / "body"))
        await server.probe(module)
        server.changing["/token"] = token("def")
        server.changing["/"] = redirect(302, "/next")
        server.changing["/next"] = reply(401, b"no")
        result = await server.probe(module)
        assert why(result) == (Reason.HTTP_STATUS, "validation")
        assert result.probe.samples.get(http.REDIRECTS) == 1
        assert server.shown[-2:] == ["Bearer def", "Bearer def"]
        assert [request.body for request in server.requests if request.path == "/"] == [b"all of it"] * 3
        assert len(server.asked) == 2


async def test_new_token_that_the_target_refuses_fails_and_is_not_kept() -> None:
    async with Server() as server:
        server.changing["/"] = reply(401, b"no")
        module = server.module()
        for number in (1, 2):
            result = await server.probe(module)
            assert why(result) == (Reason.HTTP_STATUS, "validation")
            assert result.probe.samples.get(http.STATUS_CODE) == 401
            assert len(server.asked) == number
            assert len(server.shown) == number


async def test_refusal_is_a_success_if_its_status_is_valid() -> None:
    async with Server() as server:
        server.changing["/"] = reply(401, b"no")
        assert why(await server.probe(server.module(valid_status_codes=[401]))) is None


# --- failures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason", "words"),
    [
        (REFUSED, Reason.OAUTH2_TOKEN, "status 401 and no token: invalid_client the secret is not <secret>"),
        (reply(500, b"<h1>broken</h1>"), Reason.OAUTH2_TOKEN, "status 500 and no token"),
        (reply(200, b'{"error": "invalid_scope"}'), Reason.OAUTH2_TOKEN, "invalid_scope"),
        (reply(200, b"nonsense"), Reason.OAUTH2_TOKEN, "no token"),
        (reply(200, b"[" * 200_000), Reason.OAUTH2_TOKEN, "no token"),
        (reply(200, b"\xff\xfe"), Reason.OAUTH2_TOKEN, "no token"),
        (token(name="a\nb"), Reason.OAUTH2_TOKEN, "header"),
        (token(token_type="a\nb"), Reason.OAUTH2_TOKEN, "header"),
        (token(token_type=5), Reason.OAUTH2_TOKEN, "no token"),
        *(
            (
                reply(200, f'{{"access_token": "abc", "expires_in": {value}}}'.encode()),
                Reason.OAUTH2_TOKEN,
                "expires_in",
            )
            for value in ('"soon"', '"1.5"', f'"{"9" * 400}"', "[1]", '{"a": 1}')
        ),
        *(
            (reply(200, f'{{"access_token": "abc", "expires_in": {value}}}'.encode()), Reason.OAUTH2_TOKEN, "no token")
            for value in ("NaN", "Infinity", "9" * 400)  # which is not JSON to Go
        ),
        (raw(b"220 mail.test\r\n"), Reason.OAUTH2_TOKEN, "not HTTP"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"), Reason.OAUTH2_TOKEN, "ended"),
        (raw(head(200) + b"{", Repeat(b" " * 65_536, 40)), Reason.OAUTH2_TOKEN, str(MAX_ANSWER_BYTES)),
        (redirect(302, "/token"), Reason.OAUTH2_TOKEN, "status 302"),
        (redirect(302, "http://nowhere.invalid/"), Reason.OAUTH2_CONNECT, "nowhere.invalid"),
        (raw(b""), Reason.OAUTH2_CONNECT, "ended"),
        (raw(end=End.RESET), Reason.OAUTH2_CONNECT, "reset"),
    ],
)
async def test_token_failure_has_its_own_reason(answer: Answer, reason: Reason, words: str) -> None:
    async with Server(answer) as server:
        result = await server.probe(server.module())
        assert why(result) == (reason, "token")
        assert words in told(result)
        assert server.fill("http://127.0.0.1:{port}: ") in told(result)
        assert result.probe.samples.get(http.STATUS_CODE) == 0
        assert server.shown == []
        assert "hunter2" not in told(result)


@pytest.mark.parametrize(
    ("block", "reason", "words"),
    [
        ({"token_url": "http://127.0.0.1:1/token"}, Reason.OAUTH2_CONNECT, "refused"),
        ({"token_url": "http://nowhere.invalid/token"}, Reason.OAUTH2_CONNECT, "nowhere.invalid"),
        ({"proxy_url": "http://user:hunter2@127.0.0.1:1"}, Reason.OAUTH2_CONNECT, "the proxy http://127.0.0.1:1"),
        ({"token_url": "ftp://127.0.0.1/"}, Reason.SETTINGS_UNUSABLE, "token_url"),
        (
            {"client_secret": "", "client_secret_file": "/nowhere/secret"},
            Reason.SETTINGS_UNUSABLE,
            "client_secret_file",
        ),
        ({"tls_config": {"ca_file": "/nowhere/ca.pem"}}, Reason.SETTINGS_UNUSABLE, "ca_file"),
        ({"scopes": ["a"], "endpoint_params": {"scope": "b"}}, Reason.SETTINGS_UNUSABLE, "scope"),
    ],
)
async def test_token_request_with_unusable_settings_fails_before_it_is_sent(
    block: dict[str, Any], reason: Reason, words: str
) -> None:
    async with Server() as server:
        block = {key: server.fill(value) if key == "token_url" else value for key, value in block.items()}
        result = await server.probe(server.module(block))
        assert why(result) == (reason, "token")
        assert words in told(result)
        assert "hunter2" not in told(result)
        assert server.requests == []


@pytest.mark.parametrize("key", ["client_secret_ref", "client_certificate_key_ref"])
async def test_secret_references_are_refused(key: str) -> None:
    async with Server() as server:
        grant = JWT_BEARER if key.startswith("client_cert") else ""
        result = await server.probe(server.module({"client_secret": "", key: "x", "grant_type": grant}))
        assert why(result) == (Reason.SETTINGS_UNUSABLE, "")
        assert "connect" not in {phase for (phase,) in result.probe.samples.labelled[http.DURATION]}
        assert server.requests == []


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"])
@pytest.mark.slow
async def test_token_request_ends_with_the_timeout_of_the_probe(part: bytes) -> None:
    async with Server(silence(*([part] if part else []))) as server:
        result = await server.probe(server.module(), timeout=8)
        assert why(result) == (Reason.OAUTH2_TIMEOUT, "token")
        assert 8 <= result.duration < 12


@pytest.mark.usefixtures("clock")
@pytest.mark.slow
async def test_token_request_counts_in_no_phase() -> None:
    async with Server() as server:
        server.changing["/token"] = raw(Pause(10), *token().parts)
        result = await server.probe(server.module())
        assert why(result) is None
        assert result.duration > 9
        assert sum(result.probe.samples.labelled[http.DURATION].values()) < 5


# --- what is sent ------------------------------------------------------------------------------------------


async def test_client_credentials_are_sent_in_a_header_and_then_in_the_form() -> None:
    async with Server(REFUSED) as server:
        await server.probe(server.module({"client_id": "i d", "scopes": ["a", "b"], "endpoint_params": {"x": "ü"}}))
        first, second = server.asked
        assert base64.b64decode(first.all("Authorization")[0].removeprefix("Basic ")) == b"i+d:hunter2"
        assert first.body == b"grant_type=client_credentials&scope=a+b&x=%C3%BC"
        assert second.all("Authorization") == []
        assert parse_qs(second.body.decode()) == {
            "client_id": ["i d"], "client_secret": ["hunter2"], "grant_type": ["client_credentials"],
            "scope": ["a b"], "x": ["ü"],
        }  # fmt: skip
        assert first.all("Content-Type") == second.all("Content-Type") == ["application/x-www-form-urlencoded"]


async def test_client_secret_file_is_read_for_each_request(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    async with Server(token(expires_in=None)) as server:
        module = server.module({"client_secret": "", "client_secret_file": str(path)})
        for secret in ("one", "two"):
            path.write_text(f"  {secret}\n")
            await server.probe(module)
        sent = [base64.b64decode(request.all("Authorization")[0][6:]) for request in server.asked]
        assert sent == [b"id:one", b"id:two"]


async def test_token_request_has_the_user_agent_of_the_module() -> None:
    async with Server() as server:
        await server.probe(server.module())
        await server.probe(server.module(headers={"User-Agent": "somebody/1"}))
        assert server.asked[0].all("User-Agent")[0].startswith("Blackbox-Exporter/0.28.0 probe-exporter/")
        assert server.asked[1].all("User-Agent") == ["somebody/1"]


async def test_token_request_has_no_headers_of_the_target() -> None:
    async with Server() as server:
        await server.probe(
            server.module(headers={"X-A": "1", "Host": "h.test"}, http_headers={"X-B": {"values": ["2"]}})
        )
        names = {name for name, _ in server.asked[0].headers}
        assert names == {
            "Host", "User-Agent", "Authorization", "Content-Type", "Content-Length", "Accept-Encoding", "Connection"
        }  # fmt: skip


async def test_token_is_not_sent_to_another_host() -> None:
    async with Server() as server:
        server.changing["/"] = redirect(302, "/next")
        server.changing["/next"] = redirect(302, "http://0.0.0.0:{port}/last")
        server.changing["/last"] = OK
        assert why(await server.probe(server.module())) is None
        assert server.shown == ["Bearer abc", "Bearer abc", ""]


async def test_client_secret_is_not_sent_to_another_host() -> None:
    async with Server(redirect(307, "http://0.0.0.0:{port}/elsewhere")) as server:
        server.changing["/elsewhere"] = token()
        assert why(await server.probe(server.module())) is None
        assert server.requests[1].path == "/elsewhere"
        assert server.requests[1].all("Authorization") == []


async def test_token_response_may_be_compressed() -> None:
    body = gzip.compress(b'{"access_token": "abc"}')
    async with Server(reply(200, body, ("Content-Encoding", "gzip"))) as server:
        assert why(await server.probe(server.module())) is None
        assert server.shown == ["Bearer abc"]
        server.changing["/token"] = reply(200, body[:-4], ("Content-Encoding", "gzip"))
        assert why(await server.probe(server.module())) == (Reason.OAUTH2_TOKEN, "token")


@pytest.mark.slow
async def test_compressed_token_response_has_a_size_limit() -> None:
    body = gzip.compress(b" " * (MAX_ANSWER_BYTES * 64))
    async with Server(reply(200, body, ("Content-Encoding", "gzip"))) as server:
        assert why(await server.probe(server.module())) == (Reason.OAUTH2_TOKEN, "token")


async def test_token_request_has_its_own_tls_and_proxy(pki: Pki) -> None:
    async with Server(tls=Tls(), pki=pki) as server, ProxyServer({}, behaviour=HttpProxy()) as proxy:
        trust = {"ca_file": str(pki.directory / "root.pem")}
        block = {
            "token_url": server.fill("https://localhost:{tls_port}/token"), "tls_config": trust,
            "proxy_url": f"http://user:pass@127.0.0.1:{proxy['port']}",
        }  # fmt: skip
        assert why(await server.probe(server.module(block))) is None
        assert [server.blank(request.line) for request in proxy.requests] == ["CONNECT localhost:{tls_port} HTTP/1.1"]
        assert proxy.requests[0].all("Proxy-Authorization") == ["Basic dXNlcjpwYXNz"]
        result = await server.probe(server.module({**block, "tls_config": {}}, tls_config=trust))
        assert why(result) == (Reason.OAUTH2_CONNECT, "token")
        assert http.SSL in result.probe.samples.families
        assert result.probe.samples.get(http.SSL) == 0
        assert not any(metric.name.startswith("probe_ssl_") for metric in result.probe.samples.labelled)


# --- assertions --------------------------------------------------------------------------------------------

FORMATS = {
    "PKCS8": serialization.PrivateFormat.PKCS8,
    "PKCS1": serialization.PrivateFormat.TraditionalOpenSSL,
}
ALGORITHMS = {"RS256": hashes.SHA256(), "RS384": hashes.SHA384(), "RS512": hashes.SHA512()}


@functools.cache
def key() -> rsa.RSAPrivateKey:
    """Return the key that signs all assertions."""
    return rsa.generate_private_key(65537, 2048)


def pem(form: str = "PKCS8") -> str:
    return key().private_bytes(serialization.Encoding.PEM, FORMATS[form], serialization.NoEncryption()).decode()


def signing(**more: object) -> dict[str, object]:
    """Return an ``oauth2`` block of the grant with an assertion."""
    return {"grant_type": JWT_BEARER, "client_secret": "", "client_certificate_key": pem(), **more}


def opened(request: Request, algorithm: str = "RS256") -> tuple[dict[str, Any], dict[str, Any], dict[str, list[str]]]:
    """Verify the assertion of a request; return its header, its claims, and the other form fields."""
    form = parse_qs(request.body.decode())
    text, _, signature = form.pop("assertion")[0].rpartition(".")

    def plain(segment: str) -> bytes:
        assert "=" not in segment
        return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))

    key().public_key().verify(plain(signature), text.encode(), padding.PKCS1v15(), ALGORITHMS[algorithm])
    header, claims = (json.loads(plain(segment)) for segment in text.split("."))
    return header, claims, form


async def test_assertion_has_the_default_claims() -> None:
    earliest = int(time.time())
    async with Server() as server:
        assert why(await server.probe(server.module(signing()))) is None
        (request,) = server.asked
        header, claims, form = opened(request)
        assert header == {"alg": "RS256", "typ": "JWT"}
        assert form == {"grant_type": [JWT_BEARER]}
        assert (claims["iss"], claims["sub"]) == ("id", "id")
        assert claims["aud"] == server.fill("http://127.0.0.1:{port}/token")
        assert earliest <= claims["iat"] <= time.time()
        assert claims["exp"] - claims["iat"] == 600
        assert len(claims["jti"]) == 36
        assert set(claims) == {"iss", "sub", "aud", "iat", "exp", "jti"}
        assert request.all("Authorization") == []
        assert server.shown == ["Bearer abc"]


async def test_assertion_has_the_configured_header_and_claims() -> None:
    async with Server() as server:
        block = signing(
            iss="me", audience="them", client_certificate_key_id="k1", scopes=["a", "b"],
            claims={"x": 1, "nested": {"list": [True, None, 1.5]}, "é": "<&>"}, endpoint_params={"p": "1"},
        )  # fmt: skip
        await server.probe(server.module(block))
        header, claims, form = opened(server.asked[0])
        assert header["kid"] == "k1"
        assert (claims["iss"], claims["sub"], claims["aud"], claims["scope"]) == ("me", "id", "them", "a b")
        assert (claims["x"], claims["nested"], claims["é"]) == (1, {"list": [True, None, 1.5]}, "<&>")
        assert form == {"grant_type": [JWT_BEARER], "scope": ["a b"], "p": ["1"]}


async def test_assertion_claims_of_the_configuration_win() -> None:
    own = {"sub": "S", "iss": "I", "aud": "A", "exp": 5, "iat": 3, "jti": "J", "scope": "z"}
    async with Server() as server:
        await server.probe(server.module(signing(claims=own, scopes=["a"])))
        assert opened(server.asked[0])[1] == own


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_assertion_is_signed_with_the_configured_algorithm(algorithm: str) -> None:
    async with Server() as server:
        await server.probe(server.module(signing(signature_algorithm=algorithm)))
        assert opened(server.asked[0], algorithm)[0]["alg"] == algorithm


@pytest.mark.parametrize("form", FORMATS)
async def test_assertion_key_may_be_in_a_file(form: str, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text(pem(form))
    async with Server() as server:
        block = signing(client_certificate_key="", client_certificate_key_file=str(tmp_path / "key.pem"))
        assert why(await server.probe(server.module(block))) is None
        opened(server.asked[0])


async def test_assertion_is_different_each_time() -> None:
    async with Server(token(expires_in=None)) as server:
        module = server.module(signing())
        for _ in range(2):
            await server.probe(module)
        assert len({opened(request)[1]["jti"] for request in server.asked}) == 2


async def test_refused_assertion_is_sent_once() -> None:
    async with Server(REFUSED) as server:
        result = await server.probe(server.module(signing()))
        assert why(result) == (Reason.OAUTH2_TOKEN, "token")
        assert len(server.asked) == 1


async def test_endpoint_params_may_set_the_grant_type_but_not_the_assertion() -> None:
    async with Server() as server:
        await server.probe(server.module(signing(endpoint_params={"grant_type": "other"})))
        assert opened(server.asked[0])[2] == {"grant_type": ["other"]}
        result = await server.probe(server.module(signing(endpoint_params={"assertion": "x"})))
        assert why(result) == (Reason.SETTINGS_UNUSABLE, "token")


@pytest.mark.parametrize("key", ["", "garbage", "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n"])
async def test_invalid_key_is_reported_without_being_shown(key: str) -> None:
    async with Server() as server:
        result = await server.probe(server.module(signing(client_certificate_key=key)))
        assert why(result) == (Reason.SETTINGS_UNUSABLE, "token")
        assert "hunter2" not in told(result)
        assert server.requests == []


async def test_key_that_is_not_rsa_is_refused(pki: Pki) -> None:
    async with Server() as server:
        block = signing(client_certificate_key="", client_certificate_key_file=str(pki.directory / "leaf.key"))
        result = await server.probe(server.module(block))
        assert why(result) == (Reason.SETTINGS_UNUSABLE, "token")
        assert "RSA" in told(result)


# --- warnings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "keys"),
    [
        ({}, []),
        ({"token_url": "ftp://a.test/"}, ["token_url"]),
        ({"token_url": "/token"}, ["token_url"]),
        ({"endpoint_params": {"scope": "a"}}, []),
        ({"endpoint_params": {"scope": "a"}, "scopes": ["b"]}, ["endpoint_params"]),
        ({"endpoint_params": {"assertion": "a"}}, []),
        ({"endpoint_params": {"assertion": "a"}, "grant_type": JWT_BEARER}, ["endpoint_params"]),
        ({"proxy_url": "ftp://p.test"}, ["proxy_url"]),
    ],
)
def test_questionable_oauth2_setting_is_a_warning(written: dict[str, object], keys: list[str]) -> None:
    block = {"client_id": "id", "token_url": "http://a.test/", **written}
    assert [key for key, _ in OAuth2.model_validate(block).cautions()] == keys


HOSTILE = {
    "lists": ("application/json", b"[" + b"[]," * 300_000 + b"[]]"),
    "objects": ("application/json", b'{"access_token":"x","b":[' + b'{"a":1},' * 100_000 + b"{}]}"),
    "bytes that are not UTF-8": ("application/json", b'{"access_token":"x","b":"' + b"a\xff" * 500_000 + b'"}'),
    "an error of a megabyte": ("application/json", b'{"error":"' + b"x" * 1_000_000 + b'"}'),
    "form fields": ("text/plain", b"a&" * 500_000),
    "encoded form": ("text/plain", b"a=" + b"%61" * 300_000),
    "64 KiB of lists": ("application/json", b"[" + b"[]," * 20_000 + b"[]]"),
    "64 KiB of form fields": ("text/plain", b"a=b&" * 16_000),
}


@pytest.mark.parametrize(("media_type", "answer"), HOSTILE.values(), ids=HOSTILE)
@pytest.mark.slow
async def test_token_response_does_not_block_the_event_loop(media_type: str, answer: bytes) -> None:
    response = Http1ResponseReader("POST")
    response.feed(b"HTTP/1.1 200 OK\r\nContent-Type: " + media_type.encode() + b"\r\n\r\n")
    with turns() as taken:
        with suppress(ProbeFailed):
            await _token(response, answer, "secret")
        await asyncio.sleep(0.01)
    assert taken
    expect_short(max(taken))
