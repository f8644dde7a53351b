"""Algorithms that combine an array over all ranks, one a file, all as `Collective`s."""

from mpitrain.comm.allreduce.auto import Allreduce, allreduce_named
from mpitrain.comm.allreduce.cost import Constants
from mpitrain.comm.allreduce.halving import halving
from mpitrain.comm.allreduce.hierarchical import Hierarchical
from mpitrain.comm.allreduce.native import native, native_by_request
from mpitrain.comm.allreduce.ring import ring
from mpitrain.comm.allreduce.rounding import Algorithm

__all__ = [
    "Algorithm",
    "Allreduce",
    "Constants",
    "Hierarchical",
    "allreduce_named",
    "halving",
    "native",
    "native_by_request",
    "ring",
]
