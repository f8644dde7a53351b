"""The bits of a compiled kernel do not depend on where its arrays lie: by its machine code, and by trying.

Where LLVM does not know whether two arrays overlap, it compiles a loop twice and compares addresses at run time, which choose
the order of a sum.  So no kernel may compare addresses; and each one runs with its arrays at many places around each other.
"""

from __future__ import annotations

import importlib
import pkgutil
import re

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

import mpitrain.kernels


def compiled_kernels():
    """Every compiled function of the package, by file and name."""
    files = [m.name for m in pkgutil.walk_packages(mpitrain.kernels.__path__, "mpitrain.kernels.") if m.name.endswith(".fused")]
    functions = {
        f"{file.split('.')[-2]}{name}": function
        for file in files
        for name, function in vars(importlib.import_module(file)).items()
        if isinstance(function, Dispatcher) and function.signatures
    }
    assert len(functions) >= 13
    return functions


KERNELS = compiled_kernels()


def arguments(seed):
    """What each kernel is given.

    Rows are longer than a vector and shorter than the 256 bytes that LLVM compares addresses by.
    """
    random = np.random.default_rng(seed)

    def drawn(*shape):
        return random.standard_normal(shape).astype(np.float32)

    return {
        "activation_gelu_tanh": (drawn(21), drawn(21)),
        "activation_gelu_tanh_slope": (drawn(21), drawn(21), drawn(21)),
        "adam_adam": (drawn(21), drawn(21), drawn(21), drawn(21) ** 2, 0.5, 0.1, 0.9, 0.99, 0.1, 0.01, 1e-8, 0.1, 0.9),
        "attention_turned": (drawn(1, 2, 21, 37), 0.5, drawn(1, 2, 37, 21)),
        "attention_softmax": (drawn(2, 25, 25), 4, 14, 25, 17, drawn(25)),
        "attention_softmax_grad": (drawn(2, 25, 25), drawn(2, 21, 21), 4, 4, 25),
        "cross_entropy_cross_entropy": (drawn(5, 21), random.integers(0, 21, 5), -100, 0.1, drawn(5, 21)),
        "embedding_embedding_grad": (drawn(9, 21), random.integers(0, 5, 9), drawn(5, 21)),
        "norm_layer_norm": (drawn(3, 21), drawn(21), drawn(21), 1e-5, drawn(3, 21), drawn(3, 21), drawn(3, 1)),
        "norm_layer_norm_grad": (drawn(3, 21), drawn(3, 21), drawn(3, 1), drawn(21), drawn(3, 21)),
        "norm_scale_shift_grad": (drawn(7, 21), drawn(7, 21), drawn(21), drawn(21)),
        "sgd_sgd": (drawn(21), drawn(21), 0.1, 0.5, 0.1),
        "sgd_sgd_momentum": (drawn(21), drawn(21), drawn(21), 0.1, 0.9, 0.0, 1.0, 0.5, 0.1),
    }


def test_every_compiled_kernel_is_tried():
    assert arguments(0).keys() == KERNELS.keys()


def address_comparisons(code: str) -> list[str]:
    """The instructions of some LLVM code that compare addresses, other than with null."""
    found, addresses = [], set()
    for function in llvm.parse_assembly(code).functions:
        for block in function.blocks:
            for instruction in block.instructions:
                text = str(instruction).strip()
                operation, names = instruction.opcode, re.findall(r"%[\w.]+", text)
                from_address = operation == "ptrtoint" or not addresses.isdisjoint(names[1:])
                if operation == "icmp" and " null" not in text and (" ptr " in text or from_address):
                    found.append(text)
                elif from_address and operation in (
                    "ptrtoint",
                    "add",
                    "sub",
                    "mul",
                    "shl",
                    "lshr",
                    "and",
                    "or",
                    "select",
                    "phi",
                    "trunc",
                ):
                    addresses.add(names[0])
    return found


def code_of(kernel: Dispatcher) -> str:
    """What it is compiled to, afresh: Numba's cache keeps no LLVM code."""
    (signature,) = kernel.signatures
    pipeline = {"pipeline_class": kernel._compiler.pipeline_class}
    again = numba.jit(signature, **pipeline, **kernel.targetoptions)(kernel.py_func)
    (code,) = again.inspect_llvm().values()
    # Beside the kernel itself there is what Python calls, which takes the arrays apart.
    return "\n".join(part for part in re.split(r"(?m)^(?=define |declare |attributes )", code) if "cpython" not in part[:200])


@pytest.mark.parametrize("name", KERNELS)
def test_no_address_is_compared(name):
    assert address_comparisons(code_of(KERNELS[name])) == []


def test_a_kernel_that_may_overlap_is_found():
    def total(x, e):
        sum_ = np.float32(0)
        for i in range(x.size):
            e[i] = x[i] * x[i]
            sum_ += e[i]
        return sum_

    loose = numba.njit("float32(float32[::1], float32[::1])", fastmath={"reassoc"})(total)
    assert address_comparisons(code_of(loose))


def placed(arrays, gap):
    """Copies of `arrays`, one behind the other in one piece of memory, `gap` bytes apart."""
    memory = np.zeros(sum(a.nbytes + gap + 8 for a in arrays) + 64, np.uint8)
    start, copies = -memory.ctypes.data % 64, []
    for a in arrays:
        start += -start % a.itemsize
        copies.append(np.ndarray(a.shape, a.dtype, memory, start))
        copies[-1][...] = a
        start += a.nbytes + gap
    return copies


def bits(kernel, values, order, gap):
    """What the kernel makes of `values` whose arrays lie in `order` in memory, `gap` bytes apart."""
    values, which = list(values), sorted(order)
    for i, copy in zip(order, placed([values[i] for i in order], gap), strict=True):
        values[i] = copy
    result = kernel(*values)
    return [values[i].tobytes() for i in which] + [np.float64(result or 0).tobytes()]


@pytest.mark.parametrize("seed", range(4))  # two orders of one sum often have the same bits
@pytest.mark.parametrize("name", KERNELS)
def test_bits_do_not_depend_on_places(name, seed):
    kernel, values = KERNELS[name], arguments(seed)[name]
    which = [i for i, value in enumerate(values) if isinstance(value, np.ndarray)]
    expected = bits(kernel, values, which, 4096)
    assert expected[:-1] != [values[i].tobytes() for i in which]  # it did something
    for gap in [*range(0, 260, 4), 1024]:
        for first in range(len(which)):  # each array behind each other one, in turn
            order = which[first:] + which[:first]
            assert bits(kernel, values, order, gap) == expected, (gap, order)
            assert bits(kernel, values, order[::-1], gap) == expected, (gap, order[::-1])
