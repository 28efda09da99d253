"""The keys `addresses` and `attempts` of a module: several runs of its prober in one probe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import BeforeValidator, Field

from probe_exporter.settings.block import Settings
from probe_exporter.settings.fields import Duration, Shorthand, Text, nearest

MAX_ADDRESSES = 64
MAX_ATTEMPTS = 10

Policy = Literal["all", "any", "quorum"]

_POLICIES = ("all", "any", "quorum")
_WORDS = ("one", "all")


def _policy(written: object) -> object:
    if written not in _POLICIES:
        known = ", ".join(_POLICIES)
        raise ValueError(f"unknown policy `{written}`{nearest(str(written), _POLICIES)} (one of {known})")
    return written


class AddressesSettings(Settings):
    """Probe each address of the target's name. ``addresses: all`` is this block with its defaults.

    Args:
        policy: how many addresses must pass: ``all``, ``any``, or ``quorum``, which is more than half.
        max: most addresses to probe.
        one_after_another: probe one address at a time, each for its share of the time, not all at once.
    """

    policy: Annotated[Policy, BeforeValidator(_policy, json_schema_input_type=Policy)] = "all"
    max: Annotated[int, Ge(1), Le(MAX_ADDRESSES)] = 16
    one_after_another: bool = False


class AttemptsSettings(Settings):
    """Repeat a failed run while the probe's deadline allows.

    Args:
        max: most runs of one probe, the first one included.
        delay: wait before each repetition.
        only: reasons for failure that are worth a repetition; if empty, every reason that is not the exporter's own.
    """

    max: Annotated[int, Ge(1), Le(MAX_ATTEMPTS)] = 3
    delay: Annotated[Duration, Ge(0)] = 0.0
    only: tuple[Text, ...] = ()


def _addresses(written: Any) -> Any:
    """Return the block that a word stands for.

    Raises:
        ValueError: there is no such word.
    """
    if written == "one":
        return None
    if written == "all":
        return {}
    if isinstance(written, str):
        what = f"expected {' or '.join(_WORDS)} or a block with `policy`, found `{written}`"
        raise ValueError(f"{what}: write `addresses: {{policy: {written}}}`" if written in _POLICIES else what)
    return written


Addresses = Annotated[
    AddressesSettings | None,
    Shorthand("word: one or all"),
    BeforeValidator(_addresses, json_schema_input_type=Literal["one", "all"] | AddressesSettings),
]
"""A block, or the word ``all`` for its defaults, or ``one`` for none."""


class RunsSettings(Settings):
    """The keys of a module that ask for several runs of its prober in one probe."""

    addresses: Addresses = Field(
        None, description="Addresses of the target's name to probe: `one`, `all`, or `all` with settings."
    )
    attempts: AttemptsSettings | None = Field(None, description="Repetitions of a failed run.")
