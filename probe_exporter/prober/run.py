"""`Probe`: one run of a module against a target, with its metrics, its log and its phases.

A prober raises `ProbeFailed`; it never judges, logs or counts its own failure. The runner does that once, for all.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, TracebackType
from typing import NamedTuple, Protocol, Self

from prometheus_client import CollectorRegistry

from probe_exporter.prober.deadline import Late, within
from probe_exporter.prober.failure import ProbeFailed
from probe_exporter.prober.metrics import Metric, Samples


class Event(NamedTuple):  # the cheapest record there is: a run makes a dozen
    """One line of a probe's log, kept as data and rendered only when somebody looks."""

    time: float  # Unix seconds
    level: int  # of the logging module
    message: str
    fields: dict[str, object]
    code: CodeType  # where it was logged: the function, and the place in its byte code
    instruction: int

    @property
    def line(self) -> int:
        """The line of the source; worked out when somebody looks, for it takes longer than logging."""
        lines = (line for start, end, line in self.code.co_lines() if start <= self.instruction < end)
        return next(lines, None) or self.code.co_firstlineno


class Phase:
    """One timed stretch of a probe; `seconds` is how long it took, once it has ended."""

    __slots__ = ("_metric", "_outer", "_probe", "_started", "name", "seconds")

    def __init__(self, probe: Probe, name: str, metric: Metric | None = None) -> None:
        self.name = name
        self.seconds = 0.0
        self._metric = metric
        self._probe = probe
        self._outer = probe.current_phase
        self._started = 0.0

    def __enter__(self) -> Self:
        self._probe.current_phase = self.name
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._started
        if self._metric is not None:
            before = self._probe.samples.get(self._metric, self.name, default=0.0)
            self._probe.set(self._metric, round(before + self.seconds, 9), self.name)
        if kind is None:  # a failure keeps the phase it happened in
            self._probe.current_phase = self._outer


class Network(Protocol):
    """How one run uses the network, where its module has a policy: whom it asks for addresses, what it may connect to.

    Attributes:
        source_ip_address: the address to connect from, unless the prober's settings have one; may be empty.
        source_interface: the interface that packets leave and arrive by; empty for any.
    """

    @property
    def source_ip_address(self) -> str: ...
    @property
    def source_interface(self) -> str: ...

    async def lookup(self, host: str, family: int) -> list[str]:
        """Return the addresses of a name.

        Args:
            family: 4, 6, or 0 for both.

        Raises:
            ProbeFailed: the name does not resolve, or the policy denies it.
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
    """One run of a prober against one target: where it writes what it measured and what it saw.

    Attributes:
        target: as the request gave it.
        network: how it uses the network; None if the module has no network policy.
        samples: what was measured.
        set, add: set or add to one sample, ``probe.set(DURATION, 0.2, "connect")``; those of `samples`.
        observe: count one value in a histogram, ``probe.observe(LATENCY, 0.2)``; that of `samples`.
        events: what was logged.
        failure: the first failure noted, and its phase in `failed_phase`.
    """

    __slots__ = (
        "_clock",
        "add",
        "current_phase",
        "deadline",
        "events",
        "failed_phase",
        "failure",
        "network",
        "observe",
        "samples",
        "set",
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
            target: as the request gave it.
            deadline: on `clock`, in seconds; the runner ends the run then.
            clock: the event loop's time.
            network: made by the runner for this run; None if the module has no network policy.
        """
        self.target = target
        self.network = network
        self.deadline = deadline
        self.samples = samples = Samples()
        self.set = samples.set
        self.add = samples.add
        self.observe = samples.observe
        self.events: list[Event] = []
        self.current_phase = ""
        self.failure: ProbeFailed | None = None
        self.failed_phase = ""
        self._clock = clock

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; negative once it has passed."""
        return self.deadline - self._clock()

    @property
    def registry(self) -> CollectorRegistry:
        """This run's own registry, for authors who want prometheus_client's types."""
        return self.samples.registry

    def phase(self, name: str, seconds: Metric | None = None) -> Phase:
        """Time a phase: ``with probe.phase("login", DURATION): …``. A failure inside is reported as one of this phase.

        Args:
            name: the value of the label ``phase``.
            seconds: a metric with the one label ``phase``, which gets how long the phase took, however it ended; a
                phase that is entered several times adds up. Without it, ``as phase`` and ``phase.seconds`` tell.
        """
        return Phase(self, name, seconds)

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
        """Note that the probe has failed, and go on measuring; the first failure noted is the one reported.

        Where there is nothing left to measure, raise the `ProbeFailed` instead.
        """
        if self.failure is None:
            # The history keeps failures; the frames of a traceback would keep all that the prober had in its hands.
            failure.__traceback__ = failure.__context__ = failure.__cause__ = None
            self.failure = failure
            self.failed_phase = self.current_phase

    def log(self, message: str, /, *, level: int = logging.DEBUG, **fields: object) -> None:
        """Note something about this run. Costs an append; text is made when somebody asks. No secrets."""
        caller = sys._getframe(1)  # noqa: SLF001  (the fast way, and documented)
        self.events.append(Event(time.time(), level, message, fields, caller.f_code, caller.f_lasti))
