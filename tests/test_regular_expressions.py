"""Every use of Python's `re` is listed with the reason why no input makes it slow; a new use fails until it is listed.

`re` backtracks: ``\\d*\\d*x`` on a run of digits takes quadratic time, and one header of 32,000 digits once stopped the
exporter for minutes. What modules search for in responses goes to RE2 instead.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

OURS = "reads what the operator or the author of a prober wrote: files, flags, names of metrics"
RUN = "one repetition at most, and the match is anchored or begins with a fixed character"
APART = "anchored, and each repetition ends where a character begins that it can't take, or is possessive"
TOKENS = "takes tokens one after another, and each step always matches"
BOUNDED = "the text is short: its length is checked before, or by a lookahead at the start"
FIXED = "matches a fixed number of characters"

USES = {
    "probe_exporter/addresses/endpoints.py": {"_HOST_PORT": APART, "_NUMBER": APART},
    "probe_exporter/addresses/guard.py": {"_BRACKETED": OURS},
    "probe_exporter/addresses/host_names.py": {"_DNS_NAME": BOUNDED},
    "probe_exporter/addresses/spellings.py": {"_NUMBER": RUN},
    "probe_exporter/config/discovery.py": {"LABEL": OURS, "_SCHEME": OURS},
    "probe_exporter/config/document.py": {"_VARIABLE": OURS},
    "probe_exporter/config/nodes.py": {"_INTEGERS": OURS, "_FLOAT": OURS, "_SPECIAL_FLOAT": OURS},
    "probe_exporter/config/placeholders.py": {"NAME": OURS, "_PLACEHOLDER": OURS},
    "probe_exporter/config/schema.py": {"_ARGUMENT": OURS},
    "probe_exporter/config/shapes.py": {"_DECIMAL": OURS},
    "probe_exporter/exposition/formats.py": {"_PLAIN": RUN, "_quality": RUN},
    "probe_exporter/flags.py": {"flag": OURS, "unsigned": OURS},
    "probe_exporter/network/settings.py": {"_SERVER": OURS, "_INTERFACE": OURS},
    "probe_exporter/plugins/loader.py": {"_NAME": OURS, "_NAMED": OURS},
    "probe_exporter/prober/failure.py": {"_REASON": OURS},
    "probe_exporter/prober/metrics.py": {"_NAME": OURS, "_LABEL": OURS},
    "probe_exporter/probers/exporter.py": {"_path": OURS, "_PATHLESS": APART},
    "probe_exporter/probers/grpc.py": {"_SCHEME": FIXED},
    "probe_exporter/probers/http.py": {"_TOKEN": OURS},
    "probe_exporter/probers/websocket.py": {"_URL": FIXED},
    "probe_exporter/protocols/dialogue/steps.py": {"_LABEL_NAME": OURS, "_legal": OURS, "_HARMLESS": OURS},
    "probe_exporter/protocols/dialogue/templates.py": {"number": OURS},
    "probe_exporter/protocols/dns/rdata.py": {"_ESCAPE": TOKENS},
    "probe_exporter/protocols/dns/wire.py": {"_WRITTEN": TOKENS},
    "probe_exporter/protocols/grpc/call.py": {
        "_KEY": RUN, "_ASCII_VALUE": RUN, "_CONTENT_TYPE": RUN, "_NUMBER": RUN,
    },
    "probe_exporter/protocols/http/checks.py": {"_DATES": APART},
    "probe_exporter/protocols/http/cookies.py": {"_NAME": RUN, "_VALUE": RUN, "_AGE": RUN},
    "probe_exporter/protocols/http/http1.py": {
        "_STATUS_LINE": APART, "_HEAD_END": FIXED, "_FIELD_END": FIXED, "_FIELD": APART, "_FOLD": APART,
        "_CHUNK_SIZE": APART, "_BAD_VALUE": FIXED,
    },
    "probe_exporter/protocols/http/http2.py": {"_CRUMB_END": RUN, "_NAME": RUN, "_BAD_VALUE": FIXED, "_STATUS": RUN},
    "probe_exporter/protocols/http/http3.py": {"_NAME": RUN, "_BAD_VALUE": FIXED, "_STATUS": RUN},
    "probe_exporter/protocols/http/proxy.py": {"_SCHEME": OURS},
    "probe_exporter/protocols/http/settings.py": {"_URL": OURS, "_CONTROL": FIXED, "_LINE_END": FIXED},
    "probe_exporter/protocols/http/syntax.py": {"_TOKEN": RUN},
    "probe_exporter/protocols/http/url.py": {
        "_SCHEME": FIXED, "_PARTS": APART, "_CONTROL": FIXED, "_BAD_ESCAPE": FIXED, "_BAD_IN_USER": FIXED,
        "_ZONE": APART, "_HOST": RUN,
    },
    "probe_exporter/scrape/grammar.py": {
        "_TERM": APART, "_STRICT_TERM": APART, "_check_escapes": FIXED, "_NUMBER": APART, "_COUNT": RUN,
    },
    "probe_exporter/scrape/lint.py": {"_CAMEL": FIXED},
    "probe_exporter/scrape/openmetrics.py": {"_METADATA": APART, "_SAMPLE": APART},
    "probe_exporter/scrape/reexpose.py": {"_PREFIX": OURS, "_GLOB": OURS},
    "probe_exporter/scrape/text.py": {"_SAMPLE": APART, "_KEYWORD": APART, "_METADATA": APART},
    "probe_exporter/settings/cel.py": {"_CEL_CODE": RUN, "_COPYING": OURS, "_MACRO": OURS},
    "probe_exporter/settings/go_regexps.py": {"_REPEAT": OURS, "_OPEN": OURS, "_ESCAPE": OURS, "_CLASS": OURS},
    "probe_exporter/settings/quantities.py": {
        "_DECIMAL": APART, "_HEXADECIMAL": APART, "_LONE_UNDERSCORE": FIXED, "_SPECIAL": FIXED,
    },
    "probe_exporter/settings/secrets.py": {"_CREDENTIAL": FIXED},
    "probe_exporter/telemetry/logs.py": {"_PLAIN": RUN, "_UNUSUAL": FIXED},
    "probe_exporter/telemetry/masking.py": {"_USER": RUN, "_PORT": RUN, "_AUTHORITY": RUN, "_WORD": RUN},
    "probe_exporter/tls/name_matching.py": {"_LABEL": RUN},
    "probe_exporter/tools/new.py": {"_NAME": OURS},
    "probe_exporter/values/documents.py": {"_ESCAPE": FIXED},
    "probe_exporter/web/answers.py": {"_UNFIT": FIXED},
    "probe_exporter/web/authentication.py": {"_HASH": OURS},
    "probe_exporter/web/history.py": {"_UNIX": BOUNDED, "_RFC_3339": BOUNDED, "_since": BOUNDED, "_limit": RUN},
    "probe_exporter/web/listening.py": {"_CONTROL": OURS, "_BAD_IN_HOST": OURS, "_BAD_ESCAPE": OURS},
    "probe_exporter/web/metadata.py": {"_libraries": OURS},
    "probe_exporter/web/parameters.py": {"_BAD_ESCAPE": FIXED, "wants_gzip": RUN},
    "probe_exporter/web/usual_heads.py": {"_LINE": RUN},
    "probe_exporter/report/advice.py": {"_PLACEHOLDER": OURS},
    "probe_exporter/web/probe_page.py": {"_HOST": APART},
    "modules/ldap.py": {"_ITEM": OURS, "_EXTENSIBLE_ITEM": OURS, "_VALUE": OURS, "_ESCAPE": FIXED},
    "modules/ssh.py": {"_fingerprint": OURS},
}  # fmt: skip
"""By file, and by the constant or the function that has the pattern."""

SEVERAL = {("probe_exporter/config/nodes.py", "_INTEGERS"): 4}
"""Names that have more than one pattern."""


def uses(node: ast.AST, name: str = "") -> Iterator[str]:
    """Yield the constant or the function of each call of a function of `re`."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            name = node.name
        case ast.Assign(targets=[ast.Name(id=constant), *_]) if not name:
            name = constant
        case ast.Call(func=ast.Attribute(value=ast.Name(id="re"))):
            yield name
        case ast.ImportFrom(module="re") | ast.Import(names=[ast.alias(name="re", asname=str())]):
            pytest.fail("use `import re`, so that this test finds what uses it")
    for child in ast.iter_child_nodes(node):
        yield from uses(child, name)


def test_every_use_of_re_is_listed_with_its_reason() -> None:
    found: Counter[tuple[str, str]] = Counter()
    for folder in ("probe_exporter", "modules"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            file = str(path.relative_to(ROOT))
            found.update((file, name) for name in uses(ast.parse(path.read_text(encoding="utf-8"))))
    listed = {(file, name): SEVERAL.get((file, name), 1) for file, names in USES.items() for name in names}
    assert dict(found) == listed
