"""Datasets, their files, the order in which they are read, and who reads what."""

from mpitrain.data.cifar import cifar10_dataset
from mpitrain.data.dataset import ArrayDataset, Dataset, Inputs, Subset, parts_of, read
from mpitrain.data.digits import digits
from mpitrain.data.identity import Identity, identity, sample_digests
from mpitrain.data.idx import idx_dataset, read_idx
from mpitrain.data.loader import Loader
from mpitrain.data.npy import map_npy, npy_dataset
from mpitrain.data.partition import check_batch, share, share_jointly, split
from mpitrain.data.permutation import permute
from mpitrain.data.sampler import Position, Sampler
from mpitrain.data.stdlib import stdlib_files, stdlib_tokens
from mpitrain.data.token_files import byte_tokens, llmc_tokens, nanogpt_tokens, npy_tokens
from mpitrain.data.tokens import TokenDataset, check_vocab

__all__ = [
    "ArrayDataset",
    "Dataset",
    "Identity",
    "Inputs",
    "Loader",
    "Position",
    "Sampler",
    "Subset",
    "TokenDataset",
    "byte_tokens",
    "check_batch",
    "check_vocab",
    "cifar10_dataset",
    "digits",
    "identity",
    "idx_dataset",
    "llmc_tokens",
    "map_npy",
    "nanogpt_tokens",
    "npy_dataset",
    "npy_tokens",
    "parts_of",
    "permute",
    "read",
    "read_idx",
    "sample_digests",
    "share",
    "share_jointly",
    "split",
    "stdlib_files",
    "stdlib_tokens",
]
