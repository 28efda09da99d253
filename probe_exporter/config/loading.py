"""Load configuration files: read and check them, and make one immutable `Config` of them.

All errors of all files are reported at once. The model of a file is made of the settings of the probers that it uses,
so that a prober's block is checked by the prober's own settings.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import BaseModel, Field, ValidationError, create_model, model_validator
from pydantic_core import ErrorDetails

from probe_exporter.addresses.guard import Lists
from probe_exporter.config import document as documents
from probe_exporter.config import nodes, parameter_checks, placeholders
from probe_exporter.config.changes import Change
from probe_exporter.config.discovery import DiscoverySettings
from probe_exporter.config.document import Document, Invalid
from probe_exporter.config.module import Config, ConfigError, Module, Modules
from probe_exporter.config.placeholders import Parameter
from probe_exporter.config.problems import Place, Problem
from probe_exporter.config.shapes import Shape, block_shape, mapping_shape, model_keys, shape_of
from probe_exporter.network.policy import NetworkPolicy
from probe_exporter.network.settings import NetworkSettings, TargetsSettings
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.failure import Reason
from probe_exporter.prober.filtering import MetricFilter
from probe_exporter.runs.settings import RunsSettings
from probe_exporter.settings.block import Settings
from probe_exporter.settings.fields import Duration, Text, nearest
from probe_exporter.settings.regexps import Regexp
from probe_exporter.settings.rules import Absent, Block

if TYPE_CHECKING:
    from probe_exporter.runs.several import Several

S = TypeVar("S", bound=BaseModel)


_NAMED: Mapping[str | int, str] = {"modules": "module", "discovery": "source"}
"""The keys of a file whose entries have names, and a word for an entry."""

MAX_FILLED_MODULES = 256
"""Modules to keep, of each module with parameters: Prometheus sends the same values again and again."""


def load(
    files: Sequence[Path],
    probers: Mapping[str, Prober[Any]],
    *,
    expand_env: bool = False,
    strict: bool = False,
    deferred: Collection[Path] = (),
    change: Change | None = None,
) -> Config:
    """Read and check configuration files.

    Args:
        expand_env: replace ``${NAME}`` in values from the environment.
        strict: treat warnings as errors.
        deferred: those of the files that have no errors and nothing but modules. Their modules are made on first use;
            until then their probers need not be imported.
        change: new settings of a module, in place of those of its file.

    Raises:
        ConfigError: with every problem of every file.
        LoaderError: a shipped prober can't be loaded.
    """
    contents = _contents(files)
    every, read, later = _documents_of(contents, probers, os.environ if expand_env else None, deferred, change)
    found = _contents_of(read, probers)
    modules, targets, warnings = found.modules, found.targets, found.warnings
    problems = [*_all_defined_twice(every), *_unknown_modules(read, found.discovery, [*modules, *later])]
    problems += [problem for document in every for problem in document.problems]
    if strict:
        problems += warnings
    if problems:
        raise ConfigError(sorted(set(problems)))
    networks = _Networks(modules, targets)
    return Config(
        _with_networks(modules, later, networks),
        tuple(contents),
        _digest(contents),
        tuple(sorted(set(warnings))),
        targets,
        probers,
        guarded=networks.guarded,
        discovery=found.discovery,
    )


_Later = dict[str, Callable[[], Module]]
"""Functions that make modules on first use, by name."""


def _documents_of(
    contents: Mapping[Path, bytes],
    probers: Mapping[str, Prober[Any]],
    environment: Mapping[str, str] | None,
    deferred: Collection[Path],
    change: Change | None,
) -> tuple[list[Document], list[Document], _Later]:
    """Return a document for each file, those among them whose modules are made now, and the other modules."""
    shape = _file_shape(probers)
    every: list[Document] = []
    read: list[Document] = []
    later: _Later = {}
    for path, data in contents.items():
        document, root = documents.parsed(data, str(path))
        changed = None if change is None or root is None else change.applied(root)
        root = changed or root
        if root is not None and path in deferred and changed is None:
            for name, node in _named_nodes(document, root):
                later[name] = partial(_made_later, name, node, str(path), probers, environment)
        elif root is not None:
            document = documents.interpreted(document, root, shape, environment)
            read.append(document)
        every.append(document)
    return every, read, later


def _all_defined_twice(every: Iterable[Document]) -> Iterator[Problem]:
    defined: dict[nodes.KeyPath, Place] = {}
    for document in every:
        yield from _defined_twice(document, defined)


def _with_networks(modules: Mapping[str, Module], later: _Later, networks: _Networks) -> Modules:
    """Return the modules, each with its network policy; those of `later` are made on first use."""
    return Modules(
        {name: networks.given_to(module) for name, module in modules.items()},
        {name: partial(lambda make: networks.given_to(make()), make) for name, make in later.items()},
    )


class _Contents(NamedTuple):
    """What documents define: modules, `targets` of all modules, sources of targets; and warnings."""

    modules: dict[str, Module]
    targets: TargetsSettings | None
    discovery: dict[str, DiscoverySettings]
    warnings: list[Problem]


def _contents_of(read: Iterable[Document], probers: Mapping[str, Prober[Any]]) -> _Contents:
    """Make the modules and all else of documents; add errors to the documents."""
    used = {name: probers[name] for name in probers if name in _probers_of(read)}
    model = file_model(used, probers)
    modules: dict[str, Module] = {}
    targets: TargetsSettings | None = None
    discovery: dict[str, DiscoverySettings] = {}
    warnings: list[Problem] = []
    for document in read:
        file = _read(document, model, probers, used)
        targets = file.targets or targets
        discovery |= file.discovery
        warnings += [
            document.problem((*where, key), message)
            for where, key, message in block_cautions(file.targets, ("targets",))
        ]
        for module in file.modules:
            modules[module.name] = module
            warnings += _cautions(module, document)
        warnings += document.warnings
    return _Contents(modules, targets, discovery, warnings)


def _unknown_modules(
    read: Iterable[Document], discovery: Mapping[str, DiscoverySettings], known: Sequence[str]
) -> Iterator[Problem]:
    """Yield problems for sources of targets whose module is not defined."""
    for name, source in discovery.items():
        path: nodes.KeyPath = ("discovery", name, "module")
        for module in source.modules:
            if module not in known:
                document = next(one for one in read if path[:2] in one.places)
                yield document.problem(path, f"unknown module `{module}`{nearest(module, known)}")


def _probers_of(read: Iterable[Document]) -> set[str]:
    """Return the values of `prober` and all keys of modules, which include the names of blocks."""
    names: set[str] = set()
    for document in read:
        modules = document.value.get("modules") if isinstance(document.value, Mapping) else None
        for module in modules.values() if isinstance(modules, Mapping) else ():
            if isinstance(module, Mapping):
                names |= {*module, str(module.get("prober"))}
    return names


class _Networks:
    """Gives modules their networks. If any module or the configuration has `targets`, every module gets a guard.

    Attributes:
        guarded: whether anything limits what may be probed.
    """

    def __init__(self, modules: Mapping[str, Module], targets: TargetsSettings | None) -> None:
        self._of_all: tuple[Lists, ...] = () if targets is None else (targets.lists("`targets`"),)
        self._of_others = self._of_all
        some = any(module.networking.targets for module in modules.values())
        if targets is None and some:
            self._of_others = (Lists(where="a configuration with `targets`"),)
        self.guarded = targets is not None or some

    def given_to(self, module: Module) -> Module:
        """Return the module with its network."""
        lists = self._of_all if module.networking.targets else self._of_others
        return _with_network(module, module.networking.policy(lists))


def _named_nodes(document: Document, root: nodes.Node) -> Iterator[tuple[str, nodes.Node]]:
    """The modules of a deferred file: the name of each, and a document of nothing else. Their places are noted."""
    for key, value in root.pairs:
        for pair in value.pairs:
            name = pair[0].text
            document.places["modules", name] = Place(document.file, pair[0].line, pair[0].column)
            yield name, replace(root, pairs=[(key, replace(value, pairs=[pair]))])


def _made_later(
    name: str, root: nodes.Node, file: str, probers: Mapping[str, Prober[Any]], environment: Mapping[str, str] | None
) -> Module:
    """Make one module of a deferred file.

    Raises:
        ConfigError, LoaderError: a file that comes with the exporter is not good.
    """
    document = documents.interpreted(Document(file), root, _file_shape(probers), environment)
    found = _contents_of([document], probers)
    problems = [*document.problems, *found.warnings]
    if problems or found.targets or found.modules[name].networking.targets:
        raise ConfigError(problems or [Problem(document.place(()), "targets", "a shipped file can't have `targets`")])
    return found.modules[name]


def _with_network(module: Module, network: NetworkPolicy | None) -> Module:
    """Return the module with its network; modules that it makes for parameters have the network, too."""
    fill = module.fill
    if fill is None:
        return replace(module, network=network)
    return replace(
        module,
        network=network,
        fill=lru_cache(maxsize=MAX_FILLED_MODULES)(lambda values: replace(fill(values), network=network)),
    )


def _defined_twice(read: Document, defined: dict[nodes.KeyPath, Place]) -> Iterator[Problem]:
    """Yield problems for what another file has defined: modules, sources, `targets`; add the others to `defined`."""
    for path, place in read.places.items():
        if path == ("targets",) or (len(path) == 2 and path[0] in _NAMED):
            first = defined.setdefault(path, place)
            if first != place:
                what = "`targets`" if len(path) == 1 else f"{_NAMED[path[0]]} `{path[1]}`"
                yield read.problem(path, f"{what} is defined twice; the first is at {first}")


def digest(files: Sequence[Path]) -> str:
    """Return the SHA-256 of what `load` would read now, to find out whether anything has changed.

    Raises:
        ConfigError: a file can't be read.
    """
    return _digest(_contents(files))


def _contents(files: Sequence[Path]) -> dict[Path, bytes]:
    """Read files.

    Raises:
        ConfigError: with every file that can't be read.
    """
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
        total.update(b"%b\0%d\0" % (os.fsencode(path), len(data)))
        total.update(data)
    return total.hexdigest()


# --- the model of a file -----------------------------------------------------------------------------------


_NETWORK: dict[str, Any] = {name: (info.annotation, info) for name, info in NetworkSettings.model_fields.items()}
_RUNS: dict[str, Any] = {name: (info.annotation, info) for name, info in RunsSettings.model_fields.items()}

_Head = create_model(
    "Module",
    __base__=Settings,
    prober=(str, ""),
    timeout=(Duration, 0.0),
    description=(str, ""),
    params=(dict[Text, Parameter], {}),
    keep=(tuple[Regexp, ...], Field((), description="Metrics to expose, by name; all if empty.")),
    drop=(tuple[Regexp, ...], Field((), description="Metrics not to expose, by name.")),
    **_NETWORK,
    **_RUNS,
)
"""The keys of every module, independent of its prober."""


def _file_shape(probers: Mapping[str, Prober[Any]]) -> Shape:
    """The shape of a whole file. A prober is asked for its settings when a module first has a block of them."""

    def of_block(name: str) -> Shape:
        return shape_of(probers[name].settings)

    head = model_keys(_Head)
    module = block_shape({**head, **{name: partial(of_block, name) for name in probers}})
    return block_shape(
        {
            "modules": partial(mapping_shape, module),
            "targets": head["targets"],
            "discovery": partial(shape_of, dict[str, DiscoverySettings]),
        }
    )


def file_model(used: Mapping[str, Prober[Any]], known: Iterable[str] = ()) -> type[Settings]:
    """Make the model of a whole file, with one optional block for each prober in each module.

    Args:
        used: the probers that the file uses.
        known: the names of all other probers, for messages.
    """
    names = sorted({*used, *known})
    blocks: dict[str, Any] = {
        f"block_{name}": (prober.settings | None, Field(default=None, alias=name)) for name, prober in used.items()
    }

    def names_a_prober(written: Block) -> Iterator[tuple[str, str]]:
        name = written.get("prober")
        if not name:
            yield "prober", f"`prober` is required: one of {', '.join(names)}"
        elif isinstance(name, str) and name not in names:
            yield "prober", f"unknown prober `{name}`{nearest(name, names)} (loaded: {', '.join(names)})"

    def default_block(written: Any) -> Any:
        """Add the prober's block to a module without one, so that its defaults and its required keys apply."""
        if isinstance(written, Mapping) and written.get("prober") in used:
            return {written["prober"]: Absent(), **written}
        return written

    module = create_model(
        "Module",
        __base__=_Head,
        __validators__={"default_block": model_validator(mode="before")(default_block)},  # type: ignore[dict-item]  # pydantic takes it so
        **blocks,
    )
    module.rules = (names_a_prober,)
    sources: Any = Field({}, description="Sources of targets for /sd, Prometheus' HTTP service discovery.")
    return create_model(
        "File",
        __base__=Settings,
        modules=(dict[Text, module], {}),
        targets=_NETWORK["targets"],
        discovery=(dict[Text, DiscoverySettings], sources),
    )


def validated(read: Document, model: type[S]) -> S | None:
    """Validate a document. Return an instance of the model, or None and add the errors to the document."""
    if read.value is None or isinstance(read.value, Invalid):
        return None
    value = placeholders.fill(read.value, None) if read.templates else read.value
    try:
        return model.model_validate(value)
    except ValidationError as error:
        for details in error.errors(include_url=False, include_input=False):
            if not any(details["loc"][: len(path)] == path for path in read.invalid_paths):
                read.problems.append(read.problem(details["loc"], _message(details)))
        return None


class _File(NamedTuple):
    """The content of one file."""

    modules: list[Module]
    targets: TargetsSettings | None
    discovery: dict[str, DiscoverySettings]


def _read(read: Document, model: type[Settings], probers: Collection[str], used: Mapping[str, Prober[Any]]) -> _File:
    """Validate a document and make its modules; add errors to the document."""
    written = read.value
    read.value = parameter_checks.checked(read, probers)
    file: Any = validated(read, model)
    if file is None:
        return _File([], None, {})
    modules = [_module(name, said, written["modules"][name], read, used) for name, said in file.modules.items()]
    read.problems += [problem for module in modules for problem in _unknown_reasons(module, read)]
    return _File(modules, file.targets, file.discovery)


def _module(name: str, said: Any, written: Block, read: Document, probers: Mapping[str, Prober[Any]]) -> Module:
    settings, strays = _blocks(said, probers)
    runs = RunsSettings.model_construct(
        said.model_fields_set, **{name: getattr(said, name) for name in RunsSettings.model_fields}
    )
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
        runs=runs,
        several=_several(runs),
        parameters=said.params,
        keep=said.keep,
        drop=said.drop,
        filter=MetricFilter(said.keep, said.drop) if said.keep or said.drop else None,
    )
    return _fillable(module, type(said), written, probers) if said.params else module


def _several(runs: RunsSettings) -> Several | None:
    """Return what performs several runs in one probe; None if one run is enough."""
    attempts = runs.attempts if runs.attempts is not None and runs.attempts.max > 1 else None
    if runs.addresses is None and attempts is None:
        return None
    from probe_exporter.runs.several import Several  # noqa: PLC0415  # few configurations need it at load

    return Several(runs.addresses, attempts)


def _unknown_reasons(module: Module, read: Document) -> Iterator[Problem]:
    """Yield problems for reasons in `attempts` that no probe of the module can have."""
    known = [reason.value for reason in (*Reason, *module.prober.reasons)]
    only = module.runs.attempts.only if module.runs.attempts is not None else ()
    for index, name in enumerate(only):
        if name not in known:
            path: nodes.KeyPath = ("modules", module.name, "attempts", "only", index)
            yield read.problem(path, f"unknown reason `{name}`{nearest(name, known)} (docs/metrics.md lists them)")


def _blocks(said: Any, probers: Iterable[str]) -> tuple[Settings, dict[str, Settings]]:
    """Return the block of a module's prober, and the blocks of other probers."""
    blocks = {key: getattr(said, f"block_{key}") for key in probers}
    own: Settings = blocks.pop(said.prober)
    return own, {key: block for key, block in blocks.items() if block is not None}


def _fillable(module: Module, model: type[Settings], written: Block, probers: Iterable[str]) -> Module:
    """Return the module with `fill`, which validates as at load. Its settings have placeholders if possible."""
    plain = {key: value for key, value in written.items() if key != "params"}

    def fill(values: tuple[str, ...]) -> Module:
        request = dict(zip(module.parameters, values, strict=True))
        filled = placeholders.fill(plain, request)
        try:
            said = model.model_validate(filled)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            problem = f"{documents.dotted(first['loc'])}: {_message(first)}"
            raise ValueError(f'Module "{module.name}" can\'t take these parameters: {problem}') from None
        settings, strays = _blocks(said, probers)
        return replace(module, settings=settings, strays=strays, parameters={}, request=request, fill=None)

    try:
        shown = fill(tuple(map(placeholders.written, module.parameters)))
    except ValueError:
        shown = module
    return replace(module, settings=shown.settings, strays=shown.strays, fill=fill)


def _cautions(module: Module, read: Document) -> Iterator[Problem]:
    """Yield warnings about settings that are legal but probably wrong."""
    path = ("modules", module.name)
    for name in module.strays:
        message = f"a block of another prober has no effect: this module's is {module.prober.name}"
        yield read.problem((*path, name), message)
    for key, patterns in {"keep": module.keep, "drop": module.drop}.items():
        for pattern in _without_effect(module, patterns):
            message = f"{pattern} matches no metric of prober {module.prober.name}: see `probe-exporter modules`"
            yield read.problem((*path, key), message)
    for where, key, message in block_cautions(module.networking, path):
        yield read.problem((*where, key), message)
    for name, block in {module.prober.name: module.settings, **module.strays}.items():
        for where, key, message in block_cautions(block, (*path, name)):
            if not any(at[: len(where) + 1] == (*where, key) for at in read.templates):  # a request sets the value
                yield read.problem((*where, key), message)


def _without_effect(module: Module, patterns: Sequence[Regexp]) -> list[Regexp]:
    """Return the patterns that match no metric that the module's prober declares."""
    if not patterns or hasattr(module.settings, "reexpose"):  # the target chooses names
        return []
    from probe_exporter.config.series import metrics_of  # noqa: PLC0415  # it searches code; few modules need it

    names = [metric.name for metric in metrics_of(module)]
    return [pattern for pattern in patterns if not any(map(pattern.matches_all, names))]


def block_cautions(value: object, path: nodes.KeyPath = ()) -> Iterator[tuple[nodes.KeyPath, str, str]]:
    """Yield the cautions of a block and of all blocks in it: path, key, message."""
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
    if isinstance(context.get("error"), UnicodeEncodeError):  # the message of a prober's validator quotes bytes
        return _MESSAGES["string_unicode"]
    if isinstance(context.get("error"), ValueError):
        return str(context["error"])
    template = _MESSAGES.get(details["type"])
    if template:
        return template.format(key=details["loc"][-1], **context).replace("'", "")
    return details["msg"].replace("Input should be", "expected")
