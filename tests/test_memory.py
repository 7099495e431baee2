"""Memory that is freed is kept, so that the next use of it costs no page faults."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from advjax.memory import keep_freed_memory

if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit("no glibc")
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        b"x" * 64_000_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Return the page faults of blocks that are made and freed, after the first ones."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True)
    if done.stderr.strip() == "no glibc":
        pytest.skip("the C library is not glibc")
    return int(done.stdout)


def test_freed_memory_is_used_again():
    assert faults("kept") < 100 < faults("returned")
