"""Checkpoints in global coordinates, and public formats."""

from mpitrain.checkpoint.boxes import slices
from mpitrain.checkpoint.claim import Claim, claim, claim_run
from mpitrain.checkpoint.common import Common, find
from mpitrain.checkpoint.export import SHARD_BYTES, Weights, export
from mpitrain.checkpoint.folder import is_checkpoint, newest
from mpitrain.checkpoint.load import Checkpoint, is_slot
from mpitrain.checkpoint.manifest import Manifest
from mpitrain.checkpoint.prune import prune
from mpitrain.checkpoint.save import Entry, save

__all__ = [
    "SHARD_BYTES",
    "Checkpoint",
    "Claim",
    "Common",
    "Entry",
    "Manifest",
    "Weights",
    "claim",
    "claim_run",
    "export",
    "find",
    "is_checkpoint",
    "is_slot",
    "newest",
    "prune",
    "save",
    "slices",
]
