"""An allocator that keeps what was freed, for measurements on a CPU.

glibc gives large blocks back to the system at once, so every result is made of fresh pages, which on a virtual
machine takes as long as some contenders compute, and is noisy. Whoever trains on CPUs turns that off (PyTorch's
tuning guide: jemalloc or tcmalloc); here glibc is told to, for all contenders alike.
"""

from __future__ import annotations

import os
import platform
import sys

SETTINGS = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}


def keep_freed_memory() -> None:
    """Start this process anew with the settings, unless it has them or the system has another allocator."""
    if platform.libc_ver()[0] != "glibc" or keeps_freed_memory():
        return
    os.environ.update(SETTINGS)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def keeps_freed_memory() -> bool:
    """Whether glibc was told to."""
    return all(os.environ.get(name) == value for name, value in SETTINGS.items())
