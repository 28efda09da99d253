"""Configuration files to one frozen `Config`, and back; whatever can be wrong is found here, at load.

The model of a file is built from the probers that are loaded, so a prober's block is checked by the prober's own
settings, and all errors of all files are told at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import Field, ValidationError, create_model, model_validator
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import ErrorDetails, core_schema

from probe_exporter import document, yaml_text
from probe_exporter.document import Document, Place, Problem
from probe_exporter.fields import Duration, Text, nearest
from probe_exporter.prober import Prober, Settings
from probe_exporter.quantities import format_duration
from probe_exporter.rules import Absent, Block

__all__ = [
    "Config",
    "ConfigError",
    "Module",
    "Place",
    "Problem",
    "digest",
    "json_schema",
    "load",
    "module_to_yaml",
    "to_yaml",
]


@dataclass(frozen=True, slots=True)
class Module:
    """A named configuration of a prober.

    Args:
        settings: the prober's own block, defaults filled in.
        timeout: seconds; 0.0 if the module sets none.
        place: where the module is defined.
        strays: blocks of other probers that the module holds; they are checked and not used.
    """

    name: str
    prober: Prober[Any]
    settings: Settings
    timeout: float
    place: Place
    description: str = ""
    strays: Mapping[str, Settings] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Config:
    """All modules, and what they were made of."""

    modules: Mapping[str, Module]
    files: tuple[Path, ...]
    sha256: str
    warnings: tuple[Problem, ...]


class ConfigError(Exception):
    """The configuration can't be used; ``str()`` is one line per problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


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
    model = _model(probers)
    modules: dict[str, Module] = {}
    problems: list[Problem] = []
    warnings: list[Problem] = []
    defined: dict[document.Path, Place] = {}
    for path, data in contents.items():
        read = document.read(data, str(path), model, os.environ if expand_env else None)
        for module in _modules(read, model, probers):
            modules[module.name] = module
            warnings += _cautions(module, read)
        problems += [*read.problems, *_defined_twice(read, defined)]
        warnings += read.warnings
    if strict:
        problems += warnings
    if problems:
        raise ConfigError(sorted(set(problems)))
    return Config(MappingProxyType(modules), tuple(contents), _digest(contents), tuple(sorted(set(warnings))))


def _defined_twice(read: Document, defined: dict[document.Path, Place]) -> Iterator[Problem]:
    """The modules of a document that another file has defined; `defined` grows by the others."""
    for path, place in read.places.items():
        if len(path) == 2 and path[0] == "modules":
            first = defined.setdefault(path, place)
            if first != place:
                yield read.problem(path, f"module `{path[1]}` is defined twice; the first is at {first}")


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


def _model(probers: Mapping[str, Prober[Any]]) -> type[Settings]:
    """The model of a whole file, with one optional block for each prober in each module."""
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
        **blocks,
    )
    module.rules = (names_a_prober,)
    return create_model("File", __base__=Settings, modules=(dict[Text, module], {}))


def _modules(read: Document, model: type[Settings], probers: Mapping[str, Prober[Any]]) -> list[Module]:
    """The modules of a document; its problems grow by what validation finds."""
    if read.value is None or isinstance(read.value, document.Unfit):
        return []
    try:
        file: Any = model.model_validate(read.value)
    except ValidationError as error:
        for details in error.errors(include_url=False, include_input=False):
            if not any(details["loc"][: len(path)] == path for path in read.unfit):
                read.problems.append(read.problem(details["loc"], _message(details)))
        return []
    return [_module(name, settings, read, probers) for name, settings in file.modules.items()]


def _module(name: str, settings: Any, read: Document, probers: Mapping[str, Prober[Any]]) -> Module:
    blocks = {key: getattr(settings, f"block_{key}") for key in probers}
    return Module(
        name=name,
        prober=probers[settings.prober],
        settings=blocks.pop(settings.prober),
        timeout=settings.timeout,
        place=read.place(("modules", name)),
        description=settings.description,
        strays={key: block for key, block in blocks.items() if block is not None},
    )


def _cautions(module: Module, read: Document) -> Iterator[Problem]:
    """What is legal in a module and yet questionable."""
    path = ("modules", module.name)
    for name in module.strays:
        message = f"a block of another prober has no effect: this module's is {module.prober.name}"
        yield read.problem((*path, name), message)
    for name, block in {module.prober.name: module.settings, **module.strays}.items():
        for where, key, message in _block_cautions(block, (*path, name)):
            yield read.problem((*where, key), message)


def _block_cautions(value: object, path: document.Path) -> Iterator[tuple[document.Path, str, str]]:
    """The cautions of a block and of all blocks in it."""
    if isinstance(value, Settings):
        for key, message in value.cautions():
            yield path, key, message
        for name, info in type(value).model_fields.items():
            yield from _block_cautions(getattr(value, name), (*path, info.alias or name))
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _block_cautions(item, (*path, name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _block_cautions(item, (*path, index))


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


# --- what is in effect, as YAML ----------------------------------------------------------------------------


def to_yaml(config: Config) -> str:
    """The configuration in effect: defaults filled in, secrets masked, modules by name."""
    modules = {name: _plain_module(config.modules[name]) for name in sorted(config.modules)}
    return yaml_text.dump({"modules": modules}, indent=4)


def module_to_yaml(module: Module) -> str:
    """One module in effect: defaults filled in, secrets masked."""
    return yaml_text.dump(_plain_module(module), indent=2)


def _plain_module(module: Module) -> dict[str, Any]:
    plain: dict[str, Any] = {"prober": module.prober.name}
    if module.timeout:
        plain["timeout"] = format_duration(module.timeout)
    if module.description:
        plain["description"] = module.description
    for name, block in {module.prober.name: module.settings, **module.strays}.items():
        plain[name] = _plain_block(block, block.model_dump(by_alias=True))
    return plain


def _plain_block(block: Settings, dumped: Mapping[str, Any]) -> dict[str, Any]:
    """What `dumped` says of a block, without the keys that are unset and stand for nothing."""
    plain = {}
    for name, info in type(block).model_fields.items():
        key = info.alias or name
        value = getattr(block, name)
        unset = name not in block.model_fields_set
        default = info.get_default(call_default_factory=True, validated_data={}) if unset else None
        if info.exclude or (unset and value == default and (not value or isinstance(value, Settings))):
            continue
        plain[key] = _plain(value, dumped[key])
    return plain


def _plain(value: object, dumped: Any) -> Any:
    if isinstance(value, Settings):
        return _plain_block(value, dumped)
    if isinstance(value, Mapping):
        return {key: _plain(item, dumped[key]) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, other) for item, other in zip(value, dumped, strict=True)]
    return dumped


# --- a schema for editors ----------------------------------------------------------------------------------


def json_schema(probers: Mapping[str, Prober[Any]]) -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) of a configuration file, for editors to complete and check by."""
    schema = _model(probers).model_json_schema(schema_generator=_SchemaGenerator)
    reference: str = schema["properties"]["modules"]["additionalProperties"]["$ref"]
    module = schema["$defs"][reference.removeprefix("#/$defs/")]
    module["required"] = ["prober"]
    module["properties"]["prober"] = {"enum": sorted(probers), "description": "What kind of probe this is."}
    module["properties"]["description"]["description"] = "A line about this module, for people."
    for name, prober in probers.items():
        module["properties"][name]["description"] = prober.description or (prober.probe.__doc__ or "").split("\n")[0]
    for block in (schema, *schema["$defs"].values()):
        for key, value in block.get("properties", {}).items():
            block["properties"][key] = value if key in block.get("required", ()) else _or_null(value)
    return {"$schema": _SchemaGenerator.schema_dialect, **schema, "title": "probe-exporter configuration"}


class _SchemaGenerator(GenerateJsonSchema):
    """Pydantic's generator, without titles that only repeat names and defaults that JSON can't say."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def bool_schema(self, schema: core_schema.BoolSchema) -> JsonSchemaValue:
        # YAML 1.2 editors take the words of YAML 1.1 for strings.
        return {"anyOf": [{"type": "boolean"}, {"enum": ["yes", "no", "on", "off"]}]}

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        described = self.generate_inner(schema["schema"])
        default = schema.get("default")
        simple = isinstance(default, bool | int | str) and default not in (False, 0, "")
        return {**described, "default": default} if simple else described


_ANNOTATIONS = ("description", "default", "deprecated")


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema with null, which leaves a key unset."""
    nothing = {"type": "null"}
    if nothing in schema.get("anyOf", ()) or "null" in schema.get("type", ()):
        return schema
    annotations: dict[str, Any] = {key: schema[key] for key in _ANNOTATIONS if key in schema}
    core = {key: value for key, value in schema.items() if key not in annotations}
    options = core["anyOf"] if list(core) == ["anyOf"] else [core]
    return {"anyOf": [*options, nothing], **annotations}
