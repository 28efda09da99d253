"""Tests of the plugin API: names, signatures, fields and defaults are pinned in tests/golden/api.txt.

A change of that file may break a prober of a user. It needs a line in CHANGELOG.md; a removal or a
rename waits for a major version (see docs/writing-a-prober.md).
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest

import probe_exporter
from probe_exporter import testing
from probe_exporter.plugins.loader import load_probers
from probe_exporter.settings.block import Settings
from probe_exporter.settings.fields import Written
from tests.exporters import ROOT
from tests.peers.golden import hold

OURS_ALONE = {"wrap", "restart", "start_tls", "start_tls_in_phase"}
"""Methods of a connection that the exporter itself calls; probers have functions for it."""

LOOPS = set(dir(asyncio.Protocol))
"""Methods that the event loop calls."""

MADE_BY_FUNCTIONS = (probe_exporter.Connection, probe_exporter.Datagrams)
"""Classes whose constructors only the exporter itself calls."""


def test_api_matches_golden_file() -> None:
    """UPDATE_GOLDEN=1 rewrites the file. Review the diff as the author of a prober."""
    hold(ROOT / "tests" / "golden" / "api.txt", "\n".join(_module(probe_exporter) + _module(testing)))


def _module(module: ModuleType) -> list[str]:
    lines = [f"from {module.__name__} import …", ""]
    for name in sorted(module.__all__, key=str.lower):
        lines += _described(name, getattr(module, name))
    return [*lines, ""]


def _described(name: str, value: Any) -> Iterator[str]:
    if inspect.isfunction(inspect.unwrap(value)):
        yield f"  {_called(name, value)}"
    elif isinstance(value, type) and issubclass(value, Enum):
        yield f"  {name}: one of those in docs/metrics.md, each with its value and meaning"
    elif isinstance(value, type) and issubclass(value, Settings):
        yield from _block(name, value)
    elif isinstance(value, type):
        yield from _class(name, value)
    else:
        written = [item for item in get_args(value)[1:] if isinstance(item, Written)]
        yield (
            f"  {name}: {get_args(value)[0].__name__}, in YAML {written[0].expected}"
            if written
            else f"  {name}: {_type(value)}"
        )


def _block(name: str, model: type[Settings]) -> Iterator[str]:
    """A block of settings: its own fields and their defaults."""
    yield f"  {name}({', '.join(base.__name__ for base in model.__bases__)})"
    for field in model.__annotations__:
        if field in model.model_fields:
            info = model.model_fields[field]
            default = "" if info.is_required() else f" = {_briefly(repr(info.default))}"
            yield f"    .{field}: {model.__annotations__[field]}{default}"
    if model is Settings:
        yield from _methods(model, {"cautions"})


def _class(name: str, kind: type) -> Iterator[str]:
    signature = "" if _is_protocol(kind) or kind in MADE_BY_FUNCTIONS else _signature(kind)
    yield f"  {name}{signature}"
    attributes = re.search(r"\nAttributes:\n((?: {4}.*(?:\n|$))+)", inspect.getdoc(kind) or "")
    if attributes:
        for listed in re.findall(r"^ {4}(\w[\w, ]*):", attributes[1], re.MULTILINE):
            yield f"    .{listed}"
    ours = [base for base in kind.__mro__ if base.__module__.startswith("probe_exporter")]
    others = LOOPS | OURS_ALONE if kind is probe_exporter.Connection else LOOPS
    yield from _methods(kind, {name for base in ours for name in vars(base) if name[0] != "_"} - others)


def _methods(kind: type, names: set[str]) -> Iterator[str]:
    for name in sorted(names):
        value = inspect.getattr_static(kind, name)
        if isinstance(value, property):
            yield f"    .{name}"
        elif isinstance(value, classmethod | staticmethod) or inspect.isfunction(value):
            yield f"    .{_called(name, getattr(kind, name))}"


def _is_protocol(kind: type) -> bool:
    return bool(getattr(kind, "_is_protocol", False))


def _called(name: str, function: Any) -> str:
    return f"{'await ' if inspect.iscoroutinefunction(function) else ''}{name}{_signature(function)}"


def _signature(value: Any) -> str:
    """Return an annotation as written, without quotes."""
    text = _briefly(re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(value))))
    return re.sub(r"\(self, |\(self\)", _without_self, text)


def _briefly(text: str) -> str:
    """Return the name of a default that is a function or a block."""
    text = re.sub(r"<(?:built-in )?function (\w+)(?: at 0x\w+)?>", r"\1", text)
    return re.sub(r"(= |^)(\w*Settings|Certificate)\((?:[^()]|\([^()]*\))*\)", r"\1\2()", text)


def _without_self(found: re.Match[str]) -> str:
    return "()" if found[0] == "(self)" else "("


def _type(value: Any) -> str:
    return re.sub(r"\b(typing|collections\.abc|probe_exporter\.\w+|re)\.", "", str(value))


# --- who keeps to it ---------------------------------------------------------------------------------------

PLUGINS = sorted([*ROOT.glob("modules/*.py"), *ROOT.glob("probe_exporter/tools/templates/*.py.txt")])


@pytest.mark.parametrize("file", PLUGINS, ids=lambda path: path.name)
def test_shipped_plugins_import_only_the_api(file: Path) -> None:
    """Shipped probers use only what user probers can use."""
    assert set(imported(file.read_text(encoding="utf-8"))) <= {"probe_exporter", "probe_exporter.testing"}


def imported(source: str) -> Iterator[str]:
    """Return the exporter's modules that some code imports."""
    for node in ast.walk(ast.parse(source)):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name for name in names if name.partition(".")[0] == "probe_exporter")


def test_public_names_have_docstrings() -> None:
    """Functions, classes and their methods; types of settings have it beside them."""
    for module in (probe_exporter, testing):
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value):
                assert inspect.getdoc(value), name
            if isinstance(value, type) and value.__module__.startswith("probe_exporter") and not _is_protocol(value):
                for method, function in vars(value).items():
                    if not method.startswith("_") and method not in LOOPS and inspect.isfunction(function):
                        assert inspect.getdoc(function), f"{name}.{method}"


def test_shipped_probers_verify_hostname_of_request() -> None:
    """Prometheus may then probe an address and give the name to verify."""
    shipped = [prober for prober in load_probers([]).values() if "tls_config" in prober.settings.model_fields]
    library = [prober for prober in shipped if prober.probe.__module__.startswith("probe_exporter_plugin_")]
    assert len(library) > 3
    for prober in library:
        settings = prober.settings.model_construct()
        named = prober.with_hostname(settings, "www.example.test")
        assert named.tls_config.server_name == "www.example.test", prober.name
        assert prober.with_hostname(named, "other.example.test") is named
