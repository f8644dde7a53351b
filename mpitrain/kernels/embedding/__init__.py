"""Table look-up."""

from mpitrain.kernels.embedding.twin import embedding, embedding_grad

__all__ = ["embedding", "embedding_grad"]
