"""Runs tests on this machine as other CPUs would: exit code 1 if one fails.

    python tests/stress/other_cpus.py                # the tests of kernels and of bits
    python tests/stress/other_cpus.py tests/optim    # others

OpenBLAS, Numba and NumPy are told which instructions there are.  A CPU with instructions that are not here is passed over.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

TESTS = ["tests/kernels", "tests/autograd/test_ops.py", "tests/parallel/test_reproducible.py"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cpu:
    """A CPU by the names that the libraries have for it."""

    blas: str
    numba: str
    #: Instructions that it needs, as Linux names them.
    needs: frozenset[str]
    #: Loops for later instructions, as NumPy names them, that it does without.
    without: tuple[str, ...] = ()


AVX2 = frozenset({"avx2", "fma", "bmi2", "movbe"})
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"}
CPUS = (
    Cpu(blas="Haswell", numba="haswell", needs=AVX2, without=("AVX512", "X86_V4")),
    Cpu(blas="SkylakeX", numba="skylake-avx512", needs=AVX512, without=("AVX512_ICL", "AVX512_SPR")),
    Cpu(blas="Zen", numba="znver4", needs=AVX512 | {"avx512_bf16", "avx512_vnni", "avx512_vbmi2", "gfni", "vaes", "sha_ni"}),
)


def main() -> int:
    """Run the tests as each CPU; the exit code."""
    from numpy._core._multiarray_umath import __cpu_dispatch__

    tests = sys.argv[1:] or TESTS
    words = Path("/proc/cpuinfo").read_text(encoding="utf-8").split() if Path("/proc/cpuinfo").exists() else []
    failed = []
    for cpu in CPUS:
        missing = sorted(cpu.needs - set(words))
        if missing:
            print(f"{cpu.numba}: passed over, this machine has no {', '.join(missing)}", flush=True)
            continue
        disabled = [name for name in __cpu_dispatch__ if name.startswith(cpu.without)]
        with tempfile.TemporaryDirectory(prefix="numba-") as cache:
            variables = {
                "OPENBLAS_CORETYPE": cpu.blas,
                "NUMBA_CPU_NAME": cpu.numba,
                "NUMBA_CACHE_DIR": cache,
                "NPY_DISABLE_CPU_FEATURES": " ".join(disabled),
            }
            print(" ".join(f"{name}={value!r}" for name, value in variables.items()), flush=True)
            command = [sys.executable, "-m", "pytest", "-q", "--no-header", *tests]
            if subprocess.run(command, env=os.environ | variables, check=False).returncode:
                failed.append(cpu.numba)
    print(f"failed as {', '.join(failed)}" if failed else "passed as every CPU that this machine can stand for")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
