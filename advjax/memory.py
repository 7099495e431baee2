"""The C library's heap: memory that XLA's CPU kernels free is kept for their next call."""

import ctypes
import sys

# glibc's malloc.h: M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD.
_SETTINGS = {-8: 1, -4: 0, -1: 2**31 - 1, -2: 2**26}


def keep_freed_memory() -> bool:
    """Let this process keep memory that is freed, instead of returning it to the system.

    XLA's CPU kernels ask for work space at each call, and glibc takes large blocks from the system
    and returns them each time, which costs page faults (docs/benchmarks.md has the figures). Call
    it once, before the first attack; the command line does. The process then holds the most memory
    that it ever needed until it ends. Other systems than Linux with glibc are left as they are.

    Returns:
        True where it was done.

    Example:
        >>> keep_freed_memory() in (True, False)
        True
    """
    if sys.platform != "linux":
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return set_option is not None and all(set_option(*each) for each in _SETTINGS.items())
