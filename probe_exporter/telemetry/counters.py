"""The exporter's own metrics: plain numbers while it works, families when somebody scrapes.

The names that dashboards and alerts of the original read are kept; ours begin with ``probe_exporter_``. The label
`module` only ever names a module of the configuration, whatever is asked for.
"""

from __future__ import annotations

import platform
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from probe_exporter.telemetry import log_output
from probe_exporter.telemetry.lag import Lag
from probe_exporter.version import VERSION, revision

PREFIX = "blackbox_exporter"

DURATIONS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds in seconds: from a ping in one's own rack to what a scrape interval allows."""

WAITS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""The same for what ought to be no time at all."""

TARGET_DENIED = "target_denied"

LOST = ("queue_full", "too_large", "write_failed")
"""Why a finished probe may be missing in the history: `history`, `history_file`."""

MEANWHILE = ("200", "500", "503")
"""Codes of /metrics that are there before anybody has scraped, as in the original."""


class Distribution:
    """Seconds by size; a histogram whose buckets are added up when it is shown."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Take one more."""
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bound and how many are not above it, as prometheus_client takes them."""
        shown, sum = [], 0
        for bound, count in zip((*self._bounds, float("inf")), self.counts, strict=True):
            sum += count
            shown.append((floatToGoString(bound), float(sum)))  # type: ignore[no-untyped-call]  # it is untyped
        return shown


class Tally:
    """What the probes of one module have come to.

    Whoever runs a probe holds the tally from its start to its end, so that a reload may forget the module meanwhile.
    """

    __slots__ = ("cancelled", "durations", "failures", "running", "successes", "waits")

    def __init__(self) -> None:
        self.running = 0
        self.successes = 0
        self.cancelled = 0
        self.failures: dict[str, int] = {}  # by reason
        self.durations = Distribution(DURATIONS)
        self.waits = Distribution(WAITS)

    def start(self, waited: float = 0.0) -> None:
        """A probe begins, `waited` seconds after it was asked for."""
        self.running += 1
        self.waits.observe(waited)

    def finish(self, reason: str, seconds: float) -> None:
        """A probe has its verdict: the reason why it failed, or nothing."""
        self.running -= 1
        self.durations.observe(seconds)
        if reason:
            self.failures[reason] = self.failures.get(reason, 0) + 1
        else:
            self.successes += 1

    def cancel(self) -> None:
        """A probe ended without a verdict, because nobody waits for one any more."""
        self.running -= 1
        self.cancelled += 1

    def outcomes(self) -> Iterator[tuple[str, str, int]]:
        """Result, reason and number."""
        yield "success", "", self.successes
        if self.cancelled:
            yield "cancelled", "", self.cancelled
        for reason, number in self.failures.items():
            yield "failure", reason, number


class Telemetry(Collector):
    """What this process says about itself on ``/metrics``.

    Attributes:
        registry: everything, those of the process and of Python included; `snapshots` adds up several processes'.
        lag: the event loop's; whoever runs the loop lets it ``watch()``.
        unknown_modules: requests that named a module which the configuration does not have.
        internal_errors: probes and requests that met a bug.
        history_lost: probes that the history could not keep, by cause.
        waiting, rejected: requests for probes that wait for their turn now, and those that got none.
        scraping: answers of /metrics under way.
    """

    def __init__(self) -> None:
        self.lag = Lag()
        self.unknown_modules = 0
        self.internal_errors = 0
        self.history_lost: Counter[str] = Counter(dict.fromkeys(LOST, 0))
        self.waiting = 0
        self.rejected = 0
        self.scraping = 0
        self._modules: frozenset[str] = frozenset()
        self._tallies: dict[str, Tally] = {}
        self._denied_before = 0  # of modules that are gone
        self._requests: Counter[tuple[str, int]] = Counter()
        self._scrapes: Counter[str] = Counter(dict.fromkeys(MEANWHILE, 0))
        self._reload_successful = 0
        self._reload_timestamp = 0.0
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    # --- while it works ----------------------------------------------------------------------------------------

    def tally(self, module: str) -> Tally:
        """That of a module; one that nobody sees if the configuration does not have it (any more)."""
        tally = self._tallies.get(module)
        if tally is None:
            tally = Tally()
            if module in self._modules:
                self._tallies[module] = tally
        return tally

    def configured(self, modules: Collection[str]) -> None:
        """The configuration has these modules; what others have come to is forgotten."""
        self._modules = frozenset(modules)
        for name in self._tallies.keys() - self._modules:
            self._denied_before += self._tallies.pop(name).failures.get(TARGET_DENIED, 0)

    def reload_succeeded(self) -> None:
        """The configuration was read, or found unchanged, and is good."""
        self._reload_successful = 1
        self._reload_timestamp = time.time()

    def reload_failed(self) -> None:
        """The configuration was refused; the one before it stays in use."""
        self._reload_successful = 0

    def answered(self, handler: str, code: int) -> None:
        """A request was answered by the handler of this path."""
        self._requests[handler, code] += 1

    def scraped(self, code: int) -> None:
        """/metrics itself was answered."""
        self._scrapes[str(code)] += 1

    # --- when somebody scrapes ---------------------------------------------------------------------------------

    def collect(self) -> Iterator[Family]:
        """All families but those of the process and of Python."""
        yield from self._builds()
        yield from self._config()
        yield from self._probes()
        yield from self._histograms()
        yield from self._front_door()

    def _builds(self) -> Iterator[Family]:
        build = {"version": VERSION, "revision": revision()}
        python = {"python": platform.python_version(), "implementation": platform.python_implementation()}
        yield InfoMetricFamily("probe_exporter_build", "What this exporter is and runs on.", build | python)
        help = "This exporter's version, under the name that dashboards of blackbox_exporter look for."
        theirs = GaugeMetricFamily(f"{PREFIX}_build_info", help, labels=[*build])
        theirs.add_metric([*build.values()], 1)
        yield theirs

    def _config(self) -> Iterator[Family]:
        yield GaugeMetricFamily(
            f"{PREFIX}_config_last_reload_successful",
            "1 if the configuration in use is the one last read, 0 if that was refused.",
            self._reload_successful,
        )
        yield GaugeMetricFamily(
            f"{PREFIX}_config_last_reload_success_timestamp_seconds",
            "When the configuration was last read and found good.",
            self._reload_timestamp,
        )
        yield CounterMetricFamily(
            "blackbox_module_unknown_total",
            "Requests that named a module which the configuration does not have.",
            self.unknown_modules,
        )

    def _probes(self) -> Iterator[Family]:
        finished = CounterMetricFamily(
            "probe_exporter_probes_total",
            "Probes by how they ended: success, failure and its reason, or cancelled because the client hung up.",
            labels=["module", "result", "reason"],
        )
        running = GaugeMetricFamily("probe_exporter_probes_in_flight", "Probes that are running.", labels=["module"])
        denied = self._denied_before
        for module, tally in self._tallies.items():
            running.add_metric([module], tally.running)
            for result, reason, number in tally.outcomes():
                finished.add_metric([module, result, reason], number)
            denied += tally.failures.get(TARGET_DENIED, 0)
        yield finished
        yield running
        yield GaugeMetricFamily(
            "probe_exporter_probes_waiting", "Requests for probes that wait for their turn.", self.waiting
        )
        yield CounterMetricFamily(
            "probe_exporter_probes_rejected_total",
            "Requests for probes that were answered with 503, for want of a turn in time.",
            self.rejected,
        )
        yield CounterMetricFamily(
            "probe_exporter_targets_denied_total", "Probes that the rules on targets forbade.", denied
        )

    def _histograms(self) -> Iterator[Family]:
        yield self._histogram(
            "probe_exporter_probe_duration_seconds",
            "How long probes took, from start to verdict.",
            lambda tally: tally.durations,
        )
        yield self._histogram(
            "probe_exporter_probe_wait_seconds",
            "How long requests for probes waited for their turn before they began.",
            lambda tally: tally.waits,
        )

    def _histogram(self, name: str, help: str, of: Callable[[Tally], Distribution]) -> Family:
        family = HistogramMetricFamily(name, help, labels=["module"])
        for module, tally in self._tallies.items():
            seen = of(tally)
            family.add_metric([module], seen.buckets(), seen.total)
        return family

    def _front_door(self) -> Iterator[Family]:
        yield GaugeMetricFamily(
            "probe_exporter_event_loop_lag_seconds",
            "The longest that anything had to wait for the event loop in the last 15 seconds.",
            self.lag.worst(),
        )
        yield CounterMetricFamily(
            "probe_exporter_internal_errors_total",
            "Probes and requests that met a bug of the exporter or of a prober; the log has the traceback.",
            self.internal_errors,
        )
        yield CounterMetricFamily(
            "probe_exporter_log_lines_dropped_total",
            "Log lines that stderr did not take in time, or not at all.",
            log_output.dropped(),
        )
        lost = CounterMetricFamily(
            "probe_exporter_history_lost_total",
            "Finished probes that the history did not keep though they were new, by cause.",
            labels=["cause"],
        )
        for cause, number in self.history_lost.items():
            lost.add_metric([cause], number)
        yield lost
        answers = CounterMetricFamily(
            "probe_exporter_http_requests_total", "Requests answered, by path and code.", labels=["handler", "code"]
        )
        for (handler, code), number in self._requests.items():
            answers.add_metric([handler, str(code)], number)
        yield answers
        scrapes = CounterMetricFamily(
            "promhttp_metric_handler_requests_total", "Answers of /metrics itself.", labels=["code"]
        )
        for status, number in self._scrapes.items():
            scrapes.add_metric([status], number)
        yield scrapes
        yield GaugeMetricFamily(
            "promhttp_metric_handler_requests_in_flight", "Answers of /metrics under way.", self.scraping
        )
