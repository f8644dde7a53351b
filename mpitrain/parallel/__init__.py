"""What each axis of parallelism does to a model or to its gradients."""

from mpitrain.parallel.buckets import Bucket, kept_bucket, passing_bucket
from mpitrain.parallel.compression import (
    DGC,
    EF21,
    Cast,
    Compression,
    Compressor,
    PowerSGD,
    RandomK,
    Remembered,
    Sign,
    TopK,
)
from mpitrain.parallel.data import DataParallel, Exchange, MakeBucket, sum_by, sum_over
from mpitrain.parallel.memory import Kept, kept_bytes
from mpitrain.parallel.partition import layer_work, partition
from mpitrain.parallel.pipeline import Deal, Routes, cut_for, frozen_stages, parameters_by_stage
from mpitrain.parallel.placement import (
    Placement,
    Stages,
    check_stages,
    place_by_hand,
    place_by_parameters,
    place_by_time,
)
from mpitrain.parallel.profile import LayerProfile, profile_layers
from mpitrain.parallel.replicas import check_arithmetic, check_start, check_weights, checksum
from mpitrain.parallel.reproducible import EXACT_SUMS, ExactGradients
from mpitrain.parallel.rows import shard_of
from mpitrain.parallel.search import Order, no_time, search, stage_costs
from mpitrain.parallel.sync_batch_norm import sync_batch_norm
from mpitrain.parallel.tied import TiedWeights, holders
from mpitrain.parallel.zero import Zero, is_shared_out

__all__ = [
    "DGC",
    "EF21",
    "EXACT_SUMS",
    "Bucket",
    "Cast",
    "Compression",
    "Compressor",
    "DataParallel",
    "Deal",
    "ExactGradients",
    "Exchange",
    "Kept",
    "LayerProfile",
    "MakeBucket",
    "Order",
    "Placement",
    "PowerSGD",
    "RandomK",
    "Remembered",
    "Routes",
    "Sign",
    "Stages",
    "TiedWeights",
    "TopK",
    "Zero",
    "check_arithmetic",
    "check_stages",
    "check_start",
    "check_weights",
    "checksum",
    "cut_for",
    "frozen_stages",
    "holders",
    "is_shared_out",
    "kept_bucket",
    "kept_bytes",
    "layer_work",
    "no_time",
    "parameters_by_stage",
    "partition",
    "passing_bucket",
    "place_by_hand",
    "place_by_parameters",
    "place_by_time",
    "profile_layers",
    "search",
    "shard_of",
    "stage_costs",
    "sum_by",
    "sum_over",
    "sync_batch_norm",
]
