"""The handwritten digits that scikit-learn carries: 1797 images of 8 x 8 (Alpaydin and Kaynak 1998)."""

from __future__ import annotations

import numpy as np

from mpitrain.data.dataset import ArrayDataset


def digits() -> tuple[ArrayDataset, ArrayDataset]:
    """Training and validation data: images (n, 1, 8, 8) as float32 in [0, 1], labels int64.

    Every fifth image is for validation.  `ValueError` if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError(f"the digits come with scikit-learn and there is none ({error}); install mpitrain[data]") from error
    found = load_digits()
    images = (found.images[:, None] / 16).astype(np.float32)
    labels = found.target.astype(np.int64)
    validation = np.arange(len(labels)) % 5 == 0
    return ArrayDataset(images[~validation], labels[~validation]), ArrayDataset(images[validation], labels[validation])
