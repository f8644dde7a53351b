"""`load` and `dump`: a configuration from TOML with overrides, and back.

Invariant: `load` of what `dump` wrote gives the same configuration; whatever a person got wrong is one `ConfigError`.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from mpitrain import recipes as _recipes
from mpitrain.config.config import Config
from mpitrain.config.explain import Sources, explained, lines_of
from mpitrain.text import read_text

RECIPES = Path(str(_recipes.__file__)).parent


class ConfigError(ValueError):
    """A configuration that cannot be used: where it goes wrong, what was expected, what to do."""


def recipes() -> list[tuple[str, str]]:
    """The name of each recipe, with the sentence that its file begins with."""
    files = sorted(RECIPES.glob("*.toml"))
    return [(file.stem, read_text(file).partition("\n")[0].lstrip("# ")) for file in files]


def load(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a recipe, by its name, or in a TOML file, changed by `overrides` of the form `section.key=value`."""
    path = _find(name_or_path)
    try:
        text = read_text(path)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    if isinstance(run := values.setdefault("run", {}), dict):
        run.setdefault("name", path.stem)
    sources = Sources(file=path.name, lines=lines_of(text))
    for override in overrides:
        _apply(override, values, sources)
    try:
        # JSON and TOML share their types, and pydantic is told which list is a tuple only where it reads JSON itself.
        return Config.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise ConfigError(explained(error, sources)) from error


def dump(config: Config) -> str:
    """All values, defaults too, as TOML."""
    return tomli_w.dumps(config.model_dump(exclude_none=True))


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.suffix == ".toml":
        raise ConfigError(f"there is no file {path}; expected a TOML file or the name of a recipe")
    known = [name for name, _ in recipes()]
    if path.name in known and str(name_or_path) == path.name:
        return RECIPES / f"{path.name}.toml"
    near = difflib.get_close_matches(str(name_or_path), known, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"there is no recipe {str(name_or_path)!r}; {meant}There are {', '.join(known)}, or give a TOML file")


def _apply(override: str, values: dict[str, Any], sources: Sources) -> None:
    """Set one value in place, and remember where it came from."""
    name, equals, text = override.partition("=")
    keys = tuple(name.strip().split("."))
    if not equals or len(keys) < 2 or not all(keys):
        raise ConfigError(f"--set {override}: expected section.key=value, as in --set train.batch=16")
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {override}: {key} is {values!r}, and not a section with settings of its own")
    values[keys[-1]] = _value(text.strip())
    sources.overrides[keys] = override


def _value(text: str) -> Any:
    """What `text` means in TOML; itself where that is nothing, so that strings need no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
