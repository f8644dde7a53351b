"""Keep freed host memory in the process, so that the next step's temporaries land on pages that are already there.

A large temporary that the C library maps afresh costs a page fault every 4 KiB, up to half of an element-wise kernel's time.
glibc can be told to keep such pages; elsewhere nothing happens.  It is a hint for speed: no result depends on it.
"""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8  # malloc.h of glibc


def keep_freed_pages(limit_bytes: int = 1 << 30) -> bool:
    """Let malloc keep up to `limit_bytes` of freed memory and serve requests up to that size from it; whether it was told."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {_M_MMAP_THRESHOLD: limit_bytes, _M_TRIM_THRESHOLD: limit_bytes, _M_TOP_PAD: 16 << 20}
    return all(mallopt(option, value) == 1 for option, value in settings.items())
