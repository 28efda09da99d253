"""Tests of masking: shown text contains no password of a URL or a module."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from probe_exporter.protocols.dialogue.steps import Step
from probe_exporter.settings.block import Settings
from probe_exporter.settings.secrets import Named, Secret
from probe_exporter.telemetry.masking import Mask, mask_urls
from tests.cost import costs_at_most


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://u:p@h/", "http://u:xxxxx@h/"),
        ("u:p@h:80/x", "u:xxxxx@h:80/x"),
        ("http://:p@h", "http://:xxxxx@h"),
        ("http://u:p:q@x@h", "http://u:xxxxx@h"),
        ("http://u:pa/ss@h/", "http://u:xxxxx@h/"),
        ("see http://u:p@h, then SOCKS5://v:q@i.", "see http://u:xxxxx@h, then SOCKS5://v:xxxxx@i."),
        ("'http://u:p@h' is no URL", "'http://u:xxxxx@h' is no URL"),
    ],
)
def test_masking_replaces_url_password(text: str, shown: str) -> None:
    assert mask_urls(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://h:80/@user",
        "https://[::1]:80/@user",
        "http://h:80?x=a@b",
        "http://u@h/",
        "h:25 said 220 a@b",
        "http://h/a@b:c@d",
        "127.0.0.1:25",
        "/run/a.sock",
    ],
)
def test_masking_keeps_other_text(text: str) -> None:
    assert mask_urls(text) == text


@given(st.from_regex(r"[^\s/?#@]+", fullmatch=True), st.sampled_from(["", "http://", "https://", "socks5://"]))
def test_masking_hides_any_password(password: str, scheme: str) -> None:
    assert mask_urls(f"{scheme}user:{password}@host:80/path") == f"{scheme}user:xxxxx@host:80/path"


class Inner(Settings):
    """A block in a block."""

    secret: Secret = Secret("")


class Outer(Settings):
    """A prober's block."""

    inner: Inner = Inner()
    several: tuple[Secret, ...] = ()
    url: str = ""
    headers: Named = Field(default_factory=dict)


SETTINGS = Outer(
    inner=Inner(secret=Secret("deep secret")),
    several=(Secret("first"), Secret("first and more"), Secret("abc")),
    url="http://u:in-a-url@h",
    headers={"X-Api-Key": "of a header", "Accept": "nothing secret"},
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("deep secret", "<secret>"),
        ("deep%20secret", "<secret>"),
        ("it says first, and first and more", "it says <secret>, and <secret>"),
        ("in-a-url", "<secret>"),
        ("of a header", "<secret>"),
        ("nothing secret", "nothing secret"),
        ("my pass", "my pass"),
        ("pa ss", "xxxxx"),
        ("abc is too short to be looked for", "abc is too short to be looked for"),
    ],
)
def test_masking_hides_secrets_of_module_and_target(text: str, shown: str) -> None:
    assert Mask("http://me:pa%20ss@h/", SETTINGS).text(text) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [("deep", "<secret>"), ("of a header", "<secret>"), ("nothing", "nothing"), ("", ""), ("u:p@h", "u:xxxxx@h")],
)
def test_masking_hides_a_parameter_that_is_a_part_of_a_secret(value: str, shown: str) -> None:
    assert Mask("h", SETTINGS).parameter(value) == shown


def test_masking_covers_nested_data() -> None:
    mask = Mask("target", SETTINGS)
    value = {"a": ["deep secret", {"deep secret": b"first\xff"}], "b": (1, None, True, 0.5), "c": {Secret("x")}}
    assert mask.plain(value) == {
        "a": ["<secret>", {"<secret>": "<secret>\\xff"}],
        "b": [1, None, True, 0.5],
        "c": ["<secret>"],
    }


# --- settings that may hold a secret, as they are shown ------------------------------------------------------


@pytest.mark.parametrize(
    "send",
    [
        "",
        "QUIT",
        "QUIT\r",
        "EHLO prober\r",
        "a STARTTLS\r",
        "b1 CAPABILITY",
        ". LOGOUT",
        "STLS",
        "SSH-2.0-probe-exporter",
        "NICK probe",
        "USER probe 0 * :probe-exporter",
        "PONG ${1}",
        "PING",
        "INFO replication",
        "stats",
    ],
)
def test_masking_shows_harmless_command(send: str) -> None:
    assert Step(send=send).model_dump()["send"] == send


@pytest.mark.parametrize(
    "send",
    [
        "PASS x",
        "AUTH PLAIN AGEAYg==",
        "AGEAYg==",
        "a LOGIN me x",
        "PASS ping",
        "HELLO 3 AUTH me x",
        "QUIT\nPASS x",
        "quitter",
        "GET / HTTP/1.0\r\nAuthorization: Basic x\r\n\r\n",
        "\udcff\x00",
    ],
)
def test_masking_hides_other_commands(send: str) -> None:
    assert Step(send=send).model_dump()["send"] == "<secret>"
    assert Step(send_bytes=send).model_dump()["send_bytes"] == "<secret>"


@pytest.mark.parametrize("name", ["Authorization", "cookie", "X-Api-Key", "api_key", "PRIVATE-TOKEN", "client_secret"])
def test_masking_hides_secret_headers(name: str) -> None:
    assert Outer(headers={name: "x", "Accept": "y"}).model_dump()["headers"] == {name: "<secret>", "Accept": "y"}


@pytest.mark.parametrize(
    "text",
    [
        "@" + "a" * 60_000,
        "a" * 60_000 + "@",
        "@ " + "a://x:" * 10_000,
        "a://x:" * 10_000 + "@",
        "a://x:1/" * 8_000 + "@",
        "a://x:1/" * 8_000 + " @",
        "://" * 20_000 + "@",
        "a://" + "x:" * 30_000 + " @",
        "@a://b:" * 9_000,
        "a.b+c-" * 10_000 + "://u:p@h",
        ":" * 60_000 + "@",
    ],
)
@pytest.mark.slow
def test_masking_takes_linear_time(text: str) -> None:
    with costs_at_most(5):
        mask_urls(text)
