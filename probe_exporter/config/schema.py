"""Make a JSON Schema of configuration files, for editors."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from probe_exporter.config.loading import file_model
from probe_exporter.prober.declaration import Prober
from probe_exporter.settings.quantities import format_duration


def json_schema(probers: Mapping[str, Prober[Any]]) -> dict[str, Any]:
    """Return the schema (draft 2020-12) of a configuration file for these probers."""
    schema = file_model(probers).model_json_schema(schema_generator=_SchemaGenerator)
    reference: str = schema["properties"]["modules"]["additionalProperties"]["$ref"]
    module = schema["$defs"][reference.removeprefix("#/$defs/")]
    module["required"] = ["prober"]
    module["properties"]["prober"] = {"enum": sorted(probers), "description": "The prober of this module."}
    schema["properties"]["modules"]["description"] = "Modules by name."
    module["properties"]["timeout"]["description"] = "Longest duration of a probe, such as 5s; the scrape timeout if 0."
    module["properties"]["description"]["description"] = "A line about this module, for lists."
    module["properties"]["params"]["description"] = "Parameters of requests; ${param:name} in a block uses one."
    for name, prober in probers.items():
        module["properties"][name]["description"] = prober.summary
    _let_parameters_in(schema)
    _let_keys_be_empty(schema)
    return {"$schema": _SchemaGenerator.schema_dialect, **schema, "title": "probe-exporter configuration"}


def settings_schema(prober: Prober[Any]) -> dict[str, Any]:
    """Return the schema of one prober's block of settings."""
    schema = prober.settings.model_json_schema(schema_generator=_SchemaGenerator)
    _let_keys_be_empty(schema)
    return {"$schema": _SchemaGenerator.schema_dialect, **schema}


_ARGUMENT = re.compile(r"^    ([\w, ]+): (.*(?:\n {8}.*)*)", re.MULTILINE)


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """Return what the keys of a block mean, as the docstrings of its class and of those above it say under ``Args``."""
    found: dict[str, str] = {}
    for parent in model.__mro__:
        _, _, arguments = inspect.cleandoc(parent.__doc__ or "").partition("\nArgs:\n")
        for keys, meaning in _ARGUMENT.findall(arguments):
            sentence = " ".join(meaning.split()).rstrip(".")
            for key in keys.split(", "):
                found.setdefault(key, sentence[:1].upper() + sentence[1:] + ".")
    return found


class _SchemaGenerator(GenerateJsonSchema):
    """Pydantic's generator without titles, which repeat the names, and without defaults that JSON can't express.

    A key has the meaning that its class gives it, and then what its type says, such as the units of a duration.
    """

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        described = super().model_schema(schema)
        if "description" in described:
            described["description"] = described["description"].partition("\n\nArgs:\n")[0]
        model = schema["cls"]
        for name, meaning in meanings(model).items():
            key = model.model_fields[name].alias or name if name in model.model_fields else name
            if key in described.get("properties", {}):
                of_type = described["properties"][key].get("description")
                described["properties"][key]["description"] = f"{meaning} {of_type}" if of_type else meaning
        return described

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def bool_schema(self, schema: core_schema.BoolSchema) -> JsonSchemaValue:
        # YAML 1.2 editors take the words of YAML 1.1 for strings.
        return {"anyOf": [{"type": "boolean"}, {"enum": ["yes", "no", "on", "off"]}]}

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        described = self.generate_inner(schema["schema"])
        default = schema.get("default")
        if isinstance(default, float) and default and described.get("type") == "string":
            default = format_duration(default)
        simple = isinstance(default, bool | int | str) and default not in (False, 0, "")
        return {**described, "default": default} if simple else described


_PLACEHOLDER = {"type": "string", "pattern": r"\$\{param:"}


def _let_parameters_in(schema: dict[str, Any]) -> None:
    """Permit placeholders for settings that do not accept any text."""
    for name, block in schema["$defs"].items():
        if name not in ("Module", "Parameter"):
            for key, value in block.get("properties", {}).items():
                block["properties"][key] = _or_placeholder(value)


def _or_placeholder(schema: dict[str, Any]) -> dict[str, Any]:
    schema = _within(schema)
    return _or(schema, _PLACEHOLDER) if any(map(_refuses_text, schema.get("anyOf", [schema]))) else schema


def _within(schema: dict[str, Any]) -> dict[str, Any]:
    """Permit placeholders for the items of a list and the values of a mapping."""
    inner = {
        key: _or_placeholder(schema[key])
        for key in ("items", "additionalProperties")
        if isinstance(schema.get(key), dict)
    }
    options = {"anyOf": [_within(option) for option in schema["anyOf"]]} if "anyOf" in schema else {}
    return {**schema, **inner, **options}


def _refuses_text(schema: dict[str, Any]) -> bool:
    return schema.get("type") in ("integer", "number", "boolean") or bool({"pattern", "enum", "const"} & schema.keys())


def _let_keys_be_empty(schema: dict[str, Any]) -> None:
    """Permit null for keys that are not required: it leaves them unset."""
    for block in (schema, *schema.get("$defs", {}).values()):
        for key, value in block.get("properties", {}).items():
            block["properties"][key] = value if key in block.get("required", ()) else _or_null(value)


_ANNOTATIONS = ("description", "default", "deprecated")


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Permit null, which leaves a key unset."""
    nothing = {"type": "null"}
    if nothing in schema.get("anyOf", ()) or "null" in schema.get("type", ()):
        return schema
    return _or(schema, nothing)


def _or(schema: dict[str, Any], option: dict[str, Any]) -> dict[str, Any]:
    """Add an option to a schema; its description and default remain outside of the options."""
    annotations: dict[str, Any] = {key: schema[key] for key in _ANNOTATIONS if key in schema}
    core = {key: value for key, value in schema.items() if key not in annotations}
    options = core["anyOf"] if list(core) == ["anyOf"] else [core]
    return {"anyOf": [*options, option], **annotations}
