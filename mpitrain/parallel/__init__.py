"""What each axis of parallelism does to a model or to its gradients."""

from mpitrain.parallel.buckets import Bucket
from mpitrain.parallel.data import DataParallel, Exchange
from mpitrain.parallel.pipeline import agree_on_boundaries, cut_for, layer_costs, parameters_by_stage, partition
from mpitrain.parallel.tied import TiedWeights, holders

__all__ = [
    "Bucket",
    "DataParallel",
    "Exchange",
    "TiedWeights",
    "agree_on_boundaries",
    "cut_for",
    "holders",
    "layer_costs",
    "parameters_by_stage",
    "partition",
]
