"""The Python standard library's own source as text: real, and on every machine that can run this package.

Invariant: which files, their order, and which of them are for validation follow from their names alone.
"""

from __future__ import annotations

import sysconfig
from hashlib import blake2b
from pathlib import Path

import numpy as np

#: Third-party packages, tests, parts that a distribution may package apart, and tables (`encodings`).
_LEFT_OUT = frozenset(
    ["dist-packages", "encodings", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages", "test", "turtledemo"]
)
_VALIDATION_EVERY = 20


def stdlib_files(root: Path | None = None) -> list[Path]:
    """The `.py` files under `root` (by default the running interpreter's standard library) in the order of their names' hashes.

    Hashed order makes any first part of the list a fair sample of it.  `ValueError` if there are none.
    """
    root = Path(sysconfig.get_path("stdlib")) if root is None else root
    names = [path.relative_to(root) for path in root.rglob("*.py")]
    # config-3.11-…/ and _sysconfigdata_….py are generated, and differ from machine to machine
    kept = [n for n in names if _LEFT_OUT.isdisjoint(n.parts) and not n.parts[0].startswith(("config-", "_sysconfigdata"))]
    if not kept:
        raise ValueError(
            f"no Python source files under {root}; expected the standard library's: "
            "install it (on Debian, libpython3-stdlib), or train on text files of your own"
        )
    return [root / name for name in sorted(kept, key=lambda name: (_digest(name), name.as_posix()))]


def stdlib_tokens(max_bytes: int | None = None, *, root: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation text, uint8, together at most `max_bytes` long.

    About one file in 20 is for validation, chosen by its name's hash; no file is in both, and only the last may be cut.
    """
    root = Path(sysconfig.get_path("stdlib")) if root is None else root
    text: dict[bool, list[bytes]] = {False: [], True: []}
    left = max_bytes
    for path in stdlib_files(root):
        data = path.read_bytes()[:left]
        text[_digest(path.relative_to(root)) % _VALIDATION_EVERY == 0].append(data)
        if left is not None:
            left -= len(data)
    train, validation = (np.frombuffer(b"".join(text[which]), np.uint8) for which in (False, True))
    if not len(train) or not len(validation):
        raise ValueError(
            f"the first {max_bytes} bytes of {root} hold {len(train)} bytes for training and {len(validation)} for validation; "
            "expected some of both: raise the limit"
        )
    return train, validation


def _digest(name: Path) -> int:
    return int.from_bytes(blake2b(name.as_posix().encode(), digest_size=8).digest(), "little")
