"""Describe the configured modules and probers: their parameters, settings, metrics and reasons, as data for JSON."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from probe_exporter.config.module import Module
from probe_exporter.config.schema import settings_schema
from probe_exporter.plugins.inventory import measured
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.metrics import Metric


class ParameterInfo(BaseModel, frozen=True):
    """What a request may set in a module; `default` is null if it has to."""

    name: str
    pattern: str
    max_length: int
    default: str | None


class ModuleInfo(BaseModel, frozen=True):
    """One module: what `/probe?module=` takes."""

    name: str
    prober: str
    description: str
    source: str
    parameters: list[ParameterInfo]


class MetricInfo(BaseModel, frozen=True):
    """One metric that a probe may answer with."""

    name: str
    type: str
    help: str
    labels: list[str]


class ReasonInfo(BaseModel, frozen=True):
    """Why probes of one prober alone may fail."""

    name: str
    meaning: str


class ProberInfo(BaseModel, frozen=True):
    """One prober: a JSON Schema of its block of settings, its metrics and reasons beside those of every probe."""

    name: str
    description: str
    source: str
    settings: dict[str, Any]
    metrics: list[MetricInfo]
    reasons: list[ReasonInfo]


def module_info(module: Module) -> ModuleInfo:
    """What there is to know of a module."""
    return ModuleInfo(
        name=module.name,
        prober=module.prober.name,
        description=module.description,
        source=module.place.file,
        parameters=[
            ParameterInfo(
                name=name, pattern=parameter.pattern.text, max_length=parameter.max_length, default=parameter.default
            )
            for name, parameter in module.parameters.items()
        ],
    )


def prober_info(prober: Prober[Any]) -> ProberInfo:
    """What there is to know of a prober."""
    code = prober.probe.__code__ if hasattr(prober.probe, "__code__") else None
    return ProberInfo(
        name=prober.name,
        description=prober.summary,
        source=code.co_filename if code else prober.probe.__module__,
        settings=settings_schema(prober),
        metrics=[metric_info(metric) for metric in measured(prober)],
        reasons=[ReasonInfo(name=reason.value, meaning=reason.meaning) for reason in prober.reasons],
    )


def metric_info(metric: Metric) -> MetricInfo:
    """What there is to know of a metric."""
    return MetricInfo(name=metric.name, type=metric.type, help=metric.help, labels=[*metric.labels])
