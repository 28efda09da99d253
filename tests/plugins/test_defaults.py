"""Test that defaults of the wrong type are refused at load, with their place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge
from pydantic import Field, create_model

from probe_exporter import Duration, Port, Regexp, Secret, Settings, Size, Text
from probe_exporter.plugins.defaults import wrong_default
from probe_exporter.plugins.loader import LoaderError, load_file, load_probers

OWN = '''\
"""A prober with a wrong default."""

from __future__ import annotations

from probe_exporter import Duration, Probe, Prober, Settings


class Inner(Settings):
    """A block in the block."""

    patience: Duration = "1s"


class QuakeSettings(Settings):
    """The block."""

    words: tuple[str, ...] = ()
    inner: Inner = Inner()


async def probe_quake(probe: Probe, settings: QuakeSettings) -> None:
    """Do nothing."""


prober = Prober("quake", QuakeSettings, probe_quake)
'''


def test_wrong_default_is_refused_at_load_with_line_and_fix(tmp_path: Path) -> None:
    file = tmp_path / "quake.py"
    file.write_text(OWN)
    with pytest.raises(LoaderError) as refused:
        load_file(file)
    assert str(refused.value) == (
        f"{file}: line 11: the default of `patience` in Inner is of type str, and the field of type float: "
        "change one of them"
    )
    file.write_text(OWN.replace('"1s"', "1"))
    assert load_file(file).name == "quake"


def test_defaults_of_shipped_probers_have_their_types() -> None:
    probers = load_probers([])
    assert {name: wrong_default(probers[name].settings) for name in probers} == dict.fromkeys(probers, "")


def block(annotation: Any, default: object) -> type[Settings]:
    return create_model("Block", __base__=Settings, field=(annotation, default))


GOOD: list[tuple[Any, object]] = [
    (int, 1),
    (float, 1),
    (float, 1.5),
    (bool, True),
    (Text, "x"),
    (Text | None, None),
    (Duration, 1.5),
    (Size, 100),
    (Port, 80),
    (Annotated[int, Ge(1)], 0),  # a value that stands for "none" need not be valid in YAML
    (Secret, Secret("x")),
    (Regexp | None, Regexp("x")),
    (Literal["a", "b"], "a"),
    (tuple[Text, ...], ("a", "b")),
    (tuple[Text, int], ("a", 1)),
    (dict[Text, tuple[Text, ...]], {"a": ("b",)}),
    (Any, 1),
]

WRONG: list[tuple[Any, object]] = [
    (int, "1"),
    (int, 1.5),
    (int, True),
    (float, "1.5"),
    (bool, 1),
    (Text, None),
    (Text, b"x"),
    (Duration, "1s"),
    (Secret, "x"),
    (Regexp | None, "x"),
    (Literal["a", "b"], "c"),
    (tuple[Text, ...], ["a"]),
    (tuple[Text, ...], ("a", 1)),
    (tuple[Text, int], ("a",)),
    (dict[Text, tuple[Text, ...]], {"a": "b"}),
    (dict[Text, int], {1: 1}),
]


@pytest.mark.parametrize(("annotation", "default"), GOOD)
def test_fitting_default_is_accepted(annotation: Any, default: object) -> None:
    assert wrong_default(block(annotation, default)) == ""


@pytest.mark.parametrize(("annotation", "default"), WRONG)
def test_default_of_another_type_is_refused(annotation: Any, default: object) -> None:
    assert wrong_default(block(annotation, default)).startswith(
        f"the default of `field` in Block is of type {type(default).__name__}, and the field of type "
    )


def test_default_of_a_secret_is_not_printed() -> None:
    assert "hidden" not in wrong_default(block(Secret, "hidden"))


def test_required_fields_and_factories_are_accepted() -> None:
    assert wrong_default(create_model("Block", __base__=Settings, field=(int, ...))) == ""
    assert wrong_default(block(dict[Text, Text], Field(default_factory=dict))) == ""
