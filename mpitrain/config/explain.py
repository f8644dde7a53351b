"""What is wrong with a configuration, in a sentence that names the place and what is allowed.

Invariant: every complaint names the `--set` or the file and line that it is about.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mpitrain.bounds import Form
from mpitrain.config.config import Config
from mpitrain.config.section import Section

#: The keys, and numbers in lists, that lead to a value.
Path = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """Where values came from: the file's lines, and overrides by the path that they set."""

    file: str
    lines: Mapping[Path, int]
    overrides: dict[Path, str] = field(default_factory=dict)

    def of(self, path: Path) -> str:
        """The override that set `path`, or the line of it or of what is around it, or an override that made that."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.overrides:
                return f"--set {self.overrides[path[:length]]}"
            if path[:length] in self.lines:
                return f"{self.file}, line {self.lines[path[:length]]}"
        made = next((text for keys, text in self.overrides.items() if keys[:1] == path[:1]), None)
        return f"--set {made}" if made else self.file


def lines_of(text: str) -> dict[Path, int]:
    """The line of each `[section]` and each `key =` at the start of a line; the rest is inside of one of these."""
    lines: dict[Path, int] = {}
    section: Path = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*(\[\[?)\s*([\w.\-]+)\s*\]", line):
            section = tuple(header[2].split("."))
            if header[1] == "[[":
                section += (sum(1 for path in lines if path[:-1] == section and isinstance(path[-1], int)),)
            lines[section] = number
        elif key := re.match(r"\s*([\w.\-]+)\s*=", line):
            lines[section + tuple(key[1].split("."))] = number
    return lines


def explained(error: ValidationError, sources: Sources) -> str:
    """One paragraph on everything that `error` found."""
    found: dict[Path, list[ErrorDetails]] = {}
    for problem in error.errors():
        found.setdefault(_resolve(problem["loc"])[0], []).append(problem)
    # Of a value that may be a number or a list, an item is wrong: that the list is no number is not to be said then.
    told = {path: ps for path, ps in found.items() if not any(o[: len(path)] == path for o in found if len(o) > len(path))}
    return "; ".join(_sentence(path, problems, sources) for path, problems in told.items())


def _sentence(path: Path, problems: Sequence[ErrorDetails], sources: Sources) -> str:
    """What is wrong at `path`; of several problems, each is with one of the types that the value may have."""
    first, *others = problems
    say = _SENTENCES.get(first["type"], _wrong_value)
    place = sources.of((*path, "kind"))  # a section that is wrong as a whole is wrong in its kind, if it has one
    section, item = _resolve(first["loc"])[1], first.get("ctx", {}).get("item", "")
    if first["type"].endswith("_type") and (form := _form(path, section)):
        said = f"is {first['input']!r}; expected {form.noun}"
    else:
        said = ", or ".join([say(first, str(path[-1]), section), *map(_expected, others)])
    return f"{place}: {'.'.join(map(str, path))}{item} {said}"


def _form(path: Path, section: type[BaseModel]) -> Form | None:
    """The form that the value at `path`, whose last key is `section`'s, has to have, where it is known."""
    *_, key = (part for part in path if isinstance(part, str))
    form = section.form(key) if issubclass(section, Section) else None
    return form.item if form and path[-1] != key else form


def _unknown_key(problem: ErrorDetails, key: str, section: type[BaseModel]) -> str:
    return f"is not a setting; {_choice(key, list(section.model_fields))}"


def _missing_key(problem: ErrorDetails, key: str, section: type[BaseModel]) -> str:
    return f"is missing; expected {section.model_fields[key].description or 'a section with its settings'}"


def _unknown_kind(problem: ErrorDetails, key: str, section: type[BaseModel]) -> str:
    return f"has kind = {problem['ctx']['tag']!r}; {_choice(problem['ctx']['tag'], _kinds(section, key))}"


def _missing_kind(problem: ErrorDetails, key: str, section: type[BaseModel]) -> str:
    return f"has no kind; expected one of {', '.join(_kinds(section, key))}"


def _wrong_value(problem: ErrorDetails, key: str, section: type[BaseModel]) -> str:
    return f"is {problem['input']!r}; expected {_expected(problem)}"


def _out_of_bounds(problem: ErrorDetails, key: str, section: type[BaseModel]) -> str:
    return f"is {problem['ctx']['value']!r}; expected {problem['ctx']['expected']}"


def _expected(problem: ErrorDetails) -> str:
    return re.sub(r"^\w+ should (be|have) ", "", problem["msg"])


def _refused_value(problem: ErrorDetails, key: str, section: type[BaseModel]) -> str:
    return f"cannot be used: {problem['ctx']['error']}"


#: What to say, by pydantic's name of a problem; `_wrong_value` of all others.
_SENTENCES = {
    "extra_forbidden": _unknown_key,
    "missing": _missing_key,
    "union_tag_invalid": _unknown_kind,
    "union_tag_not_found": _missing_kind,
    "value_error": _refused_value,
    "out_of_bounds": _out_of_bounds,
}


def _choice(found: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(found, known, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"Expected one of {', '.join(known)}"


def _resolve(location: Path) -> tuple[Path, type[BaseModel]]:
    """The keys of pydantic's `location`, and the section of the last key.

    The location also names the kinds on its way, and behind a value that may have several types the one that it is about.
    """
    path: Path = ()
    section: type[BaseModel] = Config
    inside: list[type[BaseModel]] = [Config]
    for part in location:
        if len(inside) > 1:
            inside = [option for option in inside if _kind(option) == part]
            continue
        if isinstance(part, str):
            if not inside:
                continue
            section = inside[0]
            inside = _sections(section, part)
        path += (part,)
    return path, section


def _sections(section: type[BaseModel], key: str) -> list[type[BaseModel]]:
    """The classes that the value of `key` may have; none for a plain value."""
    if key not in section.model_fields:
        return []
    annotation = section.model_fields[key].annotation
    return [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]


def _kinds(section: type[BaseModel], key: str) -> list[str]:
    return [_kind(option) for option in _sections(section, key)]


def _kind(section: type[BaseModel]) -> str:
    return str(get_args(section.model_fields["kind"].annotation)[0])
