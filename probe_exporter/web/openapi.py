"""Make the OpenAPI 3.1 document of the HTTP API from the route table, so that it describes every path served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from probe_exporter.version import VERSION
from probe_exporter.web.api import BY_ANYBODY, Content, Operation, Parameter, Reply

_SCHEMAS = "#/components/schemas/"

Document = dict[str, Any]


def document(operations: Mapping[str, Operation], prefix: str) -> Document:
    """Return the whole document.

    Args:
        operations: by path below the prefix, with its leading slash.
        prefix: the route prefix of all paths; it begins and ends with a slash.
    """
    schemas: dict[str, Any] = {}
    paths = {path: _methods(operation, schemas) for path, operation in operations.items()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "probe-exporter",
            "version": VERSION,
            "summary": "Probes targets from outside, for Prometheus.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": prefix.rstrip("/") or "/"}],
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _methods(operation: Operation, schemas: dict[str, Any]) -> Document:
    """Return one entry for each method."""
    return {method.lower(): _method(operation, method, schemas) for method in operation.methods}


def _method(operation: Operation, method: str, schemas: dict[str, Any]) -> Document:
    replies = {**BY_ANYBODY, **operation.replies}
    described: Document = {
        "operationId": operation.id if method != "HEAD" else f"{operation.id}_head",
        "summary": operation.summary,
        "responses": {str(status): _reply(reply, method, schemas) for status, reply in sorted(replies.items())},
    }
    if operation.parameters:
        described["parameters"] = [_parameter(parameter) for parameter in operation.parameters]
    return described


def _parameter(parameter: Parameter) -> Document:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "description": parameter.description,
        "required": parameter.required,
        "schema": parameter.schema,
    }


def _reply(reply: Reply, method: str, schemas: dict[str, Any]) -> Document:
    if method == "HEAD":
        return {"description": reply.description}
    return {"description": reply.description, "content": _content(reply.content, schemas)}


def _content(content: Content, schemas: dict[str, Any]) -> Document:
    return {media: {"schema": _schema(shape, schemas)} for media, shape in content.items()}


def _schema(shape: Any, schemas: dict[str, Any]) -> Any:
    """Return a schema as given; for a type, add its schema to `schemas` and return a reference to it."""
    if isinstance(shape, Mapping):
        return shape
    described = shape.model_json_schema(ref_template=f"{_SCHEMAS}{{model}}")
    schemas.update(described.pop("$defs", {}))
    schemas[shape.__name__] = described
    return {"$ref": f"{_SCHEMAS}{shape.__name__}"}
