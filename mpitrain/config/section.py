"""`Section`: the form of every table of a configuration.

Invariant: a section is frozen, knows all its keys, and takes a value only in its own type: 1 is a number, "1" is not.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A table of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    def settings(self) -> dict[str, Any]:
        """The values by key, without `kind`: the arguments of what the section describes."""
        return {key: getattr(self, key) for key in type(self).model_fields if key != "kind"}
