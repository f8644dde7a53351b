"""Algorithms that combine an array over all ranks, one a file, all as `Collective`s over point-to-point messages."""

from mpitrain.comm.allreduce.ring import ring

__all__ = ["ring"]
