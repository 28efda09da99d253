"""Make the module for `probe-exporter run` and the pytest plugin: by name, from a prober's file or a YAML file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from probe_exporter.config import document, loading, nodes
from probe_exporter.config.changes import Change
from probe_exporter.config.module import Config, ConfigError, Module
from probe_exporter.config.problems import Place
from probe_exporter.config.reloading import Source
from probe_exporter.plugins.loader import find_probers, load_file
from probe_exporter.prober.declaration import Prober
from probe_exporter.settings.fields import nearest

Settings = Sequence[tuple[str, str]]
"""Keys and values of a prober's block as text; a dot separates a block and its key."""


class NoModule(Exception):
    """The module for a probe can't be made; the message has a line for each reason."""


def of_config(loaded: Config, name: str) -> Module:
    """Return a module of the configuration.

    Raises:
        NoModule: no module has this name.
    """
    if name not in loaded.modules:
        raise NoModule(f"unknown module `{name}`{module_hint(loaded, name)}")
    return loaded.modules[name]


def module_hint(loaded: Config, name: str) -> str:
    """Return what an unknown name may have meant: a module that uses the prober of this name, or a similar name."""
    if name in loaded.probers:
        using = [module.name for module in loaded.modules.values() if module.prober.name == name]
        if using:
            return f": it is a prober, and modules that use it are {', '.join(using[:5])}"
    return nearest(name, list(loaded.modules))


def of_source(source: Source, name: str, settings: Settings) -> Module:
    """Return a module of a configuration, with some of its settings changed.

    Args:
        settings: keys and values of the prober's block, as in YAML.

    Raises:
        LoaderError, ConfigError, NoModule: the configuration or the settings can't be used, or no module has this name.
    """
    with _told_as_flags(name):
        return of_config(replace(source, change=_change(name, settings)).read(), name)


def of_file(path: Path, settings: Settings, module: str | None) -> Module:
    """Make a module for the prober of one file.

    Args:
        settings: keys and values, as in YAML.
        module: a YAML file to read the module from, and to change by `settings`; with a colon and a name if it has
            several.

    Raises:
        LoaderError, ConfigError, NoModule: the file, the settings or the module can't be used.
    """
    prober = load_file(path)
    if module is None:
        return with_settings(prober, _yaml(settings), "--set")
    file, _, name = module.partition(":")
    found = of_yaml(prober, Path(file), name)
    if not settings:
        return found
    with _told_as_flags(found.name):
        return of_config(_with(prober, Path(file), _change(found.name, settings)), found.name)


def with_settings(prober: Prober[Any], block: bytes, source: str) -> Module:
    """Make a module of a prober's settings alone.

    Args:
        block: the settings, in YAML.
        source: the name of their origin, for messages.

    Raises:
        NoModule: the settings have errors.
    """
    read = document.read(block, source, prober.settings)
    settings = loading.validated(read, prober.settings)
    if settings is None or read.problems:
        told = [f"{source} {_with_flag(one.path, one.message)}" for one in sorted(set(read.problems))]
        raise NoModule("\n".join(told))
    return Module(prober.name, prober, settings, 0.0, Place(source))


def of_yaml(prober: Prober[Any], file: Path, name: str = "") -> Module:
    """Return a module of a YAML file, for a prober that need not be loaded otherwise.

    Args:
        name: the module's name; not needed if the file has only one module for this prober.

    Raises:
        ConfigError, NoModule: the file has errors, or no module for this prober, or several.
    """
    loaded = _with(prober, file, None)
    if name:
        return of_config(loaded, name)
    fitting = [module for module in loaded.modules.values() if module.prober is prober]
    if len(fitting) != 1:
        names = ", ".join([module.name for module in fitting])
        what = f"several modules for it, say which: {file}:NAME with one of {names}" if names else "no module for it"
        raise NoModule(f"prober {prober.name}: {file} has {what}")
    return fitting[0]


def _with(prober: Prober[Any], file: Path, change: Change | None) -> Config:
    """Load a file with the shipped probers and one more."""
    return loading.load([file], {**find_probers([])[0], prober.name: prober}, change=change)


def _change(module: str, settings: Settings) -> Change | None:
    """Make a change of a module of keys with dots and values in YAML; None without any."""
    if not settings:
        return None
    return Change(module, [(tuple(key.split(".")), _node(text)) for key, text in settings])


def _node(text: str) -> nodes.Node:
    """Parse a value to a node without a place."""
    written: str = yaml.serialize(_value(text))
    node = nodes.compose(written.encode("utf-8", "surrogateescape"))
    assert node is not None
    return _without_place(node)


def _without_place(node: nodes.Node) -> nodes.Node:
    return replace(
        node,
        line=0,
        column=0,
        items=[_without_place(item) for item in node.items],
        pairs=[(_without_place(key), _without_place(value)) for key, value in node.pairs],
    )


@contextmanager
def _told_as_flags(module: str) -> Iterator[None]:
    """Report problems of a module's changed settings, which have no place in a file, as those of ``--set``.

    Raises:
        NoModule: there are such problems.
    """
    try:
        yield
    except ConfigError as error:
        prefix = f"modules.{module}."
        own = [one for one in error.problems if not one.place.line and one.path.startswith(prefix)]
        if not own:
            raise
        # What follows the prefix is PROBER.KEY.
        told = [f"--set {_with_flag(one.path.removeprefix(prefix).partition('.')[2], one.message)}" for one in own]
        raise NoModule("\n".join(told)) from None


def _with_flag(key: str, message: str) -> str:
    """Return key and message of a problem, with the flag for the module's timeout, which is no key of a prober."""
    is_timeout = key == "timeout" and message.startswith("unknown key")
    return f"{key}: {message}; --timeout sets the timeout" if is_timeout else f"{key}: {message}"


def _yaml(settings: Settings) -> bytes:
    """Write keys and values as a document. A value that is no YAML, such as ``*`` or ``[a``, is text.

    Raises:
        NoModule: a key is below another key that has a value.
    """
    blocks: dict[str, Any] = {}
    for key, value in settings:
        *outer, last = key.split(".")
        block = blocks
        for name in outer:
            block = block.setdefault(name, {})
            if not isinstance(block, dict):
                raise NoModule(f"--set {key}: {name} has a value of its own")
        block[last] = _value(value)
    text: str = yaml.serialize(_mapping(blocks))
    return text.encode("utf-8", "surrogateescape")


def _value(text: str) -> yaml.Node:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        node = None
    if isinstance(node, yaml.SequenceNode | yaml.MappingNode) and text.lstrip().startswith(("[", "{")):
        return node
    if isinstance(node, yaml.ScalarNode):
        return node
    return yaml.ScalarNode("tag:yaml.org,2002:str", text, style="'")


def _mapping(blocks: dict[str, Any]) -> yaml.MappingNode:
    pairs = []
    for key, value in blocks.items():
        inner = _mapping(value) if isinstance(value, dict) else value
        pairs.append((yaml.ScalarNode("tag:yaml.org,2002:str", key), inner))
    return yaml.MappingNode("tag:yaml.org,2002:map", pairs)
