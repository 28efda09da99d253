"""Write the rules of rules.yml for another job, objective or address of the runbooks, also for the operator.

Run it as a program: ``python -m deploy.mixin.render --help``. It needs the standard library alone.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

RULES = Path(__file__).with_name("rules.yml")

EXPORTER = 'job="probe-exporter"'
"""The selector in rules.yml of the exporter's own metrics."""

OBJECTIVE = "0.999"
"""The share of probes in rules.yml that shall succeed."""

RUNBOOK = "https://probe-exporter.example.org/docs/runbooks/ALERT.html"
"""The address in rules.yml of an alert's page."""

SEVERITIES = ("page", "ticket")

OPERATOR = """\
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: probe-exporter
spec:
"""


def render(
    text: str,
    *,
    exporter: str = EXPORTER,
    objective: str = OBJECTIVE,
    runbook: str = RUNBOOK,
    severities: Sequence[str] = SEVERITIES,
) -> str:
    """Return the text of rules.yml with other settings.

    Args:
        text: the content of rules.yml.
        exporter: matchers of the exporter's own metrics, without braces.
        objective: share of probes that shall succeed, between 0 and 1.
        runbook: address of an alert's page, with ALERT in place of its name.
        severities: the label `severity` of alerts that page, and of the others.
    """
    text = text.replace(EXPORTER, exporter).replace(f"{OBJECTIVE} * ", f"{objective} * ")
    before, after = RUNBOOK.split("ALERT")
    text = re.sub(f"{re.escape(before)}(.+){re.escape(after)}", lambda found: runbook.replace("ALERT", found[1]), text)
    for ours, theirs in zip(SEVERITIES, severities, strict=True):
        text = text.replace(f"severity: {ours}\n", f"severity: {theirs}\n")
    return text


def for_operator(text: str) -> str:
    """Return the text of a file of rules as a PrometheusRule of the Prometheus operator."""
    groups = text[text.index("groups:\n") :]
    return OPERATOR + textwrap.indent(groups, "  ")


def share(text: str) -> str:
    """Return an objective as it was typed.

    Raises:
        ValueError: it is not between 0 and 1.
    """
    if not 0 < float(text) < 1:
        raise ValueError
    return text


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(prog="python -m deploy.mixin.render", description="Write the rules to stdout.")
    made.add_argument("--exporter", default=EXPORTER, help="matchers of the exporter's own metrics (%(default)s)")
    made.add_argument("--objective", default=OBJECTIVE, type=share, help="share that shall succeed (%(default)s)")
    made.add_argument("--runbook", default=RUNBOOK, help="address of the page of ALERT (%(default)s)")
    made.add_argument("--severities", default=SEVERITIES, nargs=2, metavar=("PAGE", "TICKET"), help="label values")
    made.add_argument("--operator", action="store_true", help="write a PrometheusRule")
    return made


def main(words: Sequence[str] | None = None) -> None:
    """Write the rules that the command line asks for to stdout."""
    options = vars(parser().parse_args(words))
    operator = options.pop("operator")
    text = render(RULES.read_text(encoding="utf-8"), **options)
    sys.stdout.write(for_operator(text) if operator else text)


if __name__ == "__main__":
    main()
