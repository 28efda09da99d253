"""`Settings`: the base class of all blocks of configuration; instances are immutable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from probe_exporter.settings.rules import Rule


class Settings(BaseModel):
    """A block of settings: immutable, and an unknown key is an error at load.

    `rules` are checked on the keys as they were written, so that one load reports all errors of a block.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=False,
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,  # the input may be a secret
        defer_build=True,  # until the first validation: most blocks are part of others, or not used
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    @property
    def examines_certificates(self) -> bool:
        """Whether the runner examines the certificates of a probe's TLS connection after the probe."""
        return False

    def cautions(self) -> Iterator[tuple[str, str]]:
        """Yield warnings about settings that are legal but probably wrong: the key, and a sentence."""
        yield from ()

    @model_validator(mode="wrap")
    @classmethod
    def _check_rules(cls, written: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        broken = [
            _error("rule", key, message=message)
            for rule in (cls.rules if isinstance(written, Mapping) else ())
            for key, message in rule(written)
        ]
        if not broken:
            return validate(written)
        try:
            validate(written)
        except ValidationError as error:
            for details in reversed(error.errors(include_url=False, include_input=False)):
                context = {**details.get("ctx", {}), "message": details["msg"]}
                broken.insert(0, _error(details["type"], *details["loc"], **context))
        raise ValidationError.from_exception_data(cls.__name__, broken, hide_input=True)


def _error(kind: str, *path: int | str, message: str, **context: Any) -> InitErrorDetails:
    """Make one entry of a ValidationError; bytes in its message become escapes."""
    printable = message.encode("utf-8", "backslashreplace").decode()
    error = PydanticCustomError(kind, "{message}", {**context, "message": printable})
    return {"type": error, "loc": path, "input": None}
