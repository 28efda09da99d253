"""`Settings`: the base class of every block of configuration, frozen and checked when the file is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from probe_exporter.settings.rules import Rule


class Settings(BaseModel):
    """The settings of a prober or a part of them: frozen, and a misspelt key is an error at load.

    `rules` are checked on what was written, so that all errors of a block are told at once; `cautions`
    yields what is legal and yet questionable, as pairs of a key and a sentence for a person.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=False,
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,  # it may be a secret
        defer_build=True,  # until the first validation: most blocks are within others, or nobody uses them
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    def cautions(self) -> Iterator[tuple[str, str]]:
        """What deserves a warning at load; nothing by default."""
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
    """One line of a ValidationError; bytes that its message quotes are shown as escapes."""
    printable = message.encode("utf-8", "backslashreplace").decode()
    error = PydanticCustomError(kind, "{message}", {**context, "message": printable})
    return {"type": error, "loc": path, "input": None}
