"""``/-/healthy``, ``/-/ready`` and ``/health``: the exporter's health checks by name, and the worst status of them.

A failed check means that a restart would help. A problem that a restart would not solve is a warning: a refused
configuration, where the exporter keeps the one in use, or an event loop that is late.

The event loop is late if the process gets too little CPU, or if a prober blocks it. A restart would drop the probes
that run, and make the next process late as well. `ready` reports it, so that a load balancer sends the probes to other
replicas. A loop that hangs answers no check at all. The client of the check, a kubelet for example, restarts the
process after its own timeout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from probe_exporter.config.reloading import Configuration
from probe_exporter.telemetry.lag import Lag
from probe_exporter.web.answers import Answer, Refused, json_model, plain
from probe_exporter.web.html.negotiation import wants_html
from probe_exporter.web.html.rendering import Renderer
from probe_exporter.web.probing import Probing
from probe_exporter.web.request import WebRequest
from probe_exporter.workers.worker import Workers

if TYPE_CHECKING:
    from probe_exporter.web.config_file import LiveWebConfig

MAX_LAG_SECONDS = 5.0
"""Seconds that the event loop may be late: half of a usual scrape timeout."""

Status = Literal["pass", "warn", "fail"]

_GRAVITY: list[Status] = ["pass", "warn", "fail"]


class Check(BaseModel, frozen=True):
    """The result of one check: its status, and one sentence about the problem, empty if there is none."""

    status: Status
    message: str


class Report(BaseModel, frozen=True):
    """All checks, and the worst status among them."""

    status: Status
    checks: dict[str, Check]


class Health:
    """Answers health checks of supervisors and load balancers."""

    def __init__(
        self,
        configuration: Configuration,
        live: LiveWebConfig | None,
        lag: Lag,
        workers: Workers,
        probing: Probing,
        renderer: Renderer,
    ) -> None:
        self._configuration = configuration
        self._live = live
        self._lag = lag
        self._workers = workers
        self._probing = probing
        self._renderer = renderer
        self._starting = True

    def started(self) -> None:
        """Note that all sockets listen."""
        self._starting = False

    async def healthy(self, request: WebRequest, query: str) -> Answer:
        """Answer a liveness check: one word, or why a restart would help."""
        failed = [check.message for check in self._checks().values() if check.status == "fail"]
        if failed:
            raise Refused(503, " ".join(failed))
        return plain("Healthy")

    async def ready(self, request: WebRequest, query: str) -> Answer:
        """Answer a load balancer: one word, or why it should send no probes now."""
        unready = self._readiness()
        if unready:
            raise Refused(503, unready)
        return plain("Ready")

    async def health(self, request: WebRequest, query: str) -> Answer:
        """Answer with all checks; the HTTP status is that of `healthy`."""
        report = self.report()
        status = 503 if report.status == "fail" else 200
        if wants_html(request):
            return await self._renderer.page(request, "health.html", {"report": report}, status)
        return json_model(report, status)

    def report(self) -> Report:
        """Return all checks, and the worst status among them."""
        checks = self._checks()
        worst = max((check.status for check in checks.values()), key=_GRAVITY.index)
        return Report(status=worst, checks=checks)

    def _checks(self) -> dict[str, Check]:
        lost = self._workers.problem()
        refused = self._configuration.last_error
        locked = self._live.problem if self._live else ""
        return {
            "event_loop": _check(self._late(), "warn"),
            "workers": _check(lost, "fail") if lost else _check(self._workers.late(), "warn"),
            "configuration": _check(f"The last reload was refused: {refused}" if refused else "", "warn"),
            "web_configuration": _check(f"A change was refused: {locked}" if locked else "", "warn"),
            "readiness": _check(self._readiness(), "warn"),
        }

    def _readiness(self) -> str:
        if self._probing.draining:
            return "The exporter is shutting down."
        return "The exporter is starting." if self._starting else self._late()

    def _late(self) -> str:
        lag = self._lag.worst()
        return f"The event loop was {lag:.1f} s late, more than {MAX_LAG_SECONDS:g} s." if lag > MAX_LAG_SECONDS else ""


def _check(message: str, otherwise: Status) -> Check:
    return Check(status=otherwise if message else "pass", message=message)
