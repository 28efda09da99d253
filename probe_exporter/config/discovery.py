"""The key `discovery` of a configuration: sources of targets for Prometheus' HTTP service discovery (``/sd``)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from probe_exporter.addresses import literals
from probe_exporter.addresses.host_names import is_name, to_ascii
from probe_exporter.settings.block import Settings
from probe_exporter.settings.fields import FilePath, Port, Text
from probe_exporter.settings.rules import Block, exclusive

KINDS = ("file", "addresses", "mx", "ns")
"""The keys of which each source has one."""

LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
"""A label name that every version of Prometheus accepts."""

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")


def _dns_name(text: str) -> str:
    """Return a name in ASCII, as DNS is asked for it.

    Raises:
        ValueError: it is an address, or no name.
    """
    name = to_ascii(text)
    if not name:
        return ""
    if literals.literal(name) is not None or not is_name(name):
        raise ValueError(f"{text!r} is not a name that DNS can be asked for")
    return name


def _scheme(text: str) -> str:
    if text and not _SCHEME.fullmatch(text):
        raise ValueError(f"{text!r} is not the scheme of a URL, such as https")
    return text


def _path(text: str) -> str:
    if text and not text.startswith("/"):
        raise ValueError("expected a path that begins with /")
    return text


def _labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    for name in labels:
        if not LABEL.fullmatch(name) or name.startswith("__"):
            raise ValueError(
                f"{name!r} is no name of a label: use letters, digits and _, and not two _ at the beginning"
            )
    return labels


def _parameters(parameters: Mapping[str, str]) -> Mapping[str, str]:
    for name in parameters:
        if not LABEL.fullmatch(name):
            raise ValueError(f"{name!r} can't be sent by Prometheus: use letters, digits and _")
    return parameters


Parameters = Annotated[dict[Text, Text], AfterValidator(_parameters)]
Labels = Annotated[dict[Text, Text], AfterValidator(_labels)]
DnsName = Annotated[Text, AfterValidator(_dns_name)]
"""A name in ASCII; empty if the key is unset."""


def _one_kind(block: Block) -> Iterator[tuple[str, str]]:
    if not any(block.get(key) for key in KINDS):
        yield KINDS[0], f"a source needs one of {', '.join(f'`{key}`' for key in KINDS)}"


def _only_of_names(block: Block) -> Iterator[tuple[str, str]]:
    """A file has whole targets, so that keys that make targets of names have no effect."""
    for key in ("port", "scheme", "path", "hostname", "ip_protocol") if block.get("file") else ():
        if key in block:
            yield key, f"`{key}` has no effect with `file`, which has whole targets"


def _only_of_addresses(block: Block) -> Iterator[tuple[str, str]]:
    for key in ("hostname", "ip_protocol") if block.get("mx") or block.get("ns") else ():
        if key in block:
            yield key, f"`{key}` is for `addresses`"


def _module_of_names(block: Block) -> Iterator[tuple[str, str]]:
    if not block.get("file") and not modules_in(str(block.get("module") or "")):
        yield "module", "`module` is required: the module that probes these targets"


def _path_of_a_url(block: Block) -> Iterator[tuple[str, str]]:
    if block.get("path") and not block.get("scheme"):
        yield "path", "`path` needs a `scheme`, as targets are URLs then"


class DiscoverySettings(Settings):
    """One source of targets. It has one of the keys `file`, `addresses`, `mx` and `ns`."""

    rules = (exclusive(*KINDS), _one_kind, _only_of_names, _only_of_addresses, _module_of_names, _path_of_a_url)

    file: FilePath = Field("", description="A YAML or JSON file of targets. It is read again when it changes.")
    addresses: DnsName = Field("", description="A name; its A and AAAA records are the targets.")
    mx: DnsName = Field("", description="A zone; the hosts of its MX records are the targets.")
    ns: DnsName = Field("", description="A zone; the hosts of its NS records are the targets.")
    module: Text = Field("", description="The module that probes the targets, or several with commas between them.")
    port: Port | None = Field(None, description="Port to append to each target.")
    scheme: Annotated[Text, AfterValidator(_scheme)] = Field("", description="Make the targets URLs of this scheme.")
    path: Annotated[Text, AfterValidator(_path)] = Field("", description="Path of the URLs.")
    hostname: bool = Field(False, description="Send the name as the parameter `hostname`, for Host and TLS.")
    ip_protocol: Literal["", "ip4", "ip6"] = Field("", description="Only addresses of this IP version.")
    labels: Labels = Field({}, description="Labels to add to each target.")

    @property
    def kind(self) -> str:
        """Which of `KINDS` this source is."""
        return next(key for key in KINDS if getattr(self, key))

    @property
    def name(self) -> str:
        """The name to look up."""
        return self.addresses or self.mx or self.ns

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of the modules that probe the targets."""
        return modules_in(self.module)


def modules_in(text: str) -> tuple[str, ...]:
    """Return the names of modules in a parameter ``module``, which has commas between several."""
    return tuple(filter(None, text.split(",")))


class TargetsOfFile(Settings):
    """One entry of a source's file: targets that have modules, parameters and labels in common."""

    targets: Annotated[tuple[Text, ...], Field(min_length=1)]
    module: Text = ""
    params: Parameters = Field({})
    labels: Labels = Field({})
