"""`Family`: which tensor of a Hugging Face folder is which parameter of ours, and which key of config.json which setting.

Invariant: each stands once, in a table that reading and writing share, and every key of a config.json is in one of the tables:
read, required to have the value that our model is built for, or known not to change the model's function.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mpitrain.checkpoint.families.harmless import ABSENT, HARMLESS
from mpitrain.nn import Model, Parameter

Settings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensors:
    """The tensors of a folder that make one parameter of ours: joined along dim 0, after a transpose if theirs is (in, out).

    `splits` gives the rows of each, as a function of the model's settings; `{i}` in a name is the block's number, from 0.
    """

    names: tuple[str, ...]
    transposed: bool = False
    splits: Callable[[Settings], tuple[int, ...]] | None = None

    def rows(self, parameter: Parameter, settings: Settings) -> tuple[int, ...]:
        """How many rows of the parameter each tensor holds."""
        return self.splits(settings) if self.splits else parameter.shape[:1]


def one(name: str, *, transposed: bool = False) -> Tensors:
    """A parameter that is one tensor."""
    return Tensors(names=(name,), transposed=transposed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Values:
    """What a key may hold: the words for it, and the check."""

    words: str
    fit: Callable[[Any], bool]


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


COUNT = Values(words="an integer of at least 1", fit=lambda value: type(value) is int and value >= 1)
INTEGER = Values(words="an integer", fit=lambda value: type(value) is int)
POSITIVE = Values(words="a positive number", fit=lambda value: _number(value) and value > 0)
NOT_NEGATIVE = Values(words="a number of at least 0", fit=lambda value: _number(value) and value >= 0)
RATE = Values(words="a number in [0, 1)", fit=lambda value: _number(value) and 0 <= value < 1)
FLAG = Values(words="true or false", fit=lambda value: isinstance(value, bool))


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """A key of config.json that is a setting of ours: its names, of which the first is written, and what its absence means.

    `nullable` says that null is the model's own default.
    """

    names: tuple[str, ...]
    values: Values
    default: Any
    nullable: bool = False

    def read(self, config: Settings) -> Any:
        """The value; `ValueError` if two names say different things or it is of another kind."""
        given = {name: config[name] for name in self.names if name in config} or {self.names[0]: self.default}
        (name, value), *others = given.items()
        for other, contrary in others:
            if contrary != value:
                raise ValueError(f"{name} = {value!r} and {other} = {contrary!r}, two names of one thing; expected one of them")
        self.check(name, value)
        return value

    def check(self, name: str, value: Any) -> None:
        """`ValueError` if the key may not hold `value`."""
        if not (value is None and self.nullable) and not self.values.fit(value):
            raise ValueError(f"{name} = {value!r}; expected {self.values.words}{' or null' if self.nullable else ''}")


def key(*names: str, values: Values = COUNT, default: Any, nullable: bool = False) -> Key:
    """A `Key` in a line."""
    return Key(names=names, values=values, default=default, nullable=nullable)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """A key that holds a dropout rate, and the setting of ours that does the same, if there is one."""

    default: float
    setting: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """How one `model_type` of config.json and its tensors map to a model of ours.

    `settings` maps our setting to their key, `implied` holds the settings that the family has without saying so.  `fixed` holds
    what config.json may say of things that our model has in one form only, key to (accepted values, default first); of a list,
    each element.  `absent` is the same for things that it does not have; they are not written.  `rates` are dropout rates by
    key, `harmless` the family's own keys that do not change its function.  `read` first brings spellings of a config.json to
    one, `write` gives what is to be written the family's own.

    A tensor's name may lack `prefix`; `ignored` are ends of names of tensors that are no weights.  `tied` names the tensors of
    the embedding and of the output weight, which may be one.
    """

    model_type: str
    architecture: str
    model: Callable[..., Model]
    settings: Mapping[str, Key]
    implied: Settings = field(default_factory=dict)
    fixed: Mapping[str, tuple[Any, ...]]
    absent: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    rates: Mapping[str, Rate]
    harmless: frozenset[str]
    first: Mapping[str, Tensors]
    block: Mapping[str, Tensors]
    last: Mapping[str, Tensors]
    prefix: str
    ignored: tuple[str, ...]
    tied: tuple[str, str]
    read: Callable[[Settings], Settings] = dict
    write: Callable[[Settings], dict[str, Any]] = dict

    def arguments(self, config: Settings) -> dict[str, Any]:
        """The model's constructor arguments that a config.json says.

        `ValueError` names the first key whose value has no counterpart, or all keys that are in none of the tables.
        """
        config = self.read(config)
        unknown = sorted(config.keys() - self._known - self.harmless - HARMLESS)
        if unknown:
            raise ValueError(
                f"{', '.join(unknown)}: nothing is known of {'these keys' if len(unknown) > 1 else 'this key'} of a "
                f"{self.model_type} model; expected keys that are known to change its function or not to: delete from the "
                "file what does not change what the model computes"
            )
        for name, accepted in {**self.fixed, **self.absent, **ABSENT}.items():
            value = config.get(name, accepted[0])
            if not all(part in accepted for part in (value if isinstance(value, list) else [value])):
                raise ValueError(
                    f"{name} = {value!r}; expected {' or '.join(map(repr, accepted))}: the model has no other form here"
                )
        return {ours: key.read(config) for ours, key in self.settings.items()} | dict(self.implied)

    def unused_dropout(self, settings: Settings, source: Settings) -> dict[str, float]:
        """The dropout rates above 0 in a config.json that a model with these settings trains without, by their keys."""
        rates = {name: key(name, values=RATE, default=rate.default).read(source) for name, rate in self.rates.items()}
        used = {name: settings[rate.setting] for name, rate in self.rates.items() if rate.setting}
        return {name: rate for name, rate in rates.items() if rate and used.get(name) != rate}

    def config(self, settings: Settings, source: Settings) -> dict[str, Any]:
        """The config.json of a model, with what that of the folder that it was read from says beside the model's settings.

        `ValueError` names a setting that a folder of this family cannot express.
        """
        others = {name: value for name, value in self.read(source).items() if name not in self._known or name in self.rates}
        config = {name: accepted[0] for name, accepted in self.fixed.items()} | dict.fromkeys(self.rates, 0.0) | others
        config |= {name: settings[rate.setting] for name, rate in self.rates.items() if rate.setting and settings[rate.setting]}
        said: dict[str, str] = {}
        for ours, key in self.settings.items():
            name, value = key.names[0], settings[ours]
            key.check(name, value)
            if name in said and config[name] != value:
                raise ValueError(f"{said[name]} is {config[name]!r} and {ours} {value!r}; {name} of a config.json is one value")
            config[name], said[name] = value, ours
        elsewhere = {*self.settings, *(rate.setting for rate in self.rates.values()), "recompute"}
        parameters = inspect.signature(self.model).parameters
        for ours, value in settings.items():
            expected = self.implied.get(ours, parameters[ours].default)
            if ours not in elsewhere and value != expected:
                raise ValueError(f"{ours} is {value!r}; a {self.model_type} folder has {expected!r} always")
        return self.write(config | {"architectures": [self.architecture], "model_type": self.model_type})

    @property
    def _known(self) -> set[str]:
        """The keys that the tables give a meaning."""
        names = {name for key in self.settings.values() for name in key.names}
        return names | self.fixed.keys() | self.absent.keys() | self.rates.keys() | ABSENT.keys()

    def table(self, model: Model) -> dict[str, Tensors]:
        """For each parameter's name, the tensors that hold it; a tied output weight is the embedding's.

        `ValueError` for a parameter that the family has no tensor for.
        """
        depth = model.settings["depth"]
        assert isinstance(depth, int)
        table = {}
        for name in (parameter.name for parameter in model.parameters()):
            _, layer, rest = name.split(".", 2)
            i = int(layer) - 1
            part = self.first if i < 0 else self.block if i < depth else self.last
            if rest not in part:
                raise ValueError(f"a {self.model_type} folder has no tensor for parameter {name}")
            found = part[rest]
            table[name] = Tensors(
                names=tuple(tensor.format(i=i) for tensor in found.names), transposed=found.transposed, splits=found.splits
            )
        return table
