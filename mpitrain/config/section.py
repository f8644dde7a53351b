"""`Section`: the form of every table of a configuration.

Invariant: a section is frozen, knows all its keys, and takes a value only in its own type: 1 is a number, "1" is not.  The
bounds of a setting stand where it is used, in a class that the section describes, and only those of a key of TOML's own here.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from mpitrain.bounds import Form, OutOfBoundsError, forms_of


class Section(BaseModel):
    """A table of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    #: What takes the settings, as arguments of the same names.
    describes: ClassVar[tuple[type, ...]] = ()

    def settings(self) -> dict[str, Any]:
        """The values by key, without `kind`: the arguments of what the section describes."""
        return {key: getattr(self, key) for key in type(self).model_fields if key != "kind"}

    @classmethod
    def form(cls, key: str) -> Form | None:
        """The form of the value of `key`, where it has one."""
        return next((forms_of(of)[key] for of in (*cls.describes, cls) if key in forms_of(of)), None)

    @field_validator("*")
    @classmethod
    def _within_bounds(cls, value: Any, info: ValidationInfo) -> Any:
        key = str(info.field_name)
        if form := cls.form(key):
            try:
                form.check(key, value)
            except OutOfBoundsError as error:
                said = {"item": error.name.removeprefix(key), "value": error.value, "expected": error.expected}
                raise PydanticCustomError("out_of_bounds", "{expected}", said) from error
        return value
