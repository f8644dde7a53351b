"""What a communicator takes, whether its ranks are threads or processes: arrays, peers, tags, collectives that go together.

Invariant: both kinds refuse the same, with the same sentence, before anything is sent.
"""

from __future__ import annotations

from mpitrain.arrays import BFLOAT16, Array, sum_dtype
from mpitrain.comm.communicator import Peers, Reduction


def check_array(x: Array) -> None:
    """`ValueError` if the bytes of `x` mean nothing to another process."""
    if x.dtype.hasobject:
        raise ValueError(f"an array of Python objects (dtype {x.dtype}) cannot travel; expected numbers")


def check_message(comm: Peers, x: Array, peer: int, tag: int, max_tag: int) -> None:
    """`ValueError` if no message of `x` can go to or come from `peer` under `tag`."""
    check_array(x)
    check_rank(comm, peer)
    if not 0 <= tag <= max_tag:
        raise ValueError(f"a message with tag {tag}; expected 0 to {max_tag}")


def check_rank(comm: Peers, rank: int) -> None:
    """`ValueError` if the group has no `rank`."""
    if not 0 <= rank < comm.size:
        raise ValueError(f"rank {rank} is not in a group of {comm.size}; expected 0 to {comm.size - 1}")


def check_group(rank: int, ranks: list[int]) -> None:
    """`ValueError` if `rank` asks for a group of `ranks` without being in it, or twice."""
    if rank not in ranks or len(set(ranks)) < len(ranks):
        raise ValueError(f"rank {rank} asks for the group {ranks}; expected each rank once, and itself among them")


def check_reduction(x: Array, op: Reduction) -> None:
    """`ValueError` if `op` has no meaning for the elements of `x`."""
    check_array(x)
    kind = "f" if x.dtype == BFLOAT16 else x.dtype.kind
    if kind not in "biufc":
        raise ValueError(f"a reduction of {x.dtype}; expected numbers")
    if kind == "b" and op in (Reduction.SUM, Reduction.PRODUCT):
        raise ValueError(
            f"the {op.value} of bool; expected numbers: convert to int64 to count, or take max for any and min for all"
        )
    if kind in "biu" and op is Reduction.MEAN:
        raise ValueError(f"the mean of {x.dtype}; expected floating-point numbers: convert them, or take the sum")
    if kind == "c" and op in (Reduction.MAX, Reduction.MIN):
        raise ValueError(f"the {op.value} of {x.dtype}, which has no order; expected real numbers")


def check_started(x: Array, op: Reduction) -> None:
    """`ValueError` if a reduction of `x` by `op` cannot be under way, since something is to be done in its end."""
    check_reduction(x, op)
    if sum_dtype(x.dtype) != x.dtype or op is Reduction.MEAN:
        raise ValueError(f"an allreduce({op.value}) of {x.dtype} by request; expected a blocking one, or a sum of wider floats")


def described(collective: str, x: Array) -> str:
    """A collective call in words, which are the same on every rank of a group, or the calls do not go together."""
    return f"{collective} of {x.dtype} {tuple(x.shape)}"


def disagreement(rank: int, call: str, peer: int, other: str) -> str:
    """The sentence for two ranks that came to different calls."""
    return (
        f"rank {rank} came to {call} and rank {peer} to {other}; "
        "every rank must call the same collectives in the same order, and hand over the same shape and dtype"
    )
