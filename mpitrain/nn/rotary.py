"""Rotary positions of a head: how far each pair turns from one position to the next, and what stretches that to longer texts.

Invariant: a scaling's fields are the public keys of `rope_parameters` in config.json, so a model card can be copied.  How the
pairs turn depends on the sequence through its length alone, and that only where `Dynamic` or `LongRope` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike

from mpitrain.arrays import Array
from mpitrain.kernels.rope import rope_tables


class Scaling(Protocol):
    """A change of the frequencies that lets a model read longer texts than it was first trained on."""

    def __call__(self, theta: float, dim: int, context: int, time: int) -> tuple[np.ndarray, float]:
        """Radians per position of each of `dim` / 2 pairs, and a factor of queries and keys, for a sequence of length `time`.

        `theta` is the base, `context` the length that the model is meant for.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Unscaled:
    """theta^(-2k/dim) (Su et al. 2021, section 3.2.2)."""

    def __call__(self, theta: float, dim: int, context: int, time: int) -> tuple[np.ndarray, float]:
        """See `Scaling`."""
        return _frequencies(theta, dim), 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """Every position divided by `factor` (Chen et al. 2023, "Extending context window", section 2.3)."""

    factor: float

    def __call__(self, theta: float, dim: int, context: int, time: int) -> tuple[np.ndarray, float]:
        """See `Scaling`."""
        return _frequencies(theta, dim) / self.factor, 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Dynamic:
    """A base that grows with the length of a sequence beyond `context` (Peng et al. 2023, YaRN, appendix B.1 and B.2)."""

    factor: float

    def __call__(self, theta: float, dim: int, context: int, time: int) -> tuple[np.ndarray, float]:
        """See `Scaling`."""
        stretch = self.factor * max(time, context) / context - (self.factor - 1.0)
        return _frequencies(theta * stretch ** (dim / max(1, dim - 2)), dim), 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Llama3:
    """Slow pairs slowed down by `factor`, quick ones left, a ramp between them (Llama 3.1's reference code)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: float | None = None

    def __call__(self, theta: float, dim: int, context: int, time: int) -> tuple[np.ndarray, float]:
        """See `Scaling`."""
        frequency = _frequencies(theta, dim)
        turns = (self.original_max_position_embeddings or context) * frequency / (2.0 * math.pi)
        kept = np.clip((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor), 0.0, 1.0)
        return frequency * (kept + (1.0 - kept) / self.factor), 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Yarn:
    """As `Llama3` with a ramp over the pairs' numbers, and larger scores (Peng et al. 2023, YaRN, sections 3.2 and 3.4)."""

    factor: float | None = None
    original_max_position_embeddings: float | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def __call__(self, theta: float, dim: int, context: int, time: int) -> tuple[np.ndarray, float]:
        """See `Scaling`."""
        original = self.original_max_position_embeddings or context
        factor = self.factor or context / original
        # The number of the pair that turns so many times over the original context.
        low, high = (
            dim * math.log(original / (turns * 2.0 * math.pi)) / (2.0 * math.log(theta))
            for turns in (self.beta_fast or 32.0, self.beta_slow or 1.0)
        )
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        if low == high:
            high += 0.001
        slowed = np.clip((np.arange(dim // 2) - low) / (high - low), 0.0, 1.0)
        return _frequencies(theta, dim) * (slowed / factor + 1.0 - slowed), self._scale(factor)

    def _scale(self, factor: float) -> float:
        def magnitude(weight: float) -> float:
            return 0.1 * weight * math.log(factor) + 1.0 if factor > 1.0 else 1.0

        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return magnitude(self.mscale) / magnitude(self.mscale_all_dim)
        return magnitude(1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class LongRope:
    """A divisor for each pair, other ones for sequences beyond the original length (Ding et al. 2024, LongRoPE, section 3)."""

    short_factor: Sequence[float]
    long_factor: Sequence[float]
    factor: float | None = None
    original_max_position_embeddings: float | None = None
    attention_factor: float | None = None

    def __call__(self, theta: float, dim: int, context: int, time: int) -> tuple[np.ndarray, float]:
        """See `Scaling`."""
        original = self.original_max_position_embeddings or context
        factor = self.factor or context / original
        divisors = np.asarray(self.long_factor if time > original else self.short_factor, np.float64)
        scale = self.attention_factor
        if scale is None:
            scale = math.sqrt(1.0 + math.log(factor) / math.log(original)) if factor > 1.0 else 1.0
        return _frequencies(theta, dim) / divisors, scale


#: By the `rope_type` of config.json.
SCALINGS: Mapping[str, type[Scaling]] = {
    "default": Unscaled,
    "linear": Linear,
    "dynamic": Dynamic,
    "llama3": Llama3,
    "yarn": Yarn,
    "longrope": LongRope,
}


class Rotary:
    """The rotary positions of heads of `head_dim` numbers, base `theta`.

    `scaling` has the public keys of `rope_parameters`: `rope_type`, those of the class in `SCALINGS`, and
    `partial_rotary_factor`, the part of a head that turns.  `context` is the length that the model is meant for.  `ValueError`
    for an unknown type, a key that is missing or unknown, and a value that is no positive number.
    """

    def __init__(self, head_dim: int, theta: float, *, context: int, scaling: Mapping[str, Any] | None = None) -> None:
        keys = dict(scaling or {})
        kind, part = keys.pop("rope_type", "default"), keys.pop("partial_rotary_factor", 1.0)
        self.dim = int(head_dim * part)
        if self.dim % 2 or not 0 < self.dim <= head_dim:
            raise ValueError(
                f"rotary positions turn {self.dim} of a head's {head_dim} numbers; expected an even number of them: "
                "change width / heads, head_dim or partial_rotary_factor"
            )
        self.theta, self.context, self.scaling = theta, context, _scaling(kind, keys, self.dim // 2)

    def tables(self, time: int, xp: Any, dtype: DTypeLike) -> tuple[Array, Array]:
        """The tables of `rope_tables` for a sequence of length `time`."""
        frequency, scale = self.scaling(self.theta, self.dim, self.context, time)
        return rope_tables(time, frequency, scale, xp, dtype)


def _frequencies(theta: float, dim: int) -> np.ndarray:
    return theta ** (-np.arange(0, dim, 2) / dim)


def _scaling(kind: str, keys: Mapping[str, Any], pairs: int) -> Scaling:
    if kind not in SCALINGS:
        raise ValueError(f"rope_type is {kind!r}; expected one of {', '.join(SCALINGS)}")
    known = {field.name: field for field in fields(SCALINGS[kind])}  # type: ignore[arg-type]
    missing = [name for name, field in known.items() if field.default is MISSING and name not in keys]
    unknown = sorted(set(keys) - set(known))
    if missing or unknown:
        raise ValueError(
            f"rope_type {kind!r}: missing {', '.join(missing) or 'nothing'}, unknown {', '.join(unknown) or 'nothing'}; "
            f"expected {', '.join(known) or 'no further key'}"
        )
    for name, value in keys.items():
        expected, fit = _VALUES[str(known[name].type)]
        if not fit(value, pairs):
            raise ValueError(f"rope_type {kind!r} has {name} = {value!r}; expected {expected.format(pairs=pairs)}")
    if kind == "llama3" and keys["low_freq_factor"] >= keys["high_freq_factor"]:
        raise ValueError(
            f"rope_type 'llama3' has low_freq_factor = {keys['low_freq_factor']!r} and high_freq_factor = "
            f"{keys['high_freq_factor']!r}; expected the first to be the smaller"
        )
    return SCALINGS[kind](**keys)


def _positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0.0 < value < math.inf


def _positives(value: object, count: int) -> bool:
    return isinstance(value, Sequence) and len(value) == count and all(map(_positive, value))


#: By the type of a scaling's field: the words for what it may hold, and the check, given how many pairs turn.
_VALUES: Mapping[str, tuple[str, Callable[[object, int], bool]]] = {
    "float": ("a positive number", lambda value, pairs: _positive(value)),
    "float | None": ("a positive number or null", lambda value, pairs: value is None or _positive(value)),
    "bool": ("true or false", lambda value, pairs: isinstance(value, bool)),
    "Sequence[float]": ("{pairs} positive numbers, one for each pair", _positives),
}
