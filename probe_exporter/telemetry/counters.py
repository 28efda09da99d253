"""Count the exporter's own metrics as plain numbers, and make families of them for a scrape of ``/metrics``.

Metrics that the original has keep its names, for its dashboards and alerts; others begin with ``probe_exporter_``. The
label `module` has only names of configured modules, so that requests can't add series.
"""

from __future__ import annotations

import platform
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain

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
"""Upper bounds of buckets in seconds: from a ping in the same rack to a long scrape interval."""

WAITS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Upper bounds of buckets in seconds, for the wait before a probe, which is normally 0."""

TARGET_DENIED = "target_denied"

LOST = ("queue_full", "too_large", "write_failed")
"""The causes for which a finished probe is missing in the history, see `history.memory` and `history.file`."""

MEANWHILE = ("200", "500", "503")
"""Status codes of /metrics that are exported from the start, as in the original."""


def worker_restarts(number: int) -> CounterMetricFamily:
    """Return the family that counts exited workers."""
    return CounterMetricFamily(
        "probe_exporter_worker_restarts_total", "Worker processes that exited and were replaced.", number
    )


class Distribution:
    """A histogram of seconds. Its buckets are cumulated only at a scrape."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return upper bounds and cumulative counts, as prometheus_client takes them."""
        shown, sum = [], 0
        for bound, count in zip((*self._bounds, float("inf")), self.counts, strict=True):
            sum += count
            shown.append((floatToGoString(bound), float(sum)))  # type: ignore[no-untyped-call]  # it is untyped
        return shown

    def copy(self) -> Distribution:
        """Return a histogram with the same counts."""
        other = Distribution(self._bounds)
        other.counts, other.total = [*self.counts], self.total
        return other


class Tally:
    """The counters of one module's probes.

    A running probe keeps a reference to its tally, so that a reload may drop the module meanwhile.
    """

    __slots__ = ("addresses_denied", "cancelled", "durations", "failures", "running", "successes", "waits")

    def __init__(self) -> None:
        self.running = 0
        self.successes = 0
        self.cancelled = 0
        self.addresses_denied = 0
        self.failures: dict[str, int] = {}  # by reason
        self.durations = Distribution(DURATIONS)
        self.waits = Distribution(WAITS)

    def start(self, waited: float = 0.0) -> None:
        """Count a probe that starts, `waited` seconds after its request."""
        self.running += 1
        if waited:
            self.waits.observe(waited)
        else:
            self.waits.counts[0] += 1

    def finish(self, reason: str, seconds: float) -> None:
        """Count a finished probe, with the reason of its failure, or an empty text."""
        self.running -= 1
        self.durations.observe(seconds)
        if reason:
            self.failures[reason] = self.failures.get(reason, 0) + 1
        else:
            self.successes += 1

    def deny_addresses(self, reasons: Iterable[str]) -> None:
        """Count the denied addresses of a probe of several addresses.

        Args:
            reasons: of the failures of its runs; empty texts for those that passed.
        """
        self.addresses_denied += sum(reason == TARGET_DENIED for reason in reasons)

    def cancel(self) -> None:
        """Count a probe that was cancelled because its client disconnected."""
        self.running -= 1
        self.cancelled += 1

    def outcomes(self) -> Iterator[tuple[str, str, int]]:
        """Yield result, reason and number of probes."""
        yield "success", "", self.successes
        if self.cancelled:
            yield "cancelled", "", self.cancelled
        for reason, number in self.failures.items():
            yield "failure", reason, number

    def copy(self) -> Tally:
        """Return counters with the same values."""
        other = Tally()
        other.running, other.successes, other.cancelled = self.running, self.successes, self.cancelled
        other.addresses_denied, other.failures = self.addresses_denied, {**self.failures}
        other.durations, other.waits = self.durations.copy(), self.waits.copy()
        return other


class Telemetry(Collector):
    """The metrics of this process.

    Attributes:
        registry: all of them, with those of the process and of Python; `workers.snapshots` adds up several processes.
        lag: the event loop's delay; the server runs its ``watch()``.
        unknown_modules: requests that named an unknown module.
        internal_errors: probes and requests that ended with an unexpected exception.
        history_lost: probes that the history could not keep, by cause.
        waiting, rejected: requests for probes that wait for a slot now, and those that got none in time.
        scraping: requests for /metrics in flight.
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
        self._probers_not_loaded = 0
        self._tallies: dict[str, Tally] = {}
        self._denied_before = 0  # of modules that a reload has removed
        self._addresses_denied_before = 0  # of these modules, too
        self._requests: Counter[tuple[str, int]] = Counter()
        self._scrapes: Counter[str] = Counter(dict.fromkeys(MEANWHILE, 0))
        self._reload_successful = 0
        self._reload_timestamp = 0.0
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._collectors: Sequence[Collector] = (
            ProcessCollector(registry=self.registry),
            PlatformCollector(registry=self.registry),
            GCCollector(registry=self.registry),
        )

    # --- counting ----------------------------------------------------------------------------------------------

    def tally(self, module: str) -> Tally:
        """Return the module's counters; for an unknown module, counters that are not exported."""
        tally = self._tallies.get(module)
        if tally is None:
            tally = Tally()
            if module in self._modules:
                self._tallies[module] = tally
        return tally

    def configured(self, modules: Collection[str], probers_not_loaded: int = 0) -> None:
        """Set the configured modules, and drop the counters of all others. Set the number of files left out."""
        self._modules = frozenset(modules)
        self._probers_not_loaded = probers_not_loaded
        for name in self._tallies.keys() - self._modules:
            removed = self._tallies.pop(name)
            self._denied_before += removed.failures.get(TARGET_DENIED, 0)
            self._addresses_denied_before += removed.addresses_denied

    def reload_succeeded(self) -> None:
        """Note that the configuration was read, or found unchanged, and is valid."""
        self._reload_successful = 1
        self._reload_timestamp = time.time()

    def reload_failed(self) -> None:
        """Note that the configuration was refused; the one in use stays."""
        self._reload_successful = 0

    def answered(self, handler: str, code: int) -> None:
        """Count a response of the handler of a path."""
        self._requests[handler, code] += 1

    def scraped(self, code: int) -> None:
        """Count a response of /metrics itself."""
        self._scrapes[str(code)] += 1

    # --- collecting --------------------------------------------------------------------------------------------

    def collect(self) -> Iterator[Family]:
        """Yield all families but those of the process and of Python."""
        yield from self._of_exporter()
        yield from _of_modules(self._tallies)

    def families(self) -> Iterator[Family]:
        """Return the families of `registry` with the values of now. Another thread may use the iterator.

        Thousands of modules take 0.2 s, too long for the event loop; to copy their counters takes a fiftieth of that.
        """
        tallies = {module: tally.copy() for module, tally in self._tallies.items()}
        others = [*self._of_exporter(), *chain(*[collector.collect() for collector in self._collectors])]
        return chain(others, _of_modules(tallies))

    def _of_exporter(self) -> Iterator[Family]:
        yield from self._builds()
        yield from self._config()
        yield from self._totals()
        yield from self._server()

    def _builds(self) -> Iterator[Family]:
        build = {"version": VERSION, "revision": revision()}
        python = {"python": platform.python_version(), "implementation": platform.python_implementation()}
        yield InfoMetricFamily(
            "probe_exporter_build", "Version of this exporter and of its Python; the value is 1.", build | python
        )
        help = "Version of this exporter, under the name that dashboards of blackbox_exporter use."
        theirs = GaugeMetricFamily(f"{PREFIX}_build_info", help, labels=[*build])
        theirs.add_metric([*build.values()], 1)
        yield theirs

    def _config(self) -> Iterator[Family]:
        yield GaugeMetricFamily(
            f"{PREFIX}_config_last_reload_successful",
            "Whether the last reload of the configuration succeeded.",
            self._reload_successful,
        )
        yield GaugeMetricFamily(
            f"{PREFIX}_config_last_reload_success_timestamp_seconds",
            "Unix time of the last successful reload of the configuration.",
            self._reload_timestamp,
        )
        yield CounterMetricFamily(
            "blackbox_module_unknown_total",
            "Requests that named an unknown module.",
            self.unknown_modules,
        )
        yield GaugeMetricFamily(
            "probe_exporter_probers_not_loaded",
            "Files of probers that failed to load and were left out; more than 0 only with --modules.ignore-errors.",
            self._probers_not_loaded,
        )

    def _totals(self) -> Iterator[Family]:
        """Yield the families without the label `module`; some are sums, also of modules that a reload has removed."""
        tallies = self._tallies.values()
        denied = sum(tally.failures.get(TARGET_DENIED, 0) for tally in tallies)
        yield GaugeMetricFamily(
            "probe_exporter_probes_waiting", "Requests for probes that wait for a free slot.", self.waiting
        )
        yield CounterMetricFamily(
            "probe_exporter_probes_rejected_total",
            "Requests for probes that got 503 because no slot was free in time, or no file descriptor was left.",
            self.rejected,
        )
        yield CounterMetricFamily(
            "probe_exporter_targets_denied_total",
            "Probes that the rules in `targets` denied.",
            self._denied_before + denied,
        )
        yield CounterMetricFamily(
            "probe_exporter_addresses_denied_total",
            "Addresses that the rules in `targets` denied in probes of several addresses, also in successful ones.",
            self._addresses_denied_before + sum(tally.addresses_denied for tally in tallies),
        )

    def _server(self) -> Iterator[Family]:
        yield GaugeMetricFamily(
            "probe_exporter_event_loop_lag_seconds",
            "Longest delay of the event loop in the last 15 seconds.",
            self.lag.worst(),
        )
        yield CounterMetricFamily(
            "probe_exporter_internal_errors_total",
            "Probes and requests that ended with an unexpected exception; the log has the traceback.",
            self.internal_errors,
        )
        yield CounterMetricFamily(
            "probe_exporter_log_lines_dropped_total",
            "Log lines that were dropped because stderr did not take them.",
            log_output.dropped(),
        )
        yield worker_restarts(0)  # the supervisor adds those that it counts
        lost = CounterMetricFamily(
            "probe_exporter_history_lost_total",
            "Finished probes that the history could not keep, by cause.",
            labels=["cause"],
        )
        for cause, number in self.history_lost.items():
            lost.add_metric([cause], number)
        yield lost
        answers = CounterMetricFamily(
            "probe_exporter_http_requests_total", "Responses by path and status code.", labels=["handler", "code"]
        )
        for (handler, code), number in self._requests.items():
            answers.add_metric([handler, str(code)], number)
        yield answers
        scrapes = CounterMetricFamily(
            "promhttp_metric_handler_requests_total", "Responses of /metrics by status code.", labels=["code"]
        )
        for status, number in self._scrapes.items():
            scrapes.add_metric([status], number)
        yield scrapes
        yield GaugeMetricFamily(
            "promhttp_metric_handler_requests_in_flight", "Requests for /metrics in flight.", self.scraping
        )


# --- families of modules: of a copy, another thread may collect them ------------------------------------------------


def _of_modules(tallies: Mapping[str, Tally]) -> Iterator[Family]:
    yield from _probes(tallies)
    yield from _histograms(tallies)


def _probes(tallies: Mapping[str, Tally]) -> Iterator[Family]:
    finished = CounterMetricFamily(
        "probe_exporter_probes_total",
        "Finished probes by result: success, failure with its reason, or cancelled by its client.",
        labels=["module", "result", "reason"],
    )
    running = GaugeMetricFamily("probe_exporter_probes_in_flight", "Probes that are running now.", labels=["module"])
    for module, tally in tallies.items():
        running.add_metric([module], tally.running)
        for result, reason, number in tally.outcomes():
            finished.add_metric([module, result, reason], number)
    yield finished
    yield running


def _histograms(tallies: Mapping[str, Tally]) -> Iterator[Family]:
    yield _histogram(
        tallies,
        "probe_exporter_probe_duration_seconds",
        "Duration of probes in seconds.",
        lambda tally: tally.durations,
    )
    yield _histogram(
        tallies,
        "probe_exporter_probe_wait_seconds",
        "Seconds that requests for probes waited for a free slot.",
        lambda tally: tally.waits,
    )


def _histogram(tallies: Mapping[str, Tally], name: str, help: str, of: Callable[[Tally], Distribution]) -> Family:
    family = HistogramMetricFamily(name, help, labels=["module"])
    for module, tally in tallies.items():
        seen = of(tally)
        family.add_metric([module], seen.buckets(), seen.total)
    return family
