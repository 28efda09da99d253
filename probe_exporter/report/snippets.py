"""Texts to copy for a target and a module: the curl line, the terminal command, the Prometheus scrape config."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

from probe_exporter.config.dump import dump
from probe_exporter.config.reloading import Source

EXPORTER = "http://127.0.0.1:9115/"
"""The default of what a client calls the exporter: its URL, with the route prefix and a slash at the end."""


OFFSET_SECONDS = 0.5
"""Seconds of the scrape timeout that the exporter keeps for its response, unless a flag says otherwise."""

DEFAULT_SCRAPE_SECONDS = 10
"""Prometheus waits so long for a scrape, unless its configuration says otherwise."""


class Snippets(NamedTuple):
    """Texts to copy.

    Attributes:
        curl: the probe as a shell command; the answer is the debug document.
        command: the probe from a terminal, without a server.
        scrape_config: YAML for Prometheus.
    """

    curl: str
    command: str
    scrape_config: str


def snippets(
    module: str,
    target: str,
    parameters: Mapping[str, str],
    *,
    timeout: float = 0.0,
    exporter: str = EXPORTER,
    options: Sequence[str] = (),
) -> Snippets:
    """Return the texts for one target.

    Args:
        parameters: what the request gives beside module and target.
        timeout: of the module, in seconds; 0 if it sets none.
        exporter: its URL; see `EXPORTER`.
        options: flags of `probe-exporter run` that name the configuration.
    """
    return Snippets(
        curl=curl(module, target, parameters, exporter),
        command=command(module, target, parameters, options),
        scrape_config=scrape_config(module, [target], parameters, timeout=timeout, exporter=exporter),
    )


def source_options(source: Source) -> list[str]:
    """Return the flags of `probe-exporter run` that name the configuration of an exporter."""
    options = [f"--config.file={name}" for name in source.files]
    options += [f"--modules.dir={directory}" for directory in source.directories]
    return [*options, *["--config.expand-env"] * source.expand_env]


def query(module: str, target: str, parameters: Mapping[str, str], **more: str) -> str:
    """Return the query string of a request for a probe."""
    given = {"module": module, **parameters, **more, "target": target}
    return urlencode(given, errors="surrogateescape", safe="/:")


def curl(module: str, target: str, parameters: Mapping[str, str], exporter: str = EXPORTER) -> str:
    """Return the request as a shell command that prints the debug document."""
    url = f"{exporter}probe?{query(module, target, parameters, debug='true')}"
    return f"curl -sS {_quote(url)}"


def command(module: str, target: str, parameters: Mapping[str, str], options: Sequence[str] = ()) -> str:
    """Return the probe as a shell command that needs no server."""
    words = ["probe-exporter", "run", *options]
    for name, value in parameters.items():
        words += ["--param", f"{name}={value}"]
    if module.startswith("-") or target.startswith("-"):
        words.append("--")
    return " ".join(map(_quote, [*words, module, target]))


def _quote(word: str) -> str:
    """Quote a word for a shell. Control characters and bytes that are not UTF-8 become escapes, as bash has them.

    Pasted into a terminal, a control character would act before the shell sees its quotes.
    """
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join([_ESCAPES.get(c) or (c if c.isprintable() else _escape(c)) for c in word]) + "'"


_ESCAPES = {"\\": "\\\\", "'": "\\'"}


def _escape(character: str) -> str:
    """Return the bytes of a character as escapes, each with three octal digits."""
    return "".join([f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape")])


def scrape_config(
    module: str,
    targets: Sequence[str],
    parameters: Mapping[str, str],
    *,
    timeout: float = 0.0,
    exporter: str = EXPORTER,
) -> str:
    """Return `scrape_configs` of Prometheus for some targets, as YAML."""
    job = scrape_job(module, targets, parameters, timeout=timeout, exporter=exporter)
    return dump({"scrape_configs": [job]}, indent=2)


def scrape_job(
    module: str,
    targets: Sequence[str],
    parameters: Mapping[str, str],
    *,
    timeout: float = 0.0,
    exporter: str = EXPORTER,
) -> dict[str, Any]:
    """Return one job of a scrape config as plain data: the target becomes a parameter and the label ``instance``.

    Where the module's timeout is longer than Prometheus waits by default, the job waits longer.
    """
    scheme, _, rest = exporter.partition("://")
    address, _, path = rest.partition("/")
    job: dict[str, Any] = {"job_name": f"probe_{module}", "metrics_path": f"/{path}probe"}
    if scheme != "http":
        job["scheme"] = scheme
    scrape_timeout = math.ceil(timeout + OFFSET_SECONDS)
    if scrape_timeout > DEFAULT_SCRAPE_SECONDS:
        job["scrape_interval"] = f"{max(60, scrape_timeout)}s"
        job["scrape_timeout"] = f"{scrape_timeout}s"
    return {
        **job,
        "params": {"module": [module], **{name: [value] for name, value in parameters.items()}},
        "static_configs": [{"targets": list(targets)}],
        "relabel_configs": [
            {"source_labels": ["__address__"], "target_label": "__param_target"},
            {"source_labels": ["__param_target"], "target_label": "instance"},
            {"target_label": "__address__", "replacement": address},
        ],
    }
