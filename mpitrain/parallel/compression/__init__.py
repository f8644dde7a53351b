"""Sums over replicas with fewer bytes on the wire, one method a file."""

from mpitrain.parallel.compression.cast import Cast
from mpitrain.parallel.compression.compressor import Compressor, Held, Piece, Slot
from mpitrain.parallel.compression.dgc import DGC
from mpitrain.parallel.compression.ef21 import EF21
from mpitrain.parallel.compression.powersgd import PowerSGD
from mpitrain.parallel.compression.randomk import RandomK
from mpitrain.parallel.compression.sign import Sign
from mpitrain.parallel.compression.state import Compression, Remembered, remembered_bytes
from mpitrain.parallel.compression.topk import TopK

__all__ = [
    "DGC",
    "EF21",
    "Cast",
    "Compression",
    "Compressor",
    "Held",
    "Piece",
    "PowerSGD",
    "RandomK",
    "Remembered",
    "Sign",
    "Slot",
    "TopK",
    "remembered_bytes",
]
