"""`self_check`: one batch under the job's layout against the same batch on one rank.

Invariant: both sides start from the same weights and see the same samples in the same microbatches; the one rank runs the same
worker with a layout of one, so that what differs is the layout alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mpitrain.arrays import Array, namespace, to_host
from mpitrain.comm import Communicator, Layout, Mesh, local
from mpitrain.nn import Parameter
from mpitrain.program import SCHEDULES
from mpitrain.worker import Worker


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """What the check found: relative differences |a - b| / |b| of the loss, and of the gradient that differs most."""

    loss: float
    gradient: float
    #: The parameter of that gradient, and how many were compared.
    worst: str
    parameters: int
    tolerance: float

    @property
    def equal(self) -> bool:
        """Whether both are within rounding of the dtype."""
        return max(self.loss, self.gradient) <= self.tolerance


#: Rounding that a different order of summation may leave: a few hundred roundings, of the 16-bit floats twenty.
_TOLERANCE = {"float16": 1e-2, "bfloat16": 8e-2, "float32": 1e-5, "float64": 1e-10}


def self_check(worker: Worker) -> Difference | None:
    """Compare on rank 0 of the job; `None` on the other ranks.  Collective."""
    weights = gather(worker, lambda p: p.data)
    metrics = worker.gradients_only()
    gradients = gather(worker, _gradient)
    worker.holding.clear_gradients()
    if worker.place.comm.rank > 0:
        return None
    # Batch norm's moments are of one replica's microbatch, or of all the replicas' together.
    layout = worker.place.layout
    joined = layout.widest if layout.even and not worker.settings.sync_batch_norm else 1
    settings = replace(
        worker.settings,
        schedule=SCHEDULES["1f1b"],
        microbatches=worker.settings.microbatches * joined,
        zero=0,
        stages="parameters",
        memory_gib=None,
    )
    mesh = Mesh(local(1), Layout())

    def alone(comm: Communicator) -> tuple[float, dict[str, np.ndarray]]:
        one = Worker(mesh.place(comm), worker.model, worker.optimizer, worker.data, settings, worker.arrays)
        for parameter in one.holding.owned:
            parameter.data[...] = one.arrays.asarray(weights[parameter.name])
        one.position = worker.position
        loss = one.gradients_only().loss
        return loss, {p.name: to_host(p.settled_grad()) for p in one.holding.owned if p.moves}

    ((loss, expected),) = mesh.world.run(alone)
    differences = {name: _relative(gradients[name], grad) for name, grad in expected.items()}
    worst = max(differences, key=lambda name: differences[name])
    return Difference(
        loss=_relative(metrics.loss, loss),
        gradient=differences[worst],
        worst=worst,
        parameters=len(differences),
        tolerance=0.0 if settings.reproducible else _TOLERANCE[settings.dtype],
    )


def gather(worker: Worker, of: Callable[[Parameter], Array]) -> dict[str, np.ndarray]:
    """`of` each parameter of the model, whole, by name, on rank 0 of the job; empty on the other ranks.  Collective."""
    place, holding = worker.place, worker.holding
    if place.comm.rank > 0:
        for parameter in holding.owned:
            place.comm.isend(of(parameter), 0, 0).wait()
        return {}
    found = {p.name: np.empty(p.shape, worker.dtype) for p in worker.model.parameters()}
    for rank in range(place.comm.size):
        coordinates = place.layout.coordinates(rank)
        for i, parameter in enumerate(holding.owned_by(**coordinates)):
            if rank == 0:
                part = to_host(of(holding.owned[i]))
            else:
                part = np.empty(parameter.box_shape, worker.dtype)
                place.comm.irecv(part, rank, 0).wait()
            found[parameter.name][tuple(slice(start, stop) for start, stop in parameter.box)] = part
    return found


def _gradient(parameter: Parameter) -> Array:
    """A frozen parameter's is zero."""
    return parameter.settled_grad() if parameter.moves else namespace(parameter.data).zeros_like(parameter.data)


def _relative(a: Array | float, b: Array | float) -> float:
    """|a - b| / |b| in float64, the difference itself where b is zero."""
    a64, b64 = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norm = float(np.linalg.norm(b64))
    return float(np.linalg.norm(a64 - b64)) / (norm or 1.0)
