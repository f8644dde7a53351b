"""Kernels are compiled where no cache can be written, too."""

import numpy as np
import pytest
from numba.core import caching

from mpitrain.kernels.compiled import _warn_once, compiled


def double(x, y):
    for i in range(x.size):
        y[i] = 2 * x[i]


@pytest.mark.parametrize("step", ["ensure_cache_path", "save"])
def test_without_a_cache_each_process_compiles(monkeypatch, step):
    """No folder may be written; or one may, and the disk is full."""

    def refused(*_, **__):
        raise OSError("no")

    if step == "save":
        monkeypatch.setattr(caching.IndexDataCacheFile, "save", refused)
    else:
        for locator in caching.CacheImpl._locator_classes:
            monkeypatch.setattr(locator, step, refused)
    _warn_once.cache_clear()
    with pytest.warns(UserWarning, match="each process compiles them anew, which takes some seconds; set NUMBA_CACHE_DIR"):
        kernel = compiled("void(float32[::1], float32[::1])")(double)
    x, y = np.arange(5, dtype=np.float32), np.zeros(5, np.float32)
    kernel(x, y)
    np.testing.assert_array_equal(y, [0, 2, 4, 6, 8])
