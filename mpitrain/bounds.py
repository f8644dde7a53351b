"""The bounds of settings, stated once: in the annotation of the argument or field that has them.

Invariant: whoever is given a value, a constructor, a dataclass or a section of TOML, asks here, so all of them refuse the same
values with the same sentence.  An annotation without bounds is looked at for its type; one that is neither a number, a truth, a
text nor a list of these is left to others.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True, slots=True)
class Within:
    """The bounds of a number, as metadata of its annotation.  NaN is never within, infinity where `finite` is not asked for."""

    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    below: float = math.inf
    finite: bool = True

    def __contains__(self, value: float) -> bool:
        if not math.isfinite(value):
            return not self.finite and value >= self.above and not math.isnan(value)
        return self.least <= value <= self.most and self.above < value < self.below

    def __str__(self) -> str:
        said = {"of at least": self.least, "above": self.above, "of at most": self.most, "below": self.below}
        return " and ".join(f"{words} {limit:g}" for words, limit in said.items() if math.isfinite(limit))


@dataclass(frozen=True, slots=True)
class Known:
    """As metadata: a value that `check` takes; of another it raises `ValueError`, in a sentence of its own."""

    check: Callable[[Any], object]


Count = Annotated[int, Within(least=1)]
NotNegativeInt = Annotated[int, Within(least=0)]
NotNegative = Annotated[float, Within(least=0)]
Positive = Annotated[float, Within(above=0)]
#: A limit, which may be infinite.
Limit = Annotated[float, Within(above=0, finite=False)]
#: A part of a whole, none and all of it included.
Part = Annotated[float, Within(least=0, most=1)]
#: A part that is not the whole: a rate of dropout, a momentum.
Rate = Annotated[float, Within(least=0, below=1)]
#: A part that is more than nothing.
Density = Annotated[float, Within(above=0, most=1)]


class OutOfBoundsError(ValueError):
    """`value`, which the argument `name` was given, or an item in it, is not `expected`."""

    def __init__(self, name: str, value: object, expected: str) -> None:
        super().__init__(f"{name} is {value!r}; expected {expected}")
        self.name, self.value, self.expected = name, value, expected


def check(of: Callable[..., Any], **values: object) -> None:
    """`ValueError` for the first of `values` that the annotation of its name in `of`, a class or a function, does not allow."""
    forms = forms_of(of)
    for name, value in values.items():
        if name in forms:
            forms[name].check(name, value)


def check_fields(settings: Any) -> None:
    """The same for every field of a dataclass: what its `__post_init__` calls."""
    check(type(settings), **{field.name: getattr(settings, field.name) for field in fields(settings)})


def checked(function: F) -> F:
    """`function`, or a constructor, which refuses arguments that its annotations do not allow."""
    places = {name: i for i, name in enumerate(inspect.signature(function).parameters)}

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for name, form in forms_of(function).items():
            if name in kwargs:
                form.check(name, kwargs[name])
            elif places[name] < len(args):
                form.check(name, args[places[name]])
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]


@functools.cache
def forms_of(of: Callable[..., Any]) -> Mapping[str, Form]:
    """The form of each argument of a class or a function, or each field of a class that has some, where there is one."""
    by_fields = is_dataclass(of) or hasattr(of, "model_fields") or not isinstance(of, type)
    forms = {name: _form(hint) for name, hint in _hints(of if by_fields else of.__init__).items() if name != "return"}
    return {name: form for name, form in forms.items() if form is not None}


def _hints(of: Any) -> dict[str, Any]:
    """Its annotations; only those of the base class where its own name what is not there, as a local class may."""
    try:
        return get_type_hints(of, include_extras=True)
    except NameError:
        return _hints(of.__base__) if isinstance(of, type) else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """What a value has to be: `noun` says it, `allows` finds it; each item of a list has to be `item`."""

    noun: str
    allows: Callable[[Any], bool]
    item: Form | None = None

    def check(self, name: str, value: Any) -> None:
        """`OutOfBoundsError` if the value that is called `name` is not of this form."""
        if self.allows(value):
            return
        if self.item and _is_list(value):
            for i, item in enumerate(value):
                self.item.check(f"{name}.{i}", item)
        raise OutOfBoundsError(name, value, self.noun)


def _form(hint: Any) -> Form | None:
    """The form of what `hint` allows; `None` where that is left to others."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _bounded(arguments[0], arguments[1:])
    if origin in (Union, UnionType):
        forms = [_form(argument) for argument in arguments if argument is not NoneType]
        known = [form for form in forms if form is not None]
        if len(known) < len(forms):
            return None
        allows = [form.allows for form in known]
        may_miss = NoneType in arguments
        return Form(
            noun=", or ".join(form.noun for form in known),
            allows=lambda value: (may_miss and value is None) or any(allow(value) for allow in allows),
            item=next((form.item for form in known if form.item), None),
        )
    if origin in (tuple, Sequence) and (item := _form(arguments[0])):
        size = len(arguments) if origin is tuple and ... not in arguments else None
        return Form(
            noun=f"a list{f' of {size}' if size else ''}, each {item.noun}",
            allows=lambda value: _is_list(value) and len(value) in (size, size or len(value)) and all(map(item.allows, value)),
            item=item,
        )
    return _FORMS.get(hint)


def _bounded(hint: Any, metadata: Sequence[Any]) -> Form | None:
    """The form of `hint` with the bounds, or the check, that stands in its metadata."""
    for part in metadata:
        if isinstance(part, Known):
            return Form(noun="", allows=_passing(part.check))
        if isinstance(part, Within):
            return Form(noun=_noun(hint, part), allows=_inside(_NUMBERS[hint], part))
    return _form(hint)


def _noun(hint: Any, bounds: Within) -> str:
    open_ended = bounds.finite and math.isinf(min(bounds.most, bounds.below))
    return f"{'an integer' if hint is int else 'a finite number' if open_ended else 'a number'} {bounds}"


def _inside(is_number: Callable[[Any], bool], bounds: Within) -> Callable[[Any], bool]:
    return lambda value: is_number(value) and value in bounds


def _passing(look: Callable[[Any], object]) -> Callable[[Any], bool]:
    def allows(value: Any) -> bool:
        look(value)
        return True

    return allows


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _is_integer(value: Any) -> bool:
    return type(value) is int or (isinstance(value, Integral) and not isinstance(value, bool))


def _is_number(value: Any) -> bool:
    return type(value) is float or (isinstance(value, Real) and not isinstance(value, bool))


_NUMBERS: dict[Any, Callable[[Any], bool]] = {int: _is_integer, float: _is_number}
_FORMS: dict[Any, Form] = {
    int: Form(noun="an integer", allows=_is_integer),
    float: Form(noun="a finite number", allows=lambda value: _is_number(value) and math.isfinite(value)),
    bool: Form(noun="true or false", allows=lambda value: isinstance(value, (bool, np.bool_))),
    str: Form(noun="a text", allows=lambda value: isinstance(value, str)),
}
