"""Differentiable operations."""

from mpitrain.autograd.ops.activation import (
    gelu_erf,
    gelu_tanh,
    relu,
    silu,
    swiglu,
)
from mpitrain.autograd.ops.attention import attention
from mpitrain.autograd.ops.basic import (
    add,
    concatenate,
    divide,
    exp,
    getitem,
    log,
    matmul,
    mean,
    multiply,
    negative,
    reshape,
    subtract,
    sum,
    tanh,
    transpose,
    value,
)
from mpitrain.autograd.ops.batch_norm import batch_norm
from mpitrain.autograd.ops.convolution import convolution
from mpitrain.autograd.ops.dropout import dropout
from mpitrain.autograd.ops.embedding import embedding
from mpitrain.autograd.ops.linear import linear
from mpitrain.autograd.ops.loss import cross_entropy, squared_error
from mpitrain.autograd.ops.norm import layer_norm, rms_norm
from mpitrain.autograd.ops.pooling import average_pool, max_pool

__all__ = [
    "add",
    "attention",
    "average_pool",
    "batch_norm",
    "concatenate",
    "convolution",
    "cross_entropy",
    "divide",
    "dropout",
    "embedding",
    "exp",
    "gelu_erf",
    "gelu_tanh",
    "getitem",
    "layer_norm",
    "linear",
    "log",
    "matmul",
    "max_pool",
    "mean",
    "multiply",
    "negative",
    "relu",
    "reshape",
    "rms_norm",
    "silu",
    "squared_error",
    "subtract",
    "sum",
    "swiglu",
    "tanh",
    "transpose",
    "value",
]
