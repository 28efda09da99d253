"""Generate docs/reference/ from the code: configuration keys, flags, and the HTTP API."""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from docs.key_examples import EXAMPLES
from probe_exporter import flags
from probe_exporter.config.reloading import Configuration, Source
from probe_exporter.config.schema import json_schema
from probe_exporter.history.memory import MemoryHistory
from probe_exporter.history.probe_log import ProbeLog
from probe_exporter.plugins.loader import load_probers
from probe_exporter.telemetry.counters import Telemetry
from probe_exporter.web.api import Operation
from probe_exporter.web.listening import Place
from probe_exporter.web.routes import Web

Schema = Mapping[str, Any]

GENERATED = "`make docs` generates this page from the code. Edit the declarations there.\n\n"

CERTIFICATE_KEYS = ("check_revoked", "fail_if_revoked", "ocsp", "certificate_details", "renewal_directory")

NEW = {
    ("File", "discovery"): "0.2.0",
    **{("Module", key): "0.2.0" for key in ("addresses", "attempts", "keep", "drop", "certificate_file")},
    ("Step", "reject"): "0.2.0",
    ("Step", "until"): "0.2.0",
    **{("", key): "0.2.0" for key in CERTIFICATE_KEYS},
}
"""Keys that did not come with 0.1.0: by block and key, the version. A block "" stands for every block."""

NEW_FLAGS = dict.fromkeys(("--probe.event-loop-delay", "--web.max-connection-age"), "0.2.0")

CONFIGURATION = f"""\
# Configuration keys

{GENERATED}A configuration file has the keys of the first table. All keys of
[blackbox_exporter 0.28](../migration.md) are among them and mean the same. `probe-exporter config schema` prints a JSON
Schema, so that an editor can check a file.

* A duration has units: `ns`, `us`, `ms`, `s`, `m`, `h`; as in `1.5s` or `1m30s`.
* A size has units in powers of 1024: `B`, `KB`, `MB`, `GB`, `TB`, `PB`, `EB`. `0` means no limit.
* A path is relative to the working directory of the exporter.
* A regular expression has the [syntax of RE2](https://github.com/google/re2/wiki/Syntax).

A text may contain `${{param:NAME}}`, a [parameter of the module](../how-to/parameters.md), in the block of a prober.

"""

UNITS = re.compile(r" A (?:duration with units|size in powers of 1024): [^.]*(?:1\.5s or 1m30s|no limit)\.$")
"""What the schema says beside each duration and size, and this page says once."""

BLOCKS = {"Module": "A module", "Parameter": "A parameter", "DiscoverySettings": "A source of targets"}
"""Headings of blocks that are not named as a key."""

YAML_BOOLEANS = ["yes", "no", "on", "off"]
PLACEHOLDER = r"\$\{param"

FLAGS = f"""\
# Flags

{GENERATED}`probe-exporter --help` prints the same. A flag may be written `--name=value` or `--name value`.
`--no-NAME` turns a flag without a value off. An argument `@FILE` stands for the lines of that
file, one argument a line, without blank lines and lines that begin with `#`.

| flag | value | meaning |
| --- | --- | --- |
"""

HTTP = f"""\
# HTTP API

{GENERATED}`/openapi.json` describes the same as OpenAPI 3.1. Paths begin with `--web.route-prefix`.
Browsers, which accept `text/html`, get pages. Other clients get text or JSON.

"""


# --- configuration -------------------------------------------------------------------------------------------


def configuration() -> str:
    """Return configuration.md."""
    probers = load_probers([])
    schema = json_schema(probers)
    blocks: Mapping[str, Schema] = schema["$defs"]
    of_probers = {prober.settings.__name__: f"Prober {name}" for name, prober in probers.items()}
    headings = {name: of_probers.get(name) or BLOCKS.get(name, name.removesuffix("Settings")) for name in blocks}
    order = ["Module", *sorted(of_probers, key=of_probers.__getitem__)]
    parts = [CONFIGURATION, "## A file\n\n", _keys("File", schema, headings), _example("File")]
    for name in [*order, *sorted(blocks.keys() - set(order))]:
        description = _prose(blocks[name].get("description", ""))
        parts += [f"\n## {headings[name]}\n\n", f"{description}\n\n" if description else ""]
        parts += [_keys(name, blocks[name], headings), _example(name)]
    return "".join(parts)


def _example(block: str) -> str:
    return f"\nFor example:\n\n```yaml\n{EXAMPLES[block]}```\n" if block in EXAMPLES else ""


def _keys(block: str, schema: Schema, headings: Mapping[str, str]) -> str:
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    required = schema.get("required", ())
    for key, value in schema["properties"].items():
        default = "required" if key in required else _default(value["default"]) if "default" in value else ""
        version = NEW.get((block, key)) or NEW.get(("", key))
        since = f" Since {version}." if version else ""
        description = UNITS.sub("", _prose(value.get("description", "")))
        deprecated = "Deprecated. " if value.get("deprecated") and not description.startswith("Deprecated") else ""
        meaning = f"{deprecated}{description}{since}"
        types = " or ".join(dict.fromkeys(_types(value, headings)))
        rows.append(f"| `{key}` | {types} | {default} | {meaning} |")
    return "\n".join(rows) + "\n"


def _default(value: object) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _types(schema: Schema, headings: Mapping[str, str]) -> Iterator[str]:
    """Yield the types of a value in words. Placeholders and null are left out: they are possible nearly everywhere."""
    inner = schema.get("items") or schema.get("additionalProperties")
    within = " or ".join(dict.fromkeys(_types(inner, headings))) if isinstance(inner, dict) else "any value"
    if "$ref" in schema:
        heading = headings[schema["$ref"].removeprefix("#/$defs/")]
        yield f"[{heading}](#{heading.lower().replace(' ', '-')})"
    elif "anyOf" in schema:
        for option in schema["anyOf"]:
            yield from _types(option, headings)
    elif "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        if values != YAML_BOOLEANS:
            yield ", ".join(f"`{value}`" for value in values if value != "")
    elif schema.get("type") == "array":
        yield f"list of {within}"
    elif schema.get("type") == "object":
        yield f"mapping to {within}"
    elif schema.get("type") != "null" and not schema.get("pattern", "").startswith(PLACEHOLDER):
        yield _scalar(schema)


def _scalar(schema: Schema) -> str:
    kind = schema.get("type", "any value")
    if isinstance(kind, list) or kind == "string":
        return "duration" if "(ns|us|" in schema.get("pattern", "") else "text"
    low, high = schema.get("minimum"), schema.get("maximum")
    limits = f" {low} to {high}" if high is not None else f" from {low}" if low is not None else ""
    return f"{kind}{limits}"


def _prose(text: str) -> str:
    """Return the text of a docstring as Markdown."""
    return re.sub(r"``([^`]*)``", r"`\1`", text).replace("\n", " ").replace("|", r"\|")


# --- flags ---------------------------------------------------------------------------------------------------


def flag_page() -> str:
    """Return flags.md."""
    rows = []
    for action in flags.parser_of_flags()._actions:  # noqa: SLF001  # argparse has no public list of its flags
        names = [name for name in action.option_strings if name.startswith("--") and not name.startswith("--no-")]
        if names and action.help != argparse.SUPPRESS:
            shown = ", ".join(f"`{name}`" for name in names)
            value = f"`{action.metavar}`" if action.nargs != 0 and action.metavar else ""
            meaning = (action.help or "").replace("%%", "%").replace("|", r"\|")
            since = "".join(f" Since {NEW_FLAGS[name]}." for name in names if name in NEW_FLAGS)
            rows.append(f"| {shown} | {value} | {meaning}{since} |\n")
    return FLAGS + "".join(rows)


# --- the HTTP API --------------------------------------------------------------------------------------------


def http_api() -> str:
    """Return http-api.md."""
    parts = [HTTP]
    for path, operation in _operations().items():
        parts += [f"## {path}\n\n", *_operation(operation), "\n"]
    return "".join(parts).rstrip("\n") + "\n"


def _operations() -> Mapping[str, Operation]:
    """Return the operation of each path, as the web server has it."""
    telemetry, log = Telemetry(), ProbeLog(logging.CRITICAL, "logfmt")
    history = MemoryHistory(1, 1 << 20, log, telemetry.history_lost)
    web = Web(
        Configuration(Source(), telemetry),
        telemetry,
        history,
        log,
        timeout_offset=0.5,
        max_probes=1,
        place=Place("/", ""),
    )
    return web.operations


def _operation(operation: Operation) -> Iterator[str]:
    yield f"{' or '.join(operation.methods)}. {operation.summary}\n\n"
    if operation.parameters:
        yield "| parameter | meaning |\n| --- | --- |\n"
        for parameter in operation.parameters:
            where = "" if parameter.where == "query" else f" ({parameter.where})"
            must = " Required." if parameter.required else ""
            yield f"| `{parameter.name}`{where} | {parameter.description}{must} |\n"
        yield "\n"
    yield "| status | answer | media types |\n| --- | --- | --- |\n"
    for status, reply in operation.replies.items():
        yield f"| {status} | {reply.description} | {', '.join(f'`{kind}`' for kind in reply.content)} |\n"
