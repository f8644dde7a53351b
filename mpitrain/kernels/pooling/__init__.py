"""Pooling over images."""

from mpitrain.kernels.pooling.twin import average_pool, average_pool_grad, max_pool, max_pool_grad

__all__ = ["average_pool", "average_pool_grad", "max_pool", "max_pool_grad"]
