"""Rotary position embedding."""

from mpitrain.kernels.rope.twin import rope_tables, rotate

__all__ = ["rope_tables", "rotate"]
