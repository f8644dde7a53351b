"""Whether all ranks have the same: the model, the data, the way they round, and, of replicas, the weights bit by bit.

Invariant: what is compared is text, a line an item, with a checksum in the place of an array; the verdict is reached by all
ranks of the job together, so that either all raise, with the same words, or none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest

import numpy as np

from mpitrain.arrays import Array, namespace, row_tiles
from mpitrain.comm import Communicator, Place, broadcast_text, gather_text, spans
from mpitrain.data import Dataset, sample_digests
from mpitrain.nn import Model, Parameter


def check_start(comm: Communicator, model: Model, datasets: Mapping[str, Dataset | None]) -> None:
    """`ValueError` on every rank, naming one that differs, if they were not given the same model and the same data.

    `datasets` holds each under what it is called.  Collective.
    """
    lines = [f"parameter {p.name} {p.shape}{'' if p.moves else ', frozen'}" for p in model.parameters()]
    _check(comm, comm, lines, "every rank must build the same model")
    lines = [line for name, data in datasets.items() if data is not None for line in _samples(name, data)]
    advice = "every rank must read the same data: compare the files of the hosts, and for standard-library text their Python"
    _check(comm, comm, lines, advice)


def check_arithmetic(comm: Communicator, mine: Mapping[str, str]) -> None:
    """`ValueError` on every rank, naming them all, if they do not round alike; `mine` is this rank's `arithmetic`.

    Collective.
    """
    texts = gather_text(comm, "; ".join(f"{role} {found}" for role, found in mine.items()))
    if len(set(texts)) == 1:
        return
    who = {text: [rank for rank, other in enumerate(texts) if other == text] for text in texts}
    raise ValueError(
        "reproducible = true needs ranks that round alike, found "
        + ", ".join(f"{text} on rank {spans(ranks)}" for text, ranks in who.items())
        + "; run on hosts of one kind, or let all compute as the oldest one: OPENBLAS_CORETYPE, NUMBA_CPU_NAME and "
        "NPY_DISABLE_CPU_FEATURES choose"
    )


def check_weights(place: Place, parameters: Iterable[Parameter], shared: Mapping[str, tuple[int, ...]]) -> None:
    """`ValueError` on every rank, naming a rank and its first parameter that differs from its other replicas'.

    Compared are names, shapes, dtypes, order and a checksum of `parameters`, of which every replica holds all; and then the
    copies of those that several places of the pipeline share (`shared`, as `holders` gives it).  Collective.
    """
    mine = {p.name: f"{p.name} {p.data.shape} {p.data.dtype} with checksum {checksum(p.data):016x}" for p in parameters}
    advice = "replicas start alike and take the same steps, so one has been changed apart, or its host computes otherwise"
    _check(place.comm, place.dp, list(mine.values()), advice)
    copies = {name: holding[0] for name, holding in sorted(shared.items())}
    for pp in sorted(set(copies.values())):
        # Everyone hears from the first rank of the place that comes first; who has no copy has nothing to say against it.
        root = place.layout.replicas(pp)[0]
        lines = [mine.get(name, "") for name, first in copies.items() if first == pp]
        advice = "the copies of a shared weight start alike and take the same steps, so one has been changed apart"
        _check(place.comm, place.comm, lines, advice, root)


def checksum(x: Array) -> int:
    """A number of 64 bits that is another one if any element has another bit, or if two elements change places.

    The sum of the elements' bits, each times an odd number that tells its place, modulo 2^64; one pass, on `x`'s device.
    """
    xp = namespace(x)
    words = xp.ascontiguousarray(x).reshape(-1).view(f"uint{8 * x.dtype.itemsize}")
    total = 0
    for tile in row_tiles(words):
        part = words[tile].astype("uint64")
        part *= xp.arange(2 * tile.start + 1, 2 * tile.stop + 1, 2, dtype="uint64")
        total += int(part.sum())
    return total % 2**64


def _samples(name: str, data: Dataset) -> list[str]:
    """How many samples there are, and what some of them are."""
    described = [f"sample {number} of the {name} ({digest})" for number, digest in sample_digests(data).items()]
    return [f"{len(data)} samples of {name}", *described]


def _check(comm: Communicator, group: Communicator, lines: Sequence[str], advice: str, root: int = 0) -> None:
    """`ValueError` on every rank of `comm` if `lines` differ from those of rank `root` of `group`, a part of `comm`.

    An empty line agrees with all others.
    """
    if comm.size == 1:
        return
    first, *theirs = broadcast_text(group, "\n".join([str(comm.rank), *lines]), root).split("\n")
    pairs = zip_longest(lines, theirs)
    differing = next(((mine, other) for mine, other in pairs if mine != other and "" not in (mine, other)), None)
    complaining = comm.allgather(np.array([differing is not None]))
    if not complaining.any():
        return
    mine, other = (line or "nothing more" for line in differing or ("", ""))
    complaint = f"rank {comm.rank} has {mine} where rank {first} has {other}; {advice}"
    raise ValueError(broadcast_text(comm, complaint, int(complaining.argmax())))
