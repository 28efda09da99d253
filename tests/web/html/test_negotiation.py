"""Test which clients get HTML."""

from __future__ import annotations

import pytest

from probe_exporter.web.html.negotiation import MAX_ACCEPT_CHARACTERS, prefers_html

BROWSERS = {
    "chromium": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,"
    "application/signed-exchange;v=b3;q=0.7",
    "firefox": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "safari": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "script": "text/html",
    "equal": "text/html, text/plain",
    "spaces": "text/html ; q = 0.5 , text/plain;q=0.4",
}
OTHERS = {
    "none": "",
    "curl": "*/*",
    "prometheus": "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.5,*/*;q=0.1",
    "text": "text/plain",
    "any text": "text/*",
    "json": "application/json, text/html;q=0.9",
    "text first": "text/plain, text/html;q=0.5",
    "refused": "text/html;q=0",
    "invalid weight": "text/html;q=high",
    "not a type": "text/htmlx",
    "too long": "text/html," * (MAX_ACCEPT_CHARACTERS // 10 + 1),
}


@pytest.mark.parametrize("accept", BROWSERS.values(), ids=BROWSERS)
def test_browser_gets_html(accept: str) -> None:
    assert prefers_html(accept)


@pytest.mark.parametrize("accept", OTHERS.values(), ids=OTHERS)
def test_other_client_gets_the_machine_form(accept: str) -> None:
    assert not prefers_html(accept)
