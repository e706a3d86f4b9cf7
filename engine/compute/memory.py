"""Memory that this process has freed: kept for the next tensors while a stage works, given back between stages.

By itself the C library of Linux returns every block above 32 MiB to the system when a tensor is freed, and the next tensor of that size
pays a page fault for each of its 4 KiB anew: a fifth to a half of a convolutional network's time on a CPU.
"""

import ctypes

# Parameters of mallopt(3), and values beyond what a tensor of one pass reaches; the second is the largest that a C int holds.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BLOCK_BYTES, KEPT_BYTES = 1 << 30, (1 << 31) - 1


def keep_freed_memory() -> None:
    """Let this process use freed blocks again rather than return them to the system; does nothing where the C library is not GNU's."""
    _call("mallopt", M_MMAP_THRESHOLD, KEPT_BLOCK_BYTES)
    _call("mallopt", M_TRIM_THRESHOLD, KEPT_BYTES)


def give_freed_memory_back() -> None:
    """Return to the system what this process has freed, so that what it holds from now on is what it needs; GNU's C library only."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    """Call a function of the C library where it has it."""
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*map(ctypes.c_int if name == "mallopt" else ctypes.c_size_t, arguments))
