"""What keeps a process that works for hours from growing. Where it is not glibc that gives memory nothing is
done."""

import ctypes
import os
import sys

M_MMAP_THRESHOLD = -3  # of malloc.h
LARGE = 1 << 18  # bytes


def _libc(name: str) -> bool:
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), name)


def give_back_at_once() -> None:
    """Let glibc return every large piece when it is freed. By itself it raises the size from which it does so
    to that of the largest piece freed so far: a Llama of hidden size 1024 then took up to 10 MiB more with
    each block of 49 MiB. To be called before the first large piece."""
    if _libc("mallopt"):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)


def trim() -> None:
    """Return what is free between pieces that live on, which glibc keeps for later; a few milliseconds."""
    if _libc("malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)


def keep_few_kernels() -> None:
    """Let oneDNN, and torch's layer above it, keep the kernels of 64 shapes instead of 1,024: batches have
    ever other shapes, and each kernel holds memory (2 GiB after a hundred training steps, 350 MiB after 3,000
    passages of an index in bf16, at the same speed). To be called before the first product."""
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, "64")
