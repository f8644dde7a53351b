"""Text that ranks tell each other: what each has to say, or what one says to all.

Invariant: every rank comes away with the same words; nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mpitrain.comm.communicator import Communicator


def gather_text(comm: Communicator, text: str) -> list[str]:
    """The text of every rank.  Collective."""
    raw = np.frombuffer(text.encode(), np.uint8)
    sizes = comm.allgather(np.array([raw.size]))[:, 0]
    padded = np.zeros(max(1, int(sizes.max())), np.uint8)
    padded[: raw.size] = raw
    return [row[:size].tobytes().decode() for row, size in zip(comm.allgather(padded), sizes, strict=True)]


def broadcast_text(comm: Communicator, text: str, root: int) -> str:
    """The root's text.  Collective."""
    mine = np.frombuffer(text.encode(), np.uint8).copy()
    length = np.array([len(mine)])
    comm.broadcast(length, root)
    received = mine if comm.rank == root else np.empty(int(length[0]), np.uint8)
    comm.broadcast(received, root)
    return received.tobytes().decode()


def spans(ranks: Iterable[int]) -> str:
    """Ascending `ranks` in few words: `[0, 1, 2, 5]` is "0-2, 5"."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
