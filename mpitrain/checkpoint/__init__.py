"""Checkpoints in global coordinates, and public formats."""

from mpitrain.checkpoint.folder import is_checkpoint, newest, prune
from mpitrain.checkpoint.load import Checkpoint
from mpitrain.checkpoint.manifest import Manifest
from mpitrain.checkpoint.save import Entry, save

__all__ = ["Checkpoint", "Entry", "Manifest", "is_checkpoint", "newest", "prune", "save"]
