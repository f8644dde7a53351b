"""Array libraries, dtypes, random streams and tiles."""

from mpitrain.arrays.arithmetic import arithmetic, one_blas_thread
from mpitrain.arrays.backend import Array, Arrays, choose, namespace, to_host
from mpitrain.arrays.dtypes import BFLOAT16, FLOATS, float_dtype, sum_dtype
from mpitrain.arrays.memory import empty_beside, keep_freed_pages
from mpitrain.arrays.random import Stream
from mpitrain.arrays.tiles import row_tiles

__all__ = [
    "BFLOAT16",
    "FLOATS",
    "Array",
    "Arrays",
    "Stream",
    "arithmetic",
    "choose",
    "empty_beside",
    "float_dtype",
    "keep_freed_pages",
    "namespace",
    "one_blas_thread",
    "row_tiles",
    "sum_dtype",
    "to_host",
]
