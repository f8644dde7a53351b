"""Checkpoints in global coordinates, and public formats."""

from mpitrain.checkpoint.claim import Claim, claim, claim_run
from mpitrain.checkpoint.common import Common, find
from mpitrain.checkpoint.folder import is_checkpoint, newest
from mpitrain.checkpoint.load import Checkpoint, is_slot
from mpitrain.checkpoint.manifest import Manifest
from mpitrain.checkpoint.prune import prune
from mpitrain.checkpoint.save import Entry, save

__all__ = [
    "Checkpoint",
    "Claim",
    "Common",
    "Entry",
    "Manifest",
    "claim",
    "claim_run",
    "find",
    "is_checkpoint",
    "is_slot",
    "newest",
    "prune",
    "save",
]
