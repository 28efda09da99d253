"""Configuration files to one frozen `Config`; whatever can be wrong is found here, at load.

The model of a file is built from the probers that are loaded, so a prober's block is checked by the prober's own
settings, and all errors of all files are told at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from pydantic import Field, ValidationError, create_model, model_validator
from pydantic_core import ErrorDetails

from probe_exporter.addresses.guard import Lists
from probe_exporter.config import document, nodes, parameter_checks, placeholders
from probe_exporter.config.document import Document
from probe_exporter.config.module import Config, ConfigError, Module
from probe_exporter.config.placeholders import Parameter
from probe_exporter.config.problems import Place, Problem
from probe_exporter.network.policy import NetworkPolicy
from probe_exporter.network.settings import NetworkSettings, TargetsSettings
from probe_exporter.prober.declaration import Prober
from probe_exporter.settings.block import Settings
from probe_exporter.settings.fields import Duration, Text, nearest
from probe_exporter.settings.rules import Absent, Block

S = TypeVar("S", bound=Settings)


KEPT = 256
"""Sets of values for which a module with parameters stays as it was made for them: Prometheus asks the same again."""


def load(
    files: Sequence[Path], probers: Mapping[str, Prober[Any]], *, expand_env: bool = False, strict: bool = False
) -> Config:
    """Read and check configuration files.

    Args:
        expand_env: replace ``${NAME}`` in values from the environment.
        strict: refuse what otherwise gets a warning.

    Raises:
        ConfigError: with every problem of every file.
    """
    contents = _contents(files)
    model = file_model(probers)
    modules: dict[str, Module] = {}
    targets: TargetsSettings | None = None
    problems: list[Problem] = []
    warnings: list[Problem] = []
    defined: dict[nodes.Path, Place] = {}
    for path, data in contents.items():
        read = document.read(data, str(path), model, os.environ if expand_env else None)
        file = _read(read, model, probers)
        targets = file.targets or targets
        warnings += [
            read.problem((*where, key), message) for where, key, message in block_cautions(file.targets, ("targets",))
        ]
        for module in file.modules:
            modules[module.name] = module
            warnings += _cautions(module, read)
        problems += [*read.problems, *_defined_twice(read, defined)]
        warnings += read.warnings
    if strict:
        problems += warnings
    if problems:
        raise ConfigError(sorted(set(problems)))
    networked = MappingProxyType(_networked(modules, targets))
    return Config(
        networked,
        tuple(contents),
        _digest(contents),
        tuple(sorted(set(warnings))),
        targets,
        MappingProxyType({**probers}),
    )


def _networked(modules: Mapping[str, Module], targets: TargetsSettings | None) -> dict[str, Module]:
    """The modules with their networks. Where anybody thinks of targets at all, no module is without a guard."""
    of_all: tuple[Lists, ...] = () if targets is None else (targets.lists("`targets`"),)
    of_others = of_all
    if targets is None and any(module.networking.targets for module in modules.values()):
        of_others = (Lists(where="a configuration with `targets`"),)
    return {
        name: _with_network(module, module.networking.policy(of_all if module.networking.targets else of_others))
        for name, module in modules.items()
    }


def _with_network(module: Module, network: NetworkPolicy | None) -> Module:
    """The module with its network, and with it all that its parameters make of it; these are kept for a while."""
    fill = module.fill
    if fill is None:
        return replace(module, network=network)
    return replace(
        module, network=network, fill=lru_cache(maxsize=KEPT)(lambda values: replace(fill(values), network=network))
    )


def _defined_twice(read: Document, defined: dict[nodes.Path, Place]) -> Iterator[Problem]:
    """What of a document another file has defined; `defined` grows by the rest."""
    for path, place in read.places.items():
        if path == ("targets",) or (len(path) == 2 and path[0] == "modules"):
            first = defined.setdefault(path, place)
            if first != place:
                what = "`targets`" if len(path) == 1 else f"module `{path[1]}`"
                yield read.problem(path, f"{what} is defined twice; the first is at {first}")


def digest(files: Sequence[Path]) -> str:
    """The SHA-256 of what `load` would read now, to tell whether anything changed.

    Raises:
        ConfigError: a file can't be read.
    """
    return _digest(_contents(files))


def _contents(files: Sequence[Path]) -> dict[Path, bytes]:
    """Raises: ConfigError: naming every file that can't be read."""
    contents, problems = {}, []
    for path in files:
        try:
            contents[path] = path.read_bytes()
        except OSError as error:
            problems.append(Problem(Place(str(path)), "", f"can't be read: {error.strerror or error}"))
    if problems:
        raise ConfigError(problems)
    return contents


def _digest(contents: Mapping[Path, bytes]) -> str:
    total = hashlib.sha256()
    for path, data in contents.items():
        total.update(f"{path}\0{len(data)}\0".encode())
        total.update(data)
    return total.hexdigest()


# --- the model of a file -----------------------------------------------------------------------------------


def file_model(probers: Mapping[str, Prober[Any]]) -> type[Settings]:
    """The model of a whole file, with one optional block for each prober in each module."""
    network: dict[str, Any] = {name: (info.annotation, info) for name, info in NetworkSettings.model_fields.items()}
    blocks: dict[str, Any] = {
        f"block_{name}": (prober.settings | None, Field(default=None, alias=name)) for name, prober in probers.items()
    }

    def names_a_prober(written: Block) -> Iterator[tuple[str, str]]:
        name = written.get("prober")
        if not name:
            yield "prober", f"`prober` is required: one of {', '.join(sorted(probers))}"
        elif isinstance(name, str) and name not in probers:
            hint = nearest(name, list(probers))
            yield "prober", f"unknown prober `{name}`{hint} (loaded: {', '.join(sorted(probers))})"

    def default_block(written: Any) -> Any:
        """A module whose prober has no block gets the block's defaults, and its demands."""
        if isinstance(written, Mapping) and written.get("prober") in probers:
            return {written["prober"]: Absent(), **written}
        return written

    module = create_model(
        "Module",
        __base__=Settings,
        __validators__={"default_block": model_validator(mode="before")(default_block)},  # type: ignore[dict-item]  # pydantic takes it so
        prober=(str, ""),
        timeout=(Duration, 0.0),
        description=(str, ""),
        params=(dict[Text, Parameter], {}),
        **network,
        **blocks,
    )
    module.rules = (names_a_prober,)
    return create_model("File", __base__=Settings, modules=(dict[Text, module], {}), targets=network["targets"])


def validated(read: Document, model: type[S]) -> S | None:
    """What a document says, as its model; None if it does not fit, and then the document's problems say why."""
    if read.value is None or isinstance(read.value, document.Unfit):
        return None
    value = placeholders.fill(read.value, None) if read.templates else read.value
    try:
        return model.model_validate(value)
    except ValidationError as error:
        for details in error.errors(include_url=False, include_input=False):
            if not any(details["loc"][: len(path)] == path for path in read.unfit):
                read.problems.append(read.problem(details["loc"], _message(details)))
        return None


class _File(NamedTuple):
    """What one file says."""

    modules: list[Module]
    targets: TargetsSettings | None


def _read(read: Document, model: type[Settings], probers: Mapping[str, Prober[Any]]) -> _File:
    """What a document says; its problems grow by what validation finds."""
    written = read.value
    read.value = parameter_checks.checked(read, probers)
    file: Any = validated(read, model)
    if file is None:
        return _File([], None)
    modules = [_module(name, said, written["modules"][name], read, probers) for name, said in file.modules.items()]
    return _File(modules, file.targets)


def _module(name: str, said: Any, written: Block, read: Document, probers: Mapping[str, Prober[Any]]) -> Module:
    settings, strays = _blocks(said, probers)
    module = Module(
        name=name,
        prober=probers[said.prober],
        settings=settings,
        timeout=said.timeout,
        place=read.place(("modules", name)),
        description=said.description,
        strays=strays,
        networking=NetworkSettings.model_construct(
            said.model_fields_set, **{name: getattr(said, name) for name in NetworkSettings.model_fields}
        ),
        parameters=said.params,
    )
    return _fillable(module, type(said), written, probers) if said.params else module


def _blocks(said: Any, probers: Iterable[str]) -> tuple[Settings, dict[str, Settings]]:
    """The block of a module's own prober, and those of others."""
    blocks = {key: getattr(said, f"block_{key}") for key in probers}
    own: Settings = blocks.pop(said.prober)
    return own, {key: block for key, block in blocks.items() if block is not None}


def _fillable(module: Module, model: type[Settings], written: Block, probers: Iterable[str]) -> Module:
    """The module with its `fill`, which validates as loading did; shown with its placeholders where they are legal."""
    plain = {key: value for key, value in written.items() if key != "params"}

    def fill(values: tuple[str, ...]) -> Module:
        filled = placeholders.fill(plain, dict(zip(module.parameters, values, strict=True)))
        try:
            said = model.model_validate(filled)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            problem = f"{document.dotted(first['loc'])}: {_message(first)}"
            raise ValueError(f'Module "{module.name}" can\'t take these parameters: {problem}') from None
        settings, strays = _blocks(said, probers)
        return replace(module, settings=settings, strays=strays, parameters={}, fill=None)

    try:
        shown = fill(tuple(map(placeholders.written, module.parameters)))
    except ValueError:
        shown = module
    return replace(module, settings=shown.settings, strays=shown.strays, fill=fill)


def _cautions(module: Module, read: Document) -> Iterator[Problem]:
    """What is legal in a module and yet questionable."""
    path = ("modules", module.name)
    for name in module.strays:
        message = f"a block of another prober has no effect: this module's is {module.prober.name}"
        yield read.problem((*path, name), message)
    for where, key, message in block_cautions(module.networking, path):
        yield read.problem((*where, key), message)
    for name, block in {module.prober.name: module.settings, **module.strays}.items():
        for where, key, message in block_cautions(block, (*path, name)):
            if not any(at[: len(where) + 1] == (*where, key) for at in read.templates):  # requests know better
                yield read.problem((*where, key), message)


def block_cautions(value: object, path: nodes.Path = ()) -> Iterator[tuple[nodes.Path, str, str]]:
    """The cautions of a block and of all blocks in it."""
    if isinstance(value, Settings):
        for key, message in value.cautions():
            yield path, key, message
        for name, info in type(value).model_fields.items():
            yield from block_cautions(getattr(value, name), (*path, info.alias or name))
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from block_cautions(item, (*path, name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from block_cautions(item, (*path, index))


# --- pydantic's errors in plain words ----------------------------------------------------------------------

_MESSAGES = {
    "missing": "`{key}` is required",
    "greater_than": "expected more than {gt}",
    "greater_than_equal": "expected {ge} or more",
    "less_than": "expected less than {lt}",
    "less_than_equal": "expected {le} or less",
    "literal_error": "expected {expected}",
    "enum": "expected {expected}",
    "string_pattern_mismatch": "expected text that matches {pattern}",
    "string_unicode": "expected text in UTF-8",
}


def _message(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    if isinstance(context.get("error"), UnicodeEncodeError):  # a prober's own message that quotes bytes
        return _MESSAGES["string_unicode"]
    if isinstance(context.get("error"), ValueError):
        return str(context["error"])
    template = _MESSAGES.get(details["type"])
    if template:
        return template.format(key=details["loc"][-1], **context).replace("'", "")
    return details["msg"].replace("Input should be", "expected")
