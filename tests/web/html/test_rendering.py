"""Test the renderer: links, escaping, what templates use, and that a large page blocks nothing."""

from __future__ import annotations

import gzip

import pytest
from jinja2 import UndefinedError

from probe_exporter.web.html.rendering import Renderer, age, iso, link, moment
from probe_exporter.web.request import WebRequest
from tests.cost import short_turns

HOSTILE = "<script>alert('x')</script>\"&\udcff\u202e"


async def render(path: str = "/config", prefix: str = "/", **values: object) -> str:
    """Render the page of an error, which has a text of a client in it."""
    given = {"code": 400, "phrase": "Bad Request", "line": "a line", **values}
    answer = await Renderer(prefix).page(WebRequest("GET", path, {}), "error.html", given, 400)
    assert answer.status == 400
    return answer.body.decode()


@pytest.mark.parametrize(
    ("path", "prefix", "root"),
    [
        ("/", "/", ""),
        ("/config", "/", ""),
        ("/config?a=/b/c", "/", ""),
        ("/a/b", "/", "../"),
        ("/a/b/", "/", "../../"),
        ("/some/where/config", "/some/where/", ""),
        ("/some/where/a/b/c", "/some/where/", "../../"),
        ("/outside", "/some/where/", ""),
        ("http://host:9115/config", "/", ""),
    ],
)
async def test_links_are_relative_to_the_page(path: str, prefix: str, root: str) -> None:
    html = await render(path, prefix)
    assert f'href="{root}static/style.css?v=' in html
    assert f'href="{root}config"' in html
    assert f'href="{root or "./"}"' in html


async def test_values_are_escaped() -> None:
    html = await render(line=HOSTILE)
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&#34;&amp;?\u202e" in html


async def test_page_forbids_inline_code_and_other_hosts() -> None:
    answer = await Renderer("/").page(WebRequest("GET", "/", {}), "error.html", {"code": 1, "phrase": "", "line": ""})
    policy = dict(answer._fields)["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self';")


async def test_misspelt_name_in_a_template_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        await Renderer("/").page(WebRequest("GET", "/", {}), "error.html", {"code": 1, "phrase": ""})


async def test_first_page_and_a_large_page_do_not_block_the_event_loop() -> None:
    renderer, given = Renderer("/"), {"code": 400, "phrase": "Bad Request", "line": "<" * (8 << 20)}
    with short_turns():
        answer = await renderer.page(WebRequest("GET", "/", {}), "error.html", given)
    assert len(answer.body) > 32 << 20


@pytest.mark.parametrize(
    ("value", "text"),
    [(-1, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (3660, "1 h 01 min"), (90000, "1 d 1 h")],
)
def test_age_has_one_or_two_units(value: float, text: str) -> None:
    assert age(value) == text


def test_moment_has_date_time_and_zone() -> None:
    date, time, zone = moment(1767225600.0).split()
    assert (date[:4], len(time)) in {("2025", 8), ("2026", 8)}
    assert zone
    assert iso(1767225600.25)[-6] in "+-"


def test_link_leaves_out_empty_parameters_and_encodes_others() -> None:
    assert link("", "history", id=0, module="", reason=None) == "history?id=0"
    assert link("../", "probe", target="a b&c\udcff") == "../probe?target=a+b%26c%3F"
    assert link("") == "./"


async def test_page_is_compressed_for_a_client_that_accepts_gzip() -> None:
    values = {"code": 400, "phrase": "Bad Request", "line": HOSTILE}
    request = WebRequest("GET", "/", {"Accept-Encoding": "gzip, deflate, br"})
    answer = await Renderer("/").page(request, "error.html", values)
    assert dict(answer._fields)["Content-Encoding"] == "gzip"
    assert b"&lt;script&gt;" in gzip.decompress(answer.body)
