"""mpitrain: deep-learning training over MPI, with NumPy or CuPy, without PyTorch and without a launcher of its own."""

from mpitrain import arrays, autograd, checkpoint, comm, data, nn, observe, optim, parallel, plan, program
from mpitrain.checkpoint.export import save_pretrained
from mpitrain.checkpoint.huggingface import from_pretrained
from mpitrain.comm import Layout, Mesh
from mpitrain.train import Trainer

__version__ = "0.1.0"

__all__ = [
    "Layout",
    "Mesh",
    "Trainer",
    "__version__",
    "arrays",
    "autograd",
    "checkpoint",
    "comm",
    "data",
    "from_pretrained",
    "nn",
    "observe",
    "optim",
    "parallel",
    "plan",
    "program",
    "save_pretrained",
]
