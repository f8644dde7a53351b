"""The compiled kernels: each chain of element-wise operations and sums over rows as one loop, for float32 on the host."""

import numpy as np

from mpitrain.kernels.activation import fused as activation
from mpitrain.kernels.adam import fused as adam
from mpitrain.kernels.attention import Parts
from mpitrain.kernels.attention import fused as attention
from mpitrain.kernels.cross_entropy import fused as cross_entropy
from mpitrain.kernels.embedding import fused as embedding
from mpitrain.kernels.norm import fused as norm
from mpitrain.kernels.sgd import fused as sgd
from mpitrain.kernels.table import Kernels

FUSED = Kernels(
    layer_norm=norm.layer_norm,
    layer_norm_grad=norm.layer_norm_grad,
    scale_shift_grad=norm.scale_shift_grad,
    gelu_tanh=activation.gelu_tanh,
    attention=Parts(turned=attention.turned, softmax=attention.softmax, softmax_grad=attention.softmax_grad),
    cross_entropy=cross_entropy.cross_entropy,
    embedding_grad=embedding.embedding_grad,
    adam=adam.adam,
    sgd=sgd.sgd,
    dtype=np.dtype(np.float32),
)
