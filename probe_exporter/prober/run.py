"""`Probe`: one run of a module against a target, with its metrics, log and phases.

A prober raises `ProbeFailed`; the runner logs and counts the failure.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import CodeType, TracebackType
from typing import NamedTuple, Protocol, Self

from prometheus_client import CollectorRegistry

from probe_exporter.prober.deadline import Late, within
from probe_exporter.prober.failure import ProbeFailed
from probe_exporter.prober.metrics import Metric, Samples

Line = tuple[float, int, str, dict[str, object], CodeType, int]
"""The fields of an `Event`. A plain tuple is the cheapest kind of record, and a run makes a dozen."""

Beginning = tuple[float, str, float, CodeType]
"""The first line of every log: Unix seconds, the prober's name, the timeout in seconds, the function that logged."""

Success = tuple[float, float, CodeType]
"""The last line of a successful probe: Unix seconds, the duration in seconds, the function that logged."""


class Event(NamedTuple):
    """One line of a probe's log, as data; it is formatted when a client requests it."""

    time: float  # Unix seconds
    level: int  # of the logging module
    message: str
    fields: dict[str, object]
    code: CodeType  # the function that logged, and the place in its byte code
    instruction: int

    @property
    def line(self) -> int:
        """The line of the source. Computing it takes longer than logging, so it is done on request."""
        lines = (line for start, end, line in self.code.co_lines() if start <= self.instruction < end)
        return next(lines, None) or self.code.co_firstlineno


Span = tuple[str, float, float, str, bool]
"""A phase that has ended: name, start by `time.perf_counter`, seconds, `Phase.about`, whether an error ended it."""

MAX_SPANS = 200
"""Phases that a probe keeps for its report; a prober may enter phases in a loop."""


class Evidence(Protocol):
    """What a peer sent to identify itself, kept for the report: the certificates of a TLS handshake."""

    @property
    def bytes(self) -> int:
        """About the bytes that it takes in memory."""

    def data(self, shown: Callable[[str], str]) -> dict[str, object]:
        """Return it as JSON data, with `shown` applied to texts."""


class Phase:
    """A timed part of a probe; `Probe.phase` makes it.

    Attributes:
        seconds: its duration, once it has ended.
        about: what it deals with, for the report: an address, a host name, a URL.
    """

    __slots__ = ("about", "metric", "name", "outer", "probe", "seconds", "started")
    name: str
    about: str
    seconds: float
    # Of `Probe.phase` and the methods below alone:
    probe: Probe
    metric: Metric | None
    outer: str  # the phase around it
    started: float

    def __enter__(self) -> Self:
        self.probe.current_phase = self.name
        self.started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = seconds = time.perf_counter() - self.started
        probe = self.probe
        if len(probe.spans) < MAX_SPANS:
            probe.spans.append((self.name, self.started, seconds, self.about, kind is not None))
        if (metric := self.metric) is not None:
            probe.samples.add_phase(metric, self.name, seconds)
        if kind is None:  # after a failure the phase remains, for the result
            probe.current_phase = self.outer


class Network(Protocol):
    """The network policy of a run: name servers, source address, allowed targets.

    Attributes:
        source_ip_address: the address to connect from, unless the prober's settings have one; may be empty.
        source_interface: the interface that packets leave and arrive by; empty for any.
    """

    @property
    def source_ip_address(self) -> str: ...
    @property
    def source_interface(self) -> str: ...
    @property
    def identity(self) -> int:
        """A number that is the same for two runs of one policy."""

    async def lookup(self, host: str, family: int) -> list[str]:
        """Return the addresses of a name.

        Args:
            family: 4, 6, or 0 for both.

        Raises:
            ProbeFailed: the name does not resolve, or the policy denies it.
        """

    def target_address(self, host: str, addresses: Sequence[str], chosen: str) -> str:
        """Return the address to probe of those that the target's host has.

        Args:
            host: a name, or an address that is the only one.
            chosen: the one that the prober's settings choose.
        """

    def forget(self, address: str) -> None:
        """Forget the name that an address was found by: the target gives the address itself."""

    def check(self, address: str, port: int) -> None:
        """Check an address before anything is sent to it.

        Raises:
            ProbeFailed: the policy denies it.
        """

    def check_proxied(self, host: str, port: int) -> None:
        """Check a host before a proxy is told to connect to it.

        Raises:
            ProbeFailed: the policy denies it.
        """

    def check_path(self, path: str) -> str:
        """Check the path of a Unix socket, and return the path to connect to, with symbolic links resolved.

        Raises:
            ProbeFailed: the policy denies it.
        """

    def for_another_run(self) -> Network:
        """Return a network of the same policy that remembers nothing of this run."""


class Probe:
    """One run of a prober against one target: its metrics, log, phases and deadline.

    Attributes:
        target: the target as the request names it.
        network: the network policy of this run; None if the module has none.
        samples: the measured values.
        failure: the first failure noted; `failed_phase` is its phase.
    """

    __slots__ = (
        "_clock",
        "begun",
        "current_phase",
        "deadline",
        "evidence",
        "failed_phase",
        "failure",
        "handshake",
        "lines",
        "network",
        "requests_ocsp",
        "samples",
        "spans",
        "started",
        "succeeded",
        "target",
    )

    def __init__(
        self,
        target: str,
        deadline: float,
        clock: Callable[[], float] = time.monotonic,
        network: Network | None = None,
    ) -> None:
        """
        Args:
            target: the target as the request names it.
            deadline: when the runner ends the run, in seconds on `clock`.
            clock: the event loop's time.
            network: made by the runner for this run; None if the module has no network policy.
        """
        self.target = target
        self.network = network
        self.deadline = deadline
        self.samples = Samples()
        # For the report of the probe, and not for probers:
        self.lines: list[Line] = []  # the log, but for the two that follow; `events` has all by name
        self.begun: Beginning | None = None
        self.succeeded: Success | None = None
        self.spans: list[Span] = []  # the phases that have ended
        self.evidence: list[Evidence] = []  # what peers sent to identify themselves
        self.requests_ocsp = False  # whether handshakes ask for a stapled OCSP response
        self.handshake: object = None  # the TLS handshake reported last, a `tls.handshake.Handshake`
        self.started = time.perf_counter()
        self.current_phase = ""
        self.failure: ProbeFailed | None = None
        self.failed_phase = ""
        self._clock = clock

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; negative once it has passed."""
        return self.deadline - self._clock()

    @property
    def events(self) -> list[Event]:
        """The log of this run."""
        lines = [*self.lines]
        if self.begun is not None:
            when, prober, timeout, code = self.begun
            fields: dict[str, object] = {"prober": prober, "timeout_seconds": timeout}
            lines.insert(0, (when, logging.DEBUG, "Beginning probe", fields, code, 0))
        if self.succeeded is not None:
            when, duration, code = self.succeeded
            lines.append((when, logging.DEBUG, "Probe succeeded", {"duration_seconds": duration}, code, 0))
        return [Event(*line) for line in lines]

    @property
    def registry(self) -> CollectorRegistry:
        """The registry of this run, for prometheus_client's types."""
        return self.samples.registry

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        """Set one sample, ``probe.set(DURATION, 0.2, "connect")``; see `Samples.set`."""
        self.samples.set(metric, value, *labels)

    def add(self, metric: Metric, value: float, *labels: str) -> None:
        """Add to one sample, which starts at 0; see `Samples.add`."""
        self.samples.add(metric, value, *labels)

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Count one value in a histogram, ``probe.observe(LATENCY, 0.2)``; see `Samples.observe`."""
        self.samples.observe(metric, value, *labels)

    def phase(self, name: str, seconds: Metric | None = None) -> Phase:
        """Time a phase: ``with probe.phase("login", DURATION): …``. A failure inside is reported with this phase.

        Args:
            name: the value of the label ``phase``.
            seconds: a metric with the label ``phase`` alone, which is set to the duration of the phase, also after a
                failure; the durations of a phase that is entered several times are added up. Without it, use
                ``as phase`` and ``phase.seconds``.
        """
        phase = Phase()  # a call of `__init__` would take as long as the rest
        phase.name = name
        phase.about = ""
        phase.seconds = 0.0
        phase.probe = self
        phase.metric = seconds
        phase.outer = self.current_phase
        return phase

    @contextmanager
    def optional(self, question: str, *, needed: bool = False) -> Iterator[None]:
        """Ask a question that no setting depends on: a failure inside is logged, and the probe goes on.

        ``with probe.optional("INFO", needed=bool(settings.role)): …``. The block gets half of the remaining time.

        Args:
            question: what is asked, for the log.
            needed: let the failure fail the probe, because a setting depends on the answer.
        """
        if needed:
            yield
            return
        phase = self.current_phase
        try:
            with within(self.remaining / 2):
                yield
        except (ProbeFailed, Late) as failed:
            self.current_phase = phase
            self.log("No usable answer to an optional question", question=question, err=str(failed))

    def fail(self, failure: ProbeFailed) -> None:
        """Note that the probe has failed, and go on measuring. The first failure noted is reported.

        If there is nothing left to measure, raise the `ProbeFailed` instead.
        """
        if self.failure is None:
            # The history keeps failures; the frames of a traceback would keep all of the prober's local variables.
            failure.__traceback__ = failure.__context__ = failure.__cause__ = None
            self.failure = failure
            self.failed_phase = self.current_phase

    def log(self, message: str, /, *, level: int = logging.DEBUG, **fields: object) -> None:
        """Add a line to the log of this run. It costs an append: the text is made on request. Log no secrets."""
        caller = sys._getframe(1)  # noqa: SLF001  (the fast way, and documented)
        self.lines.append((time.time(), level, message, fields, caller.f_code, caller.f_lasti))


def note_phase(probe: Probe, name: str, started: float, about: str = "") -> None:
    """Note a phase at its end that did not wait, and that no error ended: in a quarter of the time of `Probe.phase`.

    Args:
        started: when it began, by `time.perf_counter`.
        about: as in `Phase.about`.
    """
    if len(probe.spans) < MAX_SPANS:
        probe.spans.append((name, started, time.perf_counter() - started, about, False))
