"""Sums that are exact, and so the same in every order and grouping."""

from mpitrain.kernels.exact_sum.scalars import EXACT_WORDS, from_exact, to_exact
from mpitrain.kernels.exact_sum.twin import (
    CARRY_EVERY,
    LIMIT,
    MAX_ADDENDS,
    NARROW,
    RESOLUTION,
    carry,
    exact_zeros,
    fold,
    narrow,
    restore,
)

__all__ = [
    "CARRY_EVERY",
    "EXACT_WORDS",
    "LIMIT",
    "MAX_ADDENDS",
    "NARROW",
    "RESOLUTION",
    "carry",
    "exact_zeros",
    "fold",
    "from_exact",
    "narrow",
    "restore",
    "to_exact",
]
