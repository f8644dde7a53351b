"""What each axis of parallelism does to a model or to its gradients."""

from mpitrain.parallel.buckets import Bucket, kept_bucket, passing_bucket
from mpitrain.parallel.data import DataParallel, Exchange, sum_over
from mpitrain.parallel.pipeline import agree_on_boundaries, cut_for, layer_costs, parameters_by_stage, partition
from mpitrain.parallel.rows import shard_of
from mpitrain.parallel.sync_batch_norm import SyncBatchNorm2d, sync_batch_norm
from mpitrain.parallel.tied import TiedWeights, holders
from mpitrain.parallel.zero import Zero

__all__ = [
    "Bucket",
    "DataParallel",
    "Exchange",
    "SyncBatchNorm2d",
    "TiedWeights",
    "Zero",
    "agree_on_boundaries",
    "cut_for",
    "holders",
    "kept_bucket",
    "layer_costs",
    "parameters_by_stage",
    "partition",
    "passing_bucket",
    "shard_of",
    "sum_over",
    "sync_batch_norm",
]
