"""The description of a rank's rounding follows the variables that make one CPU compute as another."""

import json
import os
import subprocess
import sys

import numpy as np

from mpitrain.arrays import Arrays, arithmetic

DESCRIBE = "import json; from mpitrain.arrays import Arrays, arithmetic; print(json.dumps(arithmetic(Arrays())))"


def test_it_names_what_computes():
    found = arithmetic(Arrays())
    assert list(found) == ["BLAS", "compiled loops", "NumPy"]
    assert found["NumPy"].startswith(np.__version__)


def test_it_follows_the_variables():
    """The oldest of each that this machine can stand for, where it is x86."""
    from numpy._core._multiarray_umath import __cpu_dispatch__

    changes = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NPY_DISABLE_CPU_FEATURES": " ".join(__cpu_dispatch__)}
    done = subprocess.run(
        [sys.executable, "-c", DESCRIBE], env={**os.environ, **changes}, capture_output=True, text=True, timeout=60, check=True
    )
    found = json.loads(done.stdout)
    assert found["compiled loops"].endswith(" generic")
    assert not set(found["NumPy"].split()) & set(__cpu_dispatch__)
    assert found != arithmetic(Arrays())
