"""torch.distributed.pipelining's part in `pipeline.py`: its stages and schedules over gloo, with layers that sleep.

Invariant: a stage sleeps as long as ours in each of its passes, and nothing else of it takes time that torch does not need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from mpitrain.comm import Communicator

#: torch's class of each schedule that both sides have.
TORCH = {
    "gpipe": "ScheduleGPipe",
    "1f1b": "Schedule1F1B",
    "interleaved": "ScheduleInterleaved1F1B",
    "looped_bfs": "ScheduleLoopedBFS",
    "zb_h1": "ScheduleInterleavedZeroBubble",
    "zb_v": "ScheduleZBVZeroBubble",
    "dualpipe_v": "ScheduleDualPipeV",
}


def join_torch(comm: Communicator, folder: Path) -> None:
    """Make the ranks a process group of torch over gloo."""
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=comm.rank, world_size=comm.size)


def torch_pass(
    rank: int, owner: Mapping[int, int], schedule: str, microbatches: int, payload: int, pause: Callable[[int], None]
) -> Callable[[], None]:
    """This rank's part of a pass, with `payload` elements between stages; `owner` maps each stage to its rank.

    `pause` takes the time of forward (0), input gradient (1) and weight gradient (2).
    """
    import torch
    from torch.distributed import pipelining

    class Input(torch.autograd.Function):
        """The input's way through the layer: forward, and the gradient of the input."""

        @staticmethod
        def forward(ctx, x):  # type: ignore[no-untyped-def]  # torch's signature
            pause(0)
            return x.data  # no copy, and no view: torch detaches outputs in place

        @staticmethod
        def backward(ctx, dy):  # type: ignore[no-untyped-def]
            pause(1)
            return dy

    class Weight(torch.autograd.Function):
        """The weight's way, apart, so that torch can take the gradient of the weight by itself."""

        @staticmethod
        def forward(ctx, weight):  # type: ignore[no-untyped-def]
            return weight.data

        @staticmethod
        def backward(ctx, dy):  # type: ignore[no-untyped-def]
            pause(2)
            return dy

    class Joined(torch.autograd.Function):
        """Where the two meet; torch runs its backward once for the input and once for the weight."""

        @staticmethod
        def forward(ctx, x, weight):  # type: ignore[no-untyped-def]
            return x.data  # no copy, and no view: torch detaches outputs in place

        @staticmethod
        def backward(ctx, dy):  # type: ignore[no-untyped-def]
            return dy, dy.view(-1)[:1]

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            # the first stage's input has no gradient of its own; its backward takes as long as the others' all the same
            x = x if x.requires_grad else x.detach().requires_grad_()
            return Joined.apply(Input.apply(x), Weight.apply(self.weight))

    gradient = torch.zeros(1, payload)
    gradient[0, 0] = 1

    class First(torch.autograd.Function):
        """The first element, for a loss that takes no time: its gradient is at hand."""

        @staticmethod
        def forward(ctx, y):  # type: ignore[no-untyped-def]
            return y.view(-1)[0].clone()

        @staticmethod
        def backward(ctx, dy):  # type: ignore[no-untyped-def]
            return gradient

    stages = [
        pipelining.PipelineStage(Layer(), stage, len(owner), torch.device("cpu"))
        for stage, home in sorted(owner.items())
        if home == rank
    ]
    single = len(stages) == 1 and schedule in ("gpipe", "1f1b")
    make = getattr(pipelining.schedules, TORCH[schedule])
    runs = make(stages[0] if single else stages, microbatches, loss_fn=lambda y, target: First.apply(y), scale_grads=False)
    inputs = (torch.ones(microbatches, payload),) if owner[0] == rank else ()
    last = owner[len(owner) - 1] == rank
    target = torch.zeros(microbatches) if last else None

    def run() -> None:
        runs.step(*inputs, target=target, losses=[] if last else None, return_outputs=False)

    return run
