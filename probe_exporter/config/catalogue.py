"""Describe modules and probers (parameters, settings, metrics, reasons) as data for JSON."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from probe_exporter.config.module import Module
from probe_exporter.config.schema import settings_schema
from probe_exporter.config.series import SeriesInfo, series_of
from probe_exporter.plugins.inventory import measured
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.metrics import Metric


class ParameterInfo(BaseModel, frozen=True):
    """A parameter of a module; `default` is null if a request must have a value, and masked if it is a secret."""

    name: str
    pattern: str
    max_length: int
    default: str | None


class ModuleInfo(BaseModel, frozen=True):
    """A module, as `/probe?module=` names it."""

    name: str
    prober: str
    description: str
    source: str
    parameters: list[ParameterInfo]
    series: SeriesInfo


class MetricInfo(BaseModel, frozen=True):
    """A metric that a probe may have."""

    name: str
    type: str
    help: str
    labels: list[str]


class ReasonInfo(BaseModel, frozen=True):
    """A reason for failure of one prober."""

    name: str
    meaning: str


class ProberInfo(BaseModel, frozen=True):
    """A prober: the JSON Schema of its settings, its metrics and its own reasons for failure."""

    name: str
    description: str
    source: str
    settings: dict[str, Any]
    metrics: list[MetricInfo]
    reasons: list[ReasonInfo]


def module_info(module: Module) -> ModuleInfo:
    """Describe a module."""
    return ModuleInfo(
        name=module.name,
        prober=module.prober.name,
        description=module.description,
        source=module.place.file,
        parameters=[
            ParameterInfo(
                name=name,
                pattern=parameter.pattern.text,
                max_length=parameter.max_length,
                default=module.shown_default(name),
            )
            for name, parameter in module.parameters.items()
        ],
        series=series_of(module),
    )


def prober_info(prober: Prober[Any]) -> ProberInfo:
    """Describe a prober."""
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
    """Describe a metric."""
    return MetricInfo(name=metric.name, type=metric.type, help=metric.help, labels=[*metric.labels])
