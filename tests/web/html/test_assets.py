"""Test the static files: content, caching, and that they and the templates need no other host and no inline code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from probe_exporter.web.html import assets
from probe_exporter.web.html.rendering import TEMPLATES
from probe_exporter.web.request import WebRequest

FILES = sorted([*TEMPLATES.iterdir(), *assets.FOLDER.iterdir()])


@pytest.mark.parametrize("name", assets.TYPES)
async def test_static_file_is_cached_until_it_changes(name: str) -> None:
    answer = await assets.handler(name)(WebRequest("GET", "/", {}), "")
    assert answer.body == (assets.FOLDER / name).read_bytes()
    fields = dict(answer._fields)
    assert "immutable" in fields["Cache-Control"]
    again = await assets.handler(name)(WebRequest("GET", "/", {"If-None-Match": fields["ETag"]}), "")
    assert again.status == 304
    other = await assets.handler(name)(WebRequest("GET", "/", {"If-None-Match": '"other"'}), "")
    assert other.status == 200


def test_every_static_file_is_served() -> None:
    assert {path.name for path in assets.FOLDER.iterdir()} == set(assets.TYPES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_file_names_no_other_host_and_has_no_inline_code(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"https?://(?!www\.w3\.org/)", text) == []
    assert re.findall(r"<script(?! src=)|<style|\sstyle=|\son[a-z]+=|javascript:", text) == []
