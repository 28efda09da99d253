"""The HTTP API as data: each path's methods, parameters and responses, for the routes and the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from probe_exporter.web.health import Report
from probe_exporter.web.history import HELD, MAX_LISTED
from probe_exporter.web.html.assets import TYPES
from probe_exporter.web.metadata import Metadata

Content = Mapping[str, Any]
"""The content of a body: by media type, a JSON Schema or a model that has one."""

_STRING: dict[str, Any] = {"type": "string"}

TEXT: Content = {"text/plain": _STRING}
PAGE: Content = {"text/html": _STRING}
TEXT_OR_PAGE: Content = {**TEXT, **PAGE}
"""Browsers get a page, other clients text; so it is with JSON, and with errors."""
EXPOSITION: Content = {
    "text/plain": _STRING,
    "application/openmetrics-text": _STRING,
    "application/vnd.google.protobuf": {},
}


GROUPS: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "targets": {"type": "array", "items": _STRING},
            "labels": {"type": "object", "additionalProperties": _STRING},
        },
        "required": ["targets", "labels"],
    },
}
"""Groups of targets as Prometheus reads them."""


class Parameter(NamedTuple):
    """One parameter of a request."""

    name: str
    description: str
    required: bool = False
    schema: Mapping[str, Any] = _STRING
    where: Literal["query", "header", "path"] = "query"


class Reply(NamedTuple):
    """One status that a path answers with."""

    description: str
    content: Content = TEXT


READ = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Operation:
    """One path.

    Args:
        id: the operation's name in the OpenAPI document.
        methods: the request methods that it accepts; others get 405.
        also: whether it accepts parameters of any name.
    """

    id: str
    summary: str
    replies: Mapping[int, Reply]
    parameters: tuple[Parameter, ...] = field(default=())
    methods: tuple[str, ...] = READ
    also: str = ""


BY_ANYBODY: Mapping[int, Reply] = {
    401: Reply("Users are configured (`--web.config.file`), and the request is none of theirs."),
    429: Reply("More requests than the configured rate limit."),
    503: Reply("Too many attempts to log in or pages at once, or the supervisor of the workers does not answer."),
}
"""Responses that any path may send, by the feature of the server that causes them."""

UNREADABLE = Reply("The file of the history can't be read now (`--history.path`).")

PROBE = Operation(
    "probe",
    "Probe a target with a module; a probe that fails is a good answer with `probe_success 0`.",
    {
        200: Reply(
            "What the probe measured; with `debug=true` its log and its module as well: text, or a page for browsers.",
            {**EXPOSITION, **PAGE},
        ),
        400: Reply("The module is unknown, the target is missing, or a parameter can't be used."),
        503: Reply("Too many probes run, or the exporter is shutting down."),
    },
    (
        Parameter("target", "What to probe, in the form that the module's prober takes.", required=True),
        Parameter("module", "The module's name, or several with commas between them; `http_2xx` if there is none."),
        Parameter("hostname", "For http the Host header, for tcp the name in TLS."),
        Parameter("debug", "Exactly `true` for the debug document."),
        Parameter(
            "X-Prometheus-Scrape-Timeout-Seconds",
            "How long the client waits; Prometheus sends it.",
            schema={"type": "number"},
            where="header",
        ),
    ),
    methods=("GET",),
    also="What a module declares in `params`.",
)

METRICS = Operation("metrics", "The exporter's own metrics.", {200: Reply("All of them.", EXPOSITION)})

CONFIG = Operation(
    "config",
    "The configuration in use as YAML: defaults filled in, secrets masked.",
    {
        200: Reply("All of it, or the named modules as a request with these parameters would run them.", TEXT_OR_PAGE),
        400: Reply("Too many modules, or a parameter can't be used."),
        404: Reply("No such module."),
    },
    (
        Parameter("module", "Only this module, or several with commas between them."),
        Parameter("hostname", "As `/probe` takes it."),
    ),
    also="What a module declares in `params`.",
)

LOGS = Operation(
    "logs",
    "The debug document of a probe that is still held; the newest one of a target.",
    {
        200: Reply("Its log, its metrics and its module.", TEXT_OR_PAGE),
        400: Reply("Neither an id nor a target, or both."),
        404: Reply("No such probe is held."),
        503: UNREADABLE,
    },
    (
        Parameter("id", "The number of the probe, as the status page links it.", schema={"type": "integer"}),
        Parameter("target", "The target as it was probed."),
        Parameter("module", "Together with a target: only probes of this module."),
    ),
)

HISTORY = Operation(
    "history",
    "The probes that are still held, newest first; with an `id`, all about one of them.",
    {
        200: Reply("A list of entries, or one of them with its events, samples and settings.", {**HELD, **PAGE}),
        400: Reply("A filter can't be used; the body says which and why."),
        404: Reply("No such probe is held."),
        503: UNREADABLE,
    },
    (
        Parameter("id", "The number of one probe, and nothing else.", schema={"type": "integer"}),
        Parameter("module", "Only probes of this module."),
        Parameter("target", "Only probes of this target; the password of a URL counts for nothing."),
        Parameter("result", "Only these.", schema={"enum": ["success", "failure"]}),
        Parameter("reason", "Only failures for this reason; a prober may have some of its own."),
        Parameter("since", "Only probes that began then or later: Unix seconds, RFC 3339, or an age such as 15m."),
        Parameter(
            "limit",
            "At most so many; fewer if their targets and messages take more than 8 MiB.",
            schema={"type": "integer", "minimum": 1, "maximum": MAX_LISTED},
        ),
    ),
)

MODULES = Operation(
    "modules",
    "The list of modules, for people.",
    {200: Reply("The page.", PAGE)},
    (Parameter("prober", "Only modules of this prober."),),
)

MODULE = Operation(
    "module",
    "The page of a module: settings, parameters, metrics, recent results, how to scrape it.",
    {200: Reply("The page.", PAGE), 404: Reply("No such module.")},
    (Parameter("name", "The module's name, with slashes escaped.", required=True, where="path"),),
)

REASONS = Operation(
    "reasons",
    "The reasons for failure: what each means, and what to check.",
    {200: Reply("The page; each reason's name is an anchor.", PAGE)},
)

RELOAD = Operation(
    "reload",
    "Read the configuration again.",
    {200: Reply("It is in use."), 500: Reply("It was refused, and the one before stays in use; the body says why.")},
    methods=("POST",),
)

HEALTHY = Operation(
    "healthy",
    "For liveness checks.",
    {200: Reply("`Healthy`."), 503: Reply("One sentence: why a restart would help.")},
)

READY = Operation(
    "ready",
    "For readiness checks: whether probes should come here.",
    {200: Reply("`Ready`."), 503: Reply("One sentence: the exporter is starting, shutting down or late.")},
)

HEALTH = Operation(
    "health",
    "Each check by name; the HTTP status is that of `/-/healthy`.",
    {
        200: Reply("No check fails.", {"application/json": Report, **PAGE}),
        503: Reply("A check fails.", {"application/json": Report, **PAGE}),
    },
)

METADATA = Operation(
    "metadata",
    "Version, configuration, modules, probers, their settings and metrics.",
    {200: Reply("The document.", {"application/json": Metadata, **PAGE})},
)

DISCOVERY = Operation(
    "discovery",
    "The targets of a source, for Prometheus' HTTP service discovery.",
    {
        200: Reply("A list of groups, each with one target and its labels.", {"application/json": GROUPS}),
        400: Reply("The parameter `source` is missing."),
        403: Reply("The `targets` of the modules permit none of the source's targets."),
        404: Reply("The configuration has no such source."),
        500: Reply("The file of the source can't be used; the body says why."),
        502: Reply("The lookup failed; the body says why."),
    },
    (Parameter("source", "The name of a source in `discovery` of the configuration.", required=True),),
)

OPENAPI = Operation(
    "openapi",
    "This document.",
    {200: Reply("OpenAPI 3.1.", {"application/json": {"type": "object"}, **PAGE})},
)

STATUS = Operation(
    "status",
    "The status page for people: what fails, since when and why, and recent probes.",
    {200: Reply("The page; without results if the history can't be read now.", PAGE)},
    (
        Parameter("module", "Only targets of this module."),
        Parameter("target", "Only targets with this text in them."),
        Parameter("result", "Only targets whose last probe had this result.", schema={"enum": ["success", "failure"]}),
        Parameter("reason", "Only targets whose last probe failed for this reason."),
    ),
)

FORM = Operation(
    "form",
    "The form for a probe, with a field for each parameter that the modules declare.",
    {200: Reply("The page.", PAGE)},
    (
        Parameter("module", "The module, or several with commas between them."),
        Parameter("target", "Fills the field."),
        Parameter("hostname", "Fills the field."),
    ),
    also="What a module declares in `params` fills its field.",
)

STATIC = {
    name: Operation(
        f"static_{name.partition('.')[0]}",
        f"The {what} of the pages.",
        {200: Reply("The file.", {TYPES[name]: _STRING}), 304: Reply("The client has this version (`If-None-Match`).")},
        (Parameter("v", "The version; a page links the current one."),),
    )
    for name, what in {"style.css": "style sheet", "app.js": "script", "icon.svg": "icon"}.items()
}
