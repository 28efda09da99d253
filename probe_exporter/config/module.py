"""`Config`, the immutable configuration, its modules, and `ConfigError`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe_exporter.config.discovery import DiscoverySettings
from probe_exporter.config.placeholders import Parameter, written
from probe_exporter.config.problems import Place, Problem
from probe_exporter.network.policy import NetworkPolicy
from probe_exporter.network.settings import NetworkSettings, TargetsSettings
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.filtering import MetricFilter
from probe_exporter.runs.settings import RunsSettings
from probe_exporter.settings.block import Settings
from probe_exporter.settings.regexps import Regexp
from probe_exporter.settings.secrets import MASK
from probe_exporter.telemetry.masking import SHORTEST, Mask

if TYPE_CHECKING:
    from probe_exporter.runs.several import Several


@dataclass(frozen=True, slots=True)
class Module:
    """A named configuration of a prober.

    Args:
        settings: the prober's block, with defaults.
        timeout: seconds; 0.0 if the module sets none.
        place: where the module is defined.
        strays: blocks of other probers in the module; they are checked but not used.
        networking: the module's network settings.
        runs: the keys that ask for several runs of the prober in one probe.
        several: performs these runs; None if one is enough.
        keep, drop: names of metrics to expose, and not to expose; as written.
        filter: drops the metrics of a finished probe that `keep` and `drop` exclude; None if they are empty.
        network: the network policy of its probes, including that of all modules; None if there is none.
        parameters: parameters that a request may set; empty in a module that `given` has returned.
        request: the parameters that a request gave, and the defaults of others.
        fill: makes the module for values of the parameters, in the order of `parameters`.
    """

    name: str
    prober: Prober[Any]
    settings: Settings
    timeout: float
    place: Place
    description: str = ""
    strays: Mapping[str, Settings] = field(default_factory=dict)
    networking: NetworkSettings = field(default_factory=NetworkSettings)
    runs: RunsSettings = field(default_factory=RunsSettings)
    several: Several | None = field(default=None, repr=False, compare=False)
    keep: tuple[Regexp, ...] = ()
    drop: tuple[Regexp, ...] = ()
    filter: MetricFilter | None = field(default=None, repr=False, compare=False)
    network: NetworkPolicy | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    request: Mapping[str, str] = field(default_factory=dict, compare=False)
    fill: Callable[[tuple[str, ...]], Module] | None = field(default=None, repr=False, compare=False)

    def shown_default(self, parameter: str) -> str | None:
        """Return the default of a parameter, masked if a secret of the settings has the parameter in it; None if none
        is set.
        """
        default = self.parameters[parameter].default
        if not default:
            return default
        mask = Mask("", self.settings)  # its secrets have placeholders; those in URLs have the defaults
        secret = MASK in (mask.parameter(written(parameter)), len(default) >= SHORTEST and mask.parameter(default))
        return MASK if secret else default

    def given(self, request: Mapping[str, str]) -> Module:
        """Return the module with a request's values of its parameters; other parameters are ignored.

        Raises:
            ValueError: a value is missing or illegal, or makes a setting invalid; with a sentence for the client.
        """
        if self.fill is None:
            return self
        return self.fill(tuple([self._value(name, request.get(name)) for name in self.parameters]))

    def prepared(self, request: Mapping[str, str]) -> Module:
        """Return the module for one request: with the values of its own parameters, and with ``hostname``.

        Args:
            request: the request's parameters; those that the module does not declare are ignored.

        Raises:
            ValueError: with a sentence for the client: a value is missing, not legal, or conflicts with the settings.
        """
        module, hostname = self if self.fill is None else self.given(request), request.get("hostname")
        if not hostname:
            return module
        settings = module.prober.with_hostname(module.settings, hostname)
        if settings is module.settings:
            return module
        return replace(module, settings=settings, request={**module.request, "hostname": hostname})

    def _value(self, name: str, value: str | None) -> str:
        declared = self.parameters[name]
        if value is None:
            if declared.default is None:
                raise ValueError(f'Module "{self.name}" needs the parameter "{name}", which matches {declared.pattern}')
            return declared.default
        objection = declared.objection(value)
        if objection:
            raise ValueError(f'The parameter "{name}" of module "{self.name}" {objection}')
        return value


class Modules(Mapping[str, Module]):
    """Modules by name. Those that come with the exporter may be made on first use; names are known without that.

    Attributes:
        checked: the modules that were made and checked when the files were read.
    """

    def __init__(self, checked: Mapping[str, Module], later: Mapping[str, Callable[[], Module]]) -> None:
        """
        Args:
            later: functions that make other modules.
        """
        self.checked = {**checked}
        self._later = {**later}
        self._made: dict[str, Module] = {}

    def __getitem__(self, name: str) -> Module:
        module = self.made(name)
        if module is None:
            module = self._made.setdefault(name, self._later[name]())
        return module

    def made(self, name: str) -> Module | None:
        """Return a module if it exists and was made before; to make one may import its prober, which takes 0.1 s."""
        return self.checked.get(name) or self._made.get(name)

    def __contains__(self, name: object) -> bool:
        return name in self.checked or name in self._later

    def __iter__(self) -> Iterator[str]:
        yield from self._later
        yield from self.checked

    def __len__(self) -> int:
        return len(self._later) + len(self.checked)

    def without(self, names: Collection[str]) -> Modules:
        """Return the modules without some of those that are checked."""
        return Modules({name: module for name, module in self.checked.items() if name not in names}, self._later)


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration that was read and checked.

    Args:
        files: the files that it was read from.
        sha256: the checksum of their contents.
        targets: the allowed targets of all modules.
        guarded: whether any `targets` restrict what may be probed.
        discovery: sources of targets by name, for Prometheus' HTTP service discovery.
        probers_not_loaded: number of files that failed to load and were left out.
    """

    modules: Modules
    files: tuple[Path, ...]
    sha256: str
    warnings: tuple[Problem, ...]
    targets: TargetsSettings | None = None
    probers: Mapping[str, Prober[Any]] = field(default_factory=dict)
    guarded: bool = False
    discovery: Mapping[str, DiscoverySettings] = field(default_factory=dict)
    probers_not_loaded: int = 0


class ConfigError(Exception):
    """The configuration can't be used. ``str()`` has a line for each problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)
