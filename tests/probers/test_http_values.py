"""The http prober's user-defined metrics: from which responses they are read, and when the body is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.exposition.encoding import encode
from probe_exporter.exposition.formats import TEXT
from probe_exporter.prober.failure import Reason
from probe_exporter.probers.http import HttpSettings, prober
from probe_exporter.protocols.http import content
from probe_exporter.runner import Result, run
from tests import exporters
from tests.targets import Answer, Repeat, Site, raw, redirect, reply

LENGTH = {"name": "app_length", "help": "x", "from": {"json": "$.length"}}
COUNT = {"name": "app_count", "help": "x", "from": {"regexp": '"length": (\\d+)'}}
AGE = {"name": "app_age_seconds", "help": "x", "from": {"header": "X-Age"}}
PAGE = b'{"length": 7}'


async def probe(answer: Answer, *metrics: dict[str, Any], **settings: Any) -> Result:
    """Probe a page."""
    model = HttpSettings.model_validate({"metrics": list(metrics), **settings})
    async with Site({"/": answer}) as site:
        return await run(Module("m", prober, model, 0.0, Place("test.yml")), site.fill("127.0.0.1:{port}"), 20.0)


def values(result: Result) -> list[str]:
    """Return the samples that the module defines."""
    return [line for line in encode(result.probe.samples, TEXT).decode().splitlines() if line.startswith("app_")]


async def test_values_stand_beside_the_probe_s_metrics() -> None:
    result = await probe(reply(200, PAGE, ("X-Age", "3")), LENGTH, COUNT, AGE)
    assert result.success
    assert values(result) == ["app_age_seconds 3", "app_count 7", "app_length 7"]


async def test_values_are_read_from_a_failed_page() -> None:
    result = await probe(reply(503, PAGE), LENGTH)
    assert result.failure is not None
    assert result.failure.reason is Reason.HTTP_STATUS
    assert values(result) == ["app_length 7"]


async def test_failed_status_comes_before_missing_value_as_the_reason() -> None:
    result = await probe(reply(503, b"{}"), {**LENGTH, "required": True})
    assert result.failure is not None
    assert result.failure.reason is Reason.HTTP_STATUS
    result = await probe(reply(200, b"{}"), {**LENGTH, "required": True})
    assert result.failure is not None
    assert (result.failure.reason, result.phase) == (Reason.VALUE_MISSING, "values")


async def test_values_are_read_from_a_redirect_that_is_not_followed() -> None:
    answer = redirect(302, "/there", ("X-Age", "3"), body=PAGE)
    result = await probe(answer, LENGTH, AGE, follow_redirects=False, valid_status_codes=[302])
    assert values(result) == ["app_age_seconds 3", "app_length 7"]


async def test_page_with_checks_and_values_is_read_once() -> None:
    result = await probe(reply(200, PAGE), LENGTH, fail_if_body_not_matches_regexp=["length"], method="GET")
    assert result.success
    assert values(result) == ["app_length 7"]


async def test_endless_page_fails_at_the_document_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe_exporter.probers.http.DEFAULT_MAX_JSON_BYTES", 10_000)
    endless = raw(b"HTTP/1.1 200 OK\r\n\r\n", Repeat(b" " * 1000, 10**6))
    result = await probe(endless, LENGTH)
    assert result.failure is not None
    assert result.failure.reason is Reason.HTTP_BODY_TOO_LARGE


@pytest.mark.parametrize(("metrics", "held"), [([], False), ([AGE], False), ([COUNT], True), ([LENGTH], True)])
async def test_body_is_kept_only_if_a_value_needs_it(
    metrics: list[dict[str, Any]], held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Body(content.Body):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            seen.append(options.get("hold", False))
            super().__init__(*arguments, **options)

    monkeypatch.setattr("probe_exporter.probers.http.Body", Body)
    await probe(reply(200, PAGE), *metrics)
    assert seen[-1] is held


@pytest.mark.slow
async def test_values_work_with_parameters_and_several_modules(tmp_path: Path) -> None:
    http = {"metrics": [{**LENGTH, "from": {"json": "$.${param:key}"}, "labels": {"key": "${param:key}"}}]}
    module = {"prober": "http", "params": {"key": {"pattern": "[a-z]+", "default": "size"}}, "http": http}
    (tmp_path / "a.yml").write_text(yaml.safe_dump({"modules": {"one": module, "two": module}}))
    async with Site({"/": reply(200, PAGE)}) as site:
        with exporters.ours(tmp_path, "--config.file=a.yml") as exporter:
            path = exporters.probe_path(module="one,two", target=site.fill("127.0.0.1:{port}"), key="length")
            text = (await exporter.get(path)).text
    assert 'app_length{key="length",module="one"} 7\n' in text
    assert 'app_length{key="length",module="two"} 7\n' in text
    assert text.count("# TYPE app_length gauge\n") == 1
