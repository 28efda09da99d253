"""Render the Helm chart without helm: `python deploy/render.py VALUES.yaml… > manifests.yaml`.

    --release NAME        name of the release (default: probe-exporter)
    --namespace NAME      namespace of the release (default: monitoring)
    --generate            write all that is generated: deploy/kubernetes/, and what tests compare with
                          (tests/golden/helm/)
    --check               print what Helm finds wrong with the chart, and the generated files that are not up to date;
                          exit with 1 if there is anything

The package helm-python-sdk, which tests/requirements.txt has, holds Helm's own engine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

DEPLOY = Path(__file__).parent
CHART = DEPLOY / "helm" / "probe-exporter"
KUBERNETES = DEPLOY / "kubernetes"
TESTS = DEPLOY.parent / "tests"

HEADING = (
    "# Generated from deploy/helm/probe-exporter by `python deploy/render.py --generate`. Edit the chart instead.\n"
)

Values = dict[str, Any]


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a block, so that a configuration within a manifest can be read."""


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _write_text)


def render(values: Values, release: str = "probe-exporter", namespace: str = "monitoring") -> list[Values]:
    """Return the objects that the chart makes of these values, sorted by kind and name.

    Raises:
        helm.HelmError: the schema of the values rejects them, or a template fails.
    """
    with helm.Chart.load(str(CHART)) as chart:
        chart.validate_schema(values)
        texts = chart.render(values, name=release, namespace=namespace)
    manifests = [text for name, text in texts.items() if name.endswith(".yaml")]
    documents = (document for text in manifests for document in yaml.safe_load_all(text))
    return sorted(filter(None, documents), key=lambda one: (one["kind"], one["metadata"]["name"]))


def as_text(objects: list[Values]) -> str:
    """Return objects as YAML."""
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def generate() -> Iterator[tuple[Path, str]]:
    """Yield each generated file and its content."""
    yield from _manifests()
    for path in sorted((TESTS / "deploy" / "values").glob("*.yml")):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        yield TESTS / "golden" / "helm" / path.name, as_text(render(values))


def _manifests() -> Iterator[tuple[Path, str]]:
    """Yield the chart's objects for kustomize: without a namespace, and without the labels that tell of Helm."""
    names = []
    for one in render({}):
        _remove_traces_of_helm(one)
        names.append(f"{one['kind'].lower()}.yaml")
        yield KUBERNETES / names[-1], HEADING + as_text([one])
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "monitoring",
        "resources": sorted(names),
    }
    yield KUBERNETES / "kustomization.yaml", HEADING + as_text([kustomization])


def _remove_traces_of_helm(one: Values) -> None:
    del one["metadata"]["namespace"]
    template: Values = one["spec"]["template"]["metadata"] if one["kind"] == "Deployment" else {}
    template.pop("annotations", None)
    for metadata in (one["metadata"], template):
        for label in ("helm.sh/chart", "app.kubernetes.io/managed-by"):
            metadata.get("labels", {}).pop(label, None)


def problems() -> list[str]:
    """Return what Helm finds wrong with the chart, and the generated files that are not up to date."""
    stale = [path for path, text in generate() if not path.exists() or path.read_text("utf-8") != text]
    return [*map(str, helm.lint(str(CHART), strict=True)["errors"]), *map(str, stale)]


def main() -> None:
    """Read the command line, and do what it says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("values", nargs="*", type=Path)
    parser.add_argument("--release", default="probe-exporter")
    parser.add_argument("--namespace", default="monitoring")
    parser.add_argument("--generate", action="store_true")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if arguments.generate:
        for path, text in generate():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return
    if arguments.check:
        sys.exit("\n".join(problems()) or 0)
    values: Values = {}
    for path in arguments.values:
        merge(values, yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    sys.stdout.write(as_text(render(values, arguments.release, arguments.namespace)))


def merge(values: Values, others: Values) -> None:
    """Add values to others, as Helm does with several files: blocks are merged, everything else is replaced."""
    for key, value in others.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            merge(values[key], value)
        else:
            values[key] = value


if __name__ == "__main__":
    main()
